//! Compiles `proto/` without protoc: prost generates the messages and the client.
//!
//! The server half is written by hand, in `weir::rpc`: `Watch` responds with bytes that are encoded, and
//! perhaps compressed, once and shared by many watchers. The bytes on the wire are those of prost's codec.

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
    Ok(())
}
