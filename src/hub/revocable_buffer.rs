//! Encoded events that are being sent in pieces. When memory is short, those of clients that do not read
//! are evicted; the event is then read from MongoDB again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use slab::Slab;
use tokio::time::Instant;

use super::sync::{Mutex, lock};

/// The time without a read after which a buffer can be evicted. When the client reads again, the event
/// is read again and at least one more piece is sent, so that each round makes progress.
pub(super) const UNREAD_TIMEOUT: Duration = Duration::from_secs(3);

/// All live buffers.
#[derive(Debug, Default)]
pub(super) struct RevocableBuffers(Arc<Mutex<Slab<Slot>>>);

#[derive(Debug)]
struct Slot {
    bytes: Result<Bytes, Evicted>,
    last_read: Instant,
}

/// The checksum of a buffer that was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted(u32);

impl Evicted {
    fn new(bytes: &[u8]) -> Self {
        Self(crc32fast::hash(bytes))
    }

    /// Returns whether `bytes` have the same checksum.
    #[must_use]
    pub fn matches(self, bytes: &[u8]) -> bool {
        self == Self::new(bytes)
    }
}

/// Bytes that stay in memory until they are evicted or this handle is dropped.
#[derive(Debug)]
pub struct RevocableBuffer {
    buffers: Arc<Mutex<Slab<Slot>>>,
    key: usize,
}

impl RevocableBuffers {
    pub(super) fn insert(&self, bytes: Bytes) -> RevocableBuffer {
        let slot = Slot {
            bytes: Ok(bytes),
            last_read: Instant::now(),
        };
        RevocableBuffer {
            key: lock(&self.0).insert(slot),
            buffers: Arc::clone(&self.0),
        }
    }

    /// Evicts buffers without a read for [`UNREAD_TIMEOUT`], the longest unread first, until `enough`
    /// returns true.
    pub(super) fn evict(&self, enough: impl Fn() -> bool) {
        let mut buffers = lock(&self.0);
        let mut unread: Vec<&mut Slot> = buffers
            .iter_mut()
            .map(|(_, slot)| slot)
            .filter(|slot| slot.bytes.is_ok() && slot.last_read.elapsed() >= UNREAD_TIMEOUT)
            .collect();
        unread.sort_unstable_by_key(|slot| slot.last_read);
        for slot in unread {
            if enough() {
                return;
            }
            if let Ok(bytes) = &slot.bytes {
                slot.bytes = Err(Evicted::new(bytes));
            }
        }
    }
}

impl RevocableBuffer {
    /// Returns the bytes and restarts the read timeout.
    ///
    /// # Errors
    /// [`Evicted`] if they were evicted.
    pub fn bytes(&self) -> Result<Bytes, Evicted> {
        let mut buffers = lock(&self.buffers);
        let slot = &mut buffers[self.key];
        slot.last_read = Instant::now();
        slot.bytes.clone()
    }
}

impl Drop for RevocableBuffer {
    fn drop(&mut self) {
        let slot = lock(&self.buffers).try_remove(self.key);
        // Frees the bytes after the lock is released.
        drop(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn buffers_that_are_read_are_not_evicted() {
        let buffers = RevocableBuffers::default();
        let (slow, stopped) = (
            buffers.insert(Bytes::from_static(b"a")),
            buffers.insert(Bytes::from_static(b"b")),
        );
        buffers.evict(|| false);
        assert!(slow.bytes().is_ok() && stopped.bytes().is_ok());

        tokio::time::sleep(UNREAD_TIMEOUT).await;
        assert!(slow.bytes().is_ok());
        buffers.evict(|| false);
        assert!(slow.bytes().is_ok());
        let evicted = stopped.bytes().expect_err("it was evicted");
        assert!(evicted.matches(b"b") && !evicted.matches(b"a"));
    }

    #[tokio::test(start_paused = true)]
    async fn eviction_starts_with_the_longest_unread_and_stops_when_enough_is_free() {
        let buffers = RevocableBuffers::default();
        let first = buffers.insert(Bytes::from_static(b"a"));
        tokio::time::sleep(UNREAD_TIMEOUT).await;
        let second = buffers.insert(Bytes::from_static(b"b"));
        tokio::time::sleep(UNREAD_TIMEOUT).await;
        let evicted = std::cell::Cell::new(0);
        buffers.evict(|| evicted.replace(evicted.get() + 1) == 1);
        assert!(first.bytes().is_err());
        assert!(second.bytes().is_ok());

        drop((first, second));
        assert!(lock(&buffers.0).is_empty());
    }
}
