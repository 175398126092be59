//! Reads for one watcher what is no longer, or not yet, in a ring, and hands over to the ring.
//!
//! A catch-up has a change stream of its own. It hands over as soon as the ring holds the event that
//! it has come to: equal tokens, so that nothing is missed and nothing comes twice. On a quiet
//! collection no event comes; then MongoDB is asked whether there is anything up to the time at which
//! the ring ended a moment ago (a [`Fence`](super::ring::Fence)).

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::{
    error::Error,
    hub::{
        Inner,
        feed::Intake,
        open::{Opened, open},
        registry::OpenFeed,
        relay::{End, Entry, Relay},
        ring::{Cursor, Invalidation, Known, Place, Tail},
        seat::Seat,
        segment::Run,
        stream::{Stream, Told, next_time, own},
        turns::Turn,
    },
    metrics::Stage,
    plan::{Judge, Plan, Residual, Subject},
    source::{Batch, BatchSize, ClusterTime, Position, SourceError},
    wire::{Anchor, TokenContext},
};

/// How long a client may leave what was read for it unread before its turn goes to another.
const STALLED: Duration = Duration::from_secs(10);

/// How many replies are looked through for whether anything is left. A fence is a second old at most.
const LOOKED_THROUGH: usize = 8;

/// How long a turn may take, while others wait for one, that its client does not keep up with.
const LONG_TURN: Duration = Duration::from_secs(30);

/// Where and how to catch up.
#[derive(Debug)]
pub(super) struct Route {
    /// The stream to read: the feed's own plan, or the scope's shared one.
    pub plan: Arc<Plan>,
    /// What its tokens are sealed with.
    pub token_context: TokenContext,
    /// What is left to decide of that stream's events.
    pub residual: Residual,
    /// Where to start.
    pub from: Position,
    /// The last event before that, where it is known and one of the feed's own stream.
    pub anchor: Option<Anchor>,
    /// The scope's shared stream, and what the watch takes of it.
    pub shared: Arc<Plan>,
    pub whole: Residual,
}

/// How far a catch-up is when it starts.
pub(super) enum Ready {
    /// It has its turn, and its stream is open.
    Open(Turn, Box<Opened>),
    /// MongoDB takes long over the opening: it may have to go through much of the oplog for the first
    /// event.
    Opening(Opening),
    /// It has to wait for its turn.
    Waiting,
}

/// An opening that is under way, and its turn. Should nobody wait for it any more, it still costs
/// MongoDB a scan and Weir a connection: so it keeps its turn until MongoDB has answered.
pub(super) struct Opening(JoinHandle<(Turn, Result<Opened, Error>)>);

impl Opening {
    pub(super) fn begin(hub: &Inner, turn: Turn, route: &Route) -> Self {
        let source = Arc::clone(&hub.source);
        let (plan, token_context) = (Arc::clone(&route.plan), route.token_context.clone());
        let from = route.from.clone();
        let opening = async move {
            (
                turn,
                open(&*source, &plan, &token_context, Some(&from)).await,
            )
        };
        Self(hub.runtime.spawn(opening.in_current_span()))
    }

    /// MongoDB's answer, and the turn. Can be dropped and asked for again.
    pub(super) async fn answer(&mut self) -> Result<(Turn, Result<Opened, Error>), Error> {
        // It panicked, or the runtime ends.
        (&mut self.0).await.map_err(|_| Error::Internal)
    }
}

/// A catch-up that runs until it has handed over. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    pub relay: Arc<Relay>,
    pub token_context: TokenContext,
    _task: AbortOnDropHandle<()>,
}

struct CatchUp {
    hub: Arc<Inner>,
    feed: Arc<OpenFeed>,
    /// What the watcher takes of the ring.
    residual: Residual,
    seat: Arc<Seat>,
    relay: Arc<Relay>,
    route: Route,
    /// `None`: every event is taken.
    judge: Option<Judge>,
    /// The last event that came, and the last one that the watcher takes.
    last: Option<Position>,
    last_taken: Option<Position>,
    /// A time that the place where it began has surely not passed, where that place has no time of
    /// its own.
    began_by: Option<ClusterTime>,
    /// Its turn, and since when it has had it.
    turn: Option<(Turn, Instant)>,
}

