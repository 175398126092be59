//! A client that watches, stores its place and comes back, and now and then stays away, stops
//! reading or begins anew; and one that only ever begins.

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

use crate::support::ledger::{Ledger, Pieces, Reading, Time, may_go_on, time_of};

use super::asking::Asking;
use super::connections::Connections;
use super::figures::Figures;
use super::writing::seen;

/// How long an opening may take before it is given up.
const OPENING: Duration = Duration::from_secs(10);
/// How long a stream may be silent beyond three of its intervals before it is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// What all clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// They come, go, stall and come back.
    Load,
    /// They read all there is: nobody writes any more, and the last write was made at this time or
    /// before.
    Calm(Time),
    /// They leave.
    Empty,
}

/// What all clients share.
pub struct Common {
    pub database: String,
    pub ledger: Arc<Ledger>,
    pub connections: Connections,
    pub figures: Arc<Figures>,
    /// How many have got everything in [`Phase::Calm`].
    pub complete: AtomicU32,
    /// The longest time that a client may stay away or stop reading, in milliseconds.
    pub longest_pause: u64,
}

/// A client and how far it has come, from one server to the next.
pub struct Follower {
    asking: Asking,
    /// Set once its first watch has opened.
    reading: Option<Reading>,
    handled: u32,
    /// How its last watch began.
    opened: pb::Opened,
    /// Whether it has got everything in this cycle.
    complete: bool,
}

/// Why a client stopped reading.
enum Stop {
    /// It leaves, for so long.
    Leave(Duration),
    /// It leaves for good, and another comes in its place.
    Retire,
    /// The stream ended, or fell silent.
    Lost,
    /// All are to leave.
    Empty,
}

impl Follower {
    /// One that has not begun.
    pub fn new(asking: Asking) -> Self {
        Self {
            asking,
            reading: None,
            handled: 0,
            opened: pb::Opened::default(),
            complete: false,
        }
    }

    /// Watches until all are to leave.
    ///
    /// # Errors
    /// What it must not have seen, or did not get.
    pub async fn follow(
        mut self,
        common: Arc<Common>,
        mut phase: watch::Receiver<Phase>,
        seed: u64,
    ) -> Result<Self, String> {
        let mut dice = Rng::with_seed(seed);
        let mut failures = 0;
        self.complete = false;
        loop {
            let opened = tokio::select! {
                opened = self.open(&common, &mut dice) => opened,
                _ = phase.wait_for(|it| *it == Phase::Empty) => return self.left(),
            };
            let stop = match opened {
                Ok(stream) => {
                    let _held = common.figures.held.enter();
                    failures = 0;
                    self.read_on(stream, &common, &mut phase, &mut dice).await
                }
                Err(status) => lost(&status, &common),
            };
            let stop = stop.map_err(|problem| self.accuse(&problem))?;
            let pause = match stop {
                Stop::Empty => return self.left(),
                Stop::Retire => {
                    self = Self::new(Asking::random(&mut dice));
                    Duration::ZERO
                }
                Stop::Leave(pause) => pause,
                Stop::Lost => {
                    failures += 1;
                    Duration::from_millis(dice.u64(..50 << failures.min(6)))
                }
            };
            // Whoever is away when all is to be read comes back for it.
            let _ = timeout(pause, phase.wait_for(|it| *it != Phase::Load)).await;
        }
    }

    /// It has to have everything then.
    fn left(mut self) -> Result<Self, String> {
        if self.complete {
            return Ok(self);
        }
        let missing = self.reading.as_mut().and_then(Reading::missing);
        let missing = missing.unwrap_or_else(|| "no progress to the end".to_owned());
        Err(self.accuse(&format!("not complete in time: {missing}")))
    }

    fn accuse(&self, problem: &str) -> String {
        let Self { asking, opened, .. } = self;
        format!("{problem}\n    asked for: {asking:?}\n    opened with: {opened:?}")
    }

    /// Opens a watch where it left off, or anywhere if it has not begun.
    async fn open(
        &mut self,
        common: &Common,
        dice: &mut Rng,
    ) -> Result<Streaming<pb::WatchResponse>, Status> {
        let mut client = common.connections.client(self.asking.narrow, dice);
        let mut since = None;
        let start = match &mut self.reading {
            Some(reading) => {
                common.figures.resumed.add(1);
                reading.come_back().map(Start::ResumeToken)
            }
            None => {
                since = (dice.u32(..4) == 0)
                    .then(|| a_while_ago(&common.ledger, dice))
                    .flatten();
                since.as_ref().map(|(second, _)| {
                    Start::StartTime(prost_types::Timestamp {
                        seconds: i64::from(*second),
                        nanos: 0,
                    })
                })
            }
        };
        let done = common.ledger.all_done();
        let request = self.asking.request(&common.database, start);
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
        if self.reading.is_none() {
            let asking = self.asking.clone();
            let wants = Arc::new(move |write: &_| asking.wants(write));
            let (done, begun) = match since {
                Some((_, first)) => (first.clone(), first),
                None => (done, common.ledger.all_begun()),
            };
            let mut reading = Reading::new(&common.ledger, wants, &done, &begun);
            let stored =
                time_of(&resume_token).and_then(|time| reading.token(&resume_token, time, true));
            stored.map_err(Status::data_loss)?;
            self.reading = Some(reading);
        }
        Ok(stream)
    }

