//! The results of a run.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::counters::Counters;
use super::servers::ResourceUsage;

/// The state of both servers without clients.
pub struct IdleState {
    /// "warm-up", "cycle 3".
    pub name: String,
    pub usage: [ResourceUsage; 2],
    /// Cursors on the database.
    pub cursors: i64,
    /// The time from the last write until every watch had everything.
    pub complete_after: Duration,
    /// The time from then until everything was released.
    pub empty_after: Duration,
}

/// The peaks of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peaks {
    pub resident: f64,
    pub memory: f64,
    pub tasks: f64,
    pub feeds: f64,
    pub catch_ups: f64,
    pub upstream: f64,
}

impl Peaks {
    pub fn see(&mut self, usage: &ResourceUsage) {
        self.resident = self.resident.max(usage.resident);
        self.memory = self.memory.max(usage.memory);
        self.tasks = self.tasks.max(usage.tasks);
        self.feeds = self.feeds.max(usage.feeds);
        self.catch_ups = self.catch_ups.max(usage.catch_ups);
        self.upstream = self.upstream.max(usage.upstream);
    }
}

/// Formats bytes as mebibytes.
pub fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

/// A table with two columns.
#[derive(Default)]
pub struct Table(Vec<(String, String)>);

impl Table {
    pub fn row(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        self.0.push((name.into(), value.to_string()));
    }

    /// Adds all counters.
    pub fn counters(&mut self, counters: &Counters, written: u64) {
        self.row("changes written", written);
        self.row("changes delivered", counters.events.get());
        self.row("changes lost", counters.lost.get());
        self.row(
            "changes delivered again after a resume",
            counters.repeats.get(),
        );
        self.row(
            "watches open at once, at most",
            counters.open_watches.peak(),
        );
        self.row("watches resumed", counters.resumed.get());
        self.row(
            "watches given up while they opened",
            counters.abandoned.get(),
        );
        self.row(
            "watches that stopped reading for a while",
            counters.stalls.get(),
        );
        self.row(
            "watches given up after silence",
            counters.silent_timeouts.get(),
        );
        self.row("watches that lost MongoDB", counters.reconnecting.get());
        for (name, count) in counters.end_reasons() {
            self.row(format!("watches ended: {name}"), count);
        }
        let faults = counters.faults();
        self.row("faults", faults.values().sum::<u64>());
        for (name, count) in faults {
            self.row(format!("fault: {name}"), count);
        }
    }

    /// Adds the peaks of both servers.
    pub fn peaks(&mut self, peaks: &Peaks) {
        self.row(
            "resident memory of a server, at most",
            mebibytes(peaks.resident),
        );
        self.row("of --memory-limit used, at most", mebibytes(peaks.memory));
        self.row("tasks of a server, at most", peaks.tasks);
        self.row("feeds of a server, at most", peaks.feeds);
        self.row("catch-ups of a server, at most", peaks.catch_ups);
        self.row(
            "connections of a server to MongoDB, at most",
            peaks.upstream,
        );
    }

    /// Adds the state of the idle servers.
    pub fn idle(&mut self, idle: &IdleState) {
        for (usage, which) in idle.usage.iter().zip(["first", "second"]) {
            let mut reported = mebibytes(usage.resident);
            // Writing to a string does not fail.
            let _ = write!(
                reported,
                ", {} tasks, {} descriptors, {} connections to MongoDB",
                usage.tasks, usage.descriptors, usage.upstream
            );
            self.row(format!("{}: {which} server, at rest", idle.name), reported);
        }
        let reported = format!(
            "{:.1} s, {:.1} s; {} cursors",
            idle.complete_after.as_secs_f64(),
            idle.empty_after.as_secs_f64(),
            idle.cursors
        );
        self.row(format!("{}: complete, empty after", idle.name), reported);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len()).max();
        for (name, value) in &self.0 {
            writeln!(f, "{name:width$}  {value}", width = width.unwrap_or(0))?;
        }
        Ok(())
    }
}
