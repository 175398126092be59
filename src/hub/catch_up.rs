//! A catch-up reads events for one watcher that its ring does not hold, and then joins the ring.
//!
//! A catch-up has its own change stream. It joins as soon as the ring holds the event that the catch-up
//! has read last: the tokens are equal, so no event is lost or repeated. On a quiet collection no event
//! comes; then the catch-up asks MongoDB whether there is any event up to the time of a recent end of
//! the ring (a [`Barrier`](super::ring::Barrier)).

mod forward;
mod held_barrier;
mod position_times;
mod remaining;
mod stages;
mod start;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::{
    error::Error,
    filter::{Evaluator, Residual},
    hub::{
        catch_up_permits::CatchUpPermit,
        catch_up_queue::{CatchUpOutcome, CatchUpQueue, QueueItem},
        catch_ups::CatchUps,
        feed::BatchSegmenter,
        feeds::OpenFeed,
        ring::{JoinEvidence, JoinPoint, RingReader},
        stream::{OpenedStream, ReconnectingStream},
        subscriber::Subscriber,
    },
    model::Stage,
    pipeline::Plan,
    source::{Anchor, ClusterTime, Position},
    wire::TokenContext,
};

use held_barrier::{HeldBarrier, QuietReply};
use remaining::{Remaining, RemainingSearch};
use stages::QueueStageObserver;
pub(super) use start::{CatchUpSpec, CatchUpStart, PendingOpen};
use start::{KeptTurn, OpenedInTurn};

/// The time that a client has to take what was read ahead once its catch-up has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The same, when its catch-up gives its permit to another although its client reads.
const SHORT_DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// The interval at which it is checked whether others wait for a permit.
const CHECK: Duration = Duration::from_millis(250);

/// The maximum time of a search for events before an end of the ring.
const SEARCH_LIMIT: Duration = Duration::from_secs(3);

/// The pause after one that can't be repeated at once.
const SEARCH_PAUSE: Duration = Duration::from_secs(5);

/// A running catch-up. Dropping it stops it.
#[derive(Debug)]
pub(super) struct RunningCatchUp {
    pub queue: Arc<CatchUpQueue>,
    pub token_context: TokenContext,
    _task: AbortOnDropHandle<()>,
}

/// The task of a catch-up.
struct CatchUp {
    catch_ups: Arc<CatchUps>,
    feed: Arc<OpenFeed>,
    /// The residual filter for the events of the ring.
    residual: Residual,
    subscriber: Arc<Subscriber>,
    queue: Arc<CatchUpQueue>,
    spec: CatchUpSpec,
    /// Evaluates the residual filter for the stream that is read. `None`: every event matches.
    evaluator: Option<Arc<Evaluator>>,
    /// The position after the last event.
    last: Option<Position>,
    /// The position after the last event that matched.
    last_matched: Option<Position>,
    /// A time at or after the start position. Used if that is a high-water position, which may be later
    /// than its own time.
    start_upper_bound: Option<ClusterTime>,
    /// The time of the reply with the last event, or of the first reply.
    delivered_by: Option<ClusterTime>,
    held_barrier: HeldBarrier,
    /// The time before which it is not asked again whether anything is left before an end of the ring.
    next_search: Option<Instant>,
    permit: Option<CatchUpPermit>,
}

/// Ends the queue of a catch-up that panics, so that its watcher does not wait forever.
struct EndOnPanic(Arc<CatchUpQueue>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(CatchUpOutcome::Failed(Error::Internal));
        }
    }
}

/// The permit is to be given to another watch.
struct PermitWanted;

