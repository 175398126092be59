//! A watcher delivers the events of one watch: live from a ring, or from a catch-up to the ring.

mod start;

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::{
    error::Error,
    hub::{
        Inner,
        catch_up::{CatchUpStart, RunningCatchUp},
        catch_up_queue::{CatchUpOutcome, QueueItem, QueueRead},
        registry::JoinedFeed,
        revocable_buffer::RevocableBuffer,
        ring::{FeedPosition, Invalidation, RingRead, RingReader},
        segment::EventSelection,
        subscriber::Subscriber,
        sync::lock,
        undeliverable,
    },
    metrics::{Mode, Stage},
    model::Invalidate,
    pipeline::{Plan, Watch},
    source::{ClusterTime, Position},
    wire::{ResumeToken, TokenContext},
};
use start::{ResumeTarget, catch_up_spec, residual};

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

/// The source that a watcher reads from.
#[derive(Debug)]
enum WatcherState {
    Live(RingReader),
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
    /// `true` if the stream was opened by time because MongoDB did not find the token.
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

impl Watcher {
    /// Reads what comes next, or registers the context's waker. `token` is the token after everything that
    /// was read before; a catch-up starts from it if the ring no longer holds what follows.
    pub fn poll_read(&mut self, context: &mut Context<'_>, token: &[u8]) -> Poll<WatcherRead> {
        self.subscriber.register_waker(context);
        let audience = self.watch.view.token_audience;
        loop {
            let read = match &mut self.state {
                WatcherState::Live(reader) => match reader.read() {
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
                    QueueRead::End(CatchUpOutcome::Joined(mut reader)) => {
                        reader.set_last_reported(self.last_stage, self.last_progress_time);
                        self.state = WatcherState::Live(reader);
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
                    let error = error.with_patterns(&self.watch.pattern_fields);
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
            WatcherState::Live(reader) => reader.put_back(&selection, at),
            WatcherState::CatchingUp(running) => running.queue.put_back(selection.starting_at(at)),
            // The next read starts from the last token.
            WatcherState::Behind | WatcherState::Ended(_) => {}
        }
    }

    /// Returns a buffer with the encoding of an event that is sent in pieces. It may be evicted when memory
    /// is short.
    #[must_use]
    pub fn revocable_buffer(&self, bytes: Bytes) -> RevocableBuffer {
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
            WatcherState::Live(reader) => (
                reader.position_if_caught_up()?,
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

    /// The mode of the feed: dedicated, with a filter in MongoDB, or shared by the scope.
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
