//! The servers that are compared: Weir, a straightforward gateway, and the minimum that a gRPC
//! server can do.

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
    /// The address of its metrics, if it has any.
    admin: Option<String>,
}

impl Gateway {
    /// The URL of gRPC.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The CPU use so far.
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.process.id())
    }

    /// Its process id, in the form of `/proc`.
    pub fn process_id(&self) -> &str {
        self.process.id()
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> u64 {
        memory::resident(self.process.id()).unwrap_or(0)
    }
}