impl RunningCatchUp {
    /// Starts a catch-up in a task.
    pub(super) fn start(
        catch_ups: &Arc<CatchUps>,
        feed: &Arc<OpenFeed>,
        residual: Residual,
        subscriber: &Arc<Subscriber>,
        spec: CatchUpSpec,
        start: CatchUpStart,
    ) -> Self {
        let queue = Arc::new(CatchUpQueue::new(Arc::clone(subscriber)));
        let token_context = spec.token_context.clone();
        let reason = match start {
            CatchUpStart::Open(..) => None,
            CatchUpStart::Opening(..) => Some("waiting for MongoDB to find the position"),
            CatchUpStart::WaitingForPermit => {
                Some("waiting for a catch-up permit to read earlier events")
            }
        };
        if let Some(reason) = reason {
            queue.push(QueueItem::Stage(Stage::CatchingUp, reason));
        }
        let evaluator = evaluator_of(&spec.residual);
        let catch_up = CatchUp {
            catch_ups: Arc::clone(catch_ups),
            feed: Arc::clone(feed),
            residual,
            subscriber: Arc::clone(subscriber),
            queue: Arc::clone(&queue),
            spec,
            evaluator,
            last: None,
            last_matched: None,
            start_upper_bound: None,
            delivered_by: None,
            held_barrier: HeldBarrier::default(),
            next_search: None,
            permit: None,
        };
        let stop = catch_ups.tasks.stop_token();
        let task = async move {
            stop.run_until_cancelled(catch_up.run(start)).await;
        };
        let task = task.instrument(subscriber.span.clone());
        let task = catch_ups.tasks.spawn(task);
        Self {
            queue,
            token_context,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

impl CatchUp {
    async fn run(mut self, start: CatchUpStart) {
        let queue = EndOnPanic(Arc::clone(&self.queue));
        let outcome = match self.run_to_end(start).await {
            Ok(outcome) => outcome,
            Err(error) => CatchUpOutcome::Failed(error),
        };
        queue.0.end(outcome);
        // Unread events must not stay in memory without a permit.
        let drained = tokio::select! {
            biased;
            () = queue.0.wait_drained() => true,
            () = self.catch_ups.permits.client_stalled(&self.spec.caller, &queue.0) => false,
            () = permit_wanted(&mut self.permit) => false,
            () = sleep(DRAIN_TIMEOUT) => false,
        };
        if !drained {
            queue.0.end(CatchUpOutcome::GivenUp);
        }
    }

    async fn run_to_end(&mut self, start: CatchUpStart) -> Result<CatchUpOutcome, Error> {
        let (permit, opened) = match start {
            CatchUpStart::Open(permit, opened) => (permit, Some(*opened)),
            CatchUpStart::Opening(opening) => self.finish_open(opening).await?,
            CatchUpStart::WaitingForPermit => {
                let permit = self.catch_ups.permits.acquire(&self.spec.caller).await;
                // Meanwhile another catch-up may have added facts to the ring's history.
                if let Some(reader) = self.join() {
                    return Ok(CatchUpOutcome::Joined(reader));
                }
                self.finish_open(PendingOpen::begin(&self.catch_ups, permit, &self.spec))
                    .await?
            }
        };
        self.permit = Some(permit);
        let (opened, turn) = opened.map(|it| (it.stream, it.turn)).unzip();
        let stream = self.stream(opened).await?;
        let (catch_ups, queue) = (Arc::clone(&self.catch_ups), Arc::clone(&self.queue));
        let caller = self.spec.caller.clone();
        let of_caller = (&*catch_ups.openings, &caller);
        let outcome = tokio::select! {
            biased;
            outcome = self.read_until_joined(stream) => outcome,
            // At any moment: who does not read loses nothing that it has read.
            () = catch_ups.permits.client_stalled(&caller, &queue) => Ok(CatchUpOutcome::GivenUp),
            never = KeptTurn::keep_while_unread(turn, of_caller, &queue) => match never {},
        };
        if let Ok(CatchUpOutcome::Joined(_)) = &outcome {
            // It had little to catch up with.
            catch_ups.openings.note(&caller, true);
        }
        outcome
    }

    /// Returns the stream, which continues with one that was opened, or opens it.
    async fn stream(&self, opened: Option<OpenedStream>) -> Result<ReconnectingStream, Error> {
        let mut stream = ReconnectingStream::new(
            Arc::clone(&self.catch_ups.source),
            (self.spec.plans(), self.spec.token_context.clone()),
            Arc::clone(&self.catch_ups.metrics),
            self.catch_ups.upstream_grace,
            self.spec.from.clone(),
        );
        match opened {
            Some(opened) => stream.adopt(opened),
            None => stream.open(&mut QueueStageObserver(&self.queue)).await?,
        }
        Ok(stream)
    }

    /// Forwards the stream's events until the ring holds what follows.
    async fn read_until_joined(
        &mut self,
        mut stream: ReconnectingStream,
    ) -> Result<CatchUpOutcome, Error> {
        let queue = Arc::clone(&self.queue);
        let mut plan = Arc::clone(&self.spec.plan);
        let mut segmenter = self.segmenter(&plan);
        let mut quiet_replies = 0;
        loop {
            self.catch_ups.memory.wait_available().await;
            stream.set_awaited_time(self.subscriber.first_time_past_end());
            let batch = stream.next(&mut QueueStageObserver(&queue)).await?;
            if let Some(permit) = &mut self.permit {
                permit.note_reply();
            }
            if !Arc::ptr_eq(&plan, stream.plan()) {
                plan = Arc::clone(stream.plan());
                segmenter = self.segmenter(&plan);
                self.evaluator = evaluator_of(&self.spec.watch_residual);
            }
            self.start_upper_bound = self.start_upper_bound.or(batch.operation_time);
            let (quiet, waited, caught_up) =
                (batch.events.is_empty(), batch.waited, batch.caught_up);
            if !quiet || self.delivered_by.is_none() {
                self.delivered_by = batch.operation_time;
            }
            let position = stream.position().clone();
            if quiet && caught_up {
                // Before the position, at which a watch may end.
                queue.push(QueueItem::Stage(Stage::Live, ""));
                queue.note_all_read();
            }
            let Ok(invalidation) = self.forward(batch, &mut segmenter, position).await else {
                return Ok(CatchUpOutcome::GivenUp);
            };
            if let Some(invalidation) = invalidation {
                let position = invalidation.position.detached();
                self.last = Some(position.clone());
                self.last_matched = Some(position.clone());
                queue.push(QueueItem::Invalidated(invalidation));
                // A watch with invalidate policy END drops this task.
                stream
                    .continue_after_invalidation(position, &mut QueueStageObserver(&queue))
                    .await?;
            }
            let mut joined = self.join();
            if joined.is_none() && quiet {
                let at = stream.position().clone();
                joined = self.join_while_quiet(&plan, at, caught_up).await;
            }
            if let Some(reader) = joined {
                return Ok(CatchUpOutcome::Joined(reader));
            }
            if let Some(last) = &self.last {
                self.feed.ring.mark_read_elsewhere(last.time());
            }
            quiet_replies = if quiet {
                quiet_replies + usize::from(waited)
            } else {
                0
            };
            if self.is_permit_wanted(quiet_replies > 1, false) {
                // A client that reads on has then taken what would have to be read again.
                let _ = timeout(SHORT_DRAIN_TIMEOUT, queue.wait_drained()).await;
                return Ok(CatchUpOutcome::GivenUp);
            }
        }
    }

    fn segmenter(&self, plan: &Arc<Plan>) -> BatchSegmenter {
        BatchSegmenter::new(
            Arc::clone(plan),
            self.spec.token_context.clone(),
            Arc::clone(&self.catch_ups.memory.budget),
            Arc::clone(&self.catch_ups.metrics),
        )
    }

    /// Waits until the stream is open. Returns the permit, and `None` for the stream if it is to be opened
    /// again: a watch that has started does not end because of a short outage of MongoDB.
    async fn finish_open(
        &self,
        mut opening: PendingOpen,
    ) -> Result<(CatchUpPermit, Option<OpenedInTurn>), Error> {
        let (permit, opened) = opening.answer().await?;
        match opened {
            Ok(opened) => Ok((permit, Some(opened))),
            // A failed login may be temporary. If access is denied permanently, the next attempt fails too.
            Err(
                Error::UpstreamUnavailable
                | Error::ReadPreferenceUnmet
                | Error::UpstreamOverloaded { .. }
                | Error::UpstreamAccessDenied,
            ) => Ok((permit, None)),
            Err(error) => Err(error),
        }
    }

    /// Waits until the queue has space for more. Fails if the permit is wanted meanwhile.
    async fn wait_writable(&mut self) -> Result<(), PermitWanted> {
        while !self.queue.is_writable() {
            if self.is_permit_wanted(false, true) {
                return Err(PermitWanted);
            }
            // Without space after that time, others may wait for the permit.
            let _ = timeout(CHECK, self.queue.wait_writable()).await;
        }
        Ok(())
    }

    /// Returns whether another watch is to have the permit.
    fn is_permit_wanted(&mut self, is_quiet: bool, client_is_slow: bool) -> bool {
        self.permit.as_mut().is_some_and(|permit| {
            permit.is_wanted(client_is_slow) || is_quiet && permit.is_wanted_while_quiet()
        })
    }

    /// The last event of the stream before the current position, where known.
    fn anchor(&self) -> Option<Anchor> {
        match &self.last {
            Some(last) => last.token().map(|token| Anchor::new(token, last.time())),
            None => match &self.spec.from {
                Position::Event { token, time } | Position::Invalidate { token, time } => {
                    Some(Anchor::new(token, *time))
                }
                Position::EventDigest(event) => Some(*event),
                Position::HighWater { .. } | Position::Time(_) => self.spec.anchor,
            },
        }
    }

    /// Joins the ring, if it holds what follows the last event.
    fn join(&self) -> Option<RingReader> {
        let point = |position| JoinPoint::After(position, self.spec.anchor.as_ref());
        let join = |point: JoinPoint<'_>| {
            self.feed
                .ring
                .join(&self.residual, &self.subscriber, &point)
        };
        match (&self.last, &self.last_matched) {
            (None, _) => join(point(&self.spec.from)),
            (Some(last), None) => join(point(last)),
            // The ring of a feed that MongoDB filters holds only matching events.
            (Some(last), Some(matched)) => join(point(last)).or_else(|| join(point(matched))),
        }
    }

    /// Joins the ring at its end or at an earlier one, if nothing is left before it. The stream is not read meanwhile, so
    /// that a search that takes long, or that reads what the stream is about to read, is followed by a pause.
    async fn join_while_quiet(
        &mut self,
        plan: &Plan,
        at: Position,
        caught_up: bool,
    ) -> Option<RingReader> {
        let begin = Instant::now();
        if self.next_search.is_some_and(|next| begin < next) {
            return None;
        }
        let has_client_stages = plan.has_client_stages();
        let search = async {
            if has_client_stages {
                self.join_at_held_barrier(at).await
            } else {
                self.join_at_barrier(at).await
            }
        };
        let joined = timeout(SEARCH_LIMIT, search).await.ok().flatten();
        let is_slow = begin.elapsed() >= SEARCH_LIMIT / 2;
        if joined.is_none() && (is_slow || !caught_up && !has_client_stages) {
            self.next_search = Some(Instant::now() + SEARCH_PAUSE);
        }
        joined
    }

    /// Joins the ring at its current end, if MongoDB confirms that no matching event is left before it.
    async fn join_at_barrier(&self, at: Position) -> Option<RingReader> {
        let barrier = self.feed.ring.barrier()?;
        // The ring must have passed the position: the events that it adds later, from before the position,
        // would be delivered twice.
        if self.position_upper_bound()? > barrier.time {
            return None;
        }
        let search = RemainingSearch {
            source: &*self.catch_ups.source,
            feed_plan: &self.feed.plan,
            shared_plan: &self.spec.shared_plan,
            watch_residual: &self.spec.watch_residual,
        };
        let remaining = match search.run(&at, barrier.time).await {
            Ok(remaining) => remaining,
            Err(error) => {
                tracing::debug!(code = error.code, %error, "could not check for events before the barrier");
                return None;
            }
        };
        let not_before = self.first_new_time()?;
        let anchor = self.anchor();
        let evidence = match remaining {
            Remaining::Something => return None,
            // The events may match other watches, so the ring learns nothing.
            Remaining::NothingForWatch => JoinEvidence {
                anchor: None,
                quiet_from: None,
                not_before,
            },
            Remaining::Nothing => JoinEvidence {
                anchor: anchor.as_ref(),
                quiet_from: self.quiet_from(),
                not_before,
            },
        };
        let point = JoinPoint::Barrier(&barrier, evidence);
        self.feed
            .ring
            .join(&self.residual, &self.subscriber, &point)
    }

    /// Joins the ring at an earlier end that the stream has passed since. The ring learns nothing.
    async fn join_at_held_barrier(&mut self, at: Position) -> Option<RingReader> {
        let has_exact_times = self.feed.plan.genuine().every_time;
        let (delivered_up_to, not_before) = if has_exact_times {
            (self.position_upper_bound()?, self.first_new_time()?)
        } else {
            (self.delivered_by?, ClusterTime::default())
        };
        let reply = QuietReply {
            at: &at,
            delivered_up_to,
        };
        let mut held = std::mem::take(&mut self.held_barrier);
        let (ring, source) = (&self.feed.ring, &*self.catch_ups.source);
        let passed = held.passed(ring, &reply, source, &self.feed.plan).await;
        // After an answer the barrier is used up: the ring has it, or has lost what followed it.
        self.held_barrier = if passed.is_none() {
            held
        } else {
            HeldBarrier::default()
        };
        let barrier = passed?;
        let evidence = JoinEvidence {
            anchor: None,
            quiet_from: None,
            not_before,
        };
        let point = JoinPoint::Barrier(&barrier, evidence);
        ring.join(&self.residual, &self.subscriber, &point)
    }
}

/// Waits until another watch is to have the permit of a catch-up whose client has not taken everything yet.
async fn permit_wanted(permit: &mut Option<CatchUpPermit>) {
    while !permit.as_mut().is_some_and(|permit| permit.is_wanted(true)) {
        sleep(CHECK).await;
    }
}

/// Returns the evaluator of a residual. `None` if every event passes it.
fn evaluator_of(residual: &Residual) -> Option<Arc<Evaluator>> {
    (!residual.passes_everything()).then(|| Arc::new(Evaluator::new(residual)))
}
