//! A watcher delivers the events of one watch: live from a ring, or from a catch-up to the ring.

mod deciding;
mod start;
mod streams;

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::{
    error::Error,
    hub::{
        catch_up::{CatchUpStart, RunningCatchUp},
        catch_up_queue::{CatchUpOutcome, QueueItem, QueueRead},
        catch_ups::CatchUps,
        memory::MemoryManager,
        revocable_buffer::RevocableBuffer,
        ring::{FeedPosition, Invalidation, RingRead, RingReader},
        segment::EventSelection,
        stream::undeliverable,
        subscriber::Subscriber,
        subscribers::Subscription,
        undecided::{Decided, UndecidedEvents},
    },
    metrics::Metrics,
    model::{Invalidate, Mode, Stage, TokenAudience},
    pipeline::Watch,
    source::{ClusterTime, Position},
    wire::{ResumeToken, TokenContext, TokenKeys},
};
use deciding::{Deciding, Evicted};
use streams::{ResumeTarget, WatchStreams};

pub(super) use start::WatchStarter;

/// The reader of one watch.
#[derive(Debug)]
pub struct Watcher {
    watch: Arc<Watch>,
    streams: WatchStreams,
    subscriber: Arc<Subscriber>,
    subscription: Subscription,
    state: WatcherState,
    /// The events that were read from the ring and not delivered yet, while it is decided which of them match.
    deciding: Deciding,
    /// The stage last reported to the client.
    last_stage: Option<Stage>,
    /// The time of the last progress reported to the client.
    last_progress_time: Option<ClusterTime>,
    start: StartPosition,
    /// A shortcut for the next catch-up: two tokens with no matching event between them. A catch-up from
    /// the first one can start from the second one.
    skip_ahead: Option<(Bytes, Bytes)>,
    token_keys: Option<Arc<TokenKeys>>,
    catch_ups: Arc<CatchUps>,
    memory: Arc<MemoryManager>,
    metrics: Arc<Metrics>,
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

/// What a ring or a catch-up has next for its watcher.
enum Next {
    Read(WatcherRead),
    /// Events of which the filter may take long.
    Undecided(UndecidedEvents),
    /// Nothing now.
    Nothing,
    /// More is left to evaluate, after other tasks have run.
    Yield,
    /// The ring no longer holds what follows.
    FellBehind,
    /// The catch-up has joined the ring.
    Joined(RingReader),
    /// The catch-up has given up. With the token of its position, if everything before that was read.
    GivenUp(Option<Bytes>),
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
        let audience = self.watch.rendering.audience;
        loop {
            if let Some(decided) = ready!(self.deciding.poll(context)) {
                if let Some(selection) = self.take_decided(decided) {
                    return Poll::Ready(WatcherRead::Events(selection));
                }
                continue;
            }
            let next = match &mut self.state {
                WatcherState::Live(reader) => {
                    next_of_ring(reader, self.streams.token_context(), audience)
                }
                WatcherState::CatchingUp(running) => next_of_catch_up(running, audience),
                WatcherState::Behind => self.catch_up_again(token),
                WatcherState::Ended(error) => Next::Read(WatcherRead::Ended(error.clone())),
            };
            match next {
                Next::Read(read) => {
                    if let Some(read) = self.report(read) {
                        return Poll::Ready(read);
                    }
                }
                Next::Undecided(events) => self.decide(events),
                Next::Nothing => return Poll::Pending,
                Next::Yield => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Next::FellBehind => self.rewind(),
                Next::Joined(mut reader) => {
                    reader.set_last_reported(self.last_stage, self.last_progress_time);
                    self.state = WatcherState::Live(reader);
                }
                Next::GivenUp(ahead) => {
                    self.skip_ahead = ahead.map(|ahead| (Bytes::copy_from_slice(token), ahead));
                    self.state = WatcherState::Behind;
                }
            }
        }
    }

    /// Has it decided which of these events match.
    fn decide(&mut self, events: UndecidedEvents) {
        // Always so: whoever leaves the ring stops deciding.
        if let WatcherState::Live(reader) = &self.state {
            let (costly, caller) = (&self.catch_ups.costly, &self.watch.caller);
            self.deciding.start(events, reader.ring(), costly, caller);
        }
    }

    /// Returns those of the decided events that match, and has the rest decided. If the ring has lost them meanwhile,
    /// the watch falls behind.
    fn take_decided(&mut self, decided: Result<Decided, Evicted>) -> Option<EventSelection> {
        let taken = match (&mut self.state, decided) {
            (WatcherState::Live(reader), Ok(decided)) => reader.take(decided),
            _ => None,
        };
        let Some((selection, rest)) = taken else {
            self.rewind();
            return None;
        };
        if let Some(rest) = rest {
            self.decide(rest);
        }
        selection
    }

    /// Adapts what was read to what the watch may see, and notes it. `None` if there is nothing to report.
    fn report(&mut self, read: WatcherRead) -> Option<WatcherRead> {
        match read {
            WatcherRead::Stage(stage, _) if self.last_stage.replace(stage) == Some(stage) => None,
            WatcherRead::Ended(error) => {
                let error = error.with_patterns(&self.watch.pattern_fields);
                let keys = self.token_keys.as_ref();
                let error = undeliverable::redact(error, &self.watch, keys);
                self.state = WatcherState::Ended(error.clone());
                Some(WatcherRead::Ended(error))
            }
            WatcherRead::Invalidated(invalidation, token) => {
                if self.watch.invalidate == Invalidate::End {
                    self.state = WatcherState::Ended(Error::Invalidated {
                        scope: self.watch.scope.clone(),
                        cause: invalidation.cause,
                    });
                }
                Some(WatcherRead::Invalidated(invalidation, token))
            }
            read => Some(read),
        }
    }

