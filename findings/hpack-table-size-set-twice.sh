#!/usr/bin/env bash
# Package:  hpack 4.2.0 (PyPI), the header compression of Python's HTTP/2 packages.
# Expected: setting the encoder's table size to the value it already has changes nothing.
# Happens:  it forgets the change before it. The encoder tells its peer of a new size at the start of the
#           next header block. If the size is set again to the same value before that block, the notice is
#           never sent: the encoder uses the large table and the decoder keeps the small one. The next
#           block decodes. The one after it refers to an entry that the decoder has dropped, and the
#           package's own decoder raises an error. Set once, all three blocks decode.
# Matters:  a peer may repeat a setting. The connection then fails two responses later, with an error
#           about the compression that says nothing of the setting, and a gRPC client sees its stream end.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check hpack==4.2.0

cat > run.py <<'PY'
import sys
from importlib.metadata import version

import hpack

HEADERS = [("x-one", "v" * 40), ("x-two", "w" * 40)]


def exchange(times):
    """Three header blocks. Before the second one, the table grows from 100 to 4096, set so many times."""
    encoder, decoder = hpack.Encoder(), hpack.Decoder()
    encoder.header_table_size = 100
    decoder.decode(encoder.encode(HEADERS[:1]))
    for _ in range(times):
        encoder.header_table_size = 4096
    block = encoder.encode(HEADERS)
    second = [tuple(header) for header in decoder.decode(block)] == HEADERS
    try:
        third = [tuple(header) for header in decoder.decode(encoder.encode(HEADERS))] == HEADERS
    except hpack.HPACKDecodingError as error:
        third = f"{type(error).__name__}: {error}"
    return block.startswith(b"\x3f\xe1\x1f"), second, third


print("version: hpack", version("hpack"))
once, twice = exchange(1), exchange(2)
print("expected: the size is announced, the second and the third block decode: (True, True, True)")
print("seen, set once: ", once)
print("seen, set twice:", twice)
holds = once == (True, True, True) and twice[:2] == (False, True) and "InvalidTableIndex" in str(twice[2])
print("still so" if holds else "CHANGED")
sys.exit(not holds)
PY
venv/bin/python run.py
