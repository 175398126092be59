//! The machine of a run, and the versions of the software on it.

use std::{fs, process::Command};

use serde::{Deserialize, Serialize};

/// One machine with its software.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The number of cores that this process may use.
    pub cores: usize,
    /// The processor's name.
    pub processor: String,
    /// The memory, in GiB.
    pub memory_gib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The Rust compiler's version.
    pub rustc: String,
    /// The versions of Weir and its dependencies, by name.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let kibibytes = value_of("/proc/meminfo", "MemTotal")
            .and_then(|memory| memory.trim_end_matches(" kB").parse::<u64>().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let rustc = Command::new("rustc").arg("--version").output();
        let rustc = rustc.map_or_else(
            |_| "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        );
        let dependencies = ["mongodb", "tonic", "tokio", "h2"];
        let mut versions = vec![("weir".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        versions.extend(dependencies.map(|name| (name.to_owned(), locked_version(name))));
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: value_of("/proc/cpuinfo", "model name").unwrap_or_default(),
            memory_gib: kibibytes.unwrap_or(0) >> 20,
            kernel: kernel.trim().to_owned(),
            rustc,
            versions,
        }
    }
}

/// The value of the first line `name: value` in a file.
fn value_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// The version in the lock file.
fn locked_version(name: &str) -> String {
    let lock = include_str!("../../../Cargo.lock");
    let entry = format!("name = \"{name}\"\nversion = \"");
    lock.split_once(&entry)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("unknown", |(version, _)| version)
        .to_owned()
}
