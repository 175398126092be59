//! What is counted on the way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number that rises.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls, and its peak.
#[derive(Default)]
pub struct Level {
    now: AtomicU64,
    peak: AtomicU64,
}

/// Counts one for as long as it lives.
pub struct Entered<'a>(&'a Level);

impl Level {
    pub fn enter(&self) -> Entered<'_> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Entered(self)
    }

    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What clients saw, and what was done to them.
#[derive(Default)]
pub struct Figures {
    /// Changes that came.
    pub events: Count,
    /// Of these, such as had come before.
    pub repeats: Count,
    /// Changes that had to come and did not.
    pub lost: Count,
    /// Watches open now.
    pub held: Level,
    /// Watches that went on from a stored token.
    pub resumed: Count,
    /// Watches given up before they were open.
    pub broken_off: Count,
    /// Times that a client stopped reading for a while.
    pub stalls: Count,
    /// Watches given up as nothing came for too long.
    pub silences: Count,
    /// Times that a watch was told that MongoDB is away.
    pub reconnecting: Count,
    /// Times that each fault was put in.
    faults: Mutex<BTreeMap<String, u64>>,
    /// How watches ended that did not have to.
    ends: Mutex<BTreeMap<String, u64>>,
}

impl Figures {
    pub fn fault(&self, name: &str) {
        count(&self.faults, name);
    }

    pub fn ended(&self, reason: &str) {
        count(&self.ends, reason);
    }

    pub fn faults(&self) -> BTreeMap<String, u64> {
        read(&self.faults)
    }

    pub fn ends(&self) -> BTreeMap<String, u64> {
        read(&self.ends)
    }
}

fn count(counts: &Mutex<BTreeMap<String, u64>>, name: &str) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(name.to_owned()).or_default() += 1;
}

fn read(counts: &Mutex<BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    counts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}
