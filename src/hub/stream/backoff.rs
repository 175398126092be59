//! The delays between attempts to reconnect to MongoDB.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;

/// The maximum of the first delay: short, so that a killed cursor causes almost no interruption.
const INITIAL_DELAY: Duration = Duration::from_millis(100);
/// The maximum of every delay.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// The time that a stream must stay open before its next failure starts with the first delay again.
const RESET_AFTER: Duration = Duration::from_secs(10);

/// Exponential backoff with random jitter, so that many feeds do not reconnect at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    delays: <ExponentialBuilder as BackoffBuilder>::Backoff,
    last_opened: Option<Instant>,
}

/// Random delays between half a maximum and the maximum, which doubles. Jitter adds up to the whole delay, so
/// the delays without it are half the maximums.
fn delays() -> <ExponentialBuilder as BackoffBuilder>::Backoff {
    ExponentialBuilder::new()
        .with_min_delay(INITIAL_DELAY / 2)
        .with_max_delay(MAX_DELAY / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            delays: delays(),
            last_opened: None,
        }
    }

    /// Records that the stream was opened. This does not reset the delay by itself: a stream that opens
    /// and fails at once must not be retried in a tight loop.
    pub(super) fn opened(&mut self) {
        self.last_opened = Some(Instant::now());
    }

    /// Returns the delay before the next attempt: a random value between half the current maximum and the
    /// maximum.
    pub(super) fn next_delay(&mut self) -> Duration {
        if self
            .last_opened
            .take()
            .is_some_and(|at| at.elapsed() >= RESET_AFTER)
        {
            self.delays = delays();
        }
        self.delays.next().unwrap_or(MAX_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_double_up_to_a_maximum_and_reset_after_a_healthy_period() {
        let mut backoff = Backoff::new();
        let mut bound = INITIAL_DELAY;
        for _ in 0..12 {
            let delay = backoff.next_delay();
            assert!(
                delay <= bound && delay >= bound / 2,
                "{delay:?} of {bound:?}"
            );
            bound = (bound * 2).min(MAX_DELAY);
        }
        backoff.opened();
        assert!(
            backoff.next_delay() > INITIAL_DELAY,
            "opening alone does not reset the delay"
        );
        backoff.opened();
        tokio::time::advance(RESET_AFTER).await;
        assert!(backoff.next_delay() <= INITIAL_DELAY);
    }
}