    /// Returns the events of a selection from `at` on: the next read yields them again. So a watch whose
    /// client does not read holds no events.
    pub fn put_back(&mut self, selection: EventSelection, at: usize) {
        self.deciding.stop();
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
        self.memory.buffers.insert(bytes)
    }

    /// Reads again everything after the token that is passed to the next read.
    pub fn rewind(&mut self) {
        self.metrics.count_fell_behind();
        self.deciding.stop();
        self.state = WatcherState::Behind;
    }

    /// Returns the position of the stream and its token, if everything before it was read.
    pub fn progress(&mut self) -> Option<(FeedPosition, Bytes)> {
        self.progress_if(|_| true)
    }

    /// Returns the same once the position is past the watch's end time. The watch is woken when it is.
    pub fn end(&mut self) -> Option<(FeedPosition, Bytes)> {
        let end = self.watch.end_time?;
        self.progress_if(|reached| end.is_past(reached.seconds))
    }

    fn progress_if(
        &mut self,
        is_wanted: impl FnOnce(ClusterTime) -> bool,
    ) -> Option<(FeedPosition, Bytes)> {
        if self.deciding.is_running() {
            return None;
        }
        let (position, token_context) = match &mut self.state {
            WatcherState::Live(reader) => (
                reader.position_if_caught_up()?,
                self.streams.token_context(),
            ),
            WatcherState::CatchingUp(running) => (
                running.queue.position_if_caught_up()?,
                &running.token_context,
            ),
            WatcherState::Behind | WatcherState::Ended(_) => return None,
        };
        if !is_wanted(position.position.time()) {
            return None;
        }
        let audience = self.watch.rendering.audience;
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
        let token = ResumeToken::decode(token, self.streams.shared.token_context.keys()).ok()?;
        Some(token.position.time())
    }

    /// The mode of the feed: dedicated, with a filter in MongoDB, or shared by the scope.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.streams.joined.mode
    }

    /// Records the time up to which the client has been served, in seconds since 1970.
    pub fn set_reached_second(&self, second: u32) {
        self.subscriber.set_reached_second(second);
    }

    /// Returns whether the server is shutting down. Waiting watchers are woken when the shutdown begins.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.subscription.is_draining()
    }

    /// Starts a catch-up from a token.
    fn catch_up(&mut self, token: &[u8]) -> Result<(), Error> {
        let skip_ahead = self.skip_ahead.take().filter(|(after, _)| after == token);
        let token = skip_ahead.as_ref().map_or(token, |(_, ahead)| ahead);
        // The token was decoded or made by this server before, but its key may have been removed.
        let keys = self.streams.shared.token_context.keys();
        let token = ResumeToken::decode(token, keys)
            .map_err(|problem| Error::TokenMalformed(problem.to_string()))?;
        let target = ResumeTarget::from(token);
        let spec = self.streams.catch_up_spec(&self.watch, target);
        let residual = self.streams.residual(&self.watch);
        let running = RunningCatchUp::start(
            &self.catch_ups,
            &self.streams.joined.feed,
            residual,
            &self.subscriber,
            spec,
            CatchUpStart::WaitingForPermit,
        );
        self.state = WatcherState::CatchingUp(running);
        Ok(())
    }

    /// Starts a catch-up from a token, for a watch that was live or catching up before.
    fn catch_up_again(&mut self, token: &[u8]) -> Next {
        Next::Read(match self.catch_up(token) {
            Ok(()) => WatcherRead::Stage(
                Stage::CatchingUp,
                "reading the missed events again after falling behind",
            ),
            Err(error) => WatcherRead::Ended(error),
        })
    }
}

/// Reads what comes next in the ring.
fn next_of_ring(
    reader: &mut RingReader,
    token_context: &TokenContext,
    audience: Option<TokenAudience>,
) -> Next {
    Next::Read(match reader.read() {
        RingRead::Events(selection) => WatcherRead::Events(selection),
        RingRead::Undecided(events) => return Next::Undecided(events),
        RingRead::Stage(stage, reason) => WatcherRead::Stage(stage, reason),
        RingRead::Invalidated(it) => {
            let token = token_context.encode(&it.position, None, audience);
            WatcherRead::Invalidated(it, token)
        }
        RingRead::Ended(error) => WatcherRead::Ended(error),
        RingRead::Empty => return Next::Nothing,
        RingRead::Yield => return Next::Yield,
        RingRead::FellBehind => return Next::FellBehind,
    })
}

/// Reads what comes next from the catch-up.
fn next_of_catch_up(running: &RunningCatchUp, audience: Option<TokenAudience>) -> Next {
    let token_context = &running.token_context;
    Next::Read(match running.queue.read() {
        QueueRead::Item(QueueItem::Events(selection)) => WatcherRead::Events(selection),
        QueueRead::Item(QueueItem::Stage(stage, reason)) => WatcherRead::Stage(stage, reason),
        QueueRead::Item(QueueItem::Invalidated(it)) => {
            let token = token_context.encode(&it.position, None, audience);
            WatcherRead::Invalidated(it, token)
        }
        QueueRead::End(CatchUpOutcome::Failed(error)) => WatcherRead::Ended(error),
        QueueRead::End(CatchUpOutcome::GivenUp) => {
            let ahead = running
                .queue
                .take_position()
                .map(|at| token_context.encode(&at.position, at.anchor.as_ref(), audience));
            return Next::GivenUp(ahead);
        }
        QueueRead::End(CatchUpOutcome::Joined(reader)) => return Next::Joined(reader),
        QueueRead::Empty => return Next::Nothing,
    })
}
