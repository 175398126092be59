"""Reads Extended JSON with pymongo, a document in each line, and writes each as BSON in hexadecimal.

Dates that Python's calendar lacks are read as DatetimeMS: by default they are an error.
"""

import sys

import bson
from bson import json_util
from bson.codec_options import DatetimeConversion

OPTIONS = json_util.JSONOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)


def read(text: str) -> str:
    try:
        return bson.encode(json_util.loads(text, json_options=OPTIONS)).hex()
    except Exception as error:
        return "error: " + str(error).replace("\n", " ")


for line in sys.stdin.buffer:
    print(read(line.decode()))
