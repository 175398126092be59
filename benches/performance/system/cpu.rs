//! CPU use of a process, as the kernel counts it.

use std::{collections::HashMap, fs, time::Duration};

/// The CPU time, user and system, of each of a process's threads at one moment.
#[derive(Debug)]
pub struct CpuTimes(HashMap<String, u64>);

impl CpuTimes {
    /// Reads the times; `process` is a process id or `self`.
    ///
    /// `/proc/<pid>/stat` counts in hundredths of a second, too coarse for a short run; the
    /// scheduler's counts are in nanoseconds, but per thread.
    pub fn of(process: &str) -> Self {
        let threads = fs::read_dir(format!("/proc/{process}/task"))
            .expect("the process runs, on Linux")
            .filter_map(Result::ok);
        let times = threads.filter_map(|thread| {
            // A thread may end in between.
            let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let running = times.split_whitespace().next()?.parse().ok()?;
            Some((thread.file_name().to_string_lossy().into_owned(), running))
        });
        Self(times.collect())
    }

    /// The CPU time since `earlier`, of the threads that still run.
    pub fn since(&self, earlier: &Self) -> Duration {
        let spent = self.0.iter().map(|(thread, now)| {
            let before = earlier.0.get(thread).copied().unwrap_or(0);
            now.saturating_sub(before)
        });
        Duration::from_nanos(spent.sum())
    }
}

/// The tick of `/proc`, which is the same on every Linux machine.
const TICK: Duration = Duration::from_millis(10);

/// The CPU use of a whole process so far, including threads that have ended.
#[derive(Debug)]
pub struct Usage {
    user: Duration,
    system: Duration,
    threads: CpuTimes,
}

/// The CPU use of a process between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// In user space, as the kernel estimates.
    pub user: Duration,
    /// Together with time in the kernel.
    pub total: Duration,
}

impl Usage {
    /// Reads it; `None` when the process has ended.
    pub fn of(process: &str) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The second field is the name in brackets, which may contain anything; utime is the 14th.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut fields = after_name.split_whitespace().skip(11);
        let mut ticks = || Some(TICK * fields.next()?.parse::<u32>().ok()?);
        Some(Self {
            user: ticks()?,
            system: ticks()?,
            threads: CpuTimes::of(process),
        })
    }

    /// The CPU use since `earlier`.
    ///
    /// The threads' counts are precise but miss threads that have ended; the process's count misses
    /// only what is below a tick. So the larger one is used.
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
    /// Microseconds for each of `count` items.
    pub fn each(self, count: u64) -> f64 {
        self.total.as_secs_f64() * 1e6 / count as f64
    }
}
