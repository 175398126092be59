//! One watch's stream of messages: what the hub has for it, in the form and at the pace the client
//! asked for.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};
use tonic::Status;

use crate::{
    error::Error,
    hub::{EventSelection, Watcher, WatcherRead},
    metrics::{Metrics, Stage, StageGuard},
    pb::{self, watch_response::Kind},
    plan::Watch,
    rpc::{
        batch::{Batch, Filled, Full},
        kinds,
        outcome::Outcome,
        oversize::{self, Next, Pieces, Sent},
        quotas::Quota,
        tenure::Tenure,
        to_pb,
    },
    source::{ClusterTime, Event, EventError},
    wire::Frame,
};

/// How often a watch with an end looks whether its feed has passed it.
const END_CHECK: Duration = Duration::from_millis(250);

/// How often a watch that waits for bytes of its quota looks whether it has to end.
const PAUSE_CHECK: Duration = Duration::from_millis(250);

/// The least time that a timer is set for.
const TICK: Duration = Duration::from_millis(1);

/// What a watch holds for as long as its stream lives.
pub(super) struct Hold {
    pub(super) tenure: Tenure,
    pub(super) quota: Quota,
    pub(super) _permits: [OwnedSemaphorePermit; 2],
}

/// A watch, from its opening to its end.
pub(super) struct WatchStream {
    watch: Arc<Watch>,
    watcher: Watcher,
    metrics: Arc<Metrics>,
    deadline: Option<Instant>,
    outcome: Outcome,
    gauge: StageGuard,
    hold: Hold,

