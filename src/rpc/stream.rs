//! One watch's stream of messages: what its feed has, in the form and at the pace the client asked
//! for.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    error::Error,
    hub::{Entry, Invalidation, Read, Reader, Segment, Tail},
    metrics::{InStage, Metrics, Stage, seconds},
    pb::{self, watch_response::Kind},
    plan::{Operation, Oversize, Scope, Start, Watch},
    rpc::{outcome::Outcome, to_pb},
    source::{ClusterTime, Event, EventError},
    wire::{self, Encoded, Frame},
};

/// A batch is closed once it holds this many bytes. Larger batches save little, and a client waits
/// for the whole of one.
const BATCH_BYTES: usize = 128 << 10;

/// How often a watch with an end looks whether the feed has passed it.
const END_CHECK: Duration = Duration::from_millis(250);

/// What a chunk's message takes beyond its data and its token.
const CHUNK_OVERHEAD: usize = 64;

/// A watch, from its opening to its end.
pub(super) struct WatchStream {
    watch: Watch,
    reader: Reader,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
    deadline: Option<Instant>,
    outcome: Outcome,
    gauge: InStage,
    _permit: OwnedSemaphorePermit,

    /// The place after what was queued last.
    token: Bytes,
    /// The place after what was handed over last.
    handed_over: Bytes,
    last_sent: Instant,
    /// Messages that are ready, to go out before anything else.
    ready: VecDeque<Frame>,
    /// The segment being sent, and the first of its events that is still to go.
    sending: Option<(Arc<Segment>, usize)>,
    /// Set once nothing but `ready` is left to send.
    ending: Option<Ending>,
    chunked_events: u64,
    opened: bool,
}

enum Ending {
    Finished,
    Failed(Error),
    Done,
}

impl WatchStream {
    pub(super) fn new(
        watch: Watch,
        reader: Reader,
        metrics: Arc<Metrics>,
        drain: CancellationToken,
        deadline: Option<Instant>,
        outcome: Outcome,
        (permit, gauge): (OwnedSemaphorePermit, InStage),
    ) -> Self {
        let token = reader.start_token.clone();
        let mut stream = Self {
            handed_over: token.clone(),
            token,
            reader,
            metrics,
            drain,
            deadline,
            outcome,
            gauge,
            _permit: permit,
            last_sent: Instant::now(),
            ready: VecDeque::new(),
            sending: None,
            ending: None,
            chunked_events: 0,
            opened: false,
            watch,
        };
        let opened = stream.opened();
        stream.queue(opened);
        stream
    }

