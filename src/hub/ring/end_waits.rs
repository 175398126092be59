//! The subscribers that end when the stream has passed a time.

use std::{collections::BTreeMap, sync::Arc};

use crate::{hub::subscriber::Subscriber, source::ClusterTime};

/// Wakes each subscriber once, when the stream's position reaches the time at which it is due. A quiet stream
/// has no event that would wake it.
#[derive(Debug, Default)]
pub(super) struct EndWaits {
    waiting: BTreeMap<EndKey, Arc<Subscriber>>,
    next_id: u64,
}

/// Identifies a waiting subscriber. Ordered by the time at which it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndKey {
    due: ClusterTime,
    id: u64,
}

impl EndWaits {
    pub(super) fn insert(&mut self, due: ClusterTime, subscriber: Arc<Subscriber>) -> EndKey {
        let id = self.next_id;
        self.next_id += 1;
        let key = EndKey { due, id };
        self.waiting.insert(key, subscriber);
        key
    }

    /// Removes a subscriber, if it was not woken before.
    pub(super) fn remove(&mut self, key: EndKey) {
        self.waiting.remove(&key);
    }

    /// The earliest time at which a subscriber is due.
    pub(super) fn first_due(&self) -> Option<ClusterTime> {
        self.waiting.first_key_value().map(|(key, _)| key.due)
    }

    /// Wakes the subscribers that are due at a position of this time.
    pub(super) fn wake_due(&mut self, position: ClusterTime) {
        while let Some(first) = self.waiting.first_entry()
            && first.key().due <= position
        {
            first.remove().wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::{Context, Wake, Waker},
    };

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn at(seconds: u32) -> ClusterTime {
        ClusterTime {
            seconds,
            increment: 0,
        }
    }

    #[test]
    fn each_subscriber_is_woken_once_and_only_when_it_is_due() {
        let mut waits = EndWaits::default();
        let wait = |waits: &mut EndWaits, due| {
            let (subscriber, wakes) = (Arc::new(Subscriber::default()), Arc::new(Wakes::default()));
            let waker = Waker::from(Arc::clone(&wakes));
            subscriber.register_waker(&Context::from_waker(&waker));
            (
                waits.insert(at(due), Arc::clone(&subscriber)),
                subscriber,
                wakes,
            )
        };
        let [first, gone, second] = [5, 5, 7].map(|due| wait(&mut waits, due));
        waits.remove(gone.0);
        let mut seen = Vec::new();
        for time in [4, 5, 6, 9, 10] {
            waits.wake_due(at(time));
            // The watch waits again, as one does that has more to read.
            for (_, subscriber, wakes) in [&first, &gone, &second] {
                let waker = Waker::from(Arc::clone(wakes));
                subscriber.register_waker(&Context::from_waker(&waker));
            }
            seen.push([&first, &gone, &second].map(|it| it.2.0.load(Ordering::SeqCst)));
        }
        assert_eq!(
            seen,
            [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1], [1, 0, 1]]
        );
    }
}
