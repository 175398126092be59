//! Limits the number of concurrent catch-ups. Others wait in the order in which they asked.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    limit::{Limit, Limiter, Permit},
    metrics::{GaugeGuard, Metrics},
};

/// Hands out catch-up permits.
#[derive(Debug)]
pub(super) struct CatchUpPermits {
    limiter: Limiter,
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// A permit for one catch-up. Dropping it returns it.
#[derive(Debug)]
pub(super) struct CatchUpPermit {
    _permit: Permit,
    _held: GaugeGuard,
}

/// Counts a waiter until it is dropped.
struct WaiterGuard<'a>(&'a AtomicUsize);

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CatchUpPermits {
    pub(super) fn new(count: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            limiter: Limiter::new(Limit::new("catch-ups", count)),
            waiting: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Returns a permit if one is free and nobody waits for it.
    pub(super) fn try_acquire(&self) -> Option<CatchUpPermit> {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let permit = self.limiter.try_acquire().ok()?;
        Some(self.permit(permit))
    }

    /// Waits for a permit.
    pub(super) async fn acquire(&self) -> CatchUpPermit {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiter = WaiterGuard(&self.waiting);
        let permit = self.limiter.acquire().await;
        self.permit(permit)
    }

    /// Returns whether anybody waits for a permit.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn permit(&self, permit: Permit) -> CatchUpPermit {
        CatchUpPermit {
            _permit: permit,
            _held: GaugeGuard::one(&self.metrics.catch_ups),
        }
    }
}