    /// The stream that tonic polls.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Frame, Status>> + Send {
        // Boxed, so that passing it from one message to the next moves a pointer.
        stream::unfold(Box::new(self), |mut stream| async move {
            let item = stream.next().await?;
            Some((item, stream))
        })
    }

    async fn next(&mut self) -> Option<Result<Frame, Status>> {
        loop {
            // Draining cuts in front of what is waiting, but not of `Opened`.
            if self.opened && self.ending.is_none() && self.drain.is_cancelled() {
                self.start_draining();
            }
            if let Some(frame) = self.ready.pop_front() {
                self.opened = true;
                self.handed_over = frame.token().clone();
                self.last_sent = Instant::now();
                self.metrics
                    .bytes_sent
                    .increment(frame.encoded_len() as u64);
                return Some(Ok(frame));
            }
            match self.ending.take() {
                Some(Ending::Failed(error)) => {
                    self.ending = Some(Ending::Done);
                    return Some(Err(self.outcome.fail(error)));
                }
                Some(Ending::Finished) => {
                    self.outcome.finish();
                    self.ending = Some(Ending::Done);
                    return None;
                }
                Some(Ending::Done) => return None,
                None => {}
            }
            if self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                self.ending = Some(Ending::Failed(Error::DeadlineExceeded));
            } else if let Some((segment, from)) = self.sending.take() {
                self.send_events(segment, from);
            } else {
                match self.reader.read() {
                    Read::Entry(entry) => self.take(entry),
                    Read::Nothing(tail) => self.idle(tail).await,
                    Read::Ended(error) => self.ending = Some(Ending::Failed(error)),
                }
            }
        }
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Events(segment) => self.sending = Some((segment, 0)),
            Entry::Stage(stage, reason) => {
                self.gauge.move_to(stage);
                let state = match stage {
                    Stage::Opening => pb::WatchState::Unspecified,
                    Stage::CatchingUp => pb::WatchState::CatchingUp,
                    Stage::Live => pb::WatchState::Live,
                    Stage::Reconnecting => pb::WatchState::UpstreamReconnecting,
                };
                self.queue(state_change(state, reason));
            }
            // What happened after the last second asked for is no concern of this watch.
            Entry::Invalidated(invalidation) if self.is_past_end(invalidation.position.time()) => {
                self.ending = Some(Ending::Finished);
            }
            Entry::Invalidated(invalidation) => {
                self.token = self.reader.token(&invalidation.position);
                let message = self.invalidated(&invalidation);
                self.queue(message);
            }
        }
    }

    /// Whether a time is after the last second that the client asked for.
    fn is_past_end(&self, time: ClusterTime) -> bool {
        self.watch.end_time.is_some_and(|end| time.seconds > end)
    }

    /// Waits for something to do, or sends a `Progress` when it is time for one.
    async fn idle(&mut self, tail: Tail) {
        let now = Instant::now();
        if self.is_past_end(tail.position.time()) {
            self.progress(&tail);
            self.ending = Some(Ending::Finished);
            return;
        }
        let progress_due = self.last_sent + self.watch.progress_interval;
        if progress_due <= now {
            self.progress(&tail);
            return;
        }
        let mut wake = progress_due;
        if self.watch.end_time.is_some() {
            wake = wake.min(now + END_CHECK);
        }
        if let Some(deadline) = self.deadline {
            wake = wake.min(deadline);
        }
        tokio::select! {
            () = self.reader.readable() => {}
            () = sleep_until(wake) => {}
            () = self.drain.cancelled() => {}
        }
    }

    fn progress(&mut self, tail: &Tail) {
        self.token = self.reader.token(&tail.position);
        self.metrics.progress_sent.increment(1);
        let reached = Some(tail.position.time()).filter(|time| time.seconds > 0);
        self.queue(Kind::Progress(pb::Progress {
            cluster_time: reached.map(to_pb),
            upstream_time: tail.upstream.map(to_pb),
        }));
    }

    /// Sends as many of a segment's events as one message may hold.
    fn send_events(&mut self, segment: Arc<Segment>, from: usize) {
        let format = self.watch.format;
        let metrics = Arc::clone(&self.metrics);
        let encoded = match segment.encoded(format, &self.reader.stamp, &metrics) {
            Ok(encoded) => encoded,
            Err(error) => return self.malformed(error),
        };
        let events = segment.events();
        let end = events[from..]
            .iter()
            .position(|event| self.is_past_end(event.cluster_time))
            .map_or(events.len(), |index| from + index);
        if end == from {
            self.ending = Some(Ending::Finished);
            return;
        }

        let limit = self.watch.max_message_bytes as usize;
        let fits = |to: usize| {
            let size = encoded.size(from, to);
            let whole = Frame::overhead(encoded.token_len(to - 1)) + size;
            whole <= limit && (to == from + 1 || size <= BATCH_BYTES)
        };
        let to = (from + 1..=end).take_while(|to| fits(*to)).last();
        let to = match to {
            Some(to) => {
                self.token = encoded.token(to - 1);
                self.ready
                    .push_back(Frame::changes(self.token.clone(), encoded.slice(from, to)));
                to
            }
            None => {
                if let Err(error) = self.send_oversize(&segment, encoded, from) {
                    return self.malformed(&error);
                }
                from + 1
            }
        };
        self.account(&events[from..to]);
        if to < events.len() {
            self.sending = Some((segment, to));
        }
    }

    fn account(&mut self, events: &[Event]) {
        for event in events {
            self.metrics.events_sent(event.operation).increment(1);
        }
        // One sample a message, as the histogram keeps every sample until its next upkeep.
        let oldest = events.first().and_then(|event| event.wall_time);
        if let Some(millis) = oldest.and_then(|millis| u64::try_from(millis).ok()) {
            let written = UNIX_EPOCH + Duration::from_millis(millis);
            // The clocks of two machines may disagree; less than nothing is no lag.
            let lag = SystemTime::now().duration_since(written);
            self.metrics
                .delivery_lag
                .record(seconds(lag.unwrap_or_default()));
        }
        self.outcome.events += events.len() as u64;
    }

    /// Sends an event that one message can't hold, by the client's policy.
    fn send_oversize(
        &mut self,
        segment: &Segment,
        encoded: &Encoded,
        index: usize,
    ) -> Result<(), EventError> {
        let limit = self.watch.max_message_bytes;
        let message = encoded.message(index);
        let size = message.len() as u64;
        match self.watch.oversize {
            Oversize::Fail => {
                self.ending = Some(Ending::Failed(Error::EventTooLarge {
                    event_bytes: size,
                    limit,
                }));
            }
            Oversize::Omit => {
                let token = encoded.token(index);
                let stub = |with_key| {
                    wire::omitted(
                        segment.buffer(),
                        &segment.events()[index],
                        &self.reader.stamp,
                        self.watch.format,
                        (size, limit),
                        with_key,
                    )
                };
                let mut changes = stub(true)?;
                if Frame::overhead(token.len()) + changes.len() > limit as usize {
                    changes = stub(false)?;
                }
                self.token = token;
                self.ready
                    .push_back(Frame::changes(self.token.clone(), changes));
            }
            Oversize::Chunk => self.send_chunks(&message, encoded.token(index)),
        }
        Ok(())
    }

    /// The token moves on only with the last piece: before it, the event has not been delivered.
    fn send_chunks(&mut self, message: &Bytes, token: Bytes) {
        self.chunked_events += 1;
        let limit = self.watch.max_message_bytes as usize;
        let room = limit - CHUNK_OVERHEAD - token.len().max(self.token.len());
        let last = message.len().div_ceil(room) - 1;
        for index in 0..=last {
            let data = message.slice(index * room..message.len().min((index + 1) * room));
            if index == last {
                self.token = token.clone();
            }
            self.queue(Kind::EventChunk(pb::EventChunk {
                id: self.chunked_events,
                index: index.try_into().unwrap_or(u32::MAX),
                last: index == last,
                total_bytes: message.len() as u64,
                data,
            }));
        }
    }

    fn malformed(&mut self, error: &EventError) {
        let id = self.outcome.id();
        tracing::error!(id, %error, "an event can't be encoded");
        self.ending = Some(Ending::Failed(Error::Internal));
    }

    fn start_draining(&mut self) {
        // What is thrown away here has to come again after a resume.
        self.ready.clear();
        self.sending = None;
        self.token = self.handed_over.clone();
        self.ending = Some(Ending::Failed(Error::Draining));
        self.queue(state_change(
            pb::WatchState::Draining,
            "the server is shutting down",
        ));
    }

    /// Queues a message of this watch's own, with the place that has been reached.
    fn queue(&mut self, kind: Kind) {
        self.ready
            .push_back(Frame::message(self.token.clone(), kind));
    }

    fn opened(&self) -> Kind {
        let start_mode = match (&self.watch.start, self.reader.by_time) {
            (Start::Now, _) => pb::StartMode::Now,
            (Start::Token(_), false) => pb::StartMode::Token,
            (Start::Token(_), true) => pb::StartMode::TokenTime,
            (Start::Time(_), _) => pb::StartMode::Time,
        };
        let start_time = Some(self.reader.start.time()).filter(|time| time.seconds > 0);
        Kind::Opened(pb::Opened {
            watch_id: self.outcome.id().to_owned(),
            start_mode: start_mode.into(),
            start_time: start_time.map(to_pb),
            progress_interval: self.watch.progress_interval.try_into().ok(),
            max_message_bytes: self.watch.max_message_bytes,
            feed_mode: pb::FeedMode::Dedicated.into(),
        })
    }

    fn invalidated(&self, invalidation: &Invalidation) -> Kind {
        let (database, collection) = match &self.watch.scope {
            Scope::Collection {
                database,
                collection,
            } => (database.clone(), collection.clone()),
            Scope::Collections { database, .. } | Scope::Database { database } => {
                (database.clone(), String::new())
            }
            Scope::Deployment => Default::default(),
        };
        let cause = invalidation.cause.map(Operation::to_pb).unwrap_or_default();
        Kind::Invalidated(pb::Invalidated {
            cause: cause.into(),
            namespace: Some(pb::Namespace {
                database,
                collection,
            }),
            cluster_time: Some(to_pb(invalidation.position.time())),
        })
    }
}

fn state_change(state: pb::WatchState, reason: &str) -> Kind {
    Kind::StateChange(pb::StateChange {
        state: state.into(),
        reason: reason.to_owned(),
    })
}
