//! Bytes that a watch holds while its client takes them piece by piece, and that are called in where
//! memory is short and the client does not read: what they were made of can be read again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use slab::Slab;
use tokio::time::Instant;

use super::sync::{Mutex, lock};

/// How long a client may leave a piece unread before the rest can be called in. Each time it comes
/// back the event is read again, and at least one more piece goes out.
pub(super) const UNREAD: Duration = Duration::from_secs(3);

/// All that is lent.
#[derive(Debug, Default)]
pub(super) struct Loans(Arc<Mutex<Slab<Lent>>>);

#[derive(Debug)]
struct Lent {
    bytes: Result<Bytes, CalledIn>,
    read: Instant,
}

/// Bytes that are not here any more, by their checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CalledIn(u32);

impl CalledIn {
    fn new(bytes: &[u8]) -> Self {
        Self(crc32fast::hash(bytes))
    }

    /// Whether these are the same.
    #[must_use]
    pub fn is(self, bytes: &[u8]) -> bool {
        self == Self::new(bytes)
    }
}

/// Bytes that are there until they are called in, or this is dropped.
#[derive(Debug)]
pub struct Loan {
    loans: Arc<Mutex<Slab<Lent>>>,
    key: usize,
}

impl Loans {
    pub(super) fn lend(&self, bytes: Bytes) -> Loan {
        let lent = Lent {
            bytes: Ok(bytes),
            read: Instant::now(),
        };
        Loan {
            key: lock(&self.0).insert(lent),
            loans: Arc::clone(&self.0),
        }
    }

    /// Calls in what nobody has read for a while, the longest unread first, for as long as `enough`
    /// says no.
    pub(super) fn call_in(&self, enough: impl Fn() -> bool) {
        let mut loans = lock(&self.0);
        let mut unread: Vec<&mut Lent> = loans
            .iter_mut()
            .map(|(_, lent)| lent)
            .filter(|lent| lent.bytes.is_ok() && lent.read.elapsed() >= UNREAD)
            .collect();
        unread.sort_unstable_by_key(|lent| lent.read);
        for lent in unread {
            if enough() {
                return;
            }
            if let Ok(bytes) = &lent.bytes {
                lent.bytes = Err(CalledIn::new(bytes));
            }
        }
    }
}

impl Loan {
    /// The bytes, unless they were called in.
    ///
    /// # Errors
    /// [`CalledIn`].
    pub fn bytes(&self) -> Result<Bytes, CalledIn> {
        let mut loans = lock(&self.loans);
        let lent = &mut loans[self.key];
        lent.read = Instant::now();
        lent.bytes.clone()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let lent = lock(&self.loans).try_remove(self.key);
        // The bytes go after the lock.
        drop(lent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_read_is_not_called_in() {
        let loans = Loans::default();
        let (slow, stopped) = (
            loans.lend(Bytes::from_static(b"a")),
            loans.lend(Bytes::from_static(b"b")),
        );
        loans.call_in(|| false);
        assert!(slow.bytes().is_ok() && stopped.bytes().is_ok());

        tokio::time::sleep(UNREAD).await;
        assert!(slow.bytes().is_ok());
        loans.call_in(|| false);
        assert!(slow.bytes().is_ok());
        let called_in = stopped.bytes().expect_err("it was called in");
        assert!(called_in.is(b"b") && !called_in.is(b"a"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_unread_is_called_in_first_and_no_more_than_needed() {
        let loans = Loans::default();
        let first = loans.lend(Bytes::from_static(b"a"));
        tokio::time::sleep(UNREAD).await;
        let second = loans.lend(Bytes::from_static(b"b"));
        tokio::time::sleep(UNREAD).await;
        let called_in = std::cell::Cell::new(0);
        loans.call_in(|| called_in.replace(called_in.get() + 1) == 1);
        assert!(first.bytes().is_err());
        assert!(second.bytes().is_ok());

        drop((first, second));
        assert!(lock(&loans.0).is_empty());
    }
}
