//! Compiles `proto/` without protoc: prost generates the messages and the client, and the server's
//! service definition is built here.
//!
//! `Watch` responds with `weir::wire::Frame`, whose bytes are encoded once and shared by many
//! watchers, so the server uses Weir's own codec. Clients use prost's codec; the bytes on the wire are
//! the same.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // tonic-prost-build 0.14 prints no rerun-if-changed itself.
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");

    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(["weir/v1/watch.proto"], ["proto"])?;
    std::fs::write(
        out_dir.join("weir_descriptors.bin"),
        descriptors.encode_to_vec(),
    )?;

    tonic_prost_build::configure()
        .bytes(".")
        .build_server(false)
        .compile_fds(descriptors)?;

    let watch = tonic_build::manual::Method::builder()
        .name("watch")
        .route_name("Watch")
        .input_type("crate::pb::WatchRequest")
        .output_type("crate::wire::Frame")
        .codec_path("crate::rpc::FrameCodec")
        .server_streaming()
        .build();
    let get_server_info = tonic_build::manual::Method::builder()
        .name("get_server_info")
        .route_name("GetServerInfo")
        .input_type("crate::pb::GetServerInfoRequest")
        .output_type("crate::pb::GetServerInfoResponse")
        .codec_path("crate::rpc::ServerInfoCodec")
        .build();
    let service = tonic_build::manual::Service::builder()
        .name("WatchService")
        .package("weir.v1")
        .method(watch)
        .method(get_server_info)
        .build();
    tonic_build::manual::Builder::new()
        .build_client(false)
        .compile(&[service]);
    Ok(())
}
