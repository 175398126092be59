//! A client that watches, stores its token and resumes, and sometimes pauses, stops reading or
//! starts over; and one that only opens watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Status, Streaming};
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

use crate::support::ledger::{DeliveryChecker, Ledger, Pieces, Time, may_resume, time_of};

use super::connections::Connections;
use super::counters::Counters;
use super::watch_spec::WatchSpec;
use super::workload::observed;

/// The time that an opening may take before the client gives up.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// The time beyond three of its intervals that a stream may be silent before the client gives up.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// The activity of all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// They connect, leave, stall and resume.
    Load,
    /// They read everything: the writers have stopped, and the last write was at this time or
    /// before.
    Calm(Time),
    /// They leave.
    Empty,
}

/// The state that all clients share.
pub struct Shared {
    pub database: String,
    pub ledger: Arc<Ledger>,
    pub connections: Connections,
    pub counters: Arc<Counters>,
    /// The number that have received everything in [`Phase::Calm`].
    pub complete: AtomicU32,
    /// The longest pause of a client, away or not reading, in milliseconds.
    pub longest_pause: u64,
}

/// A client and its position, which it keeps from server to server.
pub struct LoadClient {
    spec: WatchSpec,
    /// Set once its first watch has opened.
    checker: Option<DeliveryChecker>,
    handled: u32,
    /// The first message of its last watch.
    opened: pb::Opened,
    /// True once it has received everything in this cycle.
    complete: bool,
}

/// The reason why a client stopped reading.
enum Stop {
    /// It leaves for this long.
    Leave(Duration),
    /// It leaves for good, and another one takes its place.
    Retire,
    /// The stream ended or was silent for too long.
    Lost,
    /// All clients leave.
    Empty,
}

impl LoadClient {
    /// Creates a client that has not started.
    pub fn new(spec: WatchSpec) -> Self {
        Self {
            spec,
            checker: None,
            handled: 0,
            opened: pb::Opened::default(),
            complete: false,
        }
    }

    /// Watches until all clients leave.
    ///
    /// # Errors
    /// The change that it must not have received, or did not receive.
    pub async fn run(
        mut self,
        shared: Arc<Shared>,
        mut phase: watch::Receiver<Phase>,
        seed: u64,
    ) -> Result<Self, String> {
        let mut rng = Rng::with_seed(seed);
        let mut failures = 0;
        self.complete = false;
        loop {
            let opened = tokio::select! {
                opened = self.open(&shared, &mut rng) => opened,
                _ = phase.wait_for(|it| *it == Phase::Empty) => return self.check_complete(),
            };
            let stop = match opened {
                Ok(stream) => {
                    let _guard = shared.counters.open_watches.enter();
                    failures = 0;
                    self.read_until_stop(stream, &shared, &mut phase, &mut rng)
                        .await
                }
                Err(status) => lost(&status, &shared),
            };
            let stop = stop.map_err(|problem| self.describe_failure(&problem))?;
            let pause = match stop {
                Stop::Empty => return self.check_complete(),
                Stop::Retire => {
                    self = Self::new(WatchSpec::random(&mut rng));
                    Duration::ZERO
                }
                Stop::Leave(pause) => pause,
                Stop::Lost => {
                    failures += 1;
                    Duration::from_millis(rng.u64(..50 << failures.min(6)))
                }
            };
            // A client that is away when the calm begins returns at once.
            let _ = timeout(pause, phase.wait_for(|it| *it != Phase::Load)).await;
        }
    }

    /// Checks that it has received everything.
    fn check_complete(mut self) -> Result<Self, String> {
        if self.complete {
            return Ok(self);
        }
        let missing = self.checker.as_mut().and_then(DeliveryChecker::missing);
        let missing = missing.unwrap_or_else(|| "no progress to the end".to_owned());
        Err(self.describe_failure(&format!("not complete in time: {missing}")))
    }

