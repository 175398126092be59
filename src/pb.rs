//! The generated messages and client of `proto/weir/v1/watch.proto`.
#![allow(clippy::all, clippy::pedantic, missing_docs, unused_qualifications)]
tonic::include_proto!("weir.v1");

/// The API's encoded descriptors, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/weir_descriptors.bin"));
