//! The figures of a test run, which `docs/guarantees.md` reports.

use std::{fs::OpenOptions, io::Write as _};

/// A figure of `docs/guarantees.md`. The amounts of a run are added up, except for the last two, of
/// which the maximum counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Injected faults: a cut, a stall, a killed process, an error that MongoDB was made to return.
    Faults,
    /// Changes written during faults that clients had to receive.
    EventsWritten,
    /// Of these, changes that a client did not receive.
    EventsLost,
    /// Events that a client received again after a resume.
    Repeats,
    /// Inputs that had to be refused or survived: requests, tokens, frames, documents.
    BadInputs,
    /// Watches open at once.
    WatchesHeld,
    /// The peak in bytes of what a test bounds, usually the memory of the process.
    PeakBytes,
}

impl Figure {
    /// The first word of a line in the tally file.
    pub fn key(self) -> &'static str {
        match self {
            Self::Faults => "faults",
            Self::EventsWritten => "events_written",
            Self::EventsLost => "events_lost",
            Self::Repeats => "repeats",
            Self::BadInputs => "bad_inputs",
            Self::WatchesHeld => "watches_held",
            Self::PeakBytes => "peak_bytes",
        }
    }
}

/// Adds to the figures of this run: appends a line `figure amount test` to the file that
/// `WEIR_TALLY` names. Without that variable the line is only printed.
pub fn tally(figure: Figure, amount: u64) {
    let thread = std::thread::current();
    let line = format!(
        "{} {amount} {}\n",
        figure.key(),
        thread.name().unwrap_or("?")
    );
    print!("tally: {line}");
    if let Some(path) = std::env::var_os("WEIR_TALLY").filter(|path| !path.is_empty()) {
        // One write of a short line: lines of concurrent tests do not mix.
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the file that WEIR_TALLY names can be written");
    }
}
