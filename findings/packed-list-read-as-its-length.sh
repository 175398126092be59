#!/usr/bin/env bash
# Package:  cprotobuf 0.1.12 (PyPI), a protobuf runtime with a generator of its own, beside the compiler and
#           the runtime of grpcio-tools 1.85.1.
# Expected: each reads what the other writes. In proto3 a repeated number is packed unless the file says
#           otherwise, and a reader has to accept both forms.
# Happens:  the generator takes no notice of proto3 and makes each repeated number an unpacked field. Such a
#           field takes the length of a packed list for its only element: [1, 2, 300] is read as [4]. Then
#           the content of the list is read as fields of the message, so the list [32, 9] sets n = 9, and
#           [8, 7] is read as [2, 7]. Some lists raise a DecodeError, most do not. Fields that say
#           [packed = true] are read well, and so is what the package itself has written.
# Matters:  a test in which the package reads its own messages passes. From a peer in another language, lists
#           of ids or of enum values arrive short and wrong, and other fields change.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check cprotobuf==0.1.12 grpcio-tools==1.85.1

cat > batch.proto <<'PROTO'
syntax = "proto3";

package batch;

message Batch {
  repeated int32 ids = 1;
  repeated int32 said = 2 [packed = true];
  repeated string names = 3;
  int32 n = 4;
}
PROTO
PATH="$PWD/venv/bin:$PATH" venv/bin/python -m grpc_tools.protoc -I. --cprotobuf_out=. --python_out=. \
  batch.proto

cat > run.py <<'PY'
import sys
from importlib.metadata import version

import batch_pb
import batch_pb2

print("version: cprotobuf", version("cprotobuf"), "and protobuf", version("protobuf"))


def read(**fields):
    """What cprotobuf reads of a message that protobuf wrote: ids, said, names and n."""
    message = batch_pb.Batch()
    try:
        message.ParseFromString(batch_pb2.Batch(**fields).SerializeToString())
    except Exception as error:
        return type(error).__name__
    return list(message.ids), list(message.said), list(message.names), message.n


cases = [
    (dict(ids=[1, 2, 300]), ([4], [], [], 0)),
    (dict(ids=[5]), ([1], [], [], 0)),
    (dict(ids=[8, 7]), ([2, 7], [], [], 0)),
    (dict(ids=[32, 9]), ([2], [], [], 9)),
    (dict(ids=list(range(8, 20))), "DecodeError"),
    (dict(said=[1, 2, 300], names=["a", "b"], n=7), ([], [1, 2, 300], ["a", "b"], 7)),
]
holds = True
for fields, wrong in cases:
    seen = read(**fields)
    expected = (*(fields.get(name, []) for name in ("ids", "said", "names")), fields.get("n", 0))
    print(f"expected (ids, said, names, n): {expected}\n  seen {seen}")
    holds = holds and seen == wrong

mine = batch_pb.Batch()
mine.ids = [1, 2, 300]
back = list(batch_pb2.Batch.FromString(bytes(mine.SerializeToString())).ids)
print("the other direction: expected [1, 2, 300], seen", back)
holds = holds and back == [1, 2, 300]
print("still so" if holds else "CHANGED")
sys.exit(not holds)
PY
venv/bin/python run.py
