//! A change stream that reconnects by itself: it keeps its position and opens a new cursor after a failure.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    error::Error,
    hub::{
        backoff::Backoff,
        event_lookup::find_event,
        isolation::Isolation,
        open::{
            OpenedStream, Reader, StreamPlans, can_resume_by_time, final_error, may_mean_the_token,
            open_at, open_by_time,
        },
        resume_deduplicator::{ResumeDeduplicator, Search},
    },
    metrics::Metrics,
    model::Stage,
    pipeline::Plan,
    source::{Batch, BatchSize, ClusterTime, Failure, Position, Source, SourceError},
    wire::TokenContext,
};

/// The lag in seconds up to which a stream counts as live, even if its replies are never empty.
const LIVE_WITHIN_SECONDS: u32 = 1;

/// The number of events that are read one per reply after a reply failed because of one of its events.
/// The failed reply cannot have contained more.
const SINGLE_EVENT_COUNT: usize = 1_000;

/// Receives the stages of a stream as they begin.
pub(super) trait StageObserver: Send {
    /// Called when the stream enters a stage; `reason` is text for the client.
    fn stage_changed(&mut self, stage: Stage, reason: &'static str);
}

/// A change stream that survives the failure of its cursor.
pub(super) struct ReconnectingStream {
    source: Arc<dyn Source>,
    plan: Arc<Plan>,
    /// The scope's shared plan, while it is not known that the own stream contains the start token.
    shared_plan: Option<Arc<Plan>>,
    /// The context that encodes its tokens.
    token_context: TokenContext,
    metrics: Arc<Metrics>,
    /// The longest outage of MongoDB that the stream survives.
    upstream_grace: Duration,
    /// The position after the last batch that was returned.
    position: Position,
    cursor: Option<Reader>,
    deduplicator: Option<ResumeDeduplicator>,
    /// The last position by time at which the search for the token's event failed.
    repeats_from: Option<Position>,
    batch_size: BatchSize,
    /// The position at which the stream last switched to one event per reply.
    single_events_from: Option<Position>,
    /// The number of events that are still to be read one per reply.
    single_events_left: usize,
    /// The position after which the stream last began to isolate an event.
    isolated_from: Option<Position>,
    /// Batches to return before the cursor is read again, in reverse order.
    ready: Vec<Batch>,
    stage: Stage,
    /// The last position that was resumed by its time, because MongoDB did not find its token.
    by_time: Option<Position>,
    /// The time of the first failure since the last successful `getMore`.
    outage_since: Option<Instant>,
    backoff: Backoff,
}

impl ReconnectingStream {
    /// Creates a stream at a position. Call [`open`](Self::open) to open it there, or
    /// [`adopt`](Self::adopt) to continue one that is open.
    pub(super) fn new(
        source: Arc<dyn Source>,
        (plans, token_context): (StreamPlans, TokenContext),
        metrics: Arc<Metrics>,
        upstream_grace: Duration,
        position: Position,
    ) -> Self {
        Self {
            source,
            plan: plans.own,
            shared_plan: plans.shared,
            token_context,
            metrics,
            upstream_grace,
            position,
            cursor: None,
            deduplicator: None,
            repeats_from: None,
            batch_size: BatchSize::Default,
            single_events_from: None,
            single_events_left: 0,
            isolated_from: None,
            ready: Vec::new(),
            stage: Stage::Opening,
            by_time: None,
            outage_since: None,
            backoff: Backoff::new(),
        }
    }

    /// Opens the stream at its position, with retries.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(super) async fn open(&mut self, observer: &mut impl StageObserver) -> Result<(), Error> {
        self.reopen(None, observer).await
    }

