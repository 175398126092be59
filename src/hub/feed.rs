//! A task that reads one change stream and publishes its events into a ring.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    error::Error,
    hub::{
        budget::MemoryBudget,
        memory::MemoryManager,
        ring::{FeedUpdate, Invalidation, Ring},
        segment::Segment,
        stream::{ReconnectingStream, StageObserver},
    },
    metrics::{Metrics, StageGuard},
    model::{Operation, Stage},
    pipeline::Plan,
    source::{Batch, Event},
    wire::TokenContext,
};

/// A feed, which runs until it is stopped or fails permanently.
pub(super) struct Feed {
    pub stream: ReconnectingStream,
    pub segmenter: BatchSegmenter,
    pub ring: Arc<Ring>,
    pub memory: Arc<MemoryManager>,
    /// The stage of the feed in the metrics.
    pub gauge: StageGuard,
}

/// Splits batches into segments, for feeds and catch-ups.
#[derive(Debug)]
pub(super) struct BatchSegmenter {
    plan: Arc<Plan>,
    token_context: TokenContext,
    budget: Arc<MemoryBudget>,
    metrics: Arc<Metrics>,
    /// The last operation that can cause an invalidation.
    cause: Option<Operation>,
}

/// The content of a batch.
#[derive(Debug)]
pub(super) struct SegmentedBatch {
    pub segments: Vec<Arc<Segment>>,
    pub invalidation: Option<Invalidation>,
}

/// Ends the ring of a feed that panics, so that its watchers do not wait forever.
struct EndOnPanic(Arc<Ring>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Error::Internal);
        }
    }
}

impl Feed {
    /// Runs the feed until it fails. Ends the ring with the error and returns it.
    pub(super) async fn run(mut self) -> Error {
        let ring = EndOnPanic(Arc::clone(&self.ring));
        let why = match self.run_to_end().await {
            Ok(never) => match never {},
            Err(why) => why,
        };
        ring.0.end(why.clone());
        why
    }

    async fn run_to_end(&mut self) -> Result<std::convert::Infallible, Error> {
        loop {
            if self.memory.is_over_limit() {
                // The feed stops reading although there may be more: the lag grows from now on.
                self.ring.mark_not_caught_up();
            }
            self.memory.wait_available().await;
            self.stream.set_awaited_time(self.ring.first_end());
            let mut observer = FeedStageObserver {
                ring: &self.ring,
                gauge: &mut self.gauge,
            };
            let batch = self.stream.next(&mut observer).await?;
            let invalidation = self.publish(batch).await;
            if let Some(invalidation) = invalidation {
                // Watches with invalidate policy END have ended; the others continue with a collection
                // that is created under the same name.
                let mut observer = FeedStageObserver {
                    ring: &self.ring,
                    gauge: &mut self.gauge,
                };
                let position = invalidation.position.detached();
                self.stream
                    .continue_after_invalidation(position, &mut observer)
                    .await?;
            }
        }
    }

    async fn publish(&mut self, batch: Batch) -> Option<Invalidation> {
        if !batch.events.is_empty() {
            self.ring.wait_writable().await;
        }
        let is_quiet = batch.events.is_empty();
        let upstream = batch.operation_time;
        let moved = batch.position.is_some();
        let segmented = self.segmenter.segment(batch);
        let position = segmented
            .invalidation
            .as_ref()
            .map(|invalidation| invalidation.position.clone());
        let position = position.unwrap_or_else(|| self.stream.position().clone());
        let live = self.stream.stage() == Stage::Live && self.gauge.stage() != Stage::Live;
        if live {
            self.gauge.move_to(Stage::Live);
        }
        let mut segments = segmented.segments;
        let last = segments.pop();
        // One segment at a time, so that watchers that join or leave do not wait for the evaluation of a
        // whole reply.
        for segment in segments {
            let position = segment.position(segment.events().len() - 1);
            self.ring.publish(FeedUpdate {
                position: position.map(|position| (position, upstream, false)),
                segments: vec![segment],
                ..FeedUpdate::default()
            });
        }
        self.ring.publish(FeedUpdate {
            segments: last.into_iter().collect(),
            stage: live.then_some((Stage::Live, "")),
            invalidation: segmented.invalidation.clone(),
            position: moved.then_some((position, upstream, is_quiet)),
        });
        segmented.invalidation
    }
}

/// Reports the stages of a feed to its watchers and to the metrics.
struct FeedStageObserver<'a> {
    ring: &'a Ring,
    gauge: &'a mut StageGuard,
}

impl StageObserver for FeedStageObserver<'_> {
    fn stage_changed(&mut self, stage: Stage, reason: &'static str) {
        self.gauge.move_to(stage);
        if stage == Stage::Reconnecting {
            self.ring.mark_not_caught_up();
        }
        self.ring.publish(FeedUpdate {
            stage: Some((stage, reason)),
            ..FeedUpdate::default()
        });
    }
}

impl BatchSegmenter {
    pub(super) fn new(
        plan: Arc<Plan>,
        token_context: TokenContext,
        budget: Arc<MemoryBudget>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            plan,
            token_context,
            budget,
            metrics,
            cause: None,
        }
    }

    /// Splits a batch into segments of the events that the plan asks for, and extracts its invalidation.
    pub(super) fn segment(&mut self, batch: Batch) -> SegmentedBatch {
        let Batch {
            buffer, mut events, ..
        } = batch;
        if self.plan.has_client_stages() {
            // A stage may call any event so.
            self.cause = None;
        }
        let invalidation = self.split_at_invalidation(&buffer, &mut events);
        if invalidation.is_some() && self.plan.has_client_stages() {
            // Its cause comes with it, whether the watch asks for that or not.
            events.clear();
        }
        events.retain(|event| !event.is_internal);
        if let Some(operations) = self.plan.operations() {
            // The pipeline also returns the operations that can cause an invalidation.
            events.retain(|event| operations.contains(&event.operation));
        }
        let segments = if events.is_empty() {
            Vec::new()
        } else {
            let buffer = self.budget.charge(buffer);
            Segment::split(
                &buffer,
                events,
                &self.token_context,
                &self.budget,
                &self.metrics,
            )
        };
        SegmentedBatch {
            segments,
            invalidation,
        }
    }

    /// Counts the events and truncates them at an invalidation.
    fn split_at_invalidation(
        &mut self,
        buffer: &Bytes,
        events: &mut Vec<Event>,
    ) -> Option<Invalidation> {
        for (index, event) in events.iter().enumerate() {
            self.metrics
                .events_received
                .of(event.operation)
                .increment(1);
            if event.is_internal {
                continue;
            }
            match event.operation {
                Operation::Invalidate => {
                    let invalidation = Invalidation {
                        cause: self.cause.take(),
                        position: event.position(buffer).detached(),
                        wall_time: event.wall_time,
                    };
                    events.truncate(index);
                    return Some(invalidation);
                }
                Operation::Drop | Operation::Rename | Operation::DropDatabase => {
                    self.cause = Some(event.operation);
                }
                _ => {}
            }
        }
        None
    }
}
