//! How long to wait before the next attempt.

use std::time::Duration;

/// The shortest wait.
pub(super) const SHORTEST: Duration = Duration::from_millis(200);
/// The longest wait that we choose ourselves.
pub(super) const LONGEST: Duration = Duration::from_secs(10);
/// The longest wait taken from a server: a mistaken RetryInfo must not park a client for a day.
pub(super) const LONGEST_ON_REQUEST: Duration = Duration::from_secs(300);

/// Waits that double from [`SHORTEST`] to [`LONGEST`], spread so that many clients of one server
/// do not come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait: between half and the whole of a ceiling that doubles. A server that asked
    /// for longer gets it, up to [`LONGEST_ON_REQUEST`].
    pub(super) fn next_wait(&mut self, asked_for: Option<Duration>) -> Duration {
        let doublings = self.attempts.min(10);
        self.attempts = self.attempts.saturating_add(1);
        let ceiling = LONGEST.min(SHORTEST * 2 * 2_u32.pow(doublings));
        let wait = ceiling.mul_f64(0.5 + fastrand::f64() / 2.0);
        match asked_for {
            Some(asked_for) => wait.max(asked_for.min(LONGEST_ON_REQUEST)),
            None => wait,
        }
    }

    /// The connection works: the next loss starts from the shortest wait again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_within_bounds_and_grow() {
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
    fn a_wait_the_server_asks_for_is_kept_but_not_forever() {
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
