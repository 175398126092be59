//! The time of a position in a stream with a client's stages.
//!
//! Such stages leave events out, so a reply without events says nothing about the events that were passed. A reply that
//! MongoDB held back does; but some servers reply at once to each event that is left out, and hold no reply back where
//! others write all the time. Then the next event in the scope's stream tells how far the position is.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{
    pipeline::Plan,
    source::{Batch, BatchSize, ClusterTime, Position, Source},
};

/// The shortest time between two questions to MongoDB.
const PAUSE: Duration = Duration::from_millis(250);
/// The time limit for an answer. It comes with the next event, or with a reply that MongoDB holds back for a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time that the positions of one stream have reached, as far as it was asked for.
#[derive(Debug, Default)]
pub(super) struct PositionTime {
    reached: ClusterTime,
    asked: Option<Instant>,
}

impl PositionTime {
    /// Raises the times of a batch to what the stream has reached. Asks for that first if the batch says nothing about
    /// it, but not often.
    pub(super) async fn raise(&mut self, batch: &mut Batch, source: &dyn Source, plan: &Plan) {
        if !plan.has_client_stages() {
            return;
        }
        let says_nothing = batch.events.is_empty() && !batch.idle && !batch.closed;
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= PAUSE);
        if let Some(at @ Position::HighWater { .. }) = &batch.position
            && says_nothing
            && is_due
        {
            self.asked = Some(Instant::now());
            let next = timeout(PATIENCE, next_time(source, &plan.scope_outline(), at)).await;
            if let Ok(Some(next)) = next {
                self.reached = self.reached.max(next.predecessor());
            }
        }
        // The times that events have behind the stages may be earlier, but never later than their own.
        for event in &mut batch.events {
            event.cluster_time = event.cluster_time.max(self.reached);
        }
        if let Some(Position::HighWater { time, .. } | Position::Event { time, .. }) =
            &mut batch.position
        {
            *time = self.reached.max(*time);
        }
    }
}

/// Returns the time of the next event after a position, in the stream of all of the scope's events. `None` if there is
/// none now, or MongoDB does not answer.
async fn next_time(source: &dyn Source, outline: &Plan, at: &Position) -> Option<ClusterTime> {
    let opened = source.open(outline, Some(at), BatchSize::One).await;
    let mut cursor = opened.ok()?;
    loop {
        let batch = cursor.next().await.ok()?;
        if let Some(event) = batch.events.first() {
            return Some(event.cluster_time);
        }
        if batch.idle || batch.closed {
            return None;
        }
    }
}
