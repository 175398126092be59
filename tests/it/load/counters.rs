//! The counters of a run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number that only rises.
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

/// Counts one while it lives.
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

/// The observations of clients, and the injected faults.
#[derive(Default)]
pub struct Counters {
    /// Changes received.
    pub events: Counter,
    /// Of these, changes received before.
    pub repeats: Counter,
    /// Changes that should have been received and were not.
    pub lost: Counter,
    /// Watches open now.
    pub open_watches: PeakGauge,
    /// Watches resumed from a stored token.
    pub resumed: Counter,
    /// Watches given up before they were open.
    pub abandoned: Counter,
    /// The number of times that a client stopped reading.
    pub stalls: Counter,
    /// Watches given up because they were silent for too long.
    pub silent_timeouts: Counter,
    /// The number of times that a watch reported that it lost MongoDB.
    pub reconnecting: Counter,
    /// The number of injections of each fault.
    faults: Mutex<BTreeMap<String, u64>>,
    /// The reasons why watches ended early.
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
