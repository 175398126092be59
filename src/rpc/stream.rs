//! The response stream of one watch: it turns what the hub delivers into messages, at the pace and in the
//! format that the client asked for.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use crate::{
    error::Error,
    hub::{EventSelection, HeldRequest, Watcher, WatcherRead},
    limit::Permit,
    metrics::{Metrics, StageGuard},
    model::Stage,
    pb::{self, watch_response::Kind},
    pipeline::Watch,
    rpc::{
        authorization_lease::AuthorizationLease,
        batch::{BatchBuilder, FillResult, StopReason},
        messages,
        outbox::Outbox,
        outcome::Outcome,
        oversize::{self, ChunkedEvent, Delivery, NextChunk},
        quotas::WatchQuota,
    },
    source::{ClusterTime, Event},
    wire::{Compression, Frame},
};

/// The interval at which a watch that waits for its byte quota checks whether it must end.
const PAUSE_CHECK: Duration = Duration::from_millis(250);

/// The minimum time that a timer is set for.
const TICK: Duration = Duration::from_millis(1);

/// Everything that a watch holds until its stream ends.
pub(super) struct WatchPermits {
    pub(super) lease: AuthorizationLease,
    pub(super) quota: WatchQuota,
    pub(super) _request: HeldRequest,
    pub(super) _permit: Permit,
}

/// The response stream of one watch.
pub(super) struct WatchStream {
    watch: Arc<Watch>,
    watcher: Watcher,
    metrics: Arc<Metrics>,
    deadline: Option<Instant>,
    compression: Option<Compression>,
    outcome: Outcome,
    gauge: StageGuard,
    permits: WatchPermits,

    /// Encoded messages, to be delivered before anything else.
    outbox: Outbox,
    last_sent: Instant,
    /// The time until which nothing more is read, because the byte quota is used up.
    paused_until: Option<Instant>,
    /// Wakes the stream when something may be due. Not every message moves it, so it may fire early.
    timer: Pin<Box<Sleep>>,
    /// The item that was read while a batch was filled; handled after the batch.
    pending_read: Option<WatcherRead>,
    /// The event that is being sent in chunks; read again if its buffer was evicted.
    chunked_event: Option<ChunkedEvent>,
    rereading: bool,
    chunked_events: u64,
    /// Set once only the messages in the outbox are left to send.
    ending: Option<Ending>,
    /// The times in the last `Progress`: the reached time and MongoDB's own time. Neither may go back, even
    /// if a clock does.
    reported: (ClusterTime, Option<ClusterTime>),
    /// `true` if a `Progress` is due.
    progress_due: bool,
}

enum Ending {
    Finished,
    Failed(Error),
    Done,
}

impl WatchStream {
    pub(super) fn new(
        watch: Arc<Watch>,
        watcher: Watcher,
        metrics: Arc<Metrics>,
        (deadline, compression): (Option<Instant>, Option<Compression>),
        outcome: Outcome,
        (permits, gauge): (WatchPermits, StageGuard),
    ) -> Self {
        let now = Instant::now();
        let mut stream = Self {
            outbox: Outbox::new(&watcher.start_position().token),
            watcher,
            metrics,
            deadline,
            compression,
            outcome,
            gauge,
            paused_until: permits.quota.initial_wait().map(|wait| now + wait),
            permits,
            last_sent: now,
            timer: Box::pin(sleep_until(now)),
            pending_read: None,
            chunked_event: None,
            rereading: false,
            chunked_events: 0,
            ending: None,
            reported: (ClusterTime::default(), None),
            progress_due: false,
            watch,
        };
        stream.set_timer(now);
        let id = stream.outcome.id().to_owned();
        stream
            .outbox
            .queue(messages::opened(id, &stream.watch, &stream.watcher));
        stream
    }

    fn handle(&mut self, read: WatcherRead, context: &mut Context<'_>) {
        match read {
            WatcherRead::Events(selection) => self.send_events(selection, context),
            WatcherRead::Stage(stage, reason) => {
                self.gauge.move_to(stage);
                let state = match stage {
                    Stage::Opening => pb::WatchState::Unspecified,
                    Stage::CatchingUp => pb::WatchState::CatchingUp,
                    Stage::Live => pb::WatchState::Live,
                    Stage::Reconnecting => pb::WatchState::UpstreamReconnecting,
                };
                self.outbox.queue(messages::state_change(state, reason));
            }
            // After the end time that the client asked for, so not part of this watch.
            WatcherRead::Invalidated(invalidation, _)
                if self.is_past_end(invalidation.position.time()) =>
            {
                self.ending = Some(Ending::Finished);
            }
            WatcherRead::Invalidated(invalidation, token) => {
                self.chunked_event = None;
                self.outbox.set_token(&token);
                self.outbox
                    .queue(messages::invalidated(&self.watch.scope, &invalidation));
            }
            WatcherRead::Ended(error) => self.ending = Some(Ending::Failed(error)),
        }
    }

    /// Returns whether a time is after the end time that the client asked for.
    fn is_past_end(&self, time: ClusterTime) -> bool {
        let end = self.watch.end_time;
        end.is_some_and(|end| end.is_past(time.seconds))
    }