    /// The place after what was queued last. A copy: a slice would keep alive what it lies in.
    token: Vec<u8>,
    /// The place after what was handed over last.
    handed_over: Vec<u8>,
    last_sent: Instant,
    /// Until when nothing more is read, as its principal has been sent more than its share.
    paused: Option<Instant>,
    /// Wakes the stream when something may be due. It is not moved by every message, so it may come
    /// early.
    timer: Pin<Box<Sleep>>,
    /// Messages that are ready, to go out before anything else.
    ready: VecDeque<Frame>,
    /// What was read while a batch was being filled, and has to come after it.
    next: Option<WatcherRead>,
    /// The event that goes out in pieces: from here while it can, else it is read again.
    pieces: Option<Pieces>,
    reading_again: bool,
    /// Set once nothing but `ready` is left to send.
    ending: Option<Ending>,
    chunked_events: u64,
    opened: bool,
    /// The times that the last `Progress` told: what was reached, and MongoDB's own. Clocks may jump,
    /// what was said stands.
    told: (ClusterTime, Option<ClusterTime>),
    /// Whether a `Progress` is due.
    due: bool,
    /// Whether it is time to look for the watch's end.
    check_end: bool,
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
        deadline: Option<Instant>,
        outcome: Outcome,
        (hold, gauge): (Hold, StageGuard),
    ) -> Self {
        let token = watcher.start_position().token.to_vec();
        let now = Instant::now();
        let mut stream = Self {
            handed_over: token.clone(),
            token,
            watcher,
            metrics,
            deadline,
            outcome,
            gauge,
            paused: hold.quota.wait_at_opening().map(|wait| now + wait),
            hold,
            last_sent: now,
            timer: Box::pin(sleep_until(now)),
            ready: VecDeque::new(),
            next: None,
            pieces: None,
            reading_again: false,
            ending: None,
            chunked_events: 0,
            opened: false,
            told: (ClusterTime::default(), None),
            due: false,
            check_end: false,
            watch,
        };
        stream.set_timer(now);
        let id = stream.outcome.id().to_owned();
        stream.queue(kinds::opened(id, &stream.watch, &stream.watcher));
        stream
    }

    fn take(&mut self, read: WatcherRead, context: &mut Context<'_>) {
        match read {
            WatcherRead::Events(run) => self.send_events(run, context),
            WatcherRead::Stage(stage, reason) => {
                self.gauge.move_to(stage);
                let state = match stage {
                    Stage::Opening => pb::WatchState::Unspecified,
                    Stage::CatchingUp => pb::WatchState::CatchingUp,
                    Stage::Live => pb::WatchState::Live,
                    Stage::Reconnecting => pb::WatchState::UpstreamReconnecting,
                };
                self.queue(kinds::state_change(state, reason));
            }
            // What happened after the last second asked for is no concern of this watch.
            WatcherRead::Invalidated(invalidation, _)
                if self.is_past_end(invalidation.position.time()) =>
            {
                self.ending = Some(Ending::Finished);
            }
            WatcherRead::Invalidated(invalidation, token) => {
                self.pieces = None;
                self.token = token.to_vec();
                self.queue(kinds::invalidated(&self.watch.scope, &invalidation));
            }
            WatcherRead::Ended(error) => self.ending = Some(Ending::Failed(error)),
        }
    }

    /// Whether a time is after the last second that the client asked for.
    fn is_past_end(&self, time: ClusterTime) -> bool {
        self.watch.end_time.is_some_and(|end| time.seconds > end)
    }

    /// Ends the watch if its caller may not watch any longer, or it has become too old.
    fn look_at_tenure(&mut self) {
        if matches!(self.ending, Some(Ending::Done)) {
            return;
        }
        if let Some(error) = self.hold.tenure.look(&self.watch) {
            self.cut_in(error);
        } else if self.hold.tenure.was_renewed() {
            // It may end sooner than the timer knows.
            self.set_timer(Instant::now());
        }
    }

    /// Whether its principal has been sent more than its share, so that nothing is to be read for now: what
    /// is not read waits in the hub, or is read again later.
    fn is_paused(&mut self) -> bool {
        let Some(until) = self.paused else {
            return false;
        };
        let now = Instant::now();
        if until <= now {
            self.paused = None;
        } else if self.timer.deadline() > until.min(now + PAUSE_CHECK) {
            self.set_timer(now);
        }
        self.paused.is_some()
    }

    /// Looks whether the time has come for anything; tells when it will otherwise.
    fn look_at_timer(&mut self, context: &mut Context<'_>) {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            self.look_at_tenure();
            if self.ending.is_some() {
                return;
            }
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                self.ending = Some(Ending::Failed(Error::DeadlineExceeded));
                return;
            }
            self.due |= self.last_sent + self.watch.progress_interval <= now;
            self.check_end |= self.watch.end_time.is_some();
            self.set_timer(now);
        }
    }

    fn set_timer(&mut self, now: Instant) {
        let mut wake = self.last_sent + self.watch.progress_interval;
        if wake <= now {
            // It is due already, and is sent once nothing else is left to send.
            wake = now + self.watch.progress_interval;
        }
        if self.watch.end_time.is_some() {
            wake = wake.min(now + END_CHECK);
        }
        if let Some(until) = self.paused {
            wake = wake.min(until.min(now + PAUSE_CHECK).max(now + TICK));
        }
        if let Some(look) = self.hold.tenure.next_look(now) {
            wake = wake.min(look.max(now + TICK));
        }
        if let Some(deadline) = self.deadline {
            wake = wake.min(deadline);
        }
        self.timer.as_mut().reset(wake);
    }

    /// Says how far the watch is, if that is due or the end has been passed. Everything that there was
    /// has been taken and sent.
    fn progress(&mut self) {
        let due = std::mem::take(&mut self.due);
        if !due && !std::mem::take(&mut self.check_end) {
            return;
        }
        let reached = self.watcher.progress();
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
            let (reached, upstream) = &mut self.told;
            *reached = time.max(*reached);
            *upstream = tail.upstream_time.max(*upstream);
            progress.cluster_time = Some(*reached).filter(|time| time.seconds > 0).map(to_pb);
            progress.upstream_time = upstream.map(to_pb);
            self.token.clear();
            self.token.extend_from_slice(&token);
            // All was read again, and an event half sent was not among it: its filter no longer
            // passes the document that was looked up.
            self.pieces = None;
        }
        self.tell_progress(progress);
        if ended {
            self.ending = Some(Ending::Finished);
        }
    }

    /// Says that the watch is alive, if that is due, at the place that was reached before.
    fn sign_of_life(&mut self) {
        if std::mem::take(&mut self.due) {
            self.tell_progress(pb::Progress::default());
        }
    }

    fn tell_progress(&mut self, progress: pb::Progress) {
        self.metrics.progress_sent.increment(1);
        self.last_sent = Instant::now();
        self.queue(Kind::Progress(progress));
    }

    /// Sends as many events as one message may hold: those of a run, and more if there are more. What
    /// does not fit is given back, so that a client that stops reading pins nothing.
    fn send_events(&mut self, run: EventSelection, context: &mut Context<'_>) {
        // One that was begun goes on only if it comes first.
        let mut begun = self.pieces.take();
        let mut batch = Batch::new(&self.watch);
        let mut next = Some(run);
        while let Some(run) = next.take() {
            let Filled { count, full } = match batch.fill(&run, &self.watch.view, &mut self.token) {
                Ok(filled) => filled,
                Err(error) => return self.malformed(&error),
            };
            self.account((0..count).map(|at| run.event(at)));
            match full {
                None => match self.watcher.poll_read(context, &self.token) {
                    Poll::Ready(WatcherRead::Events(run)) => next = Some(run),
                    Poll::Ready(read) => self.next = Some(read),
                    Poll::Pending => {}
                },
                Some(Full::End) => self.ending = Some(Ending::Finished),
                Some(Full::Batch) => self.watcher.put_back(run, count),
                Some(Full::Oversize) => {
                    if let Err(error) = self.send_oversize(&run, count, begun.take()) {
                        return self.malformed(&error);
                    }
                    if count + 1 < run.len() {
                        self.watcher.put_back(run, count + 1);
                    }
                }
            }
        }
        if let Some(frame) = batch.into_frame() {
            self.ready.push_back(frame);
        }
    }

    /// Sends an event that no message can hold, by the client's policy. Nothing stands before it.
    fn send_oversize(
        &mut self,
        run: &EventSelection,
        at: usize,
        begun: Option<Pieces>,
    ) -> Result<(), EventError> {
        let id = self.chunked_events + 1;
        match oversize::send(&self.watch, &self.watcher, run, at, begun, id)? {
            Sent::Refused(error) => self.ending = Some(Ending::Failed(error)),
            Sent::Stub(frame) => {
                self.token = frame.token().to_vec();
                self.ready.push_back(frame);
                self.account(std::iter::once(run.event(at)));
            }
            Sent::Pieces(pieces) => {
                self.chunked_events = id;
                self.pieces = Some(pieces);
                self.reading_again = false;
            }
        }
        Ok(())
    }

    /// Sends the next piece of an event that has begun to go out. Gives false where there is none to
    /// send now.
    fn send_piece(&mut self) -> bool {
        let Some(pieces) = self.pieces.as_mut().filter(|_| !self.reading_again) else {
            return false;
        };
        match pieces.next(&self.token, self.watch.max_message_bytes) {
            Next::Piece(frame) => self.ready.push_back(frame),
            Next::Last(frame) => {
                self.token = frame.token().to_vec();
                self.ready.push_back(frame);
                if let Some(pieces) = self.pieces.take() {
                    self.account(std::iter::once(&pieces.event));
                }
            }
            Next::CalledIn => {
                self.reading_again = true;
                self.watcher.rewind();
                return false;
            }
        }
        true
    }

    fn account<'e>(
        &mut self,
        events: impl DoubleEndedIterator<Item = &'e Event> + ExactSizeIterator + Clone,
    ) {
        if let Some(last) = events.clone().next_back() {
            self.watcher.set_reached_second(last.cluster_time.seconds);
        }
        self.outcome.count(events);
    }

    fn malformed(&mut self, error: &EventError) {
        let span = self.outcome.span();
        span.in_scope(|| tracing::error!(%error, "an event can't be encoded"));
        self.ending = Some(Ending::Failed(Error::Internal));
    }

    /// Ends the watch before anything that waits to be sent.
    fn cut_in(&mut self, mut error: Error) {
        // What is thrown away here has to come again after a resume.
        self.ready.clear();
        self.next = None;
        self.pieces = None;
        self.token.clone_from(&self.handed_over);
        if let Error::AccessChanged { after: Some(time) } = &mut error {
            *time = self.watcher.token_time(&self.token).unwrap_or_default();
        }
        let reason = match error {
            Error::Draining => Some("the server is shutting down"),
            Error::MaxAge => Some("the watch has reached its maximum age"),
            _ => None,
        };
        if let Some(reason) = reason.filter(|_| self.opened) {
            self.queue(kinds::state_change(pb::WatchState::Draining, reason));
        }
        self.ending = Some(Ending::Failed(error));
    }

    /// Queues a message of this watch's own, with the place that has been reached.
    fn queue(&mut self, kind: Kind) {
        let token = self.token.clone().into();
        self.ready.push_back(Frame::message(token, kind));
    }

    fn hand_over(&mut self, frame: Frame) -> Frame {
        self.opened = true;
        self.handed_over.clear();
        self.handed_over.extend_from_slice(frame.token());
        self.last_sent = Instant::now();
        let bytes = frame.encoded_len() as u64;
        self.metrics.bytes_sent.increment(bytes);
        if let Some(wait) = self.hold.quota.charge(bytes) {
            self.paused = Some(self.last_sent + wait);
        }
        frame
    }
}

