//! A watcher delivers the events of one watch: live from a ring, or from a catch-up to the ring.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::timeout;

use crate::{
    error::Error,
    hub::{
        Inner,
        catch_up::{CatchUpSpec, CatchUpStart, PendingOpen, RunningCatchUp},
        catch_up_queue::{CatchUpOutcome, QueueItem, QueueRead},
        registry::JoinedFeed,
        resume_token::check_resume_token,
        revocable_buffer::RevocableBuffer,
        ring::{FeedPosition, Invalidation, JoinPoint, RingCursor, RingRead},
        segment::EventSelection,
        stream::next_time,
        subscriber::Subscriber,
        sync::lock,
        undeliverable,
    },
    metrics::{Mode, Stage},
    plan::{FeedMode, Invalidate, Plan, Residual, Start, Watch},
    source::{ClusterTime, Position},
    wire::{Anchor, ResumeToken, TokenContext},
};

/// The maximum time that a call waits for MongoDB to open the catch-up stream of a new watch.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The reader of one watch.
#[derive(Debug)]
pub struct Watcher {
    hub: Arc<Inner>,
    watch: Arc<Watch>,
    joined: JoinedFeed,
    shared: SharedStream,
    subscriber: Arc<Subscriber>,
    subscriber_slot: usize,
    state: WatcherState,
    /// The stage last reported to the client.
    last_stage: Option<Stage>,
    /// The time of the last progress reported to the client.
    last_progress_time: Option<ClusterTime>,
    start: StartPosition,
    /// A shortcut for the next catch-up: two tokens with no matching event between them. A catch-up from
    /// the first one can start from the second one.
    skip_ahead: Option<(Bytes, Bytes)>,
}

/// The scope's shared stream. It can be resumed with a token of any plan.
#[derive(Debug)]
struct SharedStream {
    plan: Arc<Plan>,
    token_context: TokenContext,
}

/// The position at which a watch starts or resumes.
#[derive(Debug)]
struct ResumeTarget {
    position: Position,
    /// The last event before the position, where known.
    anchor: Option<Anchor>,
    /// The token that the position was read from. Identifies the stream that made it.
    made_by: Option<ResumeToken>,
    /// Whether the watch starts now and MongoDB does not report its time.
    now_unknown: bool,
}

impl From<ResumeToken> for ResumeTarget {
    fn from(token: ResumeToken) -> Self {
        Self {
            position: token.position.clone(),
            anchor: token.anchor,
            made_by: Some(token),
            now_unknown: false,
        }
    }
}

/// The source that a watcher reads from.
#[derive(Debug)]
enum WatcherState {
    Live(RingCursor),
    CatchingUp(RunningCatchUp),
    /// Fell behind, or its catch-up gave up. Holds no events; the next read starts a catch-up from the last
    /// token.
    Behind,
    Ended(Error),
}

/// The position at which a watch starts.
#[derive(Debug)]
pub struct StartPosition {
    /// The position.
    pub position: Position,
    /// The token of the position: the client's own if it sent one.
    pub token: Bytes,
    /// Whether the stream was opened by time because MongoDB did not find the token.
    pub opened_by_time: bool,
}

/// The result of a read.
#[derive(Debug)]
pub enum WatcherRead {
    /// Events that match the watch.
    Events(EventSelection),
    /// The watch has entered a stage, with the reason.
    Stage(Stage, &'static str),
    /// The watched collection or database was dropped or renamed. With the token of the position right
    /// after.
    Invalidated(Invalidation, Bytes),
    /// The watch has ended, and everything before its end has been read.
    Ended(Error),
}

impl Inner {
    /// See [`Hub::subscribe`](crate::hub::Hub::subscribe).
    pub(super) async fn subscribe(self: &Arc<Self>, watch: &Arc<Watch>) -> Result<Watcher, Error> {
        let keys = self.settings.token_keys.as_ref();
        let deployment = self.deployment().await?;
        let shared_plan = Arc::new(Plan::shared(watch));
        let shared = SharedStream {
            token_context: TokenContext::new(deployment, &shared_plan).with_keys(keys.cloned()),
            plan: shared_plan,
        };
        let token = match &watch.start {
            Start::Token(token) => Some(check_resume_token(
                token,
                &shared.token_context,
                &watch.view,
            )?),
            Start::Now | Start::Time(_) => None,
        };
        let dedicated = Plan::dedicated(watch);
        let requested = match watch.feed_mode {
            // A watch with an end time ends when an empty reply proves that nothing is left. That takes
            // the shared stream, where an empty reply means that there were no events at all.
            FeedMode::Auto if watch.end_time.is_some() => FeedMode::Shared,
            mode => mode,
        };
        let joined = self.join_feed(requested, dedicated, &shared.plan).await?;
        let subscriber = Arc::new(Subscriber::default());
        let target = self.resume_target(watch, token, &joined).await?;
        let now_unknown = target.now_unknown;
        let spec = catch_up_spec(&joined, &shared, watch, target);
        let started = self
            .join_or_catch_up(spec, now_unknown, watch, &joined, &subscriber)
            .await;
        let (state, start) =
            started.map_err(|error| undeliverable::redact(error, &watch.view, keys))?;
        subscriber.set_reached_second(start.position.time().seconds);
        Ok(Watcher {
            hub: Arc::clone(self),
            watch: Arc::clone(watch),
            joined,
            shared,
            subscriber_slot: lock(&self.subscribers).insert(Arc::clone(&subscriber)),
            subscriber,
            state,
            last_stage: None,
            last_progress_time: None,
            start,
            skip_ahead: None,
        })
    }

