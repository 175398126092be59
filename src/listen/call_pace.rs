//! How many calls a connection begins in a second.
//!
//! HTTP/2 bounds the calls that are open, and not those that are opened and reset again: each costs as much, and a
//! client may send a hundred thousand in a second. Beyond the bound nothing more is read of the connection for a
//! while, so that the client has to wait. Nothing is refused.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The calls per second that a connection begins in the long run.
const RATE: f64 = 1_000.0;

/// The calls that a connection begins at once, after a pause.
const BURST: f64 = 100.0;

/// The calls that one connection has begun, as a bucket of tokens.
#[derive(Debug)]
pub(super) struct CallPace(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    /// Below zero once more calls were begun than the bound allows: they had been read already.
    level: f64,
    updated: Instant,
}

impl CallPace {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Bucket {
            level: BURST,
            updated: Instant::now(),
        })))
    }

    /// Counts a call.
    pub(super) fn begin_call(&self) {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let gained = (now - bucket.updated).as_secs_f64() * RATE;
        bucket.level = (bucket.level + gained).min(BURST) - 1.0;
        bucket.updated = now;
    }

    /// Returns the time until the connection may begin another call; `None` if that is now.
    pub(super) fn wait(&self) -> Option<Duration> {
        let bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Most connections are far from it, and need no clock.
        if bucket.level >= 0.0 {
            return None;
        }
        let due = bucket.updated + Duration::from_secs_f64(-bucket.level / RATE);
        let wait = due.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_begins_a_burst_at_once_and_then_as_many_as_its_rate() {
        let pace = CallPace::new();
        for _ in 0..100 {
            assert_eq!(pace.wait(), None);
            pace.begin_call();
        }
        let begin = Instant::now();
        for _ in 0..500 {
            pace.begin_call();
            if let Some(wait) = pace.wait() {
                tokio::time::sleep(wait).await;
            }
            assert_eq!(pace.wait(), None);
        }
        let took = begin.elapsed();
        assert!((450..550).contains(&took.as_millis()), "{took:?}");
        // Calls that were read together are paid for together.
        (0..300).for_each(|_| pace.begin_call());
        let wait = pace.wait().expect("more than allowed");
        assert!((290..310).contains(&wait.as_millis()), "{wait:?}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(pace.wait(), None);
        (0..100).for_each(|_| pace.begin_call());
        assert_eq!(pace.wait(), None, "no more than a burst is saved up");
        pace.begin_call();
        assert!(pace.wait().is_some());
    }
}
