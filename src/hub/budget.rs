//! One budget of bytes for the process: all that rings, catch-ups and encodings hold is charged to it
//! and given back when it is dropped.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::Notify;

/// How many bytes are held, and how many may be.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
    freed: Notify,
}

/// Bytes that count against a budget until they are dropped, with the last slice of them.
struct Kept {
    bytes: Bytes,
    budget: Arc<Budget>,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// Charges bytes for as long as they, or any slice of them, live.
    pub(super) fn keep(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.used.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Kept {
            bytes,
            budget: Arc::clone(self),
        })
    }

    /// How many bytes are held.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many bytes are held beyond the limit.
    pub(super) fn excess(&self) -> usize {
        self.used().saturating_sub(self.limit)
    }

    /// Waits until something is given back. May return early, and late when nobody waited: callers
    /// look again after a while.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let before = self
            .budget
            .used
            .fetch_sub(self.bytes.len(), Ordering::Relaxed);
        if before >= self.budget.limit {
            self.budget.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_their_last_slice_is_gone() {
        let budget = Budget::new(100);
        let kept = budget.keep(Bytes::from(vec![7; 150]));
        assert_eq!((budget.used(), budget.excess()), (150, 50));
        let slice = kept.slice(10..20);
        drop(kept);
        assert_eq!(budget.used(), 150);
        assert_eq!(slice[..], [7; 10]);
        drop(slice);
        assert_eq!((budget.used(), budget.excess()), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told_when_it_is_there() {
        let budget = Budget::new(100);
        let kept = budget.keep(Bytes::from(vec![7; 150]));
        let waiter = Arc::clone(&budget);
        let waiting = tokio::spawn(async move {
            while waiter.excess() > 0 {
                waiter.freed().await;
            }
        });
        tokio::task::yield_now().await;
        drop(kept);
        waiting.await.expect("the waiter ends");
    }
}