    /// Reads until something makes it stop.
    async fn read_on(
        &mut self,
        mut stream: Streaming<pb::WatchResponse>,
        common: &Common,
        phase: &mut watch::Receiver<Phase>,
        dice: &mut Rng,
    ) -> Result<Stop, String> {
        let interval = Duration::from_secs(self.asking.progress_interval.into());
        let a_while = |dice: &mut Rng| Duration::from_millis(dice.u64(..common.longest_pause));
        let mut until = Instant::now() + 4 * a_while(dice);
        let mut pieces = Pieces::default();
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Empty {
                return Ok(Stop::Empty);
            }
            let message = tokio::select! {
                message = timeout(3 * interval + SILENCE, stream.message()) => message,
                _ = phase.changed() => continue,
                () = sleep_until(until), if now == Phase::Load => {
                    match dice.u32(..8) {
                        0..3 => return Ok(Stop::Leave(a_while(dice))),
                        3 => return Ok(Stop::Retire),
                        _ => {}
                    }
                    // It stays, and reads nothing.
                    common.figures.stalls.add(1);
                    let pause = a_while(dice);
                    let _ = timeout(pause, phase.wait_for(|it| *it != Phase::Load)).await;
                    until = Instant::now() + 4 * a_while(dice);
                    continue;
                }
            };
            match message {
                Ok(Ok(Some(message))) => self.take(message, &mut pieces, common, now)?,
                Ok(Ok(None)) => return Err("the watch ended with OK".to_owned()),
                Ok(Err(status)) => return lost(&status, common),
                Err(_) => {
                    common.figures.silences.add(1);
                    return Ok(Stop::Lost);
                }
            }
            if let Some(most) = self.asking.dawdles.filter(|_| now == Phase::Load) {
                sleep(Duration::from_millis(dice.u64(..most))).await;
            }
        }
    }

    fn take(
        &mut self,
        message: pb::WatchResponse,
        pieces: &mut Pieces,
        common: &Common,
        now: Phase,
    ) -> Result<(), String> {
        let token = message.resume_token;
        match message.kind {
            Some(Kind::Changes(batch)) if !batch.changes.is_empty() => {
                for event in &batch.changes {
                    self.take_change(event, common)?;
                }
                self.store(&token, false)?;
            }
            Some(Kind::EventChunk(piece)) => {
                if let Some(event) = pieces.take(piece)? {
                    self.take_change(&event, common)?;
                }
                self.store(&token, false)?;
            }
            Some(Kind::Progress(progress)) => {
                let time = progress.cluster_time.map(|it| (it.seconds, it.increment));
                if let Some(time) = time {
                    self.reading().progress(time)?;
                }
                self.store(&token, true)?;
                if let Phase::Calm(last) = now
                    && time.is_some_and(|time| time >= last)
                    && !self.complete
                {
                    // It says that everything has come.
                    if let Some(missing) = self.reading().missing() {
                        common.figures.lost.add(self.reading().lost());
                        return Err(missing);
                    }
                    self.complete = true;
                    common.complete.fetch_add(1, Ordering::SeqCst);
                }
            }
            Some(Kind::StateChange(change)) => {
                if change.state() == pb::WatchState::UpstreamReconnecting {
                    common.figures.reconnecting.add(1);
                }
                self.store(&token, false)?;
            }
            other => return Err(format!("nobody expected {other:?}")),
        }
        Ok(())
    }

    fn take_change(&mut self, event: &pb::ChangeEvent, common: &Common) -> Result<(), String> {
        let reading = self.reading();
        let repeats = reading.repeats;
        reading.change(&seen(event)?)?;
        common.figures.repeats.add(reading.repeats - repeats);
        common.figures.events.add(1);
        self.handled += 1;
        let stores = self.handled >= self.asking.stores_each;
        if stores {
            self.handled = 0;
        }
        // Any event's token will do, in the midst of a message as well.
        self.store(&event.resume_token, stores)
    }

    fn store(&mut self, token: &bytes::Bytes, stores: bool) -> Result<(), String> {
        let time = time_of(token)?;
        self.reading().token(token, time, stores)
    }

    fn reading(&mut self) -> &mut Reading {
        self.reading.as_mut().expect("its first watch has opened")
    }
}

/// A second that most of the oplog is before, and the first write of each writer that is not.
fn a_while_ago(ledger: &Ledger, dice: &mut Rng) -> Option<(u32, Vec<u32>)> {
    let (last, _) = ledger.last_seen()?;
    let second = last.saturating_sub(dice.u32(..15));
    let first = ledger.first_since(second)?;
    // Else it may be before the oplog.
    first.iter().any(|it| *it > 0).then_some((second, first))
}

/// Whether a watch that ended so is tried again.
fn lost(status: &Status, common: &Common) -> Result<Stop, String> {
    let why = may_go_on(status)?;
    let why = why.split(':').next().unwrap_or_default();
    common.figures.ended(why);
    Ok(Stop::Lost)
}

/// Begins watches and leaves before they are open, until all are to leave.
pub async fn begin_only(common: Arc<Common>, mut phase: watch::Receiver<Phase>, seed: u64) {
    let mut dice = Rng::with_seed(seed);
    while *phase.borrow_and_update() == Phase::Load {
        let mut follower = Follower::new(Asking::random(&mut dice));
        let patience = Duration::from_millis(dice.u64(..40));
        let _ = timeout(patience, follower.open(&common, &mut dice)).await;
        common.figures.broken_off.add(1);
        let pause = Duration::from_millis(dice.u64(..400));
        let _ = timeout(pause, phase.changed()).await;
    }
}

async fn within_opening<T>(opening: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let opened = timeout(OPENING, opening).await;
    opened.unwrap_or_else(|_| Err(Status::unavailable("the opening takes too long")))
}
