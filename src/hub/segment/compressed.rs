//! The compressed messages of a segment: each is compressed once, for all watches that send it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;

use crate::{filter::MatchTransition, wire::Compression};

/// The memory of an entry in bytes beyond its message.
const OVERHEAD: usize = 200;

/// The identity of a message of changes: equal keys of a segment are equal bytes, since the rendering decides
/// about the fields, the format and the tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct MessageKey {
    /// The index of the rendering among the segment's encodings.
    pub(super) encoding: usize,
    pub(super) compression: Compression,
    pub(super) run: Run,
}

/// The events of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Run {
    /// All events from the first index to before the second.
    Range(u32, u32),
    /// Indices of events, each with its match transition.
    List(Box<[(u32, MatchTransition)]>),
}

/// A message; `None` if it is not worth compressing. Not set while a thread compresses it.
type Cell = Arc<OnceLock<Option<Bytes>>>;

/// The messages that were compressed last, within a limit in bytes.
#[derive(Debug, Default)]
pub(super) struct CompressedMessages(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    cells: HashMap<MessageKey, Cell>,
    /// The finished messages with their memory, in the order in which they were compressed.
    finished: VecDeque<(MessageKey, usize)>,
    bytes: usize,
}

impl CompressedMessages {
    /// Returns a message, which `compress` makes if nobody has asked for it yet. Who asks meanwhile waits, as
    /// compressing it again would take as long. Once all messages have more than `limit` bytes, the oldest
    /// are forgotten: watches that go on together ask at about the same time.
    pub(super) fn get(
        &self,
        key: MessageKey,
        limit: usize,
        compress: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Bytes> {
        let cell = Arc::clone(self.lock().cells.entry(key.clone()).or_default());
        let mut is_new = false;
        let message = cell.get_or_init(|| {
            is_new = true;
            compress()
        });
        if is_new {
            let bytes = message.as_ref().map_or(0, Bytes::len) + key.bytes();
            self.lock().finish(key, bytes, limit);
        }
        message.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        // A panic while the lock is held leaves no incomplete entry.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn finish(&mut self, key: MessageKey, bytes: usize, limit: usize) {
        self.finished.push_back((key, bytes));
        self.bytes += bytes;
        while self.bytes > limit && self.finished.len() > 1 {
            let Some((oldest, bytes)) = self.finished.pop_front() else {
                return;
            };
            self.cells.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

impl MessageKey {
    /// The memory of the key, which is stored twice.
    fn bytes(&self) -> usize {
        let list = match &self.run {
            Run::Range(..) => 0,
            Run::List(list) => size_of_val(&**list),
        };
        OVERHEAD + 2 * list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(from: u32) -> MessageKey {
        MessageKey {
            encoding: 0,
            compression: Compression::Gzip,
            run: Run::Range(from, from + 1),
        }
    }

    #[test]
    fn threads_that_ask_at_once_compress_once() {
        let messages = CompressedMessages::default();
        let made = std::sync::atomic::AtomicUsize::new(0);
        let all = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    all.wait();
                    for from in 0..100 {
                        let message = messages.get(key(from), usize::MAX, || {
                            made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            (from % 2 == 0).then(|| Bytes::from(from.to_string()))
                        });
                        let expected = (from % 2 == 0).then(|| Bytes::from(from.to_string()));
                        assert_eq!(message, expected);
                    }
                });
            }
        });
        assert_eq!(made.into_inner(), 100);
    }

    #[test]
    fn the_oldest_messages_are_forgotten_beyond_the_limit() {
        let messages = CompressedMessages::default();
        let limit = 10 * (OVERHEAD + 50);
        for from in 0..1_000 {
            let made = messages.get(key(from), limit, || Some(vec![0; 50].into()));
            assert_eq!(made.map(|it| it.len()), Some(50));
            let entries = messages.lock();
            assert!(entries.bytes <= limit);
            assert_eq!(entries.cells.len(), entries.finished.len());
        }
        // The latest are still there.
        let latest = messages.get(key(999), limit, || panic!("it is forgotten"));
        assert!(latest.is_some());
        // A message larger than the limit is kept alone.
        messages.get(key(5_000), limit, || Some(vec![0; 10 * limit].into()));
        assert_eq!(messages.lock().cells.len(), 1);
    }
}
