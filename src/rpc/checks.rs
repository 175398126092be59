//! Turns to check filters. To compile the patterns of one may take a good part of a second: few are checked at
//! once, and whoever asks for many waits behind itself, not before the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::auth::Principal;

/// How many filters are checked at once; so many of one principal's have a place among those that wait for it.
pub(super) const MAX_CHECKS: usize = 2;

/// What all requests that wait may take, as they were sent, in KiB.
const WAITING_KIB: usize = 16 << 10;
/// What those of one principal may.
const OWN_WAITING_KIB: usize = 4 << 10;

/// For how long one waits at most.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Who checks a filter, and who waits for that.
#[derive(Debug)]
pub(super) struct Checks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    turns: Arc<Semaphore>,
    room: Arc<Semaphore>,
    /// Of each principal that is here, and how many of its requests are.
    own: Mutex<HashMap<String, (Own, usize)>>,
}

/// What one principal has.
#[derive(Debug, Clone)]
struct Own {
    turns: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

/// A turn to check a filter, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permits: [OwnedSemaphorePermit; 4],
    _visit: Visit,
}

/// Keeps a principal in mind.
#[derive(Debug)]
struct Visit {
    inner: Arc<Inner>,
    name: String,
}

impl Checks {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            turns: Arc::new(Semaphore::new(MAX_CHECKS)),
            room: Arc::new(Semaphore::new(WAITING_KIB)),
            own: Mutex::default(),
        }))
    }

    /// Waits for a turn for a request of so many bytes. `None` when too much waits already, or it came to
    /// no turn in its time.
    pub(super) async fn turn(&self, principal: &Principal, bytes: usize) -> Option<Turn> {
        let (visit, own) = self.enter(principal.to_string());
        let kib = u32::try_from(bytes.div_ceil(1024).max(1)).ok()?;
        let waits = |room: Arc<Semaphore>| room.try_acquire_many_owned(kib).ok();
        let (own_room, room) = (waits(own.room)?, waits(Arc::clone(&self.0.room))?);
        let turns = async {
            // Its own first: so few of one principal's ever stand before others.
            let own_turn = own.turns.acquire_owned().await.ok()?;
            let turn = Arc::clone(&self.0.turns).acquire_owned().await.ok()?;
            Some((own_turn, turn))
        };
        let (own_turn, turn) = timeout(LONGEST_WAIT, turns).await.ok()??;
        Some(Turn {
            _permits: [own_turn, turn, own_room, room],
            _visit: visit,
        })
    }

    fn enter(&self, name: String) -> (Visit, Own) {
        let mut all = self.0.lock();
        let (own, here) = all.entry(name.clone()).or_insert_with(|| {
            let own = Own {
                turns: Arc::new(Semaphore::new(MAX_CHECKS)),
                room: Arc::new(Semaphore::new(OWN_WAITING_KIB)),
            };
            (own, 0)
        });
        *here += 1;
        let own = own.clone();
        drop(all);
        let inner = Arc::clone(&self.0);
        (Visit { inner, name }, own)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Own, usize)>> {
        self.own
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut all = self.inner.lock();
        if let Some((_, here)) = all.get_mut(&self.name) {
            *here -= 1;
            if *here == 0 {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;
    use crate::auth::Method;

    fn named(name: &str) -> Arc<Principal> {
        Arc::new(Principal {
            method: Method::Key,
            name: name.to_owned(),
            ..Principal::anonymous()
        })
    }

    /// A request that waits.
    fn waits(checks: &Arc<Checks>, name: &str, kib: usize) -> BoxFuture<'static, Option<Turn>> {
        let (checks, principal) = (Arc::clone(checks), named(name));
        async move { checks.turn(&principal, kib << 10).await }.boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_many_waits_behind_itself() {
        let checks = Arc::new(Checks::new());
        let mut flood: Vec<_> = (0..1_000).map(|_| waits(&checks, "flood", 1)).collect();
        let mut running = Vec::new();
        for waiting in &mut flood {
            if let Some(turn) = waiting.now_or_never() {
                running.push(turn.expect("a turn"));
            }
        }
        assert_eq!(running.len(), MAX_CHECKS);
        let mut other = waits(&checks, "other", 1);
        assert!((&mut other).now_or_never().is_none());
        running.pop();
        assert!(
            matches!((&mut other).now_or_never(), Some(Some(_))),
            "the very next turn is another principal's"
        );
        drop((flood, running, other));
        assert!(checks.0.lock().is_empty(), "who is gone is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_for_each_and_for_all_and_in_time() {
        let checks = Arc::new(Checks::new());
        let mut held = Vec::new();
        for name in ["a", "b", "c", "d"] {
            for _ in 0..4 {
                let mut waiting = waits(&checks, name, 1_024);
                match (&mut waiting).now_or_never() {
                    // Never given back.
                    Some(turn) => std::mem::forget(turn.expect("a turn")),
                    None => held.push(waiting),
                }
            }
            if name == "a" {
                let one_more = waits(&checks, "a", 1).now_or_never();
                assert!(matches!(one_more, Some(None)), "its own room is full");
            }
        }
        let one_more = waits(&checks, "e", 1).now_or_never();
        assert!(matches!(one_more, Some(None)), "all room is taken");
        for waiting in held {
            assert!(waiting.await.is_none(), "it comes to no turn");
        }
        assert!(
            waits(&checks, "e", 1).now_or_never().is_none(),
            "there is room again"
        );
    }
}
