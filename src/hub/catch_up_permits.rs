//! Limits the number of concurrent catch-ups. Their permits go round by caller, and one that waits gets the permit of
//! a catch-up that makes no use of it, or whose caller has more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::catch_up_queue::CatchUpQueue;
use crate::{
    limit::{Limit, Turn, Turns},
    metrics::{GaugeGuard, Metrics},
    model::Caller,
};

/// The time without a read by the client after which a catch-up gives up its permit.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The same, while others wait for a permit.
pub const UNREAD_LIMIT: Duration = Duration::from_secs(1);

/// The time after which a caller gives up a permit for one that waits and has at least two fewer.
const SLICE_OF_MANY: Duration = Duration::from_secs(1);

/// The time after which a catch-up gives up its permit for a caller that has fewer, or, if its client reads
/// slowly, for anyone. What it has read ahead may be read again, so this is not shorter.
const SLICE: Duration = Duration::from_secs(5);

/// The interval at which it is checked whether others wait.
const CHECK: Duration = Duration::from_millis(250);

/// One in so many permits is kept for other callers, however many one asks for. MongoDB may take long to find the
/// first event of a catch-up, and until then its permit can't be given to another.
const KEPT_FOR_OTHERS: usize = 4;

/// Hands out catch-up permits.
#[derive(Debug)]
pub(super) struct CatchUpPermits {
    demand: Demand,
    metrics: Arc<Metrics>,
}

/// Who waits for a permit, and how many are being given up for them.
#[derive(Debug, Clone)]
struct Demand {
    turns: Turns<Caller>,
    given_up: Arc<AtomicUsize>,
}

/// A permit for one catch-up. Dropping it returns it.
#[derive(Debug)]
pub(super) struct CatchUpPermit {
    // Returned before the permits that are given up are counted down.
    _turn: Turn<Caller>,
    given_up: Option<GivenUp>,
    demand: Demand,
    caller: Caller,
    /// The time of MongoDB's first reply.
    reading_since: Option<Instant>,
    _held: GaugeGuard,
}

