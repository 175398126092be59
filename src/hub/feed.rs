//! One task that owns one change stream and publishes what it brings into a ring.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    error::Error,
    hub::{
        budget::Budget,
        memory::Memory,
        ring::{Invalidation, News, Ring},
        segment::Segment,
        stream::{Stream, Told, own},
    },
    metrics::{Metrics, Stage, StageGuard},
    plan::{Operation, Plan},
    source::{Batch, Event},
    wire::TokenContext,
};

/// A feed that runs until it is stopped or fails for good.
pub(super) struct Feed {
    pub stream: Stream,
    pub intake: Intake,
    pub ring: Arc<Ring>,
    pub memory: Arc<Memory>,
    /// What the feed is doing, as the metrics were last told.
    pub gauge: StageGuard,
}

/// Makes segments of batches, as feeds and catch-ups both do.
#[derive(Debug)]
pub(super) struct Intake {
    plan: Arc<Plan>,
    token_context: TokenContext,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    /// The last event that may turn out to be the cause of an invalidation.
    cause: Option<Operation>,
}

/// What a batch brought.
#[derive(Debug)]
pub(super) struct Taken {
    pub segments: Vec<Arc<Segment>>,
    pub invalidation: Option<Invalidation>,
}

/// Ends the ring of a feed that panics: its watchers must not wait for ever.
struct EndOnPanic(Arc<Ring>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Error::Internal);
        }
    }
}

impl Feed {
    /// Runs the feed for good: gives why it ended, which its watchers are told too.
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
            if self.memory.is_short() {
                // There may be more to read, and it has to wait: from here on the lag grows.
                self.ring.lost_touch();
            }
            self.memory.room().await;
            let mut told = Telling {
                ring: &self.ring,
                gauge: &mut self.gauge,
            };
            let batch = self.stream.next(&mut told).await?;
            let invalidation = self.publish(batch).await;
            if let Some(invalidation) = invalidation {
                // Those who wanted no more have been told so; the others go on with what is created
                // under the same name.
                let mut told = Telling {
                    ring: &self.ring,
                    gauge: &mut self.gauge,
                };
                let position = own(&invalidation.position);
                self.stream.go_on_after(position, &mut told).await?;
            }
        }
    }

    async fn publish(&mut self, batch: Batch) -> Option<Invalidation> {
        if !batch.events.is_empty() {
            self.ring.writable().await;
        }
        let caught_up = batch.idle;
        let upstream = batch.operation_time;
        let moved = batch.position.is_some();
        let taken = self.intake.take(batch);
        let position = taken
            .invalidation
            .as_ref()
            .map(|invalidation| invalidation.position.clone());
        let position = position.unwrap_or_else(|| self.stream.position().clone());
        let live = self.stream.stage() == Stage::Live && self.gauge.stage() != Stage::Live;
        if live {
            self.gauge.move_to(Stage::Live);
        }
        let mut segments = taken.segments;
        let last = segments.pop();
        // One at a time, so that nobody who comes or goes waits for the judging of a whole reply.
        for segment in segments {
            let position = segment.position(segment.events().len() - 1);
            self.ring.publish(News {
                tail: position.map(|position| (position, upstream, false)),
                segments: vec![segment],
                ..News::default()
            });
        }
        self.ring.publish(News {
            segments: last.into_iter().collect(),
            stage: live.then_some((Stage::Live, "")),
            invalidation: taken.invalidation.clone(),
            tail: moved.then_some((position, upstream, caught_up)),
        });
        taken.invalidation
    }
}

/// Tells a feed's watchers, and the metrics, what it is doing.
struct Telling<'a> {
    ring: &'a Ring,
    gauge: &'a mut StageGuard,
}

impl Told for Telling<'_> {
    fn tell(&mut self, stage: Stage, reason: &'static str) {
        self.gauge.move_to(stage);
        if stage == Stage::Reconnecting {
            self.ring.lost_touch();
        }
        self.ring.publish(News {
            stage: Some((stage, reason)),
            ..News::default()
        });
    }
}

impl Intake {
    pub(super) fn new(
        plan: Arc<Plan>,
        token_context: TokenContext,
        budget: Arc<Budget>,
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

    /// Keeps what the plan asked for of a batch, and what tells of an invalidation.
    pub(super) fn take(&mut self, batch: Batch) -> Taken {
        let Batch {
            buffer, mut events, ..
        } = batch;
        let invalidation = self.invalidation(&buffer, &mut events);
        if let Some(asked) = &self.plan.asked {
            // The pipeline lets through what tells why a watch was invalidated.
            events.retain(|event| asked.contains(&event.operation));
        }
        let segments = if events.is_empty() {
            Vec::new()
        } else {
            let buffer = self.budget.keep(buffer);
            Segment::cut(
                &buffer,
                events,
                &self.token_context,
                &self.budget,
                &self.metrics,
            )
        };
        Taken {
            segments,
            invalidation,
        }
    }

    /// Counts the events, and cuts them off at an invalidation.
    fn invalidation(&mut self, buffer: &Bytes, events: &mut Vec<Event>) -> Option<Invalidation> {
        for (index, event) in events.iter().enumerate() {
            self.metrics.events_received(event.operation).increment(1);
            match event.operation {
                Operation::Invalidate => {
                    let invalidation = Invalidation {
                        cause: self.cause.take(),
                        position: own(&event.position(buffer)),
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
