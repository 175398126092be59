//! A queue for requests that compile filters. Compiling the patterns of one request may take a large part
//! of a second, so few compile at once, and a principal with many requests delays only itself.

use std::time::Duration;

use metrics::Counter;
use tokio::time::timeout;

use crate::{
    auth::Principal,
    limit::{Exceeded, Limit, Limiter, Member, PerKey, Permit},
};

/// The number of requests that compile at once. Also the number of requests of one principal that may
/// wait for these slots at once.
const MAX_CONCURRENT_COMPILES: usize = 2;

/// The maximum size of all queued requests, as encoded by their clients, in KiB.
const MAX_QUEUED_KIB: usize = 16 << 10;
/// The maximum size of one principal's queued requests, in KiB.
const MAX_QUEUED_KIB_PER_PRINCIPAL: usize = 4 << 10;

/// The maximum time that a request waits.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Admits requests to compilation, fairly among principals.
#[derive(Debug)]
pub(super) struct FilterCompileQueue {
    all: Limits,
    /// The limits of each principal with requests.
    by_principal: PerKey<String, Limits>,
}

/// The limits of one principal, or of all together.
#[derive(Debug, Clone)]
struct Limits {
    slots: Limiter,
    queued_kib: Limiter,
}

/// Permission to compile filters, until it is dropped.
#[derive(Debug)]
pub(super) struct CompileSlot {
    _permits: [Permit; 4],
    _member: Member<String, Limits>,
}

impl FilterCompileQueue {
    /// Creates an empty queue, and counts in `rejections` the requests that it refuses.
    pub(super) fn new(rejections: Counter) -> Self {
        Self {
            all: Limits::new(MAX_QUEUED_KIB, rejections),
            by_principal: PerKey::default(),
        }
    }

    /// Waits for a slot for a request of `bytes` bytes.
    ///
    /// # Errors
    /// Too many bytes are queued already, or no slot was free within [`MAX_WAIT`].
    pub(super) async fn acquire(
        &self,
        principal: &Principal,
        bytes: usize,
    ) -> Result<CompileSlot, Exceeded> {
        let slot = self.try_acquire(principal, bytes).await;
        // Clients are told of one limit, whichever it was.
        slot.ok_or_else(|| self.all.slots.reject())
    }

    async fn try_acquire(&self, principal: &Principal, bytes: usize) -> Option<CompileSlot> {
        let new = || Limits::new(MAX_QUEUED_KIB_PER_PRINCIPAL, Counter::noop());
        let name = principal.to_string();
        let (member, own) = self.by_principal.join(name, usize::MAX, new)?;
        let kib = bytes.div_ceil(1024).max(1);
        let own_kib = own.queued_kib.try_acquire_many(kib).ok()?;
        let kib = self.all.queued_kib.try_acquire_many(kib).ok()?;
        let slots = async {
            // The principal's own slots first, so that few requests of one principal compete with others.
            let own_slot = own.slots.acquire().await;
            (own_slot, self.all.slots.acquire().await)
        };
        let (own_slot, slot) = timeout(MAX_WAIT, slots).await.ok()?;
        Some(CompileSlot {
            _permits: [own_slot, slot, own_kib, kib],
            _member: member,
        })
    }
}

impl Limits {
    fn new(max_queued_kib: usize, rejections: Counter) -> Self {
        let slots = Limit::new("checks", MAX_CONCURRENT_COMPILES).counted_by(rejections);
        Self {
            slots: Limiter::new(slots),
            queued_kib: Limiter::new(Limit::new("KiB of queued requests", max_queued_kib)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;
    use crate::auth::Method;

    fn principal(name: &str) -> Arc<Principal> {
        Arc::new(Principal {
            method: Method::Key,
            name: name.to_owned(),
            ..Principal::anonymous()
        })
    }

    /// Returns a future that waits for a slot.
    fn request(
        queue: &Arc<FilterCompileQueue>,
        name: &str,
        kib: usize,
    ) -> BoxFuture<'static, Result<CompileSlot, Exceeded>> {
        let (queue, principal) = (Arc::clone(queue), principal(name));
        async move { queue.acquire(&principal, kib << 10).await }.boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_principal_with_many_requests_does_not_delay_others() {
        let queue = Arc::new(FilterCompileQueue::new(Counter::noop()));
        let mut flood: Vec<_> = (0..1_000).map(|_| request(&queue, "flood", 1)).collect();
        let mut running = Vec::new();
        for waiting in &mut flood {
            if let Some(slot) = waiting.now_or_never() {
                running.push(slot.expect("a slot"));
            }
        }
        assert_eq!(running.len(), MAX_CONCURRENT_COMPILES);
        let mut other = request(&queue, "other", 1);
        assert!((&mut other).now_or_never().is_none());
        running.pop();
        assert!(
            matches!((&mut other).now_or_never(), Some(Ok(_))),
            "the next slot goes to another principal"
        );
        drop((flood, running, other));
        assert!(queue.by_principal.is_empty(), "idle principals are removed");
    }

    #[tokio::test(start_paused = true)]
    async fn queued_bytes_and_waiting_time_are_bounded() {
        let queue = Arc::new(FilterCompileQueue::new(Counter::noop()));
        let mut held = Vec::new();
        for name in ["a", "b", "c", "d"] {
            for _ in 0..4 {
                let mut waiting = request(&queue, name, 1_024);
                match (&mut waiting).now_or_never() {
                    // Keeps the slot for ever.
                    Some(slot) => std::mem::forget(slot.expect("a slot")),
                    None => held.push(waiting),
                }
            }
            if name == "a" {
                let one_more = request(&queue, "a", 1).now_or_never();
                assert!(
                    matches!(one_more, Some(Err(_))),
                    "the principal's own limit is reached"
                );
            }
        }
        let one_more = request(&queue, "e", 1).now_or_never();
        assert!(
            matches!(one_more, Some(Err(_))),
            "the limit of all is reached"
        );
        for waiting in held {
            assert!(waiting.await.is_err(), "it times out");
        }
        assert!(
            request(&queue, "e", 1).now_or_never().is_none(),
            "bytes are free again"
        );
    }
}
