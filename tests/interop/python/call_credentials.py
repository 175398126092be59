"""Authenticates with gRPC call credentials on a channel over TLS.

Usage: call_credentials.py PROTO_FOLDER HOST:PORT DATABASE COLLECTION CA_FILE TOKEN API_KEY

Prints READY once both watches are open; the test then inserts one document. Prints DONE at the end.
Exits with 1 and a traceback when anything differs from the API.
"""

import pathlib
import sys

import grpc
from client import CALL_LIMIT_SECONDS, generate
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class ApiKey(grpc.AuthMetadataPlugin):
    """Puts an API key into the metadata of each call."""

    def __init__(self, key):
        self.key = key

    def __call__(self, context, callback):
        callback((("x-api-key", self.key),), None)


def reason(error):
    """The reason in a status of Weir."""
    status = rpc_status.from_call(error)
    assert status is not None, "the status carries no details"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info), status
    assert info.domain == "weir", info
    return info.reason


def main(proto_folder, address, database, collection, ca_file, token, key):
    pb, stubs, _generated = generate(proto_folder)
    tls = grpc.ssl_channel_credentials(pathlib.Path(ca_file).read_bytes())
    request = pb.WatchRequest(database=database, collections=[collection])

    def channel(call_credentials=None):
        credentials = tls
        if call_credentials is not None:
            credentials = grpc.composite_channel_credentials(tls, call_credentials)
        return grpc.secure_channel(address, credentials)

    def refused(call_credentials=None):
        with channel(call_credentials) as it:
            try:
                next(stubs.WatchServiceStub(it).Watch(request, timeout=CALL_LIMIT_SECONDS))
                raise AssertionError("the call was accepted")
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
                return reason(error)

    assert refused() == "CREDENTIALS_MISSING"
    assert refused(grpc.access_token_call_credentials(token + "x")) == "CREDENTIALS_INVALID"
    assert refused(grpc.metadata_call_credentials(ApiKey(key + "x"))) == "CREDENTIALS_INVALID"

    by_token = channel(grpc.access_token_call_credentials(token))
    by_key = channel(grpc.metadata_call_credentials(ApiKey(key)))
    with by_token, by_key:
        watches = []
        for it in (by_token, by_key):
            watch = stubs.WatchServiceStub(it).Watch(request, timeout=CALL_LIMIT_SECONDS)
            assert next(watch).WhichOneof("kind") == "opened"
            watches.append(watch)
        print("READY", flush=True)
        for watch in watches:
            kinds = (message.WhichOneof("kind") for message in watch)
            assert "changes" in kinds, "the watch ended without a change"
    print("DONE", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
