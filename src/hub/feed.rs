//! One task that owns one change stream: reads it, keeps its place, and opens it again when MongoDB
//! was away.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    hub::{
        backoff::Backoff,
        open::{Opened, can_go_by_time, give_up, open_at, open_by_time},
        ring::{Entry, Invalidation, Ring, Tail},
        seam::Seam,
        segment::Segment,
    },
    metrics::{InStage, Metrics, Stage},
    plan::{Invalidate, Operation, Plan},
    source::{Batch, Failure, Position, Source, SourceError},
};

/// A stream this close to MongoDB's own time counts as live, even if it is never quite empty.
const LIVE_WITHIN_SECONDS: u32 = 1;

/// A feed that runs until it is stopped or fails for good.
pub(super) struct Feed {
    pub source: Arc<dyn Source>,
    pub plan: Arc<Plan>,
    pub ring: Arc<Ring>,
    pub metrics: Arc<Metrics>,
    /// How long MongoDB may be away.
    pub upstream_grace: Duration,
    /// Whether to go on after an invalidation.
    pub invalidate: Invalidate,
    /// The place after everything that was published.
    pub position: Position,
    /// What the feed is doing, as the metrics and the watcher were last told.
    pub stage: InStage,
    /// The last event that may turn out to be the cause of an invalidation.
    pub cause: Option<Operation>,
    /// Since when MongoDB has not answered a `getMore`.
    pub outage: Option<Instant>,
    pub backoff: Backoff,
}

/// Ends a ring that nothing else has ended.
struct EndWhenDropped(Arc<Ring>);

impl Drop for EndWhenDropped {
    fn drop(&mut self) {
        self.0.end(Error::Internal);
    }
}

/// Why reading a cursor ended.
enum Ended {
    Failed(SourceError),
    Invalidated,
}

impl Feed {
    /// Runs the feed until `stop`, or until it fails for good, which it says in the ring.
    pub(super) async fn run(mut self, opened: Opened, stop: CancellationToken) {
        // Should the task die of a panic, its watcher must not wait for ever.
        let _died = EndWhenDropped(Arc::clone(&self.ring));
        let why = stop.run_until_cancelled(self.run_to_end(opened)).await;
        self.ring.end(why.unwrap_or(Error::Draining));
    }

    async fn run_to_end(&mut self, mut opened: Opened) -> Error {
        loop {
            self.backoff.opened();
            let again = match self.read(opened).await {
                Ended::Failed(error) => self.reopen(Some(error)).await,
                Ended::Invalidated => match self.invalidate {
                    Invalidate::Continue => self.reopen(None).await,
                    Invalidate::End => Err(Error::Invalidated {
                        scope: self.plan.scope.clone(),
                        cause: self.cause,
                    }),
                },
            };
            match again {
                Ok(again) => opened = again,
                Err(why) => return why,
            }
        }
    }

    /// Publishes what the stream brings until it ends.
    async fn read(&mut self, opened: Opened) -> Ended {
        let Opened {
            mut cursor,
            first,
            mut seam,
            ..
        } = opened;
        // An answer to the opening alone does not end an outage: a server can open a stream and
        // then fail every read of it.
        if !first.events.is_empty() {
            self.outage = None;
        }
        let mut batch = first;
        loop {
            if let Some(ended) = self.take(batch, &mut seam).await {
                return ended;
            }
            batch = match cursor.next().await {
                Ok(batch) => batch,
                Err(error) => return Ended::Failed(error),
            };
            self.outage = None;
        }
    }

    async fn take(&mut self, batch: Batch, seam: &mut Option<Seam>) -> Option<Ended> {
        let batches = match seam {
            Some(open) => {
                let joined = open.pass(batch)?;
                *seam = None;
                joined
            }
            None => vec![batch],
        };
        for batch in batches {
            if let Some(ended) = self.publish(batch).await {
                return Some(ended);
            }
        }
        None
    }

