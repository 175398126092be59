//! One change stream that comes back: it keeps its place and opens again when MongoDB was away.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    error::Error,
    hub::{
        backoff::Backoff,
        open::{Opened, can_go_by_time, give_up, open_at, open_by_time},
        seam::Seam,
    },
    metrics::{Metrics, Stage},
    plan::Plan,
    source::{Batch, BatchSize, ClusterTime, Cursor, Failure, Position, Source, SourceError},
    wire::TokenContext,
};

/// A stream this close to MongoDB's own time counts as live, even if it is never quite empty.
const LIVE_WITHIN_SECONDS: u32 = 1;

/// How many events are read one a reply, after a reply failed at one of its own: it can't have held more.
const SINGLY: usize = 1_000;

/// Who hears of the stream's stages, as they begin.
pub(super) trait Told: Send {
    fn tell(&mut self, stage: Stage, reason: &'static str);
}

/// A change stream that survives its cursors.
pub(super) struct Stream {
    source: Arc<dyn Source>,
    plan: Arc<Plan>,
    /// What its tokens are sealed with.
    token_context: TokenContext,
    metrics: Arc<Metrics>,
    /// How long MongoDB may be away.
    upstream_grace: Duration,
    /// The place after everything that was taken.
    position: Position,
    cursor: Option<Box<dyn Cursor>>,
    seam: Option<Seam>,
    batch_size: BatchSize,
    /// Where the stream was read one event a reply last, and for how many more events it is.
    singly_from: Option<Position>,
    singly_left: usize,
    /// Batches that are to be taken before the cursor is asked, in reverse order.
    ready: Vec<Batch>,
    stage: Stage,
    /// The place that was last gone on from by its time, since its token was not found.
    by_time: Option<Position>,
    /// Since when MongoDB has not answered a `getMore`.
    outage: Option<Instant>,
    backoff: Backoff,
}

impl Stream {
    /// A stream at a place, to be [opened](Stream::open) there or to [begin](Stream::begin) with one
    /// that is open.
    pub(super) fn new(
        source: Arc<dyn Source>,
        (plan, token_context): (Arc<Plan>, TokenContext),
        metrics: Arc<Metrics>,
        upstream_grace: Duration,
        position: Position,
    ) -> Self {
        Self {
            source,
            plan,
            token_context,
            metrics,
            upstream_grace,
            position,
            cursor: None,
            seam: None,
            batch_size: BatchSize::Default,
            singly_from: None,
            singly_left: 0,
            ready: Vec::new(),
            stage: Stage::Opening,
            by_time: None,
            outage: None,
            backoff: Backoff::new(),
        }
    }

    /// Opens the stream at its place, whatever it takes.
    ///
    /// # Errors
    /// As [`Stream::next`].
    pub(super) async fn open(&mut self, told: &mut impl Told) -> Result<(), Error> {
        self.reopen(None, told).await
    }

