//! The messages of `proto/weir/v1/watch.proto`, and the client, as generated.
#![allow(clippy::all, clippy::pedantic, missing_docs, unused_qualifications)]
tonic::include_proto!("weir.v1");

/// The descriptors of the API, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/weir_descriptors.bin"));
