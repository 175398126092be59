"""Follows shop.orders. Started again, it continues after the last handled message."""

import pathlib
import sys

import grpc
from google.protobuf.json_format import MessageToDict
from weir.v1 import watch_pb2 as weir
from weir.v1.watch_pb2_grpc import WatchServiceStub

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
token_file = pathlib.Path("orders.token")

request = weir.WatchRequest(
    database="shop",
    collections=["orders"],
    full_document=weir.FULL_DOCUMENT_UPDATE_LOOKUP,
    document_format=weir.DOCUMENT_FORMAT_STRUCT,
)
if token_file.exists():
    request.resume_token = token_file.read_bytes()

pieces = []
with grpc.insecure_channel(address) as channel:
    for message in WatchServiceStub(channel).Watch(request):
        if message.HasField("opened"):
            print("watching", flush=True)
        changes = list(message.changes.changes)
        if message.HasField("event_chunk"):
            # A large event comes in pieces. A piece with index 0 starts it again.
            piece = message.event_chunk
            pieces[piece.index :] = [piece.data]
            if piece.last:
                changes.append(weir.ChangeEvent.FromString(b"".join(pieces)))
        for event in changes:
            change = MessageToDict(getattr(event, event.WhichOneof("change")))
            print(weir.OperationType.Name(event.operation), change, flush=True)
        # Everything up to this message is handled now.
        token_file.write_bytes(message.resume_token)
