#!/usr/bin/env bash
# Package:  proto-schema-parser 2.1.0 (PyPI), which reads and writes .proto files, judged by the compiler in
#           grpcio-tools 1.85.1.
# Expected: a valid file that is read and written again, without a change, means the same to the compiler.
# Happens:  it compiles, and means something else. A field number with a leading zero is octal in the
#           language: `= 010` is field 8, and is written as field 10. Default texts gain backslashes.
#           [deprecated = true] is lost on map fields and enum values, and kept on other fields.
#           `option optimize_for = SPEED;` becomes a quoted Python representation, which does not compile.
# Matters:  a tool that edits a service's .proto files through it can change the numbers on the wire, and
#           no error shows that until old and new peers meet.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check proto-schema-parser==2.1.0 grpcio-tools==1.85.1

cat > silent.proto <<'PROTO'
syntax = "proto2";

enum Kind {
  NONE = 0;
  OLD = 1 [deprecated = true];
}

message Event {
  optional int32 octal = 010;
  optional int32 plain = 11 [deprecated = true];
  map<string, int32> counts = 12 [deprecated = true];
  optional string quote = 13 [default = "say \"hi\""];
}
PROTO
cat > loud.proto <<'PROTO'
syntax = "proto3";

option optimize_for = SPEED;
PROTO

cat > run.py <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc
from proto_schema_parser.generator import Generator
from proto_schema_parser.parser import Parser


def compiled(file):
    """The file's descriptor, or None if the compiler refuses it."""
    if protoc.main(["protoc", "-I.", "--descriptor_set_out=out.bin", file]) != 0:
        return None
    return FileDescriptorSet.FromString(Path("out.bin").read_bytes()).file[0]


def rewritten(file):
    new = "rewritten_" + file
    Path(new).write_text(Generator().generate(Parser().parse(Path(file).read_text())))
    return new


def facts(file):
    fields = {field.name: field for field in file.message_type[0].field}
    return {
        "number of `octal`": fields["octal"].number,
        "default of `quote`": fields["quote"].default_value,
        "`plain` is deprecated": fields["plain"].options.deprecated,
        "`counts` is deprecated": fields["counts"].options.deprecated,
        "`OLD` is deprecated": file.enum_type[0].value[1].options.deprecated,
    }


print("version: proto-schema-parser", version("proto-schema-parser"))
before = facts(compiled("silent.proto"))
after = facts(compiled(rewritten("silent.proto")))
for fact, expected in before.items():
    print(f"{fact}: expected {expected!r}, seen {after[fact]!r}")
compiles = compiled("loud.proto") is not None, compiled(rewritten("loud.proto")) is not None
print("`option optimize_for = SPEED;` compiles: expected", compiles[0], "seen", compiles[1])

holds = (
    list(before.values()) == [8, 'say "hi"', True, True, True]
    and list(after.values()) == [10, 'say \\"hi\\"', True, False, False]
    and compiles == (True, False)
)
print("still so" if holds else "CHANGED")
sys.exit(not holds)
PY
venv/bin/python run.py
