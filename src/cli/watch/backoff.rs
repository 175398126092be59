//! The delay before the next attempt to connect.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// The shortest delay.
pub(super) const SHORTEST: Duration = Duration::from_millis(200);
/// The longest delay, unless the server asks for more.
pub(super) const LONGEST: Duration = Duration::from_secs(10);
/// The longest delay that a server may ask for: a wrong RetryInfo must not stop a client for a day.
pub(super) const LONGEST_ON_REQUEST: Duration = Duration::from_secs(300);

/// Delays that double from [`SHORTEST`] to [`LONGEST`], with jitter, so that the clients of a server do not
/// reconnect at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// `None` before the first attempt.
    delays: Option<<ExponentialBuilder as BackoffBuilder>::Backoff>,
}

impl Backoff {
    /// Returns the next delay: a random value between half and all of a ceiling that doubles, or what the
    /// server asked for if that is longer, up to [`LONGEST_ON_REQUEST`].
    pub(super) fn next_wait(&mut self, asked_for: Option<Duration>) -> Duration {
        let delays = self.delays.get_or_insert_with(|| {
            // Jitter adds up to the whole delay.
            ExponentialBuilder::new()
                .with_min_delay(SHORTEST)
                .with_max_delay(LONGEST / 2)
                .with_jitter()
                .without_max_times()
                .build()
        });
        let wait = delays.next().unwrap_or(LONGEST);
        match asked_for {
            Some(asked_for) => wait.max(asked_for.min(LONGEST_ON_REQUEST)),
            None => wait,
        }
    }

    /// Starts again from the shortest delay.
    pub(super) fn reset(&mut self) {
        self.delays = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_within_bounds() {
        let mut backoff = Backoff::default();
        for attempt in 0..100 {
            let wait = backoff.next_wait(None);
            assert!(wait >= SHORTEST && wait <= LONGEST, "{attempt}: {wait:?}");
            if attempt == 0 {
                assert!(wait <= SHORTEST * 2);
            }
            if attempt > 10 {
                assert!(wait >= LONGEST / 2);
            }
        }
        backoff.reset();
        assert!(backoff.next_wait(None) <= SHORTEST * 2);
    }

    #[test]
    fn a_delay_that_the_server_asks_for_is_used_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let minute = Duration::from_secs(60);
        assert_eq!(backoff.next_wait(Some(minute)), minute);
        assert_eq!(
            backoff.next_wait(Some(minute * 60 * 24)),
            LONGEST_ON_REQUEST
        );
        assert!(backoff.next_wait(Some(Duration::ZERO)) >= SHORTEST);
    }
}
