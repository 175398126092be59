//! What gives way when memory is short, and in which order.
//!
//! 1. Rings that nobody reads are emptied.
//! 2. The largest rings drop their oldest events, until enough should be free; whoever had not read
//!    them catches up by itself.
//! 3. Events that are being sent in pieces to clients which do not read are called in.
//! 4. When that has not helped for a while, every ring is emptied, as a small one may keep alive all
//!    of the reply that its events came with.
//! 5. Whoever reads from MongoDB waits until something is given back. Catch-ups whose client does not
//!    read give up their turn, and with it what they hold.
//!
//! Nothing is lost: every place that gives way can be read again from MongoDB.
//!
//! The sum of what the process holds, with the defaults: 1 GiB of budget (rings of 8 MiB and their last
//! replies, catch-ups of 1 MiB and theirs, encodings, events being sent in pieces) + 16 MiB for each of
//! 64 feeds and 16 catch-ups that takes in a large reply just then + for each watch 10 KiB idle, up to
//! 250 KiB in gRPC's and HTTP/2's buffers while its client does not read + 6 KiB of hits for each group
//! of equal filters. docs/memory.md has the sum row by row.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    budget::Budget,
    loan::Loans,
    ring::Ring,
    sync::{Mutex, lock},
};

/// A ring that holds no more than this is left alone.
const SMALL_RING: usize = 64 << 10;

/// How long whoever waits for memory waits before looking again for what can give way.
const CHECK: Duration = Duration::from_millis(100);

/// How long whoever waits for memory waits before every ring is emptied. Longer than a client may
/// leave unread what is held for it alone.
const LAST_RESORT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Memory {
    pub budget: Arc<Budget>,
    /// Events that are being sent in pieces.
    pub loans: Loans,
    rings: Mutex<Vec<Weak<Ring>>>,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            budget: Budget::new(limit),
            loans: Loans::default(),
            rings: Mutex::default(),
        }
    }

    /// Counts a ring among those that may have to give way.
    pub(super) fn add(&self, ring: &Arc<Ring>) {
        let mut rings = lock(&self.rings);
        rings.retain(|ring| ring.strong_count() > 0);
        rings.push(Arc::downgrade(ring));
    }

    /// Whether whoever reads has to wait.
    pub(super) fn is_short(&self) -> bool {
        self.budget.excess() > 0
    }

    /// Waits until there is memory for another reply of MongoDB. One that turns out large may go over
    /// the limit.
    pub(super) async fn room(&self) {
        let began = Instant::now();
        let mut told = false;
        loop {
            let freed = self.budget.freed();
            if self.budget.excess() == 0 {
                return;
            }
            self.relieve(began.elapsed() >= LAST_RESORT);
            if self.budget.excess() == 0 {
                return;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::debug!(used = self.budget.used(), "waiting for memory");
            }
            // Given back or not, there may be something new that can give way.
            let _ = timeout(CHECK, freed).await;
        }
    }

    fn relieve(&self, empty_all: bool) {
        if empty_all {
            self.empty_rings();
        } else {
            self.shrink_rings();
        }
        self.loans.call_in(|| self.budget.excess() == 0);
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
        for ring in rings.iter().filter(|ring| ring.is_deserted()) {
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
