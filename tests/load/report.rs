//! What a run found, as it goes and at its end.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::figures::Figures;
use super::servers::Holding;

/// What was seen of both servers when nobody watched.
pub struct Rest {
    /// "warm-up", "cycle 3".
    pub name: String,
    pub holding: [Holding; 2],
    /// Cursors on the database.
    pub cursors: i64,
    /// How long it took from the last write until every watch had everything.
    pub complete_after: Duration,
    /// How long it took from then until everything was given back.
    pub empty_after: Duration,
}

/// The most that was seen of anything.
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
    pub fn see(&mut self, holding: &Holding) {
        self.resident = self.resident.max(holding.resident);
        self.memory = self.memory.max(holding.memory);
        self.tasks = self.tasks.max(holding.tasks);
        self.feeds = self.feeds.max(holding.feeds);
        self.catch_ups = self.catch_ups.max(holding.catch_ups);
        self.upstream = self.upstream.max(holding.upstream);
    }
}

/// Mebibytes, for people.
pub fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

/// A table of two columns.
#[derive(Default)]
pub struct Table(Vec<(String, String)>);

impl Table {
    pub fn row(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        self.0.push((name.into(), value.to_string()));
    }

    /// All that was counted.
    pub fn figures(&mut self, figures: &Figures, written: u64) {
        self.row("changes written", written);
        self.row("changes delivered", figures.events.get());
        self.row("changes lost", figures.lost.get());
        self.row(
            "changes delivered again after a resume",
            figures.repeats.get(),
        );
        self.row("watches open at once, at most", figures.held.peak());
        self.row("watches resumed", figures.resumed.get());
        self.row(
            "watches given up while they opened",
            figures.broken_off.get(),
        );
        self.row(
            "watches that stopped reading for a while",
            figures.stalls.get(),
        );
        self.row("watches given up after silence", figures.silences.get());
        self.row(
            "watches told that MongoDB is away",
            figures.reconnecting.get(),
        );
        for (name, count) in figures.ends() {
            self.row(format!("watches ended: {name}"), count);
        }
        let faults = figures.faults();
        self.row("faults", faults.values().sum::<u64>());
        for (name, count) in faults {
            self.row(format!("fault: {name}"), count);
        }
    }

    /// The peaks of both servers.
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

    /// What was left when nobody watched.
    pub fn rest(&mut self, rest: &Rest) {
        for (holding, which) in rest.holding.iter().zip(["first", "second"]) {
            let mut told = mebibytes(holding.resident);
            // Writing to a string does not fail.
            let _ = write!(
                told,
                ", {} tasks, {} descriptors, {} connections to MongoDB",
                holding.tasks, holding.descriptors, holding.upstream
            );
            self.row(format!("{}: {which} server, at rest", rest.name), told);
        }
        let told = format!(
            "{:.1} s, {:.1} s; {} cursors",
            rest.complete_after.as_secs_f64(),
            rest.empty_after.as_secs_f64(),
            rest.cursors
        );
        self.row(format!("{}: complete, empty after", rest.name), told);
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
