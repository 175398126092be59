//! The servers that are compared: Weir, the gateway that most people would write, and the least
//! that a gRPC server can do.

mod convert;
pub mod naive;
pub mod ready;
mod service;
pub mod weir;

use crate::system::{cpu::Usage, memory, process::Process};

/// A running server of the Watch API.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    url: String,
    /// Where its metrics are, for the one that has any.
    admin: Option<String>,
}

impl Gateway {
    /// Where it serves gRPC.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it has cost so far.
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.process.id())
    }

    /// The memory it holds, in bytes.
    pub fn resident(&self) -> u64 {
        memory::resident(self.process.id()).unwrap_or(0)
    }
}
