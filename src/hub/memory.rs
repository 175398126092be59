//! Frees memory when the budget is exceeded, in this order:
//!
//! 1. Rings without subscribers are emptied.
//! 2. The largest rings evict their oldest events until enough should be free. Watchers that have not read
//!    them fall behind and catch up.
//! 3. Events that are being sent in pieces to clients which do not read are evicted.
//! 4. If that does not help for a while, every ring is emptied, because a small ring may keep a whole
//!    large reply in memory.
//! 5. Feeds and catch-ups wait before they read more from MongoDB. Catch-ups whose client does not read
//!    give up their permit and what they hold.
//!
//! No event is lost: everything that is dropped can be read again from MongoDB.
//!
//! The memory of the process with the defaults: 1 GiB of budget (rings of 8 MiB and their last
//! replies, catch-ups of 1 MiB and their last replies, encodings, events being sent in pieces) + 16 MiB for
//! each of 64 feeds and 16 catch-ups that reads a large reply at that moment + for each watch 10 KiB idle, up
//! to 250 KiB in gRPC's and HTTP/2's buffers while its client does not read + 6 KiB of match list for each
//! group of equal filters. docs/memory.md has the sum row by row.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    budget::MemoryBudget,
    revocable_buffer::RevocableBuffers,
    ring::Ring,
    sync::{Mutex, lock},
};

/// Rings of at most this many bytes are not shrunk.
const SMALL_RING: usize = 64 << 10;

/// The interval between attempts to free memory while a feed or catch-up waits for it.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(100);

/// The time that a feed or catch-up waits for memory before every ring is emptied. Longer than the time
/// after which unread events of a client are dropped.
const EMPTY_ALL_AFTER: Duration = Duration::from_secs(15);

/// The memory budget, and everything that can be dropped to stay within it.
#[derive(Debug)]
pub(super) struct MemoryManager {
    pub budget: Arc<MemoryBudget>,
    /// Events that are being sent in pieces.
    pub buffers: RevocableBuffers,
    rings: Mutex<Vec<Weak<Ring>>>,
}

impl MemoryManager {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            budget: MemoryBudget::new(limit),
            buffers: RevocableBuffers::default(),
            rings: Mutex::default(),
        }
    }

    /// Adds a ring to those that can be shrunk.
    pub(super) fn register(&self, ring: &Arc<Ring>) {
        let mut rings = lock(&self.rings);
        rings.retain(|ring| ring.strong_count() > 0);
        rings.push(Arc::downgrade(ring));
    }

    /// Returns whether the budget is exceeded, so that reads from MongoDB must wait.
    pub(super) fn is_over_limit(&self) -> bool {
        self.budget.excess() > 0
    }

    /// Frees memory and waits until the budget is not exceeded, so that another reply of MongoDB may be
    /// read. That reply may exceed the limit.
    pub(super) async fn wait_available(&self) {
        let began = Instant::now();
        let mut logged = false;
        loop {
            let freed = self.budget.freed();
            if self.budget.excess() == 0 {
                return;
            }
            self.reclaim(began.elapsed() >= EMPTY_ALL_AFTER);
            if self.budget.excess() == 0 {
                return;
            }
            if !std::mem::replace(&mut logged, true) {
                tracing::debug!(used = self.budget.used(), "waiting for memory");
            }
            // Memory freed or not, there may be something new to drop.
            let _ = timeout(RECLAIM_INTERVAL, freed).await;
        }
    }

    fn reclaim(&self, empty_all: bool) {
        if empty_all {
            self.empty_rings();
        } else {
            self.shrink_rings();
        }
        self.buffers.evict(|| self.budget.excess() == 0);
    }

    fn empty_rings(&self) {
        let rings: Vec<Arc<Ring>> = lock(&self.rings).iter().filter_map(Weak::upgrade).collect();
        for ring in rings {
            ring.shrink_to(0);
            if self.budget.excess() == 0 {
                return;
            }
        }
    }

    fn shrink_rings(&self) {
        let rings: Vec<Arc<Ring>> = lock(&self.rings).iter().filter_map(Weak::upgrade).collect();
        let mut excess = self.budget.excess();
        let mut shrink = |ring: &Ring, to: usize| {
            let before = ring.cost();
            ring.shrink_to(to);
            excess = excess.saturating_sub(before - ring.cost().min(before));
            excess > 0
        };
        for ring in rings.iter().filter(|ring| ring.has_no_subscribers()) {
            if !shrink(ring, 0) {
                return;
            }
        }
        while let Some(largest) = rings.iter().max_by_key(|ring| ring.cost()) {
            let cost = largest.cost();
            if cost <= SMALL_RING || !shrink(largest, cost / 2) {
                return;
            }
        }
    }
}
