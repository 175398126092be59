//! What a run did, in figures: `docs/guarantees.md` reports them of one run of the tests.

use std::{fs::OpenOptions, io::Write as _};

/// A figure of `docs/guarantees.md`. A run's amounts are added up, but for the last two, of which the
/// largest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Faults put in: a cut, a stall, a killed process, an error that MongoDB was made to answer.
    Faults,
    /// Changes written while faults came, that clients had to get.
    EventsWritten,
    /// Of these, changes that a client did not get.
    EventsLost,
    /// Events that a client got once more, after it came back.
    Repeats,
    /// Inputs that had to be refused or survived: requests, tokens, frames, documents.
    BadInputs,
    /// Watches open at once.
    WatchesHeld,
    /// Bytes at the peak of what a test bounds: the memory of the process, where it is that.
    PeakBytes,
}

impl Figure {
    /// What a line of the tally begins with.
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

/// Adds to the figures of this run: a line `figure amount test` in the file that `WEIR_TALLY` names.
/// Without one it is only printed.
pub fn tally(figure: Figure, amount: u64) {
    let thread = std::thread::current();
    let line = format!(
        "{} {amount} {}\n",
        figure.key(),
        thread.name().unwrap_or("?")
    );
    print!("tally: {line}");
    if let Some(path) = std::env::var_os("WEIR_TALLY").filter(|path| !path.is_empty()) {
        // One write of a short line: those of tests that run side by side do not mix.
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the file that WEIR_TALLY names can be written");
    }
}