    fn describe_failure(&self, problem: &str) -> String {
        let Self { spec, opened, .. } = self;
        format!("{problem}\n    asked for: {spec:?}\n    opened with: {opened:?}")
    }

    /// Opens a watch at the stored token, or at a random start if it has none.
    async fn open(
        &mut self,
        shared: &Shared,
        rng: &mut Rng,
    ) -> Result<Streaming<pb::WatchResponse>, Status> {
        let mut client = shared.connections.client(self.spec.narrow, rng);
        let mut since = None;
        let start = match &mut self.checker {
            Some(checker) => {
                shared.counters.resumed.add(1);
                checker.resume().map(Start::ResumeToken)
            }
            None => {
                since = (rng.u32(..4) == 0)
                    .then(|| recent_start(&shared.ledger, rng))
                    .flatten();
                since.as_ref().map(|(second, _)| {
                    Start::StartTime(prost_types::Timestamp {
                        seconds: i64::from(*second),
                        nanos: 0,
                    })
                })
            }
        };
        let done = shared.ledger.all_done();
        let request = self.spec.request(&shared.database, start);
        let mut stream = within_opening(client.watch(request)).await?.into_inner();
        let first = within_opening(stream.message()).await?;
        let Some(pb::WatchResponse {
            kind: Some(Kind::Opened(opened)),
            resume_token,
        }) = first
        else {
            return Err(Status::data_loss(format!("a watch began with {first:?}")));
        };
        self.opened = opened;
        if self.checker.is_none() {
            let spec = self.spec.clone();
            let expects = Arc::new(move |write: &_| spec.expects(write));
            let (done, begun) = match since {
                Some((_, first)) => (first.clone(), first),
                None => (done, shared.ledger.all_begun()),
            };
            let mut checker = DeliveryChecker::new(&shared.ledger, expects, &done, &begun);
            let stored =
                time_of(&resume_token).and_then(|time| checker.token(&resume_token, time, true));
            stored.map_err(Status::data_loss)?;
            self.checker = Some(checker);
        }
        Ok(stream)
    }