    /// Joins the ring at the start position if possible, else starts a catch-up.
    async fn join_or_catch_up(
        self: &Arc<Self>,
        spec: CatchUpSpec,
        now_unknown: bool,
        watch: &Watch,
        joined: &JoinedFeed,
        subscriber: &Arc<Subscriber>,
    ) -> Result<(WatcherState, StartPosition), Error> {
        let residual = residual(watch, joined.mode);
        let mut start = StartPosition {
            token: match &watch.start {
                Start::Token(token) => token.clone(),
                Start::Now | Start::Time(_) => {
                    let anchor = spec.anchor.as_ref();
                    spec.token_context
                        .encode(&spec.from, anchor, watch.view.token_audience)
                }
            },
            position: spec.from.clone(),
            opened_by_time: false,
        };
        let point = if now_unknown {
            JoinPoint::Now
        } else {
            JoinPoint::After(&spec.from, spec.anchor.as_ref())
        };
        if let Some(cursor) = joined.feed.ring.join(&residual, subscriber, &point) {
            return Ok((WatcherState::Live(cursor), start));
        }
        let ready = self.try_open(&spec, watch.progress_interval).await?;
        start.opened_by_time =
            matches!(&ready, CatchUpStart::Open(_, opened) if opened.deduplicator.is_some());
        let running = RunningCatchUp::start(self, &joined.feed, residual, subscriber, spec, ready);
        Ok((WatcherState::CatchingUp(running), start))
    }

    /// Determines the position at which a watch starts.
    async fn resume_target(
        &self,
        watch: &Watch,
        token: Option<ResumeToken>,
        joined: &JoinedFeed,
    ) -> Result<ResumeTarget, Error> {
        let mut now_unknown = false;
        let time = match (&watch.start, token) {
            (_, Some(token)) => return Ok(ResumeTarget::from(token)),
            (Start::Time(seconds), None) => ClusterTime {
                seconds: *seconds,
                // MongoDB counts the operations of a second from 1.
                increment: 1,
            },
            // The first watcher of a feed starts where the feed does.
            (Start::Now | Start::Token(_), None) if joined.is_new => {
                let position = joined.feed.start.clone();
                let origin = position.token().map(|it| Anchor::new(it, position.time()));
                return Ok(ResumeTarget {
                    position,
                    anchor: origin,
                    made_by: None,
                    now_unknown: false,
                });
            }
            (Start::Now | Start::Token(_), None) => {
                let now = self.clock.now().await.map_err(|error| {
                    tracing::warn!(code = error.code, %error, "could not read mongodb's time");
                    Error::from(&error)
                })?;
                let now = now.or(joined.feed.ring.position().upstream_time);
                now_unknown = now.is_none();
                // Not the current end of the ring: events that were added to it since then belong to the
                // watch.
                next_time(now.unwrap_or_default())
            }
        };
        Ok(ResumeTarget {
            position: Position::Time(time),
            anchor: None,
            made_by: None,
            now_unknown,
        })
    }