/// Ends the relay of a catch-up that panics.
struct EndOnPanic(Arc<Relay>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(End::Failed(Error::Internal));
        }
    }
}

/// What is known of the stretch between a place and a time.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// There is no event in it.
    Nothing,
    /// There are events, and none that this watch takes.
    NothingForIt,
    /// There may be something.
    Something,
}

/// The client did not read.
struct GaveUp;

impl Running {
    /// Begins to catch up.
    pub(super) fn start(
        hub: &Arc<Inner>,
        feed: &Arc<OpenFeed>,
        residual: Residual,
        seat: &Arc<Seat>,
        route: Route,
        ready: Ready,
    ) -> Self {
        let relay = Arc::new(Relay::new(Arc::clone(seat)));
        let token_context = route.token_context.clone();
        let why = match ready {
            Ready::Open(..) => None,
            Ready::Opening(..) => Some("waiting for MongoDB to find the place"),
            Ready::Waiting => Some("waiting for its turn to read what went before"),
        };
        if let Some(why) = why {
            relay.push(Entry::Stage(Stage::CatchingUp, why));
        }
        let judge = (!route.residual.passes_everything()).then(|| Judge::new(&route.residual));
        let catch_up = CatchUp {
            hub: Arc::clone(hub),
            feed: Arc::clone(feed),
            residual,
            seat: Arc::clone(seat),
            relay: Arc::clone(&relay),
            route,
            judge,
            last: None,
            last_taken: None,
            began_by: None,
            turn: None,
        };
        let stop = hub.stop.clone();
        let task = async move {
            stop.run_until_cancelled(catch_up.run(ready)).await;
        };
        let task = hub.tasks.spawn(task.instrument(seat.span.clone()));
        Self {
            relay,
            token_context,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

impl CatchUp {
    async fn run(mut self, ready: Ready) {
        // Should the task die of a panic, its watch must not wait for ever.
        let relay = EndOnPanic(Arc::clone(&self.relay));
        let end = match self.run_to_end(ready).await {
            Ok(end) => end,
            Err(error) => End::Failed(error),
        };
        relay.0.end(end);
        // What was read for a client that does not read must not lie here without a turn.
        if timeout(STALLED, relay.0.taken()).await.is_err() {
            relay.0.end(End::GivenUp);
        }
    }

    async fn run_to_end(&mut self, ready: Ready) -> Result<End, Error> {
        let (turn, opened) = match ready {
            Ready::Open(turn, opened) => (turn, Some(*opened)),
            Ready::Opening(opening) => self.opened(opening).await?,
            Ready::Waiting => {
                let turn = self.hub.turns.wait().await;
                // Others may have found out meanwhile what was missing.
                if let Some(cursor) = self.join() {
                    return Ok(End::Joined(cursor));
                }
                self.opened(Opening::begin(&self.hub, turn, &self.route))
                    .await?
            }
        };
        self.turn = Some((turn, Instant::now()));
        let relay = Arc::clone(&self.relay);
        let mut stream = Stream::new(
            Arc::clone(&self.hub.source),
            (
                Arc::clone(&self.route.plan),
                self.route.token_context.clone(),
            ),
            Arc::clone(&self.hub.metrics),
            self.hub.settings.upstream_grace,
            self.route.from.clone(),
        );
        match opened {
            Some(opened) => stream.begin(opened),
            None => stream.open(&mut Telling(&relay)).await?,
        }
        let mut intake = Intake::new(
            Arc::clone(&self.route.plan),
            self.route.token_context.clone(),
            Arc::clone(&self.hub.memory.budget),
            Arc::clone(&self.hub.metrics),
        );
        let mut quiet_replies = 0;
        loop {
            if self.room().await.is_err() {
                return Ok(End::GivenUp);
            }
            let batch = stream.next(&mut Telling(&relay)).await?;
            self.began_by = self.began_by.or(batch.operation_time);
            let (quiet, idle) = (batch.events.is_empty(), batch.idle);
            let position = stream.position().clone();
            let Ok(invalidation) = self.pass(batch, &mut intake, position).await else {
                return Ok(End::GivenUp);
            };
            if let Some(invalidation) = invalidation {
                let position = own(&invalidation.position);
                self.last = Some(position.clone());
                self.last_taken = Some(position.clone());
                relay.push(Entry::Invalidated(invalidation));
                // A watcher that ends here drops this.
                stream.go_on_after(position, &mut Telling(&relay)).await?;
            }
            let mut joined = self.join();
            if joined.is_none() && quiet {
                joined = self.join_at_fence(stream.position().clone()).await;
            }
            if let Some(cursor) = joined {
                return Ok(End::Joined(cursor));
            }
            if let Some(last) = &self.last {
                self.feed.ring.overtaken_at(last.time());
            }
            if !quiet {
                quiet_replies = 0;
                continue;
            }
            if idle && quiet_replies == 0 {
                relay.push(Entry::Stage(Stage::Live, ""));
            }
            quiet_replies += usize::from(idle);
            if quiet_replies > 1 && self.hub.turns.are_waited_for() {
                return Ok(End::GivenUp);
            }
        }
    }

    /// The turn, and the stream if it is open. A watch that is open already does not end because MongoDB
    /// is away for a moment.
    async fn opened(&self, mut opening: Opening) -> Result<(Turn, Option<Opened>), Error> {
        let (turn, opened) = opening.answer().await?;
        match opened {
            Ok(opened) => Ok((turn, Some(opened))),
            // Nor because a login fails; where more than that is denied, the next attempt says so.
            Err(Error::UpstreamUnavailable | Error::UpstreamAccessDenied) => Ok((turn, None)),
            Err(error) => Err(error),
        }
    }

    /// Waits until there is memory for more, unless the client leaves unread what was read for it: then
    /// that has to give way.
    async fn room(&self) -> Result<(), GaveUp> {
        tokio::select! {
            () = self.hub.memory.room() => Ok(()),
            () = self.relay.unread_for(STALLED) => Err(GaveUp),
        }
    }

    /// Waits until the watcher has made room for more, unless its turn goes to another.
    async fn writable(&self) -> Result<(), GaveUp> {
        if self.relay.is_writable() {
            return Ok(());
        }
        // A client that reads slowly has had a good part of its time already.
        let long = |(_, began): &(Turn, Instant)| began.elapsed() > LONG_TURN;
        if self.turn.as_ref().is_some_and(long) && self.hub.turns.are_waited_for() {
            return Err(GaveUp);
        }
        let writable = timeout(STALLED, self.relay.writable());
        writable.await.map_err(|_| GaveUp)
    }

    /// Hands a batch on, as the watcher makes room for it.
    async fn pass(
        &mut self,
        batch: Batch,
        intake: &mut Intake,
        position: Position,
    ) -> Result<Option<Invalidation>, GaveUp> {
        let upstream = batch.operation_time;
        let taken = intake.take(batch);
        for segment in taken.segments {
            let events = segment.events().len();
            self.last = segment.position(events - 1);
            let run = match &self.judge {
                None => Some(Run::range(Arc::clone(&segment), 0, 0, events)),
                Some(judge) => Run::judged(&segment, 0, 0..events, judge),
            };
            let Some(run) = run else { continue };
            self.last_taken = run.last_position();
            // In pieces, so that a reply of many segments does not come to lie here as a whole.
            self.writable().await?;
            self.relay.push(Entry::Run(run));
        }
        if taken.invalidation.is_none() {
            self.relay.reach(Tail {
                position,
                upstream,
                anchor: self.anchor(),
            });
        }
        Ok(taken.invalidation)
    }

    /// The last event before the place that has been reached, of the stream that is being read.
    fn anchor(&self) -> Option<Anchor> {
        match &self.last {
            Some(last) => last.token().map(|token| Anchor::new(token, last.time())),
            None => match &self.route.from {
                Position::Event { token, time } | Position::Invalidate { token, time } => {
                    Some(Anchor::new(token, *time))
                }
                Position::HighWater { .. } | Position::Time(_) => self.route.anchor,
            },
        }
    }

    /// Joins the ring, if it holds what follows the last event.
    fn join(&self) -> Option<Cursor> {
        let place = |position| Place::After(position, self.route.anchor.as_ref());
        let join = |place: Place<'_>| self.feed.ring.join(&self.residual, &self.seat, &place);
        match (&self.last, &self.last_taken) {
            (None, _) => join(place(&self.route.from)),
            (Some(last), None) => join(place(last)),
            // A feed that MongoDB filters holds only what the watcher takes.
            (Some(last), Some(taken)) => join(place(last)).or_else(|| join(place(taken))),
        }
    }

    /// Joins the ring where it ended a moment ago, if MongoDB says that nothing is left up to then.
    async fn join_at_fence(&self, at: Position) -> Option<Cursor> {
        let fence = self.feed.ring.fence()?;
        // The feed must be past the place: what it has yet to bring from before would come again.
        if self.surely_before()? > fence.time {
            return None;
        }
        let left = match self.left(&at, fence.time).await {
            Ok(left) => left,
            Err(error) => {
                tracing::debug!(code = error.code, %error, "the fence could not be asked for");
                return None;
            }
        };
        let anchor = self.anchor();
        let known = match left {
            Left::Something => return None,
            // What is nothing to this watch may be something to another.
            Left::NothingForIt => Known {
                anchor: None,
                quiet_from: None,
            },
            Left::Nothing => Known {
                anchor: anchor.as_ref(),
                quiet_from: self.quiet_from(),
            },
        };
        let place = Place::Fence(&fence, known);
        self.feed.ring.join(&self.residual, &self.seat, &place)
    }

    /// What there surely is between a place and a time.
    async fn left(&self, at: &Position, until: ClusterTime) -> Result<Left, SourceError> {
        let source = &self.hub.source;
        let unnarrowed = self.route.shared.unnarrowed();
        if source.has_no_events(&unnarrowed, at, until).await? {
            return Ok(Left::Nothing);
        }
        if *self.feed.plan == unnarrowed {
            // There is something, and both streams will come to it.
            return Ok(Left::Something);
        }
        // An empty reply of a stream that passes over events may have come before the end of them.
        // So the events themselves are looked at, up to the first one that is later.
        let judge = Judge::new(&self.route.whole);
        let mut cursor = source
            .open(&self.route.shared, Some(at), BatchSize::Default)
            .await?;
        for _ in 0..LOOKED_THROUGH {
            let batch = cursor.next().await?;
            if batch.events.is_empty() {
                break;
            }
            for event in &batch.events {
                if event.cluster_time > until {
                    return Ok(Left::NothingForIt);
                }
                let raw = &batch.buffer[event.bytes.clone()];
                let subject = Subject::read(event.operation, raw);
                if judge.judge(&subject).is_some() {
                    return Ok(Left::Something);
                }
            }
        }
        Ok(Left::Something)
    }

    /// A time that the place after the last event has surely not passed.
    fn surely_before(&self) -> Option<ClusterTime> {
        match (&self.last, &self.route.from) {
            (Some(last), _) => Some(last.time()),
            // The time beside a high-water token is one that its place has reached, and maybe passed.
            (None, Position::HighWater { .. }) => self.began_by,
            (None, from) => Some(from.time()),
        }
    }

    /// A time from which on nothing has come.
    fn quiet_from(&self) -> Option<ClusterTime> {
        match (&self.last, &self.route.from) {
            (Some(last), _) => Some(next_time(last.time())),
            (None, Position::Time(time)) => Some(*time),
            (None, Position::Event { time, .. } | Position::Invalidate { time, .. }) => {
                Some(next_time(*time))
            }
            (None, Position::HighWater { .. }) => None,
        }
    }
}

/// Tells the watcher what its stream is doing.
struct Telling<'a>(&'a Relay);

impl Told for Telling<'_> {
    fn tell(&mut self, stage: Stage, reason: &'static str) {
        self.0.push(Entry::Stage(stage, reason));
    }
}
