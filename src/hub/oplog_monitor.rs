//! Watches how close the oplog's oldest entry is to the slowest watcher.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::source::Source;

use super::subscribers::Subscribers;

/// The interval between checks of the oplog's oldest entry while no watch is near it.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// The shortest interval between two checks.
const MIN_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The number of checks before the oplog's oldest entry can reach the slowest watch, so that monitoring
/// sees the headroom shrink before it is gone.
const CHECKS_PER_HEADROOM: u32 = 4;
/// The delay before the first check, and between tests for watches while there are none.
const FIRST_CHECK_DELAY: Duration = Duration::from_secs(5);
/// The interval is at least this many times as long as the last check took: cheap on mongod, the check
/// is a scan of the whole oplog on some servers with a compatible API.
const CHECK_COST_FACTOR: u32 = 10;

/// Measures the oplog's headroom.
pub(super) struct OplogMonitor {
    source: Arc<dyn Source>,
    subscribers: Arc<Subscribers>,
    /// The time of the oplog's oldest entry, in seconds since 1970; 0 while unknown.
    oldest_second: AtomicU32,
}

impl OplogMonitor {
    pub(super) fn new(source: Arc<dyn Source>, subscribers: Arc<Subscribers>) -> Self {
        Self {
            source,
            subscribers,
            oldest_second: AtomicU32::new(0),
        }
    }

    /// Checks the oplog's oldest entry at intervals. Never returns.
    pub(super) async fn run(&self) {
        let mut pause = FIRST_CHECK_DELAY;
        loop {
            tokio::time::sleep(pause).await;
            if self.subscribers.is_empty() {
                pause = FIRST_CHECK_DELAY;
                continue;
            }
            let began = Instant::now();
            match self.source.oldest_time().await {
                Ok(oldest) => {
                    let second = oldest.map_or(0, |it| it.seconds);
                    self.oldest_second.store(second, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::debug!(code = error.code, %error, "could not read the oplog's oldest entry");
                }
            }
            let headroom = self.headroom_seconds().map(Duration::from_secs);
            pause = check_pause(headroom, began.elapsed());
        }
    }

    /// Returns the seconds between the oplog's oldest entry and the slowest watcher; 0 when the oplog no longer
    /// holds the watcher's position. `None` while either is unknown.
    pub(super) fn headroom_seconds(&self) -> Option<u64> {
        let oldest = self.oldest_second.load(Ordering::Relaxed);
        let slowest = self.subscribers.slowest_second()?;
        (oldest > 0).then(|| slowest.saturating_sub(oldest).into())
    }
}

/// Returns the pause after a check of the oplog that found `headroom` and took `took`.
fn check_pause(headroom: Option<Duration>, took: Duration) -> Duration {
    headroom
        .map_or(CHECK_INTERVAL, |headroom| headroom / CHECKS_PER_HEADROOM)
        .clamp(MIN_CHECK_INTERVAL, CHECK_INTERVAL)
        .max(took * CHECK_COST_FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow answer is often a busy MongoDB, which is when positions are lost.
    #[test]
    fn the_oplog_is_checked_in_time_although_a_check_is_slow() {
        let seconds = Duration::from_secs;
        let slow = Duration::from_millis(250);
        let near = check_pause(Some(seconds(8)), slow);
        assert!(near < seconds(8), "{near:?}");
        assert_eq!(check_pause(Some(seconds(8)), Duration::ZERO), seconds(2));
        assert_eq!(check_pause(Some(seconds(0)), Duration::ZERO), seconds(1));
        assert_eq!(check_pause(None, slow), seconds(15));
        // A scan of a large oplog takes a tenth of the time at most.
        assert_eq!(check_pause(Some(seconds(8)), seconds(6)), seconds(60));
    }
}