    /// Ends the watch if its lease has ended.
    fn check_lease(&mut self) {
        if matches!(self.ending, Some(Ending::Done)) {
            return;
        }
        if let Some(error) = self.permits.lease.revalidate(&self.watch) {
            self.terminate(error);
        } else if self.permits.lease.take_renewed() {
            // The lease may now end sooner than the timer is set for.
            self.set_timer(Instant::now());
        }
    }

    /// Returns whether the byte quota is used up, so that nothing may be read now. Unread events wait in the
    /// hub, or are read again later.
    fn is_paused(&mut self) -> bool {
        let Some(until) = self.paused_until else {
            return false;
        };
        let now = Instant::now();
        if until <= now {
            self.paused_until = None;
        } else if self.timer.deadline() > until.min(now + PAUSE_CHECK) {
            self.set_timer(now);
        }
        self.paused_until.is_some()
    }

    /// Notes what has become due, and sets the timer for the next time.
    fn poll_timer(&mut self, context: &mut Context<'_>) {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            self.check_lease();
            if self.ending.is_some() {
                return;
            }
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                self.ending = Some(Ending::Failed(Error::DeadlineExceeded));
                return;
            }
            self.progress_due |= self.last_sent + self.watch.progress_interval <= now;
            self.set_timer(now);
        }
    }

    fn set_timer(&mut self, now: Instant) {
        let mut wake = self.last_sent + self.watch.progress_interval;
        if wake <= now {
            // It is already due, and is sent once nothing else is left to send.
            wake = now + self.watch.progress_interval;
        }
        if let Some(until) = self.paused_until {
            wake = wake.min(until.min(now + PAUSE_CHECK).max(now + TICK));
        }
        if let Some(check) = self.permits.lease.next_check(now) {
            wake = wake.min(check.max(now + TICK));
        }
        if let Some(deadline) = self.deadline {
            wake = wake.min(deadline);
        }
        self.timer.as_mut().reset(wake);
    }

    /// Sends a `Progress` if one is due, and ends the watch if its end time has passed. Called when all
    /// available events have been sent.
    fn send_due_progress(&mut self) {
        let due = std::mem::take(&mut self.progress_due);
        let reached = if due {
            self.watcher.progress()
        } else {
            self.watcher.end()
        };
        let ended = reached
            .as_ref()
            .is_some_and(|(tail, _)| self.is_past_end(tail.position.time()));
        if !due && !ended {
            return;
        }
        let mut progress = pb::Progress::default();
        if let Some((tail, token)) = reached {
            let time = tail.position.time();
            self.watcher.set_reached_second(time.seconds);
            let (reached, upstream) = &mut self.reported;
            *reached = time.max(*reached);
            *upstream = tail.upstream_time.max(*upstream);
            progress.cluster_time = Some(*reached)
                .filter(|time| time.seconds > 0)
                .map(messages::cluster_time);
            progress.upstream_time = upstream.map(messages::cluster_time);
            self.outbox.set_token(&token);
            // All events were read again, and the partly sent one was not among them: the document that was
            // looked up no longer matches the filter.
            self.chunked_event = None;
        }
        self.queue_progress(progress);
        if ended {
            self.ending = Some(Ending::Finished);
        }
    }

    /// Sends a `Progress` if one is due, at the position that was reported before.
    fn send_heartbeat(&mut self) {
        if std::mem::take(&mut self.progress_due) {
            self.queue_progress(pb::Progress::default());
        }
    }

    fn queue_progress(&mut self, progress: pb::Progress) {
        self.metrics.progress_sent.increment(1);
        self.last_sent = Instant::now();
        self.outbox.queue(Kind::Progress(progress));
    }

    /// Sends as many events as fit into one message. Puts the rest back, so that a client that stops reading
    /// keeps no events in memory.
    ///
    /// A message that is compressed ends with its selection, and so with its segment: watches that read the
    /// same events then send the same messages, however fast each of them is.
    fn send_events(&mut self, selection: EventSelection, context: &mut Context<'_>) {
        // An interrupted event continues only if it comes first again.
        let mut interrupted = self.chunked_event.take();
        let mut batch = BatchBuilder::new(&self.watch, self.compression);
        let mut next = Some(selection);
        while let Some(selection) = next.take() {
            let FillResult { count, stopped } = batch.fill(&selection, &mut self.outbox.token);
            self.record_sent((0..count).map(|at| selection.event(at)));
            match stopped {
                None if self.compression.is_some() => {}
                None => match self.watcher.poll_read(context, &self.outbox.token) {
                    Poll::Ready(WatcherRead::Events(selection)) => next = Some(selection),
                    Poll::Ready(read) => self.pending_read = Some(read),
                    Poll::Pending => {}
                },
                Some(StopReason::PastEnd) => self.ending = Some(Ending::Finished),
                Some(StopReason::BatchFull) => self.watcher.put_back(selection, count),
                Some(StopReason::Oversize) => {
                    self.send_oversize(&selection, count, interrupted.take());
                    if count + 1 < selection.len() {
                        self.watcher.put_back(selection, count + 1);
                    }
                }
            }
        }
        if let Some(frame) = batch.into_frame() {
            self.outbox.push(frame);
        }
    }

    /// Sends an event that no message can hold, as the client's oversize policy says. It is always first.
    fn send_oversize(
        &mut self,
        selection: &EventSelection,
        at: usize,
        interrupted: Option<ChunkedEvent>,
    ) {
        let id = self.chunked_events + 1;
        match oversize::deliver(&self.watch, &self.watcher, selection, at, interrupted, id) {
            Delivery::Refused(error) => self.ending = Some(Ending::Failed(error)),
            Delivery::Stub(frame) => {
                self.outbox.push_event(frame);
                self.record_sent(std::iter::once(selection.event(at)));
            }
            Delivery::Chunks(chunks) => {
                self.chunked_events = id;
                self.chunked_event = Some(chunks);
                self.rereading = false;
            }
        }
    }

    /// Queues the next chunk of the event that is being sent. Returns false if there is none to send now.
    fn send_chunk(&mut self) -> bool {
        let Some(chunks) = self.chunked_event.as_mut().filter(|_| !self.rereading) else {
            return false;
        };
        match chunks.next(&self.outbox.token, self.watch.max_message_bytes) {
            NextChunk::Chunk(frame) => self.outbox.push(frame),
            NextChunk::Last(frame) => {
                self.outbox.push_event(frame);
                if let Some(chunks) = self.chunked_event.take() {
                    self.record_sent(std::iter::once(&chunks.event));
                }
            }
            NextChunk::Evicted => {
                self.rereading = true;
                self.watcher.rewind();
                return false;
            }
        }
        true
    }

    fn record_sent<'e>(
        &mut self,
        events: impl DoubleEndedIterator<Item = &'e Event> + ExactSizeIterator + Clone,
    ) {
        if let Some(last) = events.clone().next_back() {
            self.watcher.set_reached_second(last.cluster_time.seconds);
        }
        self.outcome.count(events);
    }

    /// Ends the watch and discards what waits to be sent.
    fn terminate(&mut self, mut error: Error) {
        // The discarded messages must come again after a resume.
        self.outbox.discard();
        self.pending_read = None;
        self.chunked_event = None;
        if let Error::AccessChanged { after: Some(time) } = &mut error {
            *time = self
                .watcher
                .token_time(&self.outbox.token)
                .unwrap_or_default();
        }
        let reason = match error {
            Error::Draining => Some("the server is shutting down"),
            Error::MaxAge => Some("the watch has reached its maximum age"),
            _ => None,
        };
        if let Some(reason) = reason.filter(|_| self.outbox.has_delivered()) {
            self.outbox
                .queue(messages::state_change(pb::WatchState::Draining, reason));
        }
        self.ending = Some(Ending::Failed(error));
    }

    fn deliver(&mut self, frame: Frame) -> Frame {
        self.last_sent = Instant::now();
        let bytes = frame.encoded_len() as u64;
        self.metrics.bytes_sent.increment(bytes);
        if let Some(wait) = self.permits.quota.charge(bytes) {
            self.paused_until = Some(self.last_sent + wait);
        }
        frame
    }
}

