//! What a process has cost, as the kernel counts it.

use std::{collections::HashMap, fs, time::Duration};

/// The CPU time of each of a process's threads, user and system, at one moment.
#[derive(Debug)]
pub struct CpuTimes(HashMap<String, u64>);

impl CpuTimes {
    /// Reads them; `process` is a process id or `self`.
    ///
    /// `/proc/<pid>/stat` counts in hundredths of a second, too coarse for a short run; the
    /// scheduler's own count is in nanoseconds, but for each thread alone.
    pub fn of(process: &str) -> Self {
        let threads = fs::read_dir(format!("/proc/{process}/task"))
            .expect("the process runs, on Linux")
            .filter_map(Result::ok);
        let times = threads.filter_map(|thread| {
            // A thread may end between the two looks.
            let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let running = times.split_whitespace().next()?.parse().ok()?;
            Some((thread.file_name().to_string_lossy().into_owned(), running))
        });
        Self(times.collect())
    }

    /// What has been used since `earlier`, by the threads that still run.
    pub fn since(&self, earlier: &Self) -> Duration {
        let spent = self.0.iter().map(|(thread, now)| {
            let before = earlier.0.get(thread).copied().unwrap_or(0);
            now.saturating_sub(before)
        });
        Duration::from_nanos(spent.sum())
    }
}