    /// Reads until a reason to stop.
    async fn read_until_stop(
        &mut self,
        mut stream: Streaming<pb::WatchResponse>,
        shared: &Shared,
        phase: &mut watch::Receiver<Phase>,
        rng: &mut Rng,
    ) -> Result<Stop, String> {
        let interval = Duration::from_secs(self.spec.progress_interval.into());
        let a_while = |rng: &mut Rng| Duration::from_millis(rng.u64(..shared.longest_pause));
        let mut until = Instant::now() + 4 * a_while(rng);
        let mut pieces = Pieces::default();
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Empty {
                return Ok(Stop::Empty);
            }
            let message = tokio::select! {
                message = timeout(3 * interval + SILENCE_LIMIT, stream.message()) => message,
                _ = phase.changed() => continue,
                () = sleep_until(until), if now == Phase::Load => {
                    match rng.u32(..8) {
                        0..3 => return Ok(Stop::Leave(a_while(rng))),
                        3 => return Ok(Stop::Retire),
                        _ => {}
                    }
                    // It stays connected and reads nothing.
                    shared.counters.stalls.add(1);
                    let pause = a_while(rng);
                    let _ = timeout(pause, phase.wait_for(|it| *it != Phase::Load)).await;
                    until = Instant::now() + 4 * a_while(rng);
                    continue;
                }
            };
            match message {
                Ok(Ok(Some(message))) => self.handle_message(message, &mut pieces, shared, now)?,
                Ok(Ok(None)) => return Err("the watch ended with OK".to_owned()),
                Ok(Err(status)) => return lost(&status, shared),
                Err(_) => {
                    shared.counters.silent_timeouts.add(1);
                    return Ok(Stop::Lost);
                }
            }
            if let Some(most) = self.spec.max_read_delay_ms.filter(|_| now == Phase::Load) {
                sleep(Duration::from_millis(rng.u64(..most))).await;
            }
        }
    }

    fn handle_message(
        &mut self,
        message: pb::WatchResponse,
        pieces: &mut Pieces,
        shared: &Shared,
        now: Phase,
    ) -> Result<(), String> {
        let token = message.resume_token;
        match message.kind {
            Some(Kind::Changes(batch)) if !batch.changes.is_empty() => {
                for event in &batch.changes {
                    self.handle_change(event, shared)?;
                }
                self.store(&token, false)?;
            }
            Some(Kind::EventChunk(piece)) => {
                if let Some(event) = pieces.take(piece)? {
                    self.handle_change(&event, shared)?;
                }
                self.store(&token, false)?;
            }
            Some(Kind::Progress(progress)) => {
                let time = progress.cluster_time.map(|it| (it.seconds, it.increment));
                if let Some(time) = time {
                    self.checker().progress(time)?;
                }
                self.store(&token, true)?;
                if let Phase::Calm(last) = now
                    && time.is_some_and(|time| time >= last)
                    && !self.complete
                {
                    // This progress means that every change has been sent.
                    if let Some(missing) = self.checker().missing() {
                        shared.counters.lost.add(self.checker().lost());
                        return Err(missing);
                    }
                    self.complete = true;
                    shared.complete.fetch_add(1, Ordering::SeqCst);
                }
            }
            Some(Kind::StateChange(change)) => {
                if change.state() == pb::WatchState::UpstreamReconnecting {
                    shared.counters.reconnecting.add(1);
                }
                self.store(&token, false)?;
            }
            other => return Err(format!("unexpected message: {other:?}")),
        }
        Ok(())
    }

    fn handle_change(&mut self, event: &pb::ChangeEvent, shared: &Shared) -> Result<(), String> {
        let checker = self.checker();
        let repeats = checker.repeats;
        checker.change(&observed(event)?)?;
        shared.counters.repeats.add(checker.repeats - repeats);
        shared.counters.events.add(1);
        self.handled += 1;
        let stores = self.handled >= self.spec.store_every;
        if stores {
            self.handled = 0;
        }
        // The token of any event can be stored, even in the middle of a message.
        self.store(&event.resume_token, stores)
    }

    fn store(&mut self, token: &bytes::Bytes, stores: bool) -> Result<(), String> {
        let time = time_of(token)?;
        self.checker().token(token, time, stores)
    }

    fn checker(&mut self) -> &mut DeliveryChecker {
        self.checker.as_mut().expect("its first watch has opened")
    }
}

/// A second that lies within the oplog, and the first write of each writer in or after it.
fn recent_start(ledger: &Ledger, rng: &mut Rng) -> Option<(u32, Vec<u32>)> {
    let (last, _) = ledger.last_seen()?;
    let second = last.saturating_sub(rng.u32(..15));
    let first = ledger.first_since(second)?;
    // Otherwise it may lie before the oplog.
    first.iter().any(|it| *it > 0).then_some((second, first))
}

/// Decides whether a watch that ended with this status is resumed.
fn lost(status: &Status, shared: &Shared) -> Result<Stop, String> {
    let why = may_resume(status)?;
    let why = why.split(':').next().unwrap_or_default();
    shared.counters.ended(why);
    Ok(Stop::Lost)
}

/// Opens watches and leaves before they are open, until all clients leave.
pub async fn open_and_abandon(shared: Arc<Shared>, mut phase: watch::Receiver<Phase>, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while *phase.borrow_and_update() == Phase::Load {
        let mut client = LoadClient::new(WatchSpec::random(&mut rng));
        let patience = Duration::from_millis(rng.u64(..40));
        let _ = timeout(patience, client.open(&shared, &mut rng)).await;
        shared.counters.abandoned.add(1);
        let pause = Duration::from_millis(rng.u64(..400));
        let _ = timeout(pause, phase.changed()).await;
    }
}

async fn within_opening<T>(opening: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let opened = timeout(OPEN_LIMIT, opening).await;
    opened.unwrap_or_else(|_| Err(Status::unavailable("the opening takes too long")))
}
