//! What is counted on the way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number that rises.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls, and its peak.
#[derive(Default)]
pub struct PeakGauge {
    now: AtomicU64,
    peak: AtomicU64,
}

/// Counts one for as long as it lives.
pub struct GaugeGuard<'a>(&'a PeakGauge);

impl PeakGauge {
    pub fn enter(&self) -> GaugeGuard<'_> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
        GaugeGuard(self)
    }

    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What clients saw, and what was done to them.
#[derive(Default)]
pub struct Counters {
    /// Changes that came.
    pub events: Counter,
    /// Of these, such as had come before.
    pub repeats: Counter,
    /// Changes that had to come and did not.
    pub lost: Counter,
    /// Watches open now.
    pub open_watches: PeakGauge,
    /// Watches that went on from a stored token.
    pub resumed: Counter,
    /// Watches given up before they were open.
    pub abandoned: Counter,
    /// Times that a client stopped reading for a while.
    pub stalls: Counter,
    /// Watches given up as nothing came for too long.
    pub silent_timeouts: Counter,
    /// Times that a watch was told that MongoDB is away.
    pub reconnecting: Counter,
    /// Times that each fault was put in.
    faults: Mutex<BTreeMap<String, u64>>,
    /// How watches ended that did not have to.
    ends: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    pub fn fault(&self, name: &str) {
        count(&self.faults, name);
    }

    pub fn ended(&self, reason: &str) {
        count(&self.ends, reason);
    }

    pub fn faults(&self) -> BTreeMap<String, u64> {
        read(&self.faults)
    }

    pub fn end_reasons(&self) -> BTreeMap<String, u64> {
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
