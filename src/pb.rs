//! The messages of `proto/weir/v1/watch.proto`, the client, and the server's glue, as generated.
#![allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]
tonic::include_proto!("weir.v1");
