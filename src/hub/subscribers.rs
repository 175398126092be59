//! The subscribers of the whole process, for what concerns all of them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use slab::Slab;

use super::{
    subscriber::Subscriber,
    sync::{Mutex, lock},
};

/// All subscribers.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    all: Mutex<Slab<Arc<Subscriber>>>,
    draining: AtomicBool,
}

/// Keeps a subscriber among all subscribers until it is dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    subscribers: Arc<Subscribers>,
    slot: usize,
}

impl Subscribers {
    pub(super) fn add(self: &Arc<Self>, subscriber: Arc<Subscriber>) -> Subscription {
        Subscription {
            slot: lock(&self.all).insert(subscriber),
            subscribers: Arc::clone(self),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.all).is_empty()
    }

    /// Returns the time that the slowest subscriber has reached, in seconds since 1970, if that of any is known.
    pub(super) fn slowest_second(&self) -> Option<u32> {
        let all = lock(&self.all);
        let reached = all.iter().filter_map(|(_, it)| it.reached_second());
        reached.min()
    }

    /// Wakes every subscriber, to tell it that the server is shutting down.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let all: Vec<_> = lock(&self.all)
            .iter()
            .map(|(_, subscriber)| Arc::clone(subscriber))
            .collect();
        all.iter().for_each(|subscriber| subscriber.wake());
    }
}

impl Subscription {
    /// Returns whether the server is shutting down.
    pub(super) fn is_draining(&self) -> bool {
        self.subscribers.draining.load(Ordering::SeqCst)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.subscribers.all).remove(self.slot);
    }
}
