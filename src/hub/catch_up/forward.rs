//! The events of a reply on their way from the stream to the watch's queue.

use std::{panic::resume_unwind, sync::Arc};

use crate::{
    filter::Evaluator,
    hub::{
        catch_up_queue::QueueItem,
        feed::BatchSegmenter,
        ring::{FeedPosition, Invalidation},
        segment::{EventSelection, Segment},
        undecided::UndecidedEvents,
    },
    source::{Batch, Position},
};

use super::{CatchUp, PermitWanted};

impl CatchUp {
    /// Pushes the matching events of a batch to the queue as it has space for them. Returns the
    /// invalidation of the batch, if any.
    pub(super) async fn forward(
        &mut self,
        batch: Batch,
        segmenter: &mut BatchSegmenter,
        position: Position,
    ) -> Result<Option<Invalidation>, PermitWanted> {
        let upstream_time = batch.operation_time;
        let segmented = segmenter.segment(batch);
        for segment in segmented.segments {
            let events = segment.events().len();
            self.last = segment.position(events - 1);
            let selection = match self.evaluator.clone() {
                None => Some(EventSelection::range(Arc::clone(&segment), 0, 0, events)),
                Some(evaluator) if evaluator.may_take_long() => {
                    self.forward_decided(&segment, &evaluator).await?;
                    continue;
                }
                Some(evaluator) => EventSelection::matching(&segment, 0, 0..events, &evaluator),
            };
            self.push(selection).await?;
        }
        if segmented.invalidation.is_none() {
            self.queue.set_position(FeedPosition {
                position,
                upstream_time,
                anchor: self.anchor(),
            });
        }
        Ok(segmented.invalidation)
    }

    /// Pushes the events that match a filter which may take long, as they are decided.
    async fn forward_decided(
        &mut self,
        segment: &Arc<Segment>,
        evaluator: &Arc<Evaluator>,
    ) -> Result<(), PermitWanted> {
        let events = (0..segment.events().len()).map(|index| (index as u32, None));
        let mut rest = Some(UndecidedEvents::new(0, events, evaluator));
        while let Some(events) = rest.take() {
            // Held as the whole reply is, by at most as many as have permits.
            let held = Arc::clone(segment);
            let (costly, caller) = (&self.catch_ups.costly, &self.spec.caller);
            let decided = costly.run(caller, move || events.decide(&held)).await;
            let decided = decided.unwrap_or_else(|panic| resume_unwind(panic));
            rest = decided.rest;
            let passed = (!decided.passed.is_empty()).then_some(decided.passed);
            let selection = |passed| EventSelection::list(Arc::clone(segment), 0, passed);
            self.push(passed.map(selection)).await?;
        }
        Ok(())
    }

    async fn push(&mut self, selection: Option<EventSelection>) -> Result<(), PermitWanted> {
        let Some(selection) = selection else {
            return Ok(());
        };
        self.last_matched = selection.last_position();
        // Before each segment, so that the queue does not exceed its capacity by a whole reply.
        self.wait_writable().await?;
        self.queue.push(QueueItem::Events(selection.unshared()));
        Ok(())
    }
}
