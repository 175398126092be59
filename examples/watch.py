"""Follows shop.orders, and goes on after the last handled message when started again."""

import pathlib
import sys

import grpc
from google.protobuf.json_format import MessageToDict
from weir.v1 import watch_pb2 as weir
from weir.v1.watch_pb2_grpc import WatchServiceStub

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
place = pathlib.Path("orders.token")

request = weir.WatchRequest(
    database="shop",
    collections=["orders"],
    full_document=weir.FULL_DOCUMENT_UPDATE_LOOKUP,
    document_format=weir.DOCUMENT_FORMAT_STRUCT,
)
if place.exists():
    request.resume_token = place.read_bytes()

pieces = []
with grpc.insecure_channel(address) as channel:
    for message in WatchServiceStub(channel).Watch(request):
        if message.HasField("opened"):
            print("watching", flush=True)
        changes = list(message.changes.changes)
        if message.HasField("event_chunk"):
            # A large event comes in pieces; the first one may come again, and then begins anew.
            piece = message.event_chunk
            pieces[piece.index :] = [piece.data]
            if piece.last:
                changes.append(weir.ChangeEvent.FromString(b"".join(pieces)))
        for event in changes:
            change = MessageToDict(getattr(event, event.WhichOneof("change")))
            print(weir.OperationType.Name(event.operation), change, flush=True)
        # Only now is everything up to this message handled.
        place.write_bytes(message.resume_token)