impl Stream for WatchStream {
    type Item = Result<Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        loop {
            // Nothing is sent after the lease has ended, not even messages that are ready.
            stream.check_lease();
            // Draining discards messages that are ready, but not `Opened`.
            let draining = stream.outbox.has_delivered() && stream.ending.is_none();
            if draining && stream.watcher.is_draining() {
                stream.terminate(Error::Draining);
            }
            if let Some(frame) = stream.outbox.pop() {
                return Poll::Ready(Some(Ok(stream.deliver(frame))));
            }
            match stream.ending.take() {
                Some(Ending::Failed(error)) => {
                    stream.ending = Some(Ending::Done);
                    return Poll::Ready(Some(Err(stream.outcome.fail(error))));
                }
                Some(Ending::Finished) => {
                    stream.outcome.finish();
                    stream.ending = Some(Ending::Done);
                    return Poll::Ready(None);
                }
                Some(Ending::Done) => {
                    stream.ending = Some(Ending::Done);
                    return Poll::Ready(None);
                }
                None => {}
            }
            let paused = stream.is_paused();
            // The timer is polled first, because a stream that is never idle has a deadline too.
            stream.poll_timer(context);
            if stream.ending.is_some() {
                continue;
            }
            if paused {
                stream.send_heartbeat();
                if stream.outbox.is_empty() && !stream.permits.lease.poll_changed(context) {
                    return Poll::Pending;
                }
                continue;
            }
            if stream.send_chunk() {
                continue;
            }
            if let Some(read) = stream.pending_read.take() {
                stream.handle(read, context);
            } else {
                match stream.watcher.poll_read(context, &stream.outbox.token) {
                    Poll::Ready(read) => stream.handle(read, context),
                    // Draining that began before the waker was registered has woken nobody.
                    Poll::Pending if stream.watcher.is_draining() => {}
                    Poll::Pending => {
                        stream.send_due_progress();
                        if stream.outbox.is_empty() && !stream.permits.lease.poll_changed(context) {
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