/// Counts a permit that is given up for one who waits, so that others do not give up theirs for the same.
#[derive(Debug)]
struct GivenUp(Arc<AtomicUsize>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CatchUpPermits {
    pub(super) fn new(count: usize, metrics: Arc<Metrics>) -> Self {
        let max_per_caller = count - count / KEPT_FOR_OTHERS;
        Self {
            demand: Demand {
                turns: Turns::new(Limit::new("catch-ups", count), max_per_caller),
                given_up: Arc::default(),
            },
            metrics,
        }
    }

    /// Returns a permit if one is free for the caller.
    pub(super) fn try_acquire(&self, caller: &Caller) -> Option<CatchUpPermit> {
        let turn = self.demand.turns.try_acquire(caller)?;
        Some(self.permit(turn, caller))
    }

    /// Waits for a permit.
    pub(super) async fn acquire(&self, caller: &Caller) -> CatchUpPermit {
        let _waiting = GaugeGuard::one(&self.metrics.catch_ups_waiting);
        let turn = self.demand.turns.acquire(caller).await;
        self.permit(turn, caller)
    }

    /// Waits until the client of a caller has left what is queued for it unread for too long.
    pub(super) async fn client_stalled(&self, caller: &Caller, queue: &CatchUpQueue) {
        loop {
            let unread = queue.wait_unread().await.elapsed();
            if unread < UNREAD_LIMIT {
                sleep(UNREAD_LIMIT - unread).await;
            } else if unread >= STALL_TIMEOUT || self.demand.is_unmet(caller) {
                return;
            } else {
                sleep(CHECK.min(STALL_TIMEOUT - unread)).await;
            }
        }
    }

    fn permit(&self, turn: Turn<Caller>, caller: &Caller) -> CatchUpPermit {
        CatchUpPermit {
            _turn: turn,
            given_up: None,
            demand: self.demand.clone(),
            caller: caller.clone(),
            reading_since: None,
            _held: GaugeGuard::one(&self.metrics.catch_ups),
        }
    }
}

impl Demand {
    /// Returns whether more wait that may have a permit of this caller than are being given up. Those of another caller
    /// that has as many as it may have wait for its own.
    fn is_unmet(&self, caller: &Caller) -> bool {
        let given_up = self.given_up.load(Ordering::Relaxed);
        self.turns.waiting_for(caller, given_up.saturating_add(1)) > given_up
    }

    fn give_up_one(&self, caller: &Caller) -> Option<GivenUp> {
        let most = self.given_up.load(Ordering::Relaxed).saturating_add(1);
        let waiting = self.turns.waiting_for(caller, most);
        let more = |given_up: usize| (given_up < waiting).then_some(given_up + 1);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        self.given_up.fetch_update(set, get, more).ok()?;
        Some(GivenUp(Arc::clone(&self.given_up)))
    }
}

impl CatchUpPermit {
    /// Notes that MongoDB has replied. Before that the permit is not given up, since nothing would be gained.
    pub(super) fn note_reply(&mut self) {
        self.reading_since.get_or_insert_with(Instant::now);
    }

    /// Returns whether the permit is to be given up now, although its catch-up makes use of it.
    pub(super) fn is_wanted(&mut self, client_is_slow: bool) -> bool {
        if self.given_up.is_some() {
            return true;
        }
        let Some(held) = self.reading_since.map(|since| since.elapsed()) else {
            return false;
        };
        // Nothing more is asked while its time is not over, or nobody waits.
        if held < SLICE_OF_MANY || !self.demand.is_unmet(&self.caller) {
            return false;
        }
        let lead = self.demand.turns.lead(&self.caller).unwrap_or(0);
        let is_due = lead >= 2 || held >= SLICE && (lead == 1 || client_is_slow);
        is_due && self.give_up()
    }

    /// Returns whether the permit is to be given up now, as its catch-up has nothing to read.
    pub(super) fn is_wanted_while_quiet(&mut self) -> bool {
        self.give_up()
    }

    fn give_up(&mut self) -> bool {
        if self.given_up.is_none() {
            self.given_up = self.demand.give_up_one(&self.caller);
        }
        self.given_up.is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    fn caller(name: &str) -> Caller {
        Caller::Principal(name.into())
    }

    /// Permits of which the caller holds as many as it may, with replies to read.
    fn held_by(caller: &Caller, count: usize) -> (CatchUpPermits, Vec<CatchUpPermit>) {
        let permits = CatchUpPermits::new(count, Arc::new(Metrics::new()));
        let mut held = Vec::new();
        while let Some(mut permit) = permits.try_acquire(caller) {
            permit.note_reply();
            held.push(permit);
        }
        (permits, held)
    }

    #[tokio::test]
    async fn some_permits_are_kept_for_other_callers() {
        for (count, own) in [(1, 1), (2, 2), (3, 3), (4, 3), (16, 12)] {
            let (permits, held) = held_by(&caller("a"), count);
            assert_eq!(held.len(), own, "of {count}");
            let other = permits.try_acquire(&caller("b"));
            assert_eq!(other.is_some(), own < count, "of {count}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_with_many_permits_gives_one_up_after_a_second() {
        let (a, b) = (caller("a"), caller("b"));
        let (permits, mut held) = held_by(&a, 4);
        let _other = permits.try_acquire(&b).expect("one was kept");
        let mut waits = Box::pin(permits.acquire(&b));
        assert!((&mut waits).now_or_never().is_none());
        assert!(!held.iter_mut().any(|it| it.is_wanted(true)), "too early");
        advance(SLICE_OF_MANY).await;
        let wanted: Vec<bool> = held.iter_mut().map(|it| it.is_wanted(false)).collect();
        assert_eq!(wanted, [true, false, false], "one waits");
        assert!(held[0].is_wanted(false), "it stays so");
        held.remove(0);
        let mut second = waits.now_or_never().expect("the permit of the other");
        assert!(!held[0].is_wanted(true));
        assert!(!second.is_wanted(true), "nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn permits_go_round_where_each_caller_has_one() {
        let (permits, mut held) = held_by(&caller("a"), 1);
        let b = caller("b");
        let mut waits = Box::pin(permits.acquire(&b));
        assert!((&mut waits).now_or_never().is_none());
        advance(SLICE - Duration::from_millis(1)).await;
        assert!(!held[0].is_wanted(true));
        advance(Duration::from_millis(1)).await;
        assert!(held[0].is_wanted(false));
    }

    /// The order within a caller changes nothing for others, so whoever reads fast reads on.
    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gives_its_permit_to_another_watch_of_its_caller() {
        let a = caller("a");
        let (permits, mut held) = held_by(&a, 1);
        advance(SLICE).await;
        assert!(!held[0].is_wanted(true), "nobody waits");
        let mut waits = Box::pin(permits.acquire(&a));
        assert!((&mut waits).now_or_never().is_none());
        assert!(!held[0].is_wanted(false));
        assert!(held[0].is_wanted(true));
    }

    /// Else a stream that MongoDB takes long to open would be given up without a single reply, again and again.
    #[tokio::test(start_paused = true)]
    async fn a_permit_is_not_given_up_before_mongodb_has_replied() {
        let a = caller("a");
        let permits = CatchUpPermits::new(1, Arc::new(Metrics::new()));
        let mut held = permits.try_acquire(&a).expect("one is free");
        let b = caller("b");
        let mut waits = Box::pin(permits.acquire(&b));
        assert!((&mut waits).now_or_never().is_none());
        advance(SLICE * 10).await;
        assert!(!held.is_wanted(true));
        held.note_reply();
        assert!(!held.is_wanted(true));
        advance(SLICE).await;
        assert!(held.is_wanted(true));
    }

    /// Nobody waits any more, so nothing is given up for it.
    #[tokio::test]
    async fn who_stops_waiting_wants_no_permit() {
        let (permits, mut held) = held_by(&caller("a"), 1);
        let b = caller("b");
        let mut waits = Box::pin(permits.acquire(&b));
        assert!((&mut waits).now_or_never().is_none());
        assert!(permits.demand.is_unmet(&held[0].caller));
        drop(waits);
        assert!(!held[0].is_wanted_while_quiet());
        assert!(!permits.demand.is_unmet(&held[0].caller));
    }

    /// The waiting one can't have the permit of another, so giving it up would help nobody.
    #[tokio::test(start_paused = true)]
    async fn who_waits_at_its_callers_maximum_wants_no_permit_of_others() {
        let (a, b) = (caller("a"), caller("b"));
        let (permits, mut held) = held_by(&a, 16);
        let mut waits = Box::pin(permits.acquire(&a));
        assert!((&mut waits).now_or_never().is_none());
        let mut only = permits.try_acquire(&b).expect("some were kept");
        only.note_reply();
        advance(SLICE).await;
        assert!(!only.is_wanted(true) && !only.is_wanted_while_quiet());
        assert!(!permits.demand.is_unmet(&b));
        assert!(held[0].is_wanted(true), "a watch of its own caller waits");
        assert!(!held[1].is_wanted(true), "and no other");
    }
}