    /// Opens the catch-up stream, if a permit is free. Returns MongoDB's error if it answers within
    /// `max_wait`. After that the watch starts anyway, because a client cannot tell a waiting call from a
    /// dead one.
    async fn try_open(
        &self,
        spec: &CatchUpSpec,
        max_wait: Duration,
    ) -> Result<CatchUpStart, Error> {
        let Some(permit) = self.catch_up_permits.try_acquire() else {
            return Ok(CatchUpStart::WaitingForPermit);
        };
        let mut opening = PendingOpen::begin(self, permit, spec);
        match timeout(max_wait.min(OPEN_TIMEOUT), opening.answer()).await {
            Ok(answer) => {
                let (permit, opened) = answer?;
                Ok(CatchUpStart::Open(permit, Box::new(opened?)))
            }
            Err(_) => Ok(CatchUpStart::Opening(opening)),
        }
    }
}

impl Watcher {
    /// Reads what comes next, or registers the context's waker. `token` is the token after everything that
    /// was read before; a catch-up starts from it if the ring no longer holds what follows.
    pub fn poll_read(&mut self, context: &mut Context<'_>, token: &[u8]) -> Poll<WatcherRead> {
        self.subscriber.register_waker(context);
        let audience = self.watch.view.token_audience;
        loop {
            let read = match &mut self.state {
                WatcherState::Live(cursor) => match cursor.read() {
                    RingRead::Events(selection) => WatcherRead::Events(selection),
                    RingRead::Stage(stage, reason) => WatcherRead::Stage(stage, reason),
                    RingRead::Invalidated(it) => {
                        let token = self.joined.feed.ring.token_context.encode(
                            &it.position,
                            None,
                            audience,
                        );
                        WatcherRead::Invalidated(it, token)
                    }
                    RingRead::Ended(error) => WatcherRead::Ended(error),
                    RingRead::Empty => return Poll::Pending,
                    RingRead::Yield => {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    RingRead::FellBehind => {
                        self.hub.metrics.count_fell_behind();
                        self.state = WatcherState::Behind;
                        continue;
                    }
                },
                WatcherState::CatchingUp(running) => match running.queue.read() {
                    QueueRead::Item(QueueItem::Events(selection)) => WatcherRead::Events(selection),
                    QueueRead::Item(QueueItem::Stage(stage, reason)) => {
                        WatcherRead::Stage(stage, reason)
                    }
                    QueueRead::Item(QueueItem::Invalidated(it)) => {
                        let token = running.token_context.encode(&it.position, None, audience);
                        WatcherRead::Invalidated(it, token)
                    }
                    QueueRead::Empty => return Poll::Pending,
                    QueueRead::End(CatchUpOutcome::Failed(error)) => WatcherRead::Ended(error),
                    QueueRead::End(CatchUpOutcome::GivenUp) => {
                        let position = running.queue.take_position();
                        self.skip_ahead = position.map(|position| {
                            let (at, anchor) = (&position.position, position.anchor.as_ref());
                            let ahead = running.token_context.encode(at, anchor, audience);
                            (Bytes::copy_from_slice(token), ahead)
                        });
                        self.state = WatcherState::Behind;
                        continue;
                    }
                    QueueRead::End(CatchUpOutcome::Joined(mut cursor)) => {
                        cursor.set_last_reported(self.last_stage, self.last_progress_time);
                        self.state = WatcherState::Live(cursor);
                        continue;
                    }
                },
                WatcherState::Behind => match self.catch_up(token) {
                    Ok(()) => WatcherRead::Stage(
                        Stage::CatchingUp,
                        "reading the missed events again after falling behind",
                    ),
                    Err(error) => WatcherRead::Ended(error),
                },
                WatcherState::Ended(error) => WatcherRead::Ended(error.clone()),
            };
            let read = match read {
                WatcherRead::Ended(error) => {
                    let keys = self.hub.settings.token_keys.as_ref();
                    WatcherRead::Ended(undeliverable::redact(error, &self.watch.view, keys))
                }
                read => read,
            };
            match &read {
                WatcherRead::Stage(stage, _) if self.last_stage.replace(*stage) == Some(*stage) => {
                    continue;
                }
                WatcherRead::Invalidated(invalidation, _)
                    if self.watch.invalidate == Invalidate::End =>
                {
                    self.state = WatcherState::Ended(Error::Invalidated {
                        scope: self.watch.scope.clone(),
                        cause: invalidation.cause,
                    });
                }
                WatcherRead::Ended(error) => self.state = WatcherState::Ended(error.clone()),
                _ => {}
            }
            return Poll::Ready(read);
        }
    }

    /// Returns the events of a selection from `at` on: the next read yields them again. So a watch whose
    /// client does not read holds no events.
    pub fn put_back(&mut self, selection: EventSelection, at: usize) {
        match &mut self.state {
            WatcherState::Live(cursor) => cursor.put_back(&selection, at),
            WatcherState::CatchingUp(running) => running.queue.put_back(selection.starting_at(at)),
            // The next read starts from the last token.
            WatcherState::Behind | WatcherState::Ended(_) => {}
        }
    }

    /// Keeps the encoding of an event in memory while it is sent in pieces. It may be evicted when memory
    /// is short.
    #[must_use]
    pub fn hold(&self, bytes: Bytes) -> RevocableBuffer {
        self.hub.memory.buffers.insert(bytes)
    }

    /// Reads again everything after the token that is passed to the next read.
    pub fn rewind(&mut self) {
        self.hub.metrics.count_fell_behind();
        self.state = WatcherState::Behind;
    }

    /// Returns the position of the stream and its token, if everything before it was read.
    pub fn progress(&mut self) -> Option<(FeedPosition, Bytes)> {
        let (position, token_context) = match &mut self.state {
            WatcherState::Live(cursor) => (
                cursor.position_if_caught_up()?,
                &self.joined.feed.ring.token_context,
            ),
            WatcherState::CatchingUp(running) => (
                running.queue.position_if_caught_up()?,
                &running.token_context,
            ),
            WatcherState::Behind | WatcherState::Ended(_) => return None,
        };
        let audience = self.watch.view.token_audience;
        let token = token_context.encode(&position.position, position.anchor.as_ref(), audience);
        self.last_progress_time = Some(position.position.time());
        Some((position, token))
    }

    /// The position at which the watch started.
    #[must_use]
    pub fn start_position(&self) -> &StartPosition {
        &self.start
    }

    /// The time of the position of one of this watch's tokens. `None` if the token cannot be decoded.
    #[must_use]
    pub fn token_time(&self, token: &[u8]) -> Option<ClusterTime> {
        let token = ResumeToken::decode(token, self.shared.token_context.keys()).ok()?;
        Some(token.position.time())
    }

    /// Whether the feed is dedicated, with a filter in MongoDB, or shared by its scope.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.joined.mode
    }

