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

/// Of a second, as `/proc` counts; Linux shows it so on every machine.
const TICK: Duration = Duration::from_millis(10);

/// What a whole process has cost so far, threads that have ended included.
#[derive(Debug)]
pub struct Usage {
    user: Duration,
    system: Duration,
    threads: CpuTimes,
}

/// What a process has cost between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// In the process itself, as the kernel guesses.
    pub user: Duration,
    /// In the kernel on its behalf too.
    pub total: Duration,
}

impl Usage {
    /// Reads it; nothing when the process is gone.
    pub fn of(process: &str) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The second field is the name in brackets, which may hold anything; utime is the 14th.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut fields = after_name.split_whitespace().skip(11);
        let mut ticks = || Some(TICK * fields.next()?.parse::<u32>().ok()?);
        Some(Self {
            user: ticks()?,
            system: ticks()?,
            threads: CpuTimes::of(process),
        })
    }

    /// What has been used since `earlier`.
    ///
    /// The threads' own counts are fine and miss threads that have ended; the process's count
    /// misses nothing but what is below a tick. So the larger is the truer one.
    pub fn since(&self, earlier: &Self) -> Spent {
        let user = self.user.saturating_sub(earlier.user);
        let coarse = user + self.system.saturating_sub(earlier.system);
        let total = coarse.max(self.threads.since(&earlier.threads));
        Spent {
            user: user.min(total),
            total,
        }
    }
}

impl Spent {
    /// Microseconds for each of so many.
    pub fn each(self, count: u64) -> f64 {
        self.total.as_secs_f64() * 1e6 / count as f64
    }
}
