//! Permits that go round by key: who asks for many waits for its own, and delays another key by one turn.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::{Exceeded, Limit};

/// Hands out turns, up to a limit in all and one for each key. A free turn goes to the key that has the fewest,
/// among these to the one whose last turn is longest ago, and within a key to who has waited longest. Its clones share
/// the turns. Those who wait and those who hold a turn bound the memory.
#[derive(Debug)]
pub struct Turns<K: Eq + Hash>(Arc<Shared<K>>);

/// One turn, until it is dropped: then the next one begins.
#[derive(Debug)]
pub struct Turn<K: Eq + Hash + Clone> {
    key: K,
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K: Eq + Hash> {
    limit: Limit,
    /// The maximum number of turns that a key has at once.
    max_per_key: usize,
    state: Mutex<State<K>>,
    /// The number of those who wait, to be read without the lock.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct State<K> {
    free: usize,
    keys: HashMap<K, Queue>,
    /// The keys of which someone waits and may have a turn, by the turns that they have and their places.
    round: BTreeMap<(usize, u64), K>,
    /// Numbers those who wait, and the places in the round.
    next_number: u64,
}

/// What a key has and waits for.
#[derive(Debug, Default)]
struct Queue {
    held: usize,
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    /// Its place in the round.
    place: Option<u64>,
}

/// The place of one who waits. When it is dropped, the place is given up, or the turn that it was given.
struct Waiting<'a, K: Eq + Hash + Clone> {
    shared: &'a Arc<Shared<K>>,
    key: &'a K,
    number: u64,
    /// `true` once the turn has been taken over.
    done: bool,
}

