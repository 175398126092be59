//! How long to wait before MongoDB is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause is at most this long, so that a killed cursor costs next to nothing.
const FIRST: Duration = Duration::from_millis(100);
/// No pause is longer than this.
const LONGEST: Duration = Duration::from_secs(5);
/// A stream that has held for this long starts over with the first pause.
const HEALTHY: Duration = Duration::from_secs(10);

/// Pauses that double, each shortened by a random part, so that many feeds do not all come back in
/// the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    last_opened: Option<Instant>,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            next: FIRST,
            last_opened: None,
        }
    }

    /// The stream has been opened. That alone does not start the pauses over: a stream that opens
    /// and fails at once must not be tried in a tight loop.
    pub(super) fn opened(&mut self) {
        self.last_opened = Some(Instant::now());
    }

    /// The pause before the next attempt: between half of it and the whole.
    pub(super) fn pause(&mut self) -> Duration {
        if self
            .last_opened
            .take()
            .is_some_and(|at| at.elapsed() >= HEALTHY)
        {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_bound_and_start_over_after_health() {
        let mut backoff = Backoff::new();
        let mut bound = FIRST;
        for _ in 0..12 {
            let pause = backoff.pause();
            assert!(
                pause <= bound && pause >= bound / 2,
                "{pause:?} of {bound:?}"
            );
            bound = (bound * 2).min(LONGEST);
        }
        backoff.opened();
        assert!(backoff.pause() > FIRST, "opening alone is not health");
        backoff.opened();
        tokio::time::advance(HEALTHY).await;
        assert!(backoff.pause() <= FIRST);
    }
}
