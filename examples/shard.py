"""Computes the shard of an _id, as docs/shards.md defines it (version 1).

    pip install pymongo xxhash
    python examples/shard.py 5 '{"$oid": "64b7f1c2a9d3e45f60718293"}' '"order-17"' 17

prints a line for each _id in Extended JSON: its shard among 5, its hash and its canonical form.
"""

import sys

import bson
from bson import json_util
from bson.binary import UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeConversion
from bson.dbref import DBRef
from bson.decimal128 import Decimal128, create_decimal128_context
from bson.int64 import Int64
from decimal import Decimal
from xxhash import xxh3_64_intdigest

BSON = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)


def canonical_number(number):
    """An int64 if it has the number's value, else a double if it has, else the shortest decimal."""
    exact = number.to_decimal() if isinstance(number, Decimal128) else Decimal(number)
    if exact.is_nan():
        return float("nan")
    if exact.is_infinite():
        return float(exact)
    if exact.as_integer_ratio()[1] == 1 and -(2**63) <= exact < 2**63:
        return Int64(exact)
    if float(exact) == exact:
        return float(exact)
    return Decimal128(create_decimal128_context().normalize(exact))


def canonical(value):
    """The value with all numbers in it in the form that equal ones share."""
    if isinstance(value, (int, float, Decimal128)) and not isinstance(value, bool):
        return canonical_number(value)
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, dict):
        return {name: canonical(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [canonical(inner) for inner in value]
    if isinstance(value, Code) and value.scope is not None:
        return Code(value, canonical(value.scope))
    return value


def canonical_bytes(value):
    """The number of the BSON type, and the bytes that BSON has for the value."""
    # Four bytes of length, the type, an empty name with its end, the value, and the document's end.
    document = bson.encode({"": canonical(value)}, codec_options=BSON)
    return document[4:5] + document[6:-1]


def shard(value, count):
    return xxh3_64_intdigest(canonical_bytes(value)) % count


if __name__ == "__main__":
    options = json_util.JSONOptions(
        uuid_representation=UuidRepresentation.STANDARD,
        datetime_conversion=DatetimeConversion.DATETIME_MS,
    )
    count = int(sys.argv[1])
    for text in sys.argv[2:]:
        value = json_util.loads(text, json_options=options)
        form = canonical_bytes(value)
        print(shard(value, count), f"{xxh3_64_intdigest(form):016x}", form.hex())
