"""Reads the events of the tutorial in Python, with code generated from the proto.

Usage: client.py PROTO_FOLDER HOST:PORT DATABASE COLLECTION [AUTHORITY CERTIFICATE KEY]

With PEM files it connects over mutual TLS.
Prints READY once the watch is open; the test then inserts, updates, replaces, deletes and drops.
Prints one line per event and DONE at the end. Exits with 1 and a traceback when anything differs
from the API.
"""

import importlib.resources
import pathlib
import sys
import tempfile

import bson
import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

# Limits one call as a whole; the test has its own limit.
CALL_LIMIT_SECONDS = 60


def generate(proto_folder):
    """Generates the messages and the stub, and returns both modules."""
    generated = tempfile.TemporaryDirectory()
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    proto = pathlib.Path(proto_folder) / "weir" / "v1" / "watch.proto"
    failed = protoc.main(
        [
            "protoc",
            f"-I{proto_folder}",
            f"-I{well_known}",
            f"--python_out={generated.name}",
            f"--grpc_python_out={generated.name}",
            str(proto),
        ]
    )
    assert not failed, "protoc failed"
    sys.path.insert(0, generated.name)
    from weir.v1 import watch_pb2, watch_pb2_grpc

    return watch_pb2, watch_pb2_grpc, generated


def connect(address, tls):
    """A channel without encryption, with compressed requests, or over mutual TLS."""
    if tls == ["--gzip"]:
        return grpc.insecure_channel(address, compression=grpc.Compression.Gzip)
    if not tls:
        return grpc.insecure_channel(address)
    authority, certificate, key = (pathlib.Path(path).read_bytes() for path in tls)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate))


def main(proto_folder, address, database, collection, *tls):
    pb, stubs, _generated = generate(proto_folder)

    def read_to_the_end(stub, **start):
        """Reads one watch to its end, which must be Invalidated, and returns the events."""
        request = pb.WatchRequest(database=database, collections=[collection], **start)
        call = stub.Watch(request, timeout=CALL_LIMIT_SECONDS)
        first = next(call)
        assert first.WhichOneof("kind") == "opened", first
        assert first.resume_token, first
        if not start:
            print("READY", flush=True)
        events = []
        invalidated = None
        try:
            for message in call:
                assert message.resume_token, message
                kind = message.WhichOneof("kind")
                assert invalidated is None, f"{kind} came after invalidated"
                if kind == "changes":
                    for event in message.changes.changes:
                        print("EVENT", pb.OperationType.Name(event.operation), flush=True)
                        events.append(event)
                elif kind == "invalidated":
                    invalidated = message.invalidated
            raise AssertionError("a watch of a dropped collection ended with OK")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.ABORTED, error
            status = rpc_status.from_call(error)
            assert status is not None, "the status carries no details"
            infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
            assert len(infos) == 1, status
            info = error_details_pb2.ErrorInfo()
            infos[0].Unpack(info)
            assert (info.domain, info.reason) == ("weir", "WATCH_INVALIDATED"), info
        assert invalidated is not None, "the watch ended without Invalidated"
        assert invalidated.cause == pb.OPERATION_TYPE_DROP, invalidated
        return events

    with connect(address, list(tls)) as channel:
        stub = stubs.WatchServiceStub(channel)

        events = read_to_the_end(stub)
        check(pb, events, database, collection)

        resumed = read_to_the_end(stub, resume_token=events[1].resume_token)
        assert resumed == events[2:], f"{resumed} is not the rest of {events}"

        try:
            next(stub.Watch(pb.WatchRequest(database="admin"), timeout=CALL_LIMIT_SECONDS))
            raise AssertionError("admin has no change stream")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    print("DONE", flush=True)


def check(pb, events, database, collection):
    """Checks the five events of the tutorial with their contents."""
    operations = [pb.OperationType.Name(event.operation) for event in events]
    expected = ["INSERT", "UPDATE", "REPLACE", "DELETE", "DROP"]
    assert operations == [f"OPERATION_TYPE_{name}" for name in expected], operations
    for event in events:
        assert event.resume_token, event
        assert event.namespace.database == database, event
        assert event.namespace.collection == collection, event
    for event in events[:4]:
        assert bson.decode(event.document_key.bson) == {"_id": 1}, event
    insert, update, replace, delete, drop = events
    assert bson.decode(insert.insert.full_document.bson) == {"_id": 1, "status": "new"}
    description = update.update.update_description
    assert bson.decode(description.updated_fields.bson) == {"status": "paid"}, update
    assert not update.update.HasField("full_document"), update
    assert bson.decode(replace.replace.full_document.bson) == {"_id": 1, "total": 5}, replace
    assert delete.WhichOneof("change") == "delete", delete
    assert drop.WhichOneof("change") == "drop", drop
    assert not drop.HasField("document_key"), drop


if __name__ == "__main__":
    main(*sys.argv[1:])