impl Stream for WatchStream {
    type Item = Result<Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        loop {
            // Nothing is sent to who may no longer watch, not even what was ready before.
            stream.look_at_tenure();
            // Draining cuts in front of what is waiting, but not of `Opened`.
            let draining = stream.opened && stream.ending.is_none();
            if draining && stream.watcher.is_draining() {
                stream.cut_in(Error::Draining);
            }
            if let Some(frame) = stream.ready.pop_front() {
                return Poll::Ready(Some(Ok(stream.hand_over(frame))));
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
            // The timer comes first: a stream that is never idle has a deadline too.
            stream.look_at_timer(context);
            if stream.ending.is_some() {
                continue;
            }
            if paused {
                stream.sign_of_life();
                if stream.ready.is_empty() && !stream.hold.tenure.has_moved(context) {
                    return Poll::Pending;
                }
                continue;
            }
            if stream.send_piece() {
                continue;
            }
            if let Some(read) = stream.next.take() {
                stream.take(read, context);
            } else {
                match stream.watcher.poll_read(context, &stream.token) {
                    Poll::Ready(read) => stream.take(read, context),
                    // Draining that began before the waker was in its place has woken nobody.
                    Poll::Pending if stream.watcher.is_draining() => {}
                    Poll::Pending => {
                        stream.progress();
                        if stream.ready.is_empty() && !stream.hold.tenure.has_moved(context) {
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }
}
