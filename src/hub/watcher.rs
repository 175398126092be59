//! One watch's end of the hub: live in a ring, or catching up to it.

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
        catch_up::{Opening, Ready, Route, Running},
        loan::Loan,
        registry::Lease,
        relay::{self, Entry},
        ring::{self, Cursor, Invalidation, Place, Tail},
        seat::Seat,
        segment::Run,
        stream::next_time,
        sync::lock,
        token::fitting,
        unsent,
    },
    metrics::{Mode, Stage},
    plan::{FeedMode, Invalidate, Plan, Residual, Start, Watch},
    source::{ClusterTime, Position},
    wire::{Anchor, ResumeToken, TokenContext},
};

/// How long a call waits for MongoDB to open the stream of a watch that has a place already.
const OPENING_PATIENCE: Duration = Duration::from_secs(5);

/// A watch's end of the hub.
#[derive(Debug)]
pub struct Watcher {
    hub: Arc<Inner>,
    watch: Arc<Watch>,
    lease: Lease,
    shared: Shared,
    seat: Arc<Seat>,
    seat_number: usize,
    stand: Stand,
    /// The stage that the client was told last, and the time of its last progress.
    told: Option<Stage>,
    told_time: Option<ClusterTime>,
    start: Beginning,
    /// A place that a catch-up came to before it gave up, with nothing to take between that and the
    /// place of the token that comes first.
    further: Option<(Bytes, Bytes)>,
}

/// The scope's shared stream, which suits a token of any plan.
#[derive(Debug)]
struct Shared {
    plan: Arc<Plan>,
    token_context: TokenContext,
}

/// A place to go on from.
#[derive(Debug)]
struct Wanted {
    position: Position,
    /// The last event before it, where it is known.
    anchor: Option<Anchor>,
    /// The token that it was read from: which stream made it.
    made_by: Option<ResumeToken>,
    /// Whether it is now, and MongoDB does not tell its time.
    timeless: bool,
}

impl From<ResumeToken> for Wanted {
    fn from(token: ResumeToken) -> Self {
        Self {
            position: token.position.clone(),
            anchor: token.anchor,
            made_by: Some(token),
            timeless: false,
        }
    }
}

#[derive(Debug)]
enum Stand {
    Live(Cursor),
    CatchingUp(Running),
    /// Fallen off the ring: holds nothing but its place, until it is read again.
    Parked,
    Over(Error),
}

/// Where a watch begins.
#[derive(Debug)]
pub struct Beginning {
    /// The place.
    pub position: Position,
    /// Its token: the client's own where it sent one.
    pub token: Bytes,
    /// Whether a stream had to be opened by time in place of the token asked for.
    pub by_time: bool,
}

/// What there is to read.
#[derive(Debug)]
pub enum Read {
    /// Events.
    Events(Run),
    /// The watch goes on in another stage.
    Stage(Stage, &'static str),
    /// The watched collection or database is gone, with the token of the place right after.
    Invalidated(Invalidation, Bytes),
    /// The watch has ended, and everything before that has been read.
    Ended(Error),
}

impl Inner {
    /// Begins a watch. What can be known at once, MongoDB has answered when this returns.
    pub(super) async fn subscribe(self: &Arc<Self>, watch: &Arc<Watch>) -> Result<Watcher, Error> {
        let keys = self.settings.token_keys.as_ref();
        let deployment = self.deployment().await?;
        let shared_plan = Arc::new(Plan::shared(watch));
        let shared = Shared {
            token_context: TokenContext::new(deployment, &shared_plan).with_keys(keys.cloned()),
            plan: shared_plan,
        };
        let token = match &watch.start {
            Start::Token(token) => Some(fitting(token, &shared.token_context, &watch.view)?),
            Start::Now | Start::Time(_) => None,
        };
        let dedicated = Plan::dedicated(watch);
        let wish = match watch.feed_mode {
            // Where it ends rests on replies without events, which prove most on a stream that leaves
            // none out.
            FeedMode::Auto if watch.end_time.is_some() => FeedMode::Shared,
            mode => mode,
        };
        let lease = self.lease(wish, dedicated, &shared.plan).await?;
        let seat = Arc::new(Seat::default());
        let wanted = self.wanted(watch, token, &lease).await?;
        let timeless = wanted.timeless;
        let route = route(&lease, &shared, watch, wanted);
        let stood = self.stand_at(route, timeless, watch, &lease, &seat).await;
        let (stand, start) = stood.map_err(|error| unsent::told(error, &watch.view, keys))?;
        seat.reach(start.position.time().seconds);
        Ok(Watcher {
            hub: Arc::clone(self),
            watch: Arc::clone(watch),
            lease,
            shared,
            seat_number: lock(&self.seats).insert(Arc::clone(&seat)),
            seat,
            stand,
            told: None,
            told_time: None,
            start,
            further: None,
        })
    }

