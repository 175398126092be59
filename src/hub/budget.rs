//! The memory budget of the process. The bytes that rings, catch-ups, encodings and requests hold are charged to it
//! until they are dropped.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::Notify;

/// Counts bytes in memory against a limit.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    freed: Notify,
}

/// Bytes that count against a budget until their last slice is dropped.
struct ChargedBytes {
    bytes: Bytes,
    /// The bytes that are charged: these, and what belongs to them.
    charged: usize,
    budget: Arc<MemoryBudget>,
}

impl MemoryBudget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// Charges bytes to the budget until they and all slices of them are dropped.
    pub(super) fn charge(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.charge_with(bytes, 0)
    }

    /// As [`charge`](Self::charge), with `more` bytes of memory that is kept as long.
    pub(super) fn charge_with(self: &Arc<Self>, bytes: Bytes, more: usize) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        let charged = bytes.len() + more;
        self.take(charged);
        Bytes::from_owner(ChargedBytes {
            bytes,
            charged,
            budget: Arc::clone(self),
        })
    }

    /// Counts bytes as in use, until they are given back.
    pub(super) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes as no longer in use.
    pub(super) fn give_back(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        if before >= self.limit {
            self.freed.notify_waiters();
        }
    }

    /// The number of bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The number of bytes in use beyond the limit.
    pub(super) fn excess(&self) -> usize {
        self.used().saturating_sub(self.limit)
    }

    /// Waits until bytes are freed while the budget is exceeded. May return early, and a notification
    /// before the wait is lost: callers check again after a while.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ChargedBytes {
    fn drop(&mut self) {
        self.budget.give_back(self.charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_their_last_slice_is_dropped() {
        let budget = MemoryBudget::new(100);
        let charged = budget.charge(Bytes::from(vec![7; 150]));
        assert_eq!((budget.used(), budget.excess()), (150, 50));
        let slice = charged.slice(10..20);
        drop(charged);
        assert_eq!(budget.used(), 150);
        assert_eq!(slice[..], [7; 10]);
        drop(slice);
        assert_eq!((budget.used(), budget.excess()), (0, 0));
        let charged = budget.charge_with(Bytes::from(vec![7; 150]), 10);
        assert_eq!((budget.used(), charged.len()), (160, 150));
        drop(charged);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn waiters_are_woken_when_memory_is_freed() {
        let budget = MemoryBudget::new(100);
        let charged = budget.charge(Bytes::from(vec![7; 150]));
        let waiter = Arc::clone(&budget);
        let waiting = tokio::spawn(async move {
            while waiter.excess() > 0 {
                waiter.freed().await;
            }
        });
        tokio::task::yield_now().await;
        drop(charged);
        waiting.await.expect("the waiter ends");
    }
}
