//! A change stream that reconnects by itself: it keeps its position and opens a new cursor after a failure.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    error::Error,
    hub::stream::{
        backoff::Backoff,
        event_lookup::find_event,
        final_error::final_error,
        isolation::Isolation,
        open::{
            Deduplicator, OpenedStream, Reader, StreamPlans, open_at, open_by_time,
            open_with_client_stages,
        },
        passed_events::find_invalidation,
        remedy::{FailedStream, Remedy, TriedRemedies},
        resume_deduplicator::Search,
        undeliverable::Found,
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
pub(in crate::hub) trait StageObserver: Send {
    /// Called when the stream enters a stage; `reason` is text for the client.
    fn stage_changed(&mut self, stage: Stage, reason: &'static str);
}

/// A change stream that survives the failure of its cursor.
pub(in crate::hub) struct ReconnectingStream {
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
    /// `true` once MongoDB has closed the cursor of a stream with a client's stages, which may have left the
    /// `invalidate` out.
    may_be_invalidated: bool,
    deduplicator: Option<Deduplicator>,
    /// The last position by time at which the search for the token's event failed.
    repeats_from: Option<Position>,
    batch_size: BatchSize,
    /// The number of events that are still to be read one per reply.
    single_events_left: usize,
    /// Batches to return before the cursor is read again, in reverse order.
    ready: Vec<Batch>,
    stage: Stage,
    tried: TriedRemedies,
    /// The time of the first failure since the last successful `getMore`.
    outage_since: Option<Instant>,
    backoff: Backoff,
}

/// An attempt to open the stream again.
struct Attempt {
    /// The isolation that was the stream's reader, unless it was given up.
    isolation: Option<Box<Isolation>>,
    /// `true` if the stream is opened by its position's time.
    by_time: bool,
    /// `true` once an opening has failed.
    at_opening: bool,
}

impl ReconnectingStream {
    /// Creates a stream at a position. Call [`open`](Self::open) to open it there, or
    /// [`adopt`](Self::adopt) to continue one that is open.
    pub(in crate::hub) fn new(
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
            may_be_invalidated: false,
            deduplicator: None,
            repeats_from: None,
            batch_size: BatchSize::Default,
            single_events_left: 0,
            ready: Vec::new(),
            stage: Stage::Opening,
            tried: TriedRemedies::default(),
            outage_since: None,
            backoff: Backoff::new(),
        }
    }

    /// Opens the stream at its position, with retries.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(in crate::hub) async fn open(
        &mut self,
        observer: &mut impl StageObserver,
    ) -> Result<(), Error> {
        self.reopen(None, observer).await
    }

    /// The position after the last batch that was returned.
    pub(in crate::hub) fn position(&self) -> &Position {
        &self.position
    }

    /// Says that a watch waits for the stream to pass a time; `None` if no watch does.
    pub(in crate::hub) fn set_awaited_time(&mut self, time: Option<ClusterTime>) {
        if let Some(Reader::Cursor(cursor)) = &mut self.cursor {
            cursor.set_awaited_time(time);
        }
    }

    /// The plan in use: the stream's own, or the scope's shared one, where all further events are then.
    pub(in crate::hub) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub(in crate::hub) fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns the next batch and advances the position. Reconnects as needed and reports each stage.
    ///
    /// # Errors
    /// The failure is permanent, or MongoDB was unreachable for longer than the grace period. The stream
    /// has then ended.
    pub(in crate::hub) async fn next(
        &mut self,
        observer: &mut impl StageObserver,
    ) -> Result<Batch, Error> {
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
                None => match self.take_invalidation().await {
                    Ok(Some(batch)) => {
                        self.ready.push(batch);
                        continue;
                    }
                    Ok(None) => SourceError::new(Failure::Transient, "MongoDB closed the cursor"),
                    Err(error) => error,
                },
                Some(cursor) => match cursor.next().await {
                    Ok(Some(batch)) => {
                        // That MongoDB closes the cursor is no success.
                        if !batch.closed || !batch.events.is_empty() {
                            self.outage_since = None;
                        }
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
    pub(in crate::hub) async fn continue_after_invalidation(
        &mut self,
        invalidation: Position,
        observer: &mut impl StageObserver,
    ) -> Result<(), Error> {
        self.position = invalidation;
        self.ready.clear();
        self.reopen(None, observer).await
    }

    /// Continues with a stream that was opened elsewhere.
    pub(in crate::hub) fn adopt(&mut self, opened: OpenedStream) {
        self.backoff.opened();
        if opened.is_shared {
            self.use_shared_plan();
        }
        self.position = opened.start;
        if opened.by_time {
            self.tried.by_time = Some(self.position.clone());
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
            self.tried.isolation = Some(self.position.clone());
        }
        self.cursor = Some(opened.cursor);
        self.may_be_invalidated = false;
        self.deduplicator = opened.deduplicator;
        self.receive(opened.first);
    }

    /// Continues on the scope's shared stream, if it is another one.
    fn use_shared_plan(&mut self) {
        if let Some(shared) = self.shared_plan.take() {
            self.plan = shared;
        }
    }

    /// Returns whether the search for the token's event has just failed, so that the stream must be opened
    /// again.
    fn search_failed(&self) -> bool {
        self.deduplicator.is_some() && self.repeats_from.as_ref() == Some(&self.position)
    }

    /// Switches to one event per reply.
    fn start_single_events(&mut self) {
        self.batch_size = BatchSize::One;
        self.tried.single_events = Some(self.position.clone());
        self.single_events_left = SINGLE_EVENT_COUNT;
    }

    /// Returns the invalidation because of which MongoDB has closed the cursor, where it is not among the stream's
    /// own events.
    async fn take_invalidation(&mut self) -> Result<Option<Batch>, SourceError> {
        if !std::mem::take(&mut self.may_be_invalidated) {
            return Ok(None);
        }
        find_invalidation(&*self.source, &self.plan, &self.position).await
    }

    fn receive(&mut self, mut batch: Batch) {
        let passed = if batch.caught_up && batch.events.is_empty() {
            SINGLE_EVENT_COUNT
        } else {
            batch.events.len()
        };
        self.single_events_left = self.single_events_left.saturating_sub(passed);
        if batch.closed {
            self.cursor = None;
            self.may_be_invalidated = self.plan.has_client_stages();
        }
        match &mut self.deduplicator {
            Some(Deduplicator::Passed(passed)) => {
                if passed.leave_out_of(&mut batch) {
                    self.deduplicator = None;
                }
                self.ready.push(batch);
            }
            Some(Deduplicator::UpToToken(deduplicator)) => match deduplicator.filter(batch) {
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
            self.position = position.detached();
        }
        if !batch.events.is_empty() {
            // MongoDB returns events only once it has found the token.
            self.shared_plan = None;
        }
        // A busy stream may have no empty reply.
        let is_current = batch.events.is_empty() || batch.lag_seconds() <= LIVE_WITHIN_SECONDS;
        if batch.caught_up && is_current {
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
        let mut attempt = Attempt {
            isolation: match self.cursor.take() {
                Some(Reader::Isolation(isolation)) => Some(isolation),
                _ => None,
            },
            // Do not try a token again that MongoDB did not find: this failure has another cause.
            by_time: self.tried.by_time.as_ref() == Some(&self.position),
            at_opening: false,
        };
        loop {
            if let Some(error) = failed {
                let remedy = self.tried.choose(
                    error.failure,
                    &FailedStream {
                        position: &self.position,
                        batch_size: self.batch_size,
                        has_shared_plan: self.shared_plan.is_some(),
                        was_isolating: attempt.isolation.is_some(),
                        at_opening: attempt.at_opening,
                    },
                );
                if self.apply(remedy, &error, &mut attempt, observer).await? {
                    return Ok(());
                }
                self.metrics.feed_restarts.of(error.label()).increment(1);
            }
            match self.open_once(attempt.by_time).await {
                Ok(opened) => {
                    self.adopt(opened);
                    return Ok(());
                }
                Err(error) => failed = Some(error),
            }
            attempt.at_opening = true;
        }
    }

    /// Applies a remedy before the next attempt. Returns `true` if the stream goes on without one.
    ///
    /// # Errors
    /// There is no remedy, or the outage has lasted for the grace period.
    async fn apply(
        &mut self,
        remedy: Option<Remedy>,
        error: &SourceError,
        attempt: &mut Attempt,
        observer: &mut impl StageObserver,
    ) -> Result<bool, Error> {
        match remedy {
            Some(Remedy::SharedPlan) => {
                self.use_shared_plan();
                attempt.by_time = false;
                attempt.isolation = None;
                self.tried.isolation = None;
            }
            Some(Remedy::Wait) => {
                if attempt.isolation.take().is_some() {
                    // It was interrupted, and has proved nothing about the event.
                    self.tried.isolation = None;
                }
                self.back_off(error, observer).await?;
            }
            Some(Remedy::SingleEvents) => {
                tracing::info!(code = error.code, %error, "a reply failed because of one event; reading one event per reply");
                self.start_single_events();
            }
            Some(Remedy::ResumeByTime) => {
                tracing::info!(%error, "resuming by time because the token was not found");
                self.tried.by_time = Some(self.position.clone());
                attempt.by_time = true;
                attempt.isolation = None;
                self.tried.isolation = None;
            }
            Some(Remedy::Isolate) => {
                self.isolate(error.clone(), attempt.by_time);
                return Ok(true);
            }
            None => {
                let isolation = attempt.isolation.take();
                let found = isolation.and_then(|isolation| isolation.found().cloned());
                self.end_unless_passing(error, found, observer).await?;
            }
        }
        Ok(false)
    }

    /// Ends the stream with the error for the client, or waits if MongoDB does not say at present which
    /// error it is.
    async fn end_unless_passing(
        &mut self,
        error: &SourceError,
        found: Option<Found>,
        observer: &mut impl StageObserver,
    ) -> Result<(), Error> {
        let (source, at) = (&*self.source, Some(&self.position));
        let (plan, token_context) = (&self.plan, &self.token_context);
        let ended = final_error(source, plan, token_context, error, at, found.as_ref());
        match ended.await {
            Ok(ended) => Err(ended),
            Err(passing) => self.back_off(&passing, observer).await,
        }
    }

    /// Opens the stream at its position. One attempt.
    async fn open_once(&mut self, by_time: bool) -> Result<OpenedStream, SourceError> {
        if self.plan.has_client_stages() {
            let (source, plan, at) = (&*self.source, &self.plan, Some(&self.position));
            return open_with_client_stages(source, plan, at, self.batch_size, by_time).await;
        }
        if let Position::EventDigest(event) = &self.position {
            let plan = self.shared_plan.as_ref().unwrap_or(&self.plan);
            self.position = find_event(&*self.source, plan, event).await?;
        }
        let (source, plan, at) = (&*self.source, &self.plan, &self.position);
        if !by_time {
            return open_at(source, plan, Some(at), self.batch_size).await;
        }
        let mut opened = open_by_time(source, plan, at, self.batch_size).await?;
        if self.repeats_from.as_ref() == Some(at) {
            opened.deduplicator = None;
        }
        Ok(opened)
    }

    /// Continues with the events before the one that fails.
    fn isolate(&mut self, error: SourceError, by_time: bool) {
        self.tried.isolation = Some(self.position.clone());
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
