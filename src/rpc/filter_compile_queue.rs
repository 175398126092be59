//! A queue for requests that compile filters. Compiling the patterns of one request may take a large part
//! of a second, so few compile at once, and a principal with many requests delays only itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::auth::Principal;

/// The number of requests that compile at once. Also the number of requests of one principal that may
/// wait for these slots at once.
pub(super) const MAX_CONCURRENT_COMPILES: usize = 2;

/// The maximum size of all queued requests, as encoded by their clients, in KiB.
const MAX_QUEUED_KIB: usize = 16 << 10;
/// The maximum size of one principal's queued requests, in KiB.
const MAX_QUEUED_KIB_PER_PRINCIPAL: usize = 4 << 10;

/// The maximum time that a request waits.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Admits requests to compilation, fairly among principals.
#[derive(Debug)]
pub(super) struct FilterCompileQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    slots: Arc<Semaphore>,
    queued_kib: Arc<Semaphore>,
    /// The queue of each principal with requests, and the number of these requests.
    by_principal: Mutex<HashMap<String, (PrincipalQueue, usize)>>,
}

/// The limits of one principal.
#[derive(Debug, Clone)]
struct PrincipalQueue {
    slots: Arc<Semaphore>,
    queued_kib: Arc<Semaphore>,
}

/// Permission to compile filters, until it is dropped.
#[derive(Debug)]
pub(super) struct CompileSlot {
    _permits: [OwnedSemaphorePermit; 4],
    _guard: PrincipalQueueGuard,
}

/// Keeps the queue of a principal while it has requests, and removes it with the last one.
#[derive(Debug)]
struct PrincipalQueueGuard {
    shared: Arc<Shared>,
    name: String,
}

impl FilterCompileQueue {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            slots: Arc::new(Semaphore::new(MAX_CONCURRENT_COMPILES)),
            queued_kib: Arc::new(Semaphore::new(MAX_QUEUED_KIB)),
            by_principal: Mutex::default(),
        }))
    }

    /// Waits for a slot for a request of `bytes` bytes. Returns `None` when too many bytes are queued
    /// already, or when no slot was free within [`MAX_WAIT`].
    pub(super) async fn acquire(&self, principal: &Principal, bytes: usize) -> Option<CompileSlot> {
        let (guard, own) = self.join(principal.to_string());
        let size = u32::try_from(bytes.div_ceil(1024).max(1)).ok()?;
        let reserve = |limit: Arc<Semaphore>| limit.try_acquire_many_owned(size).ok();
        let (own_kib, kib) = (
            reserve(own.queued_kib)?,
            reserve(Arc::clone(&self.0.queued_kib))?,
        );
        let slots = async {
            // The principal's own slots first, so that few requests of one principal compete with others.
            let own_slot = own.slots.acquire_owned().await.ok()?;
            let slot = Arc::clone(&self.0.slots).acquire_owned().await.ok()?;
            Some((own_slot, slot))
        };
        let (own_slot, slot) = timeout(MAX_WAIT, slots).await.ok()??;
        Some(CompileSlot {
            _permits: [own_slot, slot, own_kib, kib],
            _guard: guard,
        })
    }

    fn join(&self, name: String) -> (PrincipalQueueGuard, PrincipalQueue) {
        let mut all = self.0.lock();
        let (own, users) = all.entry(name.clone()).or_insert_with(|| {
            let own = PrincipalQueue {
                slots: Arc::new(Semaphore::new(MAX_CONCURRENT_COMPILES)),
                queued_kib: Arc::new(Semaphore::new(MAX_QUEUED_KIB_PER_PRINCIPAL)),
            };
            (own, 0)
        });
        *users += 1;
        let own = own.clone();
        drop(all);
        let shared = Arc::clone(&self.0);
        (PrincipalQueueGuard { shared, name }, own)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (PrincipalQueue, usize)>> {
        self.by_principal
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for PrincipalQueueGuard {
    fn drop(&mut self) {
        let mut all = self.shared.lock();
        if let Some((_, users)) = all.get_mut(&self.name) {
            *users -= 1;
            if *users == 0 {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
    ) -> BoxFuture<'static, Option<CompileSlot>> {
        let (queue, principal) = (Arc::clone(queue), principal(name));
        async move { queue.acquire(&principal, kib << 10).await }.boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_principal_with_many_requests_does_not_delay_others() {
        let queue = Arc::new(FilterCompileQueue::new());
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
            matches!((&mut other).now_or_never(), Some(Some(_))),
            "the next slot goes to another principal"
        );
        drop((flood, running, other));
        assert!(queue.0.lock().is_empty(), "idle principals are removed");
    }

    #[tokio::test(start_paused = true)]
    async fn queued_bytes_and_waiting_time_are_bounded() {
        let queue = Arc::new(FilterCompileQueue::new());
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
                    matches!(one_more, Some(None)),
                    "the principal's own limit is reached"
                );
            }
        }
        let one_more = request(&queue, "e", 1).now_or_never();
        assert!(
            matches!(one_more, Some(None)),
            "the limit of all is reached"
        );
        for waiting in held {
            assert!(waiting.await.is_none(), "it times out");
        }
        assert!(
            request(&queue, "e", 1).now_or_never().is_none(),
            "bytes are free again"
        );
    }
}
