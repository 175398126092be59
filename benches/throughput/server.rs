//! `weir serve`, the release binary, as a process of its own.

use std::process::Command;

use crate::{
    cpu::CpuTimes,
    process::{Output, Process},
};

/// A running server.
#[derive(Debug)]
pub struct Weir {
    process: Process,
    url: String,
}

/// Starts a server with its default settings, on ports that the kernel chooses.
pub fn start(mongodb_uri: &str) -> Weir {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command
        .args(["serve", "--mongodb-uri", mongodb_uri])
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--log-format", "json"]);
    let process = Process::start("weir", command, Output::Stderr);
    let url = loop {
        let line = process.line();
        let entry: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("weir did not start: {line}"));
        if let Some(address) = entry["grpc"].as_str() {
            break format!("http://{address}");
        }
    };
    Weir { process, url }
}

impl Weir {
    /// Where it serves gRPC.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it has cost so far.
    pub fn cpu(&self) -> CpuTimes {
        CpuTimes::of(&self.process.id())
    }
}