    /// Records the time up to which the client has been served, in seconds since 1970.
    pub fn set_reached_second(&self, second: u32) {
        self.subscriber.set_reached_second(second);
    }

    /// Returns whether the server is shutting down. Waiting watchers are woken when the shutdown begins.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.hub.is_draining()
    }

    /// Starts a catch-up from a token.
    fn catch_up(&mut self, token: &[u8]) -> Result<(), Error> {
        let skip_ahead = self.skip_ahead.take().filter(|(after, _)| after == token);
        let token = skip_ahead.as_ref().map_or(token, |(_, ahead)| ahead);
        // The token was decoded or made by this server before, but its key may have been removed.
        let keys = self.shared.token_context.keys();
        let token = ResumeToken::decode(token, keys)
            .map_err(|problem| Error::TokenMalformed(problem.to_string()))?;
        let target = ResumeTarget::from(token);
        let spec = catch_up_spec(&self.joined, &self.shared, &self.watch, target);
        let residual = residual(&self.watch, self.joined.mode);
        let running = RunningCatchUp::start(
            &self.hub,
            &self.joined.feed,
            residual,
            &self.subscriber,
            spec,
            CatchUpStart::WaitingForPermit,
        );
        self.state = WatcherState::CatchingUp(running);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        lock(&self.hub.subscribers).remove(self.subscriber_slot);
    }
}

/// The residual filter of a watch for the events of its feed.
fn residual(watch: &Watch, mode: Mode) -> Residual {
    match mode {
        Mode::Dedicated => Residual::for_dedicated(watch),
        Mode::Shared => Residual::full(watch),
    }
}

/// Chooses the stream for a catch-up: the feed's own if that made the token, else the scope's shared one,
/// which contains every event and so finds any token.
fn catch_up_spec(
    joined: &JoinedFeed,
    shared: &SharedStream,
    watch: &Watch,
    target: ResumeTarget,
) -> CatchUpSpec {
    let feed = &joined.feed;
    let ResumeTarget {
        position: from,
        anchor,
        made_by: token,
        now_unknown: _,
    } = target;
    let made_by = |token_context: &TokenContext| {
        token
            .as_ref()
            .is_none_or(|token| token.is_same_plan(token_context))
    };
    let is_of_feed = made_by(&feed.ring.token_context);
    // Only for these two streams is it certain that the feed's stream has no event between the anchor and
    // the position.
    let anchor = anchor.filter(|_| is_of_feed || made_by(&shared.token_context));
    if is_of_feed {
        CatchUpSpec {
            plan: Arc::clone(&feed.plan),
            token_context: feed.ring.token_context.clone(),
            residual: residual(watch, joined.mode),
            from,
            anchor,
            shared_plan: Arc::clone(&shared.plan),
            watch_residual: Residual::full(watch),
        }
    } else {
        CatchUpSpec {
            plan: Arc::clone(&shared.plan),
            token_context: shared.token_context.clone(),
            residual: Residual::full(watch),
            from,
            anchor,
            shared_plan: Arc::clone(&shared.plan),
            watch_residual: Residual::full(watch),
        }
    }
}