    /// The position after the last batch that was returned.
    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    /// The plan in use: the stream's own, or the scope's shared one, where all further events are then.
    pub(super) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns the next batch and advances the position. Reconnects as needed and reports each stage.
    ///
    /// # Errors
    /// The failure is permanent, or MongoDB was unreachable for longer than the grace period. The stream
    /// has then ended.
    pub(super) async fn next(&mut self, observer: &mut impl StageObserver) -> Result<Batch, Error> {
        loop {
            if let Some(batch) = self.ready.pop() {
                return Ok(self.deliver(batch, observer));
            }
            if self.batch_size == BatchSize::One && self.single_events_left == 0 {
                self.batch_size = BatchSize::Default;
                self.reopen(None, observer).await?;
                continue;
            }
            if self.search_failed() {
                self.reopen(None, observer).await?;
                continue;
            }
            let failed = match &mut self.cursor {
                None => SourceError::new(Failure::Transient, "MongoDB closed the cursor"),
                Some(cursor) => match cursor.next().await {
                    Ok(Some(batch)) => {
                        self.outage_since = None;
                        self.receive(batch);
                        continue;
                    }
                    Ok(None) => {
                        self.batch_size = BatchSize::Default;
                        self.reopen(None, observer).await?;
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.reopen(Some(failed), observer).await?;
        }
    }

    /// Continues right after an invalidation, which has closed the cursor.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(super) async fn continue_after_invalidation(
        &mut self,
        invalidation: Position,
        observer: &mut impl StageObserver,
    ) -> Result<(), Error> {
        self.position = invalidation;
        self.ready.clear();
        self.reopen(None, observer).await
    }

    /// Continues with a stream that was opened elsewhere.
    pub(super) fn adopt(&mut self, opened: OpenedStream) {
        self.backoff.opened();
        if opened.is_shared {
            self.use_shared_plan();
        }
        self.position = opened.start;
        if opened.by_time {
            self.by_time = Some(self.position.clone());
        }
        // A successful open alone does not end an outage: a server can open a stream and then fail every
        // read of it.
        if !opened.first.events.is_empty() {
            self.outage_since = None;
        }
        if opened.batch_size == BatchSize::One && self.batch_size == BatchSize::Default {
            self.start_single_events();
        }
        if matches!(opened.cursor, Reader::Isolation(_)) {
            self.isolated_from = Some(self.position.clone());
        }
        self.cursor = Some(opened.cursor);
        self.deduplicator = opened.deduplicator;
        self.receive(opened.first);
    }

    /// Continues on the scope's shared stream. Returns `false` if there is no other stream.
    fn use_shared_plan(&mut self) -> bool {
        match self.shared_plan.take() {
            Some(shared) => self.plan = shared,
            None => return false,
        }
        true
    }

    /// Returns whether the search for the token's event has just failed, so that the stream must be opened
    /// again.
    fn search_failed(&self) -> bool {
        self.deduplicator.is_some() && self.repeats_from.as_ref() == Some(&self.position)
    }

    /// Switches to one event per reply.
    fn start_single_events(&mut self) {
        self.batch_size = BatchSize::One;
        self.single_events_from = Some(self.position.clone());
        self.single_events_left = SINGLE_EVENT_COUNT;
    }

    fn receive(&mut self, batch: Batch) {
        let passed = if batch.idle {
            SINGLE_EVENT_COUNT
        } else {
            batch.events.len()
        };
        self.single_events_left = self.single_events_left.saturating_sub(passed);
        if batch.closed {
            self.cursor = None;
        }
        match &mut self.deduplicator {
            Some(deduplicator) => match deduplicator.filter(batch) {
                Search::Continues => {}
                Search::Ended(mut batches) => {
                    self.deduplicator = None;
                    batches.reverse();
                    self.ready = batches;
                }
                Search::Failed => self.repeats_from = Some(self.position.clone()),
            },
            None => self.ready.push(batch),
        }
    }

    fn deliver(&mut self, batch: Batch, observer: &mut impl StageObserver) -> Batch {
        if let Some(position) = &batch.position {
            self.position = detach(position);
        }
        if !batch.events.is_empty() {
            // MongoDB returns events only once it has found the token.
            self.shared_plan = None;
        }
        let current = !batch.events.is_empty() && lag(&batch) <= LIVE_WITHIN_SECONDS;
        if batch.idle || current {
            self.stage = Stage::Live;
        } else if !batch.events.is_empty()
            && matches!(self.stage, Stage::Opening | Stage::Reconnecting)
        {
            self.set_stage(Stage::CatchingUp, "", observer);
        }
        batch
    }

    /// Opens the stream again at its position, after a delay if MongoDB failed.
    async fn reopen(
        &mut self,
        mut failed: Option<SourceError>,
        observer: &mut impl StageObserver,
    ) -> Result<(), Error> {
        let mut isolation = match self.cursor.take() {
            Some(Reader::Isolation(isolation)) => Some(isolation),
            _ => None,
        };
        // Do not try a token again that MongoDB did not find: this failure has another cause.
        let mut by_time = self.by_time.as_ref() == Some(&self.position);
        // An open stream was not refused for its token.
        let mut at_opening = false;
        loop {
            if let Some(error) = failed {
                match error.failure {
                    // The token may be one of another filter, of an event that this stream leaves out.
                    Failure::TokenNotFound if self.use_shared_plan() => {
                        by_time = false;
                        isolation = None;
                        self.isolated_from = None;
                    }
                    // The credentials were accepted when the stream was opened, so this may be temporary.
                    Failure::Transient | Failure::Overloaded | Failure::LoginFailed => {
                        if isolation.take().is_some() {
                            // It was interrupted, and has proved nothing about the event.
                            self.isolated_from = None;
                        }
                        self.back_off(&error, observer).await?;
                    }
                    // The events before it in the failed reply have not been delivered yet.
                    failure
                        if failure.concerns_one_event()
                            && self.batch_size == BatchSize::Default
                            && self.single_events_from.as_ref() != Some(&self.position) =>
                    {
                        tracing::info!(code = error.code, %error, "a reply failed because of one event; reading one event per reply");
                        self.start_single_events();
                    }
                    failure
                        if failure.concerns_one_event()
                            && isolation.is_none()
                            && self.isolated_from.as_ref() != Some(&self.position) =>
                    {
                        self.isolate(error, by_time);
                        return Ok(());
                    }
                    failure
                        if (matches!(failure, Failure::TokenNotFound | Failure::TokenInvalid)
                            || (at_opening || isolation.is_some())
                                && may_mean_the_token(failure))
                            && can_resume_by_time(&self.position)
                            && self.by_time.as_ref() != Some(&self.position) =>
                    {
                        // A filter on a looked-up document may pass an event once and not again, and then
                        // MongoDB does not find its token.
                        tracing::info!(%error, "resuming by time because the token was not found");
                        self.by_time = Some(self.position.clone());
                        by_time = true;
                        isolation = None;
                        self.isolated_from = None;
                    }
                    _ => {
                        let found = isolation.take().and_then(|it| it.found().cloned());
                        let (source, at) = (&*self.source, Some(&self.position));
                        let ended = final_error(
                            source,
                            &self.plan,
                            &self.token_context,
                            &error,
                            at,
                            found.as_ref(),
                        );
                        match ended.await {
                            Ok(ended) => return Err(ended),
                            Err(passing) => self.back_off(&passing, observer).await?,
                        }
                    }
                }
                self.metrics.feed_restarts.of(error.label()).increment(1);
            }
            if let Position::EventDigest(event) = &self.position {
                let plan = self.shared_plan.as_ref().unwrap_or(&self.plan);
                match find_event(&*self.source, plan, event).await {
                    Ok(found) => self.position = found,
                    Err(error) => {
                        failed = Some(error);
                        continue;
                    }
                }
            }
            let opened = if by_time {
                open_by_time(&*self.source, &self.plan, &self.position, self.batch_size).await
            } else {
                open_at(
                    &*self.source,
                    &self.plan,
                    Some(&self.position),
                    self.batch_size,
                )
                .await
            };
            match opened {
                Ok(mut opened) => {
                    if self.repeats_from.as_ref() == Some(&self.position) {
                        opened.deduplicator = None;
                    }
                    self.adopt(opened);
                    return Ok(());
                }
                Err(error) => failed = Some(error),
            }
            at_opening = true;
        }
    }

    /// Continues with the events before the one that fails.
    fn isolate(&mut self, error: SourceError, by_time: bool) {
        self.isolated_from = Some(self.position.clone());
        self.start_single_events();
        self.deduplicator = None;
        self.cursor = Some(Reader::Isolation(Box::new(Isolation::new(
            Arc::clone(&self.source),
            Arc::clone(&self.plan),
            error,
            self.position.clone(),
            by_time,
        ))));
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The outage has lasted for the grace period.
    async fn back_off(
        &mut self,
        error: &SourceError,
        observer: &mut impl StageObserver,
    ) -> Result<(), Error> {
        let since = *self.outage_since.get_or_insert_with(Instant::now);
        if self.stage != Stage::Reconnecting {
            tracing::warn!(code = error.code, %error, "change stream lost; reconnecting");
            self.set_stage(Stage::Reconnecting, "the change stream was lost", observer);
        }
        let left = self.upstream_grace.saturating_sub(since.elapsed());
        let asked_for = error.retry_after().unwrap_or_default();
        let delay = self.backoff.next_delay().max(asked_for);
        sleep(delay.min(left)).await;
        if delay >= left {
            return Err(match error.failure {
                // The credentials were accepted before.
                Failure::LoginFailed => Error::UpstreamUnavailable,
                _ => Error::from(error),
            });
        }
        Ok(())
    }

    fn set_stage(&mut self, stage: Stage, reason: &'static str, observer: &mut impl StageObserver) {
        self.stage = stage;
        observer.stage_changed(stage, reason);
    }
}

/// The lag of a batch behind MongoDB's time, in seconds.
fn lag(batch: &Batch) -> u32 {
    match (batch.operation_time, batch.events.last()) {
        (Some(now), Some(last)) => now.seconds_since(last.cluster_time),
        _ => 0,
    }
}

/// Copies a position with its token. The original token is a slice that keeps its whole reply in memory.
pub(super) fn detach(position: &Position) -> Position {
    let mut position = position.clone();
    if let Position::Event { token, .. }
    | Position::HighWater { token, .. }
    | Position::Invalidate { token, .. } = &mut position
    {
        *token = bytes::Bytes::copy_from_slice(token);
    }
    position
}

/// The next possible time after `time`.
pub(super) fn next_time(time: ClusterTime) -> ClusterTime {
    match time.increment.checked_add(1) {
        Some(increment) => ClusterTime { increment, ..time },
        None => ClusterTime {
            seconds: time.seconds.saturating_add(1),
            increment: 0,
        },
    }
}