    async fn publish(&mut self, batch: Batch) -> Option<Ended> {
        let caught_up = batch.events.is_empty() || lag(&batch) <= LIVE_WITHIN_SECONDS;
        let told = self.stage.stage();
        if !caught_up && matches!(told, Stage::Opening | Stage::Reconnecting) {
            self.enter(Stage::CatchingUp, "");
        }

        let tail = batch.position.clone().map(|position| Tail {
            position,
            upstream: batch.operation_time,
            caught_up: batch.events.is_empty(),
            heard: Instant::now(),
        });
        let Batch {
            buffer,
            mut events,
            closed,
            ..
        } = batch;
        let mut invalidation = None;
        for (index, event) in events.iter().enumerate() {
            self.metrics.events_received(event.operation).increment(1);
            match event.operation {
                Operation::Invalidate => {
                    invalidation = Some((index, event.position(&buffer)));
                    break;
                }
                Operation::Drop | Operation::Rename | Operation::DropDatabase => {
                    self.cause = Some(event.operation);
                }
                _ => {}
            }
        }
        if let Some((index, _)) = invalidation {
            events.truncate(index);
        }
        if let Some(asked) = &self.plan.asked {
            // The pipeline lets through what tells why a watch was invalidated.
            events.retain(|event| asked.contains(&event.operation));
        }

        if !events.is_empty() {
            self.ring.writable().await;
        }
        let segments = Segment::cut(&buffer, events, &self.metrics);
        if let Some(tail) = &tail {
            self.position = tail.position.clone();
        }
        let live = (caught_up && self.stage.stage() != Stage::Live).then(|| {
            self.stage.move_to(Stage::Live);
            Entry::Stage(Stage::Live, "")
        });
        let invalidated = invalidation.map(|(_, position)| {
            self.position = position.clone();
            Entry::Invalidated(Invalidation {
                cause: self.cause,
                position,
            })
        });
        let ended = invalidated.is_some();
        let events = segments.into_iter().map(Entry::Events);
        // In one step: a tail right after the invalidation must not be seen before it.
        self.ring.push(events.chain(live).chain(invalidated), tail);
        if ended {
            return Some(Ended::Invalidated);
        }
        closed.then(|| {
            Ended::Failed(SourceError::new(
                Failure::Transient,
                "MongoDB closed the cursor",
            ))
        })
    }

    /// Opens the stream again where it was, after a pause if something failed.
    async fn reopen(&mut self, failed: Option<SourceError>) -> Result<Opened, Error> {
        let mut by_time = false;
        let mut failed = failed;
        loop {
            if let Some(error) = failed {
                match error.failure {
                    Failure::Transient => self.wait(&error).await?,
                    Failure::TokenNotFound | Failure::TokenInvalid
                        if !by_time && can_go_by_time(&self.position) =>
                    {
                        // A filter on a looked-up document may not pass the same event twice, and
                        // then MongoDB does not find its token again.
                        tracing::info!(%error, "going on by time, since the token was not found");
                        by_time = true;
                    }
                    _ => return Err(give_up(&*self.source, &error, Some(&self.position)).await),
                }
                self.metrics.feed_restarted(error.label());
            }
            let opened = if by_time {
                open_by_time(&*self.source, &self.plan, &self.position).await
            } else {
                open_at(&*self.source, &self.plan, Some(&self.position)).await
            };
            match opened {
                Ok(opened) => return Ok(opened),
                Err(error) => failed = Some(error),
            }
        }
    }

    /// Pauses before the next attempt, or gives up when MongoDB has been away for too long.
    async fn wait(&mut self, error: &SourceError) -> Result<(), Error> {
        let since = *self.outage.get_or_insert_with(Instant::now);
        if self.stage.stage() != Stage::Reconnecting {
            tracing::warn!(code = error.code, %error, "change stream lost; reconnecting");
            self.enter(Stage::Reconnecting, "the change stream was lost");
            self.ring.lost_touch();
        }
        let left = self.upstream_grace.saturating_sub(since.elapsed());
        let pause = self.backoff.pause();
        sleep(pause.min(left)).await;
        if pause >= left {
            return Err(Error::UpstreamUnavailable);
        }
        Ok(())
    }

    fn enter(&mut self, stage: Stage, reason: &'static str) {
        self.stage.move_to(stage);
        self.ring.push([Entry::Stage(stage, reason)], None);
    }
}

/// How far a batch is behind MongoDB's own time, in seconds.
fn lag(batch: &Batch) -> u32 {
    match (batch.operation_time, batch.events.last()) {
        (Some(now), Some(last)) => now.seconds_since(last.cluster_time),
        _ => 0,
    }
}
