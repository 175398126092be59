//! A barrier that is held until the catch-up has passed it.
//!
//! A client's stages leave events out, and Weir can't tell which. So the question whether anything is left before the
//! end of the ring would be answered "perhaps" for ever where others write all the time. But the catch-up goes
//! on meanwhile: its own position lies behind an earlier end of the ring before long, whatever was left out.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    hub::{
        ring::{Barrier, Ring},
        stream::has_passed,
    },
    pipeline::Plan,
    source::{ClusterTime, Position, Source},
};

/// The shortest time between two questions to MongoDB. Some servers reply at once to each event that is left out.
const PAUSE: Duration = Duration::from_millis(250);

/// A barrier, once one was taken.
#[derive(Debug, Default)]
pub(super) struct HeldBarrier {
    barrier: Option<Barrier>,
    asked: Option<Instant>,
}

/// What a reply without events says.
pub(super) struct QuietReply<'a> {
    pub at: &'a Position,
    /// A time at or after every event that was delivered.
    pub delivered_up_to: ClusterTime,
}

impl HeldBarrier {
    /// Returns the barrier if nothing is left before it. `plan` is that of the stream and of the ring's feed.
    pub(super) async fn passed(
        &mut self,
        ring: &Ring,
        reply: &QuietReply<'_>,
        source: &dyn Source,
        plan: &Plan,
    ) -> Option<Barrier> {
        let Some(barrier) = self.barrier else {
            self.barrier = ring.barrier();
            return None;
        };
        // The events that the ring adds later must be new, or told from those that were delivered by their times.
        let ring_is_past = if plan.genuine().every_time {
            barrier.time
        } else {
            barrier.passed
        };
        if reply.delivered_up_to > ring_is_past {
            self.barrier = ring.barrier();
            return None;
        }
        if reply.at.time() > barrier.time {
            return Some(barrier);
        }
        if self.asked.is_some_and(|asked| asked.elapsed() < PAUSE) {
            return None;
        }
        self.asked = Some(Instant::now());
        let has_passed = has_passed(source, &plan.scope_outline(), reply.at, barrier.time).await;
        match has_passed {
            Ok(has_passed) => has_passed.then_some(barrier),
            Err(error) => {
                tracing::debug!(
                    code = error.code,
                    "could not check for events before a held barrier"
                );
                None
            }
        }
    }
}