    /// Joins the ring at the place that a route starts at, or takes the route.
    async fn stand_at(
        self: &Arc<Self>,
        route: Route,
        timeless: bool,
        watch: &Watch,
        lease: &Lease,
        seat: &Arc<Seat>,
    ) -> Result<(Stand, Beginning), Error> {
        let residual = residual(watch, lease.mode);
        let mut start = Beginning {
            token: match &watch.start {
                Start::Token(token) => token.clone(),
                Start::Now | Start::Time(_) => {
                    let anchor = route.anchor.as_ref();
                    route
                        .token_context
                        .encode(&route.from, anchor, watch.view.audience)
                }
            },
            position: route.from.clone(),
            by_time: false,
        };
        let place = if timeless {
            Place::Now
        } else {
            Place::After(&route.from, route.anchor.as_ref())
        };
        if let Some(cursor) = lease.feed.ring.join(&residual, seat, &place) {
            return Ok((Stand::Live(cursor), start));
        }
        let ready = self.begin(&route, watch.progress_interval).await?;
        start.by_time = matches!(&ready, Ready::Open(_, opened) if opened.seam.is_some());
        let running = Running::start(self, &lease.feed, residual, seat, route, ready);
        Ok((Stand::CatchingUp(running), start))
    }

    /// The place that a watch wants to begin at.
    async fn wanted(
        &self,
        watch: &Watch,
        token: Option<ResumeToken>,
        lease: &Lease,
    ) -> Result<Wanted, Error> {
        let mut timeless = false;
        let time = match (&watch.start, token) {
            (_, Some(token)) => return Ok(Wanted::from(token)),
            (Start::Time(seconds), None) => ClusterTime {
                seconds: *seconds,
                // MongoDB counts the operations of a second from 1.
                increment: 1,
            },
            // The first watcher of a feed begins where the feed does.
            (Start::Now | Start::Token(_), None) if lease.new => {
                let position = lease.feed.start.clone();
                let origin = position.token().map(|it| Anchor::new(it, position.time()));
                return Ok(Wanted {
                    position,
                    anchor: origin,
                    made_by: None,
                    timeless: false,
                });
            }
            (Start::Now | Start::Token(_), None) => {
                let now = self.clock.now().await.map_err(|error| {
                    tracing::warn!(code = error.code, %error, "mongodb does not tell the time");
                    Error::from(&error)
                })?;
                let now = now.or(lease.feed.ring.tail().upstream);
                timeless = now.is_none();
                // Not where the ring ends by now: what it was given since then comes after this place.
                next_time(now.unwrap_or_default())
            }
        };
        Ok(Wanted {
            position: Position::Time(time),
            anchor: None,
            made_by: None,
            timeless,
        })
    }

