//! Whose turn it is to have a feed opened, and how often that is.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{
    hub::tasks::Tasks,
    limit::{Exceeded, Limit, Pace, Turn, Turns},
    metrics::Metrics,
    model::Caller,
};

/// The part of the time that a call waits for its feed after which it is refused if its turn has not come.
const MAX_WAIT_FOR_TURN: Duration = Duration::from_secs(15);

/// The maximum number of feeds that are being opened at once, so that MongoDB is asked for few streams at a time
/// whatever clients do.
const MAX_OPENINGS: usize = 8;
/// The maximum number of them for the watches of one caller: with half of them, others always find some free.
const MAX_OPENINGS_PER_CALLER: usize = 4;

/// The feeds that one caller has opened per second in the long run. Whoever needs more opens watches and leaves them
/// again, and each of these feeds costs MongoDB a stream, its first reads and its end.
const RATE: f64 = 10.0;
/// The least number of feeds that a caller may have opened at once, after a pause.
const MIN_BURST: usize = 64;

/// The turns to open feeds.
pub(super) struct Openings {
    turns: Turns<Caller>,
    pace: Pace<Caller>,
}

/// The turn to open one feed, which counts against its caller's pace.
pub(super) struct PacedTurn {
    turn: Turn<Caller>,
    /// The time until which the turn is kept, if the caller has opened more than its pace allows.
    kept_until: Option<Instant>,
}

impl Openings {
    /// Creates turns that are all free. A caller may have as many feeds opened at once as there may be: after a restart
    /// all of them are opened again.
    pub(super) fn new(max_feeds: usize, metrics: &Metrics) -> Self {
        let limit = Limit::new("openings", MAX_OPENINGS)
            .counted_by(metrics.limit_rejections.of("openings"));
        // At most 10,000.
        let burst = max_feeds.max(MIN_BURST) as f64;
        Self {
            turns: Turns::new(limit, MAX_OPENINGS_PER_CALLER),
            pace: Pace::new(RATE, burst),
        }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// It does not come in time.
    pub(super) async fn acquire(&self, caller: &Caller) -> Result<Turn<Caller>, Exceeded> {
        self.turns.acquire_within(caller, MAX_WAIT_FOR_TURN).await
    }

    /// Returns whether a caller can have another feed opened without falling behind its pace.
    pub(super) fn has_token(&self, caller: &Caller) -> bool {
        self.pace.has_token(caller)
    }

    /// Uses a turn of a caller to open a feed.
    pub(super) fn begin(&self, caller: &Caller, turn: Turn<Caller>) -> PacedTurn {
        let wait = self.pace.take(caller);
        PacedTurn {
            turn,
            kept_until: wait.map(|wait| Instant::now() + wait),
        }
    }
}

impl PacedTurn {
    /// Returns the turn, once its caller is no longer behind its pace. So a caller falls behind by no more feeds than it
    /// has turns, and what it opens further waits.
    pub(super) fn end(self, tasks: &Tasks) {
        if let Some(until) = self.kept_until {
            tasks.spawn_detached(async move {
                sleep_until(until).await;
                drop(self.turn);
            });
        }
    }
}
