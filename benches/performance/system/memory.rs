//! The memory of a process.

use std::fs;

/// The resident memory of a process in bytes; `None` when it has ended.
pub fn resident(process: &str) -> Option<u64> {
    status(process, "VmRSS:")
}

/// The peak of the resident memory of a process so far, in bytes; `None` when it has ended.
pub fn peak(process: &str) -> Option<u64> {
    status(process, "VmHWM:")
}

fn status(process: &str, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}