    /// Opens the stream to catch up with, if there is a turn free. What MongoDB says within
    /// `patience` the client hears in place of a stream; then the watch is to begin all the same, as
    /// nobody can tell a call that waits from a dead one.
    async fn begin(&self, route: &Route, patience: Duration) -> Result<Ready, Error> {
        let Some(turn) = self.turns.at_once() else {
            return Ok(Ready::Waiting);
        };
        let mut opening = Opening::begin(self, turn, route);
        match timeout(patience.min(OPENING_PATIENCE), opening.answer()).await {
            Ok(answer) => {
                let (turn, opened) = answer?;
                Ok(Ready::Open(turn, Box::new(opened?)))
            }
            Err(_) => Ok(Ready::Opening(opening)),
        }
    }
}

impl Watcher {
    /// Takes what there is to read, or arranges to be woken. `token` is that of the place after what
    /// was taken before, from which to go on should the ring no longer hold it.
    pub fn poll_read(&mut self, context: &mut Context<'_>, token: &[u8]) -> Poll<Read> {
        self.seat.await_news(context);
        let audience = self.watch.view.audience;
        loop {
            let read = match &mut self.stand {
                Stand::Live(cursor) => match cursor.read() {
                    ring::Read::Run(run) => Read::Events(run),
                    ring::Read::Stage(stage, reason) => Read::Stage(stage, reason),
                    ring::Read::Invalidated(it) => {
                        let token =
                            self.lease
                                .feed
                                .ring
                                .token_context
                                .encode(&it.position, None, audience);
                        Read::Invalidated(it, token)
                    }
                    ring::Read::Ended(error) => Read::Ended(error),
                    ring::Read::Nothing => return Poll::Pending,
                    ring::Read::Later => {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    ring::Read::Fallen => {
                        self.hub.metrics.count_fell_behind();
                        self.stand = Stand::Parked;
                        continue;
                    }
                },
                Stand::CatchingUp(running) => match running.relay.read() {
                    relay::Read::Entry(Entry::Run(run)) => Read::Events(run),
                    relay::Read::Entry(Entry::Stage(stage, reason)) => Read::Stage(stage, reason),
                    relay::Read::Entry(Entry::Invalidated(it)) => {
                        let token = running.token_context.encode(&it.position, None, audience);
                        Read::Invalidated(it, token)
                    }
                    relay::Read::Nothing => return Poll::Pending,
                    relay::Read::End(relay::End::Failed(error)) => Read::Ended(error),
                    relay::Read::End(relay::End::GivenUp) => {
                        let left_at = running.relay.left_at();
                        self.further = left_at.map(|tail| {
                            let (at, anchor) = (&tail.position, tail.anchor.as_ref());
                            let place = running.token_context.encode(at, anchor, audience);
                            (Bytes::copy_from_slice(token), place)
                        });
                        self.stand = Stand::Parked;
                        continue;
                    }
                    relay::Read::End(relay::End::Joined(mut cursor)) => {
                        cursor.knows(self.told, self.told_time);
                        self.stand = Stand::Live(cursor);
                        continue;
                    }
                },
                Stand::Parked => match self.catch_up(token) {
                    Ok(()) => Read::Stage(Stage::CatchingUp, "reading again what went by unread"),
                    Err(error) => Read::Ended(error),
                },
                Stand::Over(error) => Read::Ended(error.clone()),
            };
            let read = match read {
                Read::Ended(error) => {
                    let keys = self.hub.settings.token_keys.as_ref();
                    Read::Ended(unsent::told(error, &self.watch.view, keys))
                }
                read => read,
            };
            match &read {
                Read::Stage(stage, _) if self.told.replace(*stage) == Some(*stage) => continue,
                Read::Invalidated(invalidation, _) if self.watch.invalidate == Invalidate::End => {
                    self.stand = Stand::Over(Error::Invalidated {
                        scope: self.watch.scope.clone(),
                        cause: invalidation.cause,
                    });
                }
                Read::Ended(error) => self.stand = Stand::Over(error.clone()),
                _ => {}
            }
            return Poll::Ready(read);
        }
    }

    /// Gives back the events of a run from one on: they come again with the next read. A watch that is
    /// not read so holds nothing of them.
    pub fn put_back(&mut self, run: Run, at: usize) {
        match &mut self.stand {
            Stand::Live(cursor) => cursor.put_back(&run, at),
            Stand::CatchingUp(running) => running.relay.put_back(run.rest(at)),
            // It goes on from its token.
            Stand::Parked | Stand::Over(_) => {}
        }
    }

    /// Holds the encoding of an event for as long as it takes to send it, and as memory allows.
    #[must_use]
    pub fn lend(&self, bytes: Bytes) -> Loan {
        self.hub.memory.loans.lend(bytes)
    }

    /// Goes back to the place whose token comes with the next read: what follows it is read again.
    pub fn go_back(&mut self) {
        self.hub.metrics.count_fell_behind();
        self.stand = Stand::Parked;
    }

    /// Where the stream is, with the token of that place, if everything up to there has been taken.
    pub fn progress(&mut self) -> Option<(Tail, Bytes)> {
        let (tail, token_context) = match &mut self.stand {
            Stand::Live(cursor) => (cursor.tail_if_read()?, &self.lease.feed.ring.token_context),
            Stand::CatchingUp(running) => (running.relay.tail_if_read()?, &running.token_context),
            Stand::Parked | Stand::Over(_) => return None,
        };
        let audience = self.watch.view.audience;
        let token = token_context.encode(&tail.position, tail.anchor.as_ref(), audience);
        self.told_time = Some(tail.position.time());
        Some((tail, token))
    }

    /// Where it begins.
    #[must_use]
    pub fn beginning(&self) -> &Beginning {
        &self.start
    }

    /// The time of the place that one of its tokens stands for.
    #[must_use]
    pub fn time_of(&self, token: &[u8]) -> Option<ClusterTime> {
        let token = ResumeToken::decode(token, self.shared.token_context.keys()).ok()?;
        Some(token.position.time())
    }

    /// Whether it has a change stream that MongoDB filters for it, or shares its scope's.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.lease.mode
    }