    /// The place after the last batch that was taken.
    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// The next batch, whatever it takes to get it; what it takes is told as it happens. The place
    /// moves with it.
    ///
    /// # Errors
    /// When nothing is left to try. The stream has ended then.
    pub(super) async fn next(&mut self, told: &mut impl Told) -> Result<Batch, Error> {
        loop {
            if let Some(batch) = self.ready.pop() {
                return Ok(self.take(batch, told));
            }
            if self.batch_size == BatchSize::One && self.singly_left == 0 {
                self.batch_size = BatchSize::Default;
                self.reopen(None, told).await?;
                continue;
            }
            let failed = match &mut self.cursor {
                None => SourceError::new(Failure::Transient, "MongoDB closed the cursor"),
                Some(cursor) => match cursor.next().await {
                    Ok(batch) => {
                        self.outage = None;
                        self.receive(batch);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.reopen(Some(failed), told).await?;
        }
    }

    /// Goes on right after an invalidation, which has ended the cursor.
    ///
    /// # Errors
    /// As [`Stream::next`].
    pub(super) async fn go_on_after(
        &mut self,
        invalidation: Position,
        told: &mut impl Told,
    ) -> Result<(), Error> {
        self.position = invalidation;
        self.ready.clear();
        self.reopen(None, told).await
    }

    /// Reads on from a stream that was opened.
    pub(super) fn begin(&mut self, opened: Opened) {
        self.backoff.opened();
        // An answer to the opening alone does not end an outage: a server can open a stream and
        // then fail every read of it.
        if !opened.first.events.is_empty() {
            self.outage = None;
        }
        if opened.batch_size == BatchSize::One && self.batch_size == BatchSize::Default {
            self.go_singly();
        }
        self.cursor = Some(opened.cursor);
        self.seam = opened.seam;
        self.receive(opened.first);
    }

    /// From here on, reads one event a reply.
    fn go_singly(&mut self) {
        self.batch_size = BatchSize::One;
        self.singly_from = Some(self.position.clone());
        self.singly_left = SINGLY;
    }

    fn receive(&mut self, batch: Batch) {
        let past = if batch.idle {
            SINGLY
        } else {
            batch.events.len()
        };
        self.singly_left = self.singly_left.saturating_sub(past);
        if batch.closed {
            self.cursor = None;
        }
        match &mut self.seam {
            Some(seam) => {
                if let Some(mut joined) = seam.pass(batch) {
                    self.seam = None;
                    joined.reverse();
                    self.ready = joined;
                }
            }
            None => self.ready.push(batch),
        }
    }

    fn take(&mut self, batch: Batch, told: &mut impl Told) -> Batch {
        if let Some(position) = &batch.position {
            self.position = own(position);
        }
        let current = !batch.events.is_empty() && lag(&batch) <= LIVE_WITHIN_SECONDS;
        if batch.idle || current {
            self.stage = Stage::Live;
        } else if !batch.events.is_empty()
            && matches!(self.stage, Stage::Opening | Stage::Reconnecting)
        {
            self.enter(Stage::CatchingUp, "", told);
        }
        batch
    }

    /// Opens the stream again where it was, after a pause if something failed.
    async fn reopen(
        &mut self,
        mut failed: Option<SourceError>,
        told: &mut impl Told,
    ) -> Result<(), Error> {
        self.cursor = None;
        // A token that was not found once is not asked for again: what failed since was something else.
        let mut by_time = self.by_time.as_ref() == Some(&self.position);
        loop {
            if let Some(error) = failed {
                match error.failure {
                    // The password was right when the stream was opened.
                    Failure::Transient | Failure::LoginFailed => self.wait(&error, told).await?,
                    // What stands before it in the failed reply has not come yet.
                    Failure::ImageMissing | Failure::EventTooLarge
                        if self.batch_size == BatchSize::Default
                            && self.singly_from.as_ref() != Some(&self.position) =>
                    {
                        tracing::info!(code = error.code, %error, "reading one event a reply");
                        self.go_singly();
                    }
                    Failure::TokenNotFound | Failure::TokenInvalid
                        if can_go_by_time(&self.position)
                            && self.by_time.as_ref() != Some(&self.position) =>
                    {
                        // A filter on a looked-up document may not pass the same event twice, and
                        // then MongoDB does not find its token again.
                        tracing::info!(%error, "going on by time, since the token was not found");
                        self.by_time = Some(self.position.clone());
                        by_time = true;
                    }
                    _ => {
                        let at = Some(&self.position);
                        let (source, plan) = (&*self.source, &self.plan);
                        return Err(give_up(source, plan, &self.token_context, &error, at).await);
                    }
                }
                self.metrics.count_feed_restart(error.label());
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
                Ok(opened) => {
                    self.begin(opened);
                    return Ok(());
                }
                Err(error) => failed = Some(error),
            }
        }
    }

    /// Pauses before the next attempt, or gives up when MongoDB has been away for too long.
    async fn wait(&mut self, error: &SourceError, told: &mut impl Told) -> Result<(), Error> {
        let since = *self.outage.get_or_insert_with(Instant::now);
        if self.stage != Stage::Reconnecting {
            tracing::warn!(code = error.code, %error, "change stream lost; reconnecting");
            self.enter(Stage::Reconnecting, "the change stream was lost", told);
        }
        let left = self.upstream_grace.saturating_sub(since.elapsed());
        let pause = self.backoff.pause();
        sleep(pause.min(left)).await;
        if pause >= left {
            return Err(Error::UpstreamUnavailable);
        }
        Ok(())
    }

    fn enter(&mut self, stage: Stage, reason: &'static str, told: &mut impl Told) {
        self.stage = stage;
        told.tell(stage, reason);
    }
}

/// How far a batch is behind MongoDB's own time, in seconds.
fn lag(batch: &Batch) -> u32 {
    match (batch.operation_time, batch.events.last()) {
        (Some(now), Some(last)) => now.seconds_since(last.cluster_time),
        _ => 0,
    }
}

/// The same place, with a token of its own: a slice would keep alive the whole reply it lies in.
pub(super) fn own(position: &Position) -> Position {
    let mut position = position.clone();
    if let Position::Event { token, .. }
    | Position::HighWater { token, .. }
    | Position::Invalidate { token, .. } = &mut position
    {
        *token = bytes::Bytes::copy_from_slice(token);
    }
    position
}

/// A time right after another.
pub(super) fn next_time(time: ClusterTime) -> ClusterTime {
    match time.increment.checked_add(1) {
        Some(increment) => ClusterTime { increment, ..time },
        None => ClusterTime {
            seconds: time.seconds.saturating_add(1),
            increment: 0,
        },
    }
}
