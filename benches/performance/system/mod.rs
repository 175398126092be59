//! Helpers for benchmarks with several processes: children that end with their parent, their cost,
//! and the machine.

pub mod commands;
pub mod cpu;
pub mod machine;
pub mod memory;
pub mod process;
pub mod supervisor;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Runtime;

/// A runtime on this thread alone.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime on this thread needs only a few file descriptors")
}

/// The wall clock in microseconds, which all processes of one machine share.
pub fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.map_or(0, |now| now.as_micros())).unwrap_or(u64::MAX)
}

/// Waits for this long.
pub fn pause(time: Duration) {
    runtime().block_on(async { tokio::time::sleep(time).await });
}