    /// Says how far the client has been served, by the second.
    pub fn reach(&self, second: u32) {
        self.seat.reach(second);
    }

    /// Whether the server is shutting down. A watcher that waits is woken when it begins to.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.hub.is_draining()
    }

    fn catch_up(&mut self, token: &[u8]) -> Result<(), Error> {
        let further = self.further.take().filter(|(after, _)| after == token);
        let token = further.as_ref().map_or(token, |(_, place)| place);
        // It was sealed here, or taken from the client and read before, but its key may be gone.
        let keys = self.shared.token_context.keys();
        let token = ResumeToken::decode(token, keys)
            .map_err(|problem| Error::TokenMalformed(problem.to_string()))?;
        let wanted = Wanted::from(token);
        let route = route(&self.lease, &self.shared, &self.watch, wanted);
        let residual = residual(&self.watch, self.lease.mode);
        let running = Running::start(
            &self.hub,
            &self.lease.feed,
            residual,
            &self.seat,
            route,
            Ready::Waiting,
        );
        self.stand = Stand::CatchingUp(running);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        lock(&self.hub.seats).remove(self.seat_number);
    }
}

/// What is left to decide for a watch of its feed's events.
fn residual(watch: &Watch, mode: Mode) -> Residual {
    match mode {
        Mode::Dedicated => Residual::beyond(watch),
        Mode::Shared => Residual::of(watch),
    }
}

/// How to catch up from a place: on the feed's own stream if that made the token, else on the scope's
/// shared one, which leaves no event out and so knows any token's.
fn route(lease: &Lease, shared: &Shared, watch: &Watch, wanted: Wanted) -> Route {
    let feed = &lease.feed;
    let Wanted {
        position: from,
        anchor,
        made_by,
        timeless: _,
    } = wanted;
    let of = |token_context: &TokenContext| {
        made_by
            .as_ref()
            .is_none_or(|token| token.is_same_plan(token_context))
    };
    let of_feed = of(&feed.ring.token_context);
    // Only of these two is it certain that the feed's stream has nothing between anchor and place.
    let anchor = anchor.filter(|_| of_feed || of(&shared.token_context));
    if of_feed {
        Route {
            plan: Arc::clone(&feed.plan),
            token_context: feed.ring.token_context.clone(),
            residual: residual(watch, lease.mode),
            from,
            anchor,
            shared: Arc::clone(&shared.plan),
            whole: Residual::of(watch),
        }
    } else {
        Route {
            plan: Arc::clone(&shared.plan),
            token_context: shared.token_context.clone(),
            residual: Residual::of(watch),
            from,
            anchor,
            shared: Arc::clone(&shared.plan),
            whole: Residual::of(watch),
        }
    }
}
