//! The question whether MongoDB has events for a watch between its position and a time.

use crate::{
    filter::{Evaluator, EventFields, Residual, Verdict},
    pipeline::Plan,
    source::{BatchSize, ClusterTime, Position, Source, SourceError},
};

/// The maximum number of replies that are searched for remaining events. A barrier is at most a second old.
const MAX_REPLIES_SCANNED: usize = 8;

/// The events between a position and a time, as far as they are known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remaining {
    /// There is no event.
    Nothing,
    /// There are events, but none that matches this watch.
    NothingForWatch,
    /// There may be a matching event.
    Something,
}

/// What is asked, and of whom.
pub(super) struct RemainingSearch<'a> {
    pub source: &'a dyn Source,
    /// The plan of the feed that the watch is to join.
    pub feed_plan: &'a Plan,
    /// The plan of all watches of the scope.
    pub shared_plan: &'a Plan,
    /// All conditions of the watch.
    pub watch_residual: &'a Residual,
}

impl RemainingSearch<'_> {
    /// Asks MongoDB for the events between a position and a time.
    pub(super) async fn run(
        &self,
        at: &Position,
        until: ClusterTime,
    ) -> Result<Remaining, SourceError> {
        let source = self.source;
        let unfiltered = self.shared_plan.unfiltered();
        let by_time = Position::Time(at.time());
        let mut at = at;
        let mut nothing = source.has_no_events(&unfiltered, at, until).await;
        if matches!(&nothing, Err(error) if error.failure.may_mean_the_token())
            && at.can_resume_by_time()
        {
            // Earlier events may come again: then the answer is that there is something.
            at = &by_time;
            nothing = source.has_no_events(&unfiltered, at, until).await;
        }
        if nothing? {
            return Ok(Remaining::Nothing);
        }
        if *self.feed_plan == unfiltered {
            // There is an event, and the streams of the feed and of this catch-up will both return it.
            return Ok(Remaining::Something);
        }
        // A stream with a filter may send an empty reply before it has passed all events. So this reads the
        // unfiltered events, up to the first one later than `until`.
        let evaluator = Evaluator::new(self.watch_residual);
        let mut cursor = source
            .open(self.shared_plan, Some(at), BatchSize::Default)
            .await?;
        for _ in 0..MAX_REPLIES_SCANNED {
            let batch = cursor.next().await?;
            if batch.events.is_empty() {
                break;
            }
            for event in &batch.events {
                if event.cluster_time > until {
                    return Ok(Remaining::NothingForWatch);
                }
                let raw = &batch.buffer[event.bytes.clone()];
                let fields = EventFields::new(event.operation, raw, &event.index);
                // What takes long to decide may match.
                if evaluator.evaluate_briefly(&fields) != Verdict::Fails {
                    return Ok(Remaining::Something);
                }
            }
        }
        Ok(Remaining::Something)
    }
}