impl<K: Eq + Hash> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Creates turns that are all free. `max_per_key` is at least 1; `usize::MAX` for no limit on a key alone.
    #[must_use]
    pub fn new(limit: Limit, max_per_key: usize) -> Self {
        let state = State {
            free: limit.max(),
            keys: HashMap::new(),
            round: BTreeMap::new(),
            next_number: 0,
        };
        Self(Arc::new(Shared {
            limit,
            max_per_key: max_per_key.max(1),
            state: Mutex::new(state),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// Takes a turn, if one is free and the key may have it. While others wait for turns that they may have, none
    /// is free.
    #[must_use]
    pub fn try_acquire(&self, key: &K) -> Option<Turn<K>> {
        let mut state = self.0.lock();
        let held = state.keys.get(key).map_or(0, |queue| queue.held);
        if state.free == 0 || held >= self.0.max_per_key {
            return None;
        }
        state.free -= 1;
        state.keys.entry(key.clone()).or_default().held += 1;
        drop(state);
        Some(self.0.turn(key))
    }

    /// Waits for a turn. Cancel safe: who goes away gives up its place.
    pub async fn acquire(&self, key: &K) -> Turn<K> {
        let (granted, waiting) = {
            let mut state = self.0.lock();
            let (sender, receiver) = oneshot::channel();
            let number = state.next_number();
            let queue = state.keys.entry(key.clone()).or_default();
            queue.waiting.insert(number, sender);
            self.0.waiting.fetch_add(1, Ordering::Relaxed);
            state.enter_round(key, self.0.max_per_key);
            self.0.grant(&mut state);
            let waiting = Waiting {
                shared: &self.0,
                key,
                number,
                done: false,
            };
            (receiver, waiting)
        };
        let mut waiting = waiting;
        granted.await.expect("a sender is kept until it has sent");
        waiting.done = true;
        self.0.turn(key)
    }

    /// Waits for a turn, for this long at most.
    ///
    /// # Errors
    /// There was none in that time. The rejection is counted.
    pub async fn acquire_within(&self, key: &K, longest: Duration) -> Result<Turn<K>, Exceeded> {
        let turn = timeout(longest, self.acquire(key)).await;
        turn.map_err(|_| self.0.limit.reject())
    }

    /// Returns how many wait that could have a turn of this key if it were given back: those of the key itself, and
    /// of each other key as many as it may have. Counts to `most` only.
    #[must_use]
    pub fn waiting_for(&self, key: &K, most: usize) -> usize {
        if !self.has_waiters() {
            return 0;
        }
        let state = self.0.lock();
        let own = state.keys.get(key).map_or(0, |queue| queue.waiting.len());
        let mut count = own.min(most);
        for other in state.round.values().filter(|other| *other != key) {
            if count >= most {
                break;
            }
            if let Some(queue) = state.keys.get(other) {
                let may_have = self.0.max_per_key.saturating_sub(queue.held);
                count = count.saturating_add(queue.waiting.len().min(may_have));
            }
        }
        count.min(most)
    }

    /// Returns how many turns more this key has than the other key with the fewest that waits and may have one.
    /// `None` if no other key waits.
    #[must_use]
    pub fn lead(&self, key: &K) -> Option<usize> {
        if !self.has_waiters() {
            return None;
        }
        let state = self.0.lock();
        // At most two are looked at: a key has one place.
        let ((fewest, _), _) = state.round.iter().find(|(_, other)| *other != key)?;
        let held = state.keys.get(key).map_or(0, |queue| queue.held);
        Some(held.saturating_sub(*fewest))
    }

    /// Returns whether anybody waits for a turn.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns whether anybody of another key waits for a turn that it may have.
    #[must_use]
    pub fn has_waiters_of_others(&self, key: &K) -> bool {
        self.has_waiters() && {
            let state = self.0.lock();
            // At most two are looked at: a key has one place.
            state.round.values().any(|other| other != key)
        }
    }

    /// Returns how many wait for a turn.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Returns the number of turns in use.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        self.0.limit.max() - self.0.lock().free
    }
}

impl<K: Eq + Hash> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Shared<K> {
    fn turn(self: &Arc<Self>, key: &K) -> Turn<K> {
        Turn {
            key: key.clone(),
            shared: Arc::clone(self),
        }
    }

    /// Gives free turns to those who wait, the first key in the round first. Each key goes to its end.
    fn grant(&self, state: &mut State<K>) {
        while state.free > 0 {
            let Some((_, key)) = state.round.pop_first() else {
                return;
            };
            let Some(queue) = state.keys.get_mut(&key) else {
                continue;
            };
            queue.place = None;
            if let Some((_, sender)) = queue.waiting.pop_first() {
                queue.held += 1;
                state.free -= 1;
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                // Who has gone away since gives its turn back itself: see `Waiting`.
                let _ = sender.send(());
            }
            state.enter_round(&key, self.max_per_key);
        }
    }

    /// Takes a turn back from a key.
    fn release(&self, key: &K) {
        let mut state = self.lock();
        let State { keys, round, .. } = &mut *state;
        if let Some(queue) = keys.get_mut(key) {
            let moved = queue.place.and_then(|at| round.remove(&(queue.held, at)));
            queue.held -= 1;
            if let Some((at, key)) = queue.place.zip(moved) {
                round.insert((queue.held, at), key);
            }
            state.free += 1;
            state.enter_round(key, self.max_per_key);
            state.forget_if_unused(key);
            self.grant(&mut state);
        }
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Gives a key the last place in the round, if it has none, someone waits, and it may have another turn.
    fn enter_round(&mut self, key: &K, max_per_key: usize) {
        let place = self.next_number();
        if let Some(queue) = self.keys.get_mut(key)
            && queue.place.is_none()
            && queue.held < max_per_key
            && !queue.waiting.is_empty()
        {
            queue.place = Some(place);
            self.round.insert((queue.held, place), key.clone());
        }
    }

    /// Removes a key of which nobody waits or holds a turn.
    fn forget_if_unused(&mut self, key: &K) {
        if let Some(queue) = self.keys.get(key)
            && queue.held == 0
            && queue.waiting.is_empty()
        {
            self.keys.remove(key);
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.shared.lock();
        let State { keys, round, .. } = &mut *state;
        let Some(queue) = keys.get_mut(self.key) else {
            return;
        };
        if queue.waiting.remove(&self.number).is_none() {
            drop(state);
            self.shared.release(self.key);
            return;
        }
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        if queue.waiting.is_empty()
            && let Some(place) = queue.place.take()
        {
            round.remove(&(queue.held, place));
        }
        state.forget_if_unused(self.key);
    }
}

impl<K: Eq + Hash + Clone> Drop for Turn<K> {
    fn drop(&mut self) {
        self.shared.release(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    type Call<'a> = Pin<Box<dyn Future<Output = Turn<&'static str>> + 'a>>;

    fn turns(max: usize, max_per_key: usize) -> Turns<&'static str> {
        Turns::new(Limit::new("things", max), max_per_key)
    }

    /// Returns this number of calls that wait for a turn.
    fn waiting<'a>(
        turns: &'a Turns<&'static str>,
        key: &'static &str,
        count: usize,
    ) -> Vec<Call<'a>> {
        let mut calls: Vec<Call<'a>> = (0..count)
            .map(|_| -> Call<'a> { Box::pin(turns.acquire(key)) })
            .collect();
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
        }
        calls
    }

    fn turn_of(calls: &mut [Call<'_>]) -> Option<(usize, Turn<&'static str>)> {
        let polled = calls.iter_mut().enumerate();
        polled
            .into_iter()
            .find_map(|(i, call)| Some((i, call.now_or_never()?)))
    }

    #[test]
    fn turns_go_round_by_key_and_in_order_within_a_key() {
        let turns = turns(1, usize::MAX);
        let mut held = turns.try_acquire(&"a").expect("one is free");
        let mut calls = waiting(&turns, &"a", 5);
        calls.append(&mut waiting(&turns, &"b", 2));
        calls.append(&mut waiting(&turns, &"c", 1));
        let mut order = Vec::new();
        let mut names: Vec<_> = ["a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1"].into();
        while !calls.is_empty() {
            assert!(turns.try_acquire(&"d").is_none(), "others wait");
            drop(held);
            let (at, turn) = turn_of(&mut calls).expect("a turn for one");
            drop(calls.remove(at));
            order.push(names.remove(at));
            assert!(turn_of(&mut calls).is_none(), "and for no other");
            held = turn;
        }
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3", "a4", "a5"]);
        assert!(!turns.has_waiters());
        drop(held);
        assert_eq!(turns.in_use(), 0);
        assert!(turns.0.lock().keys.is_empty());
    }

    #[test]
    fn a_key_has_its_maximum_and_leaves_the_rest_to_others() {
        let turns = turns(3, 2);
        let held = [turns.try_acquire(&"a"), turns.try_acquire(&"a")];
        assert!(held.iter().all(Option::is_some));
        assert!(turns.try_acquire(&"a").is_none());
        let mut own = waiting(&turns, &"a", 2);
        assert!(turns.has_waiters());
        assert_eq!(turns.waiting_for(&"a", 9), 2);
        assert_eq!(turns.waiting_for(&"b", 9), 0);
        assert!(!turns.has_waiters_of_others(&"b"), "it may have no more");
        let other = turns.try_acquire(&"b").expect("the third is free");
        let mut others = waiting(&turns, &"b", 3);
        assert_eq!(turns.waiting_for(&"a", 9), 2 + 1, "b may have one more");
        assert!(turns.has_waiters_of_others(&"a"));
        assert!(!turns.has_waiters_of_others(&"b"));
        drop(other);
        assert!(turn_of(&mut own).is_none());
        assert!(turn_of(&mut others).is_some());
        drop(held);
        assert!(turn_of(&mut own).is_some());
    }

    #[test]
    fn a_free_turn_goes_to_the_key_with_the_fewest() {
        let turns = turns(4, usize::MAX);
        let acquire = |key: &'static str| turns.try_acquire(&key).expect("one is free");
        let (mut held, other) = (vec![acquire("a"), acquire("a"), acquire("a")], acquire("b"));
        assert_eq!(turns.lead(&"a"), None, "nobody waits");
        let mut calls = waiting(&turns, &"a", 1);
        assert_eq!(turns.lead(&"a"), None, "no other key waits");
        assert_eq!(turns.lead(&"b"), Some(0));
        calls.append(&mut waiting(&turns, &"b", 1));
        calls.append(&mut waiting(&turns, &"c", 2));
        assert_eq!(turns.lead(&"a"), Some(3));
        assert_eq!(turns.waiting_for(&"b", 9), 4);
        assert_eq!(turns.waiting_for(&"b", 3), 3);
        let mut names = vec!["a", "b", "c", "c"];
        let mut granted = Vec::new();
        while held.pop().is_some() {
            let (at, turn) = turn_of(&mut calls).expect("a turn for one");
            drop(calls.remove(at));
            granted.push((names.remove(at), turn));
        }
        let order: Vec<_> = granted.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            order,
            ["c", "a", "b"],
            "c had none, and a no more than b then"
        );
        drop((other, granted));
        assert!(turn_of(&mut calls).is_some());
    }

    #[test]
    fn who_goes_away_leaves_its_turn_to_the_next_one() {
        let turns = turns(1, usize::MAX);
        let held = turns.try_acquire(&"a");
        let mut calls = waiting(&turns, &"a", 2);
        let mut others = waiting(&turns, &"b", 1);
        // One before it has its turn, and one after that.
        drop(calls.remove(0));
        drop(held);
        assert!(turn_of(&mut others).is_none());
        calls.clear();
        let (_, turn) = turn_of(&mut others).expect("the turn of the other");
        drop(waiting(&turns, &"a", 3));
        assert!(!turns.has_waiters() && !turns.has_waiters_of_others(&"b"));
        drop((turn, others));
        assert_eq!(turns.in_use(), 0);
        let state = turns.0.lock();
        assert!(state.keys.is_empty() && state.round.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_a_turn_or_with_a_refusal() {
        let turns = turns(1, 1);
        let held = turns.acquire(&"a").await;
        let (begin, longest) = (Instant::now(), Duration::from_secs(5));
        let late = turns.acquire_within(&"b", longest).await;
        let exceeded = Exceeded {
            unit: "things",
            max: 1,
        };
        assert_eq!(late.err(), Some(exceeded));
        assert_eq!(begin.elapsed(), longest);
        drop(held);
        assert!(turns.acquire_within(&"b", longest).await.is_ok());
        assert_eq!(turns.in_use(), 0);
    }
}
