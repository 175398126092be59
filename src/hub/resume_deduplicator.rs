//! Skips the events before a token in a stream that was opened by the token's time.
//!
//! A start by time returns all events of that time again. Those up to and including the token's event
//! were delivered before; those after it, for example of the same transaction, were not. If the token's
//! event does not come (another filter may not pass it), all events of that time are delivered: a
//! duplicate is allowed, a lost event is not.

use bytes::Bytes;

use crate::source::{Batch, ClusterTime};

/// Holds batches back until the token's event is found or cannot come any more.
#[derive(Debug)]
pub(super) struct ResumeDeduplicator {
    token: Bytes,
    time: ClusterTime,
    held_back: Vec<Batch>,
    held_back_bytes: usize,
}

/// The maximum bytes of events held back. The events of a larger transaction are delivered again.
const MAX_HELD_BACK_BYTES: usize = 16 << 20;

impl ResumeDeduplicator {
    /// Creates a deduplicator for the event with `token` and `time`.
    pub(super) fn new(token: Bytes, time: ClusterTime) -> Self {
        Self {
            token,
            time,
            held_back: Vec::new(),
            held_back_bytes: 0,
        }
    }

    /// Adds a batch. Returns the batches to deliver once the search has ended, and `None` before that; the
    /// deduplicator is done after it returns `Some`.
    pub(super) fn filter(&mut self, mut batch: Batch) -> Option<Vec<Batch>> {
        let index = batch
            .events
            .iter()
            .position(|event| batch.buffer[event.token.clone()] == self.token);
        if let Some(index) = index {
            batch.events.drain(..=index);
            return Some(vec![batch]);
        }
        self.held_back_bytes += batch.buffer.len();
        let search_ended = batch.closed
            || batch.idle
            || self.held_back_bytes > MAX_HELD_BACK_BYTES
            || batch
                .events
                .last()
                .is_some_and(|event| event.cluster_time > self.time);
        self.held_back.push(batch);
        search_ended.then(|| std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Operation, source::Event};

    const AT: ClusterTime = ClusterTime {
        seconds: 10,
        increment: 3,
    };

    /// A batch of events, each with a token of one byte and the increment of its time.
    fn batch(events: &[(u8, u32)]) -> Batch {
        let buffer: Vec<u8> = events.iter().map(|(token, _)| *token).collect();
        let event = |(index, (_, increment)): (usize, &(u8, u32))| {
            Event::for_tests(
                index..index + 1,
                Operation::Insert,
                ClusterTime {
                    seconds: 10,
                    increment: *increment,
                },
            )
        };
        Batch {
            buffer: buffer.into(),
            events: events.iter().enumerate().map(event).collect(),
            position: None,
            operation_time: None,
            closed: false,
            idle: events.is_empty(),
        }
    }

    fn tokens(batches: Option<Vec<Batch>>) -> Option<Vec<u8>> {
        let batches = batches?;
        let tokens = batches
            .iter()
            .flat_map(|it| it.events.iter().map(|event| it.buffer[event.token.start]));
        Some(tokens.collect())
    }

    fn deduplicator() -> ResumeDeduplicator {
        ResumeDeduplicator::new(Bytes::from_static(b"x"), AT)
    }

    #[test]
    fn events_up_to_the_tokens_event_are_skipped() {
        let found = deduplicator().filter(batch(&[(b'w', 3), (b'x', 3), (b'y', 3), (b'z', 4)]));
        assert_eq!(tokens(found), Some(b"yz".to_vec()));
    }

    #[test]
    fn the_tokens_event_is_found_in_a_later_batch() {
        let mut deduplicator = deduplicator();
        assert_eq!(
            tokens(deduplicator.filter(batch(&[(b'v', 3), (b'w', 3)]))),
            None
        );
        assert_eq!(
            tokens(deduplicator.filter(batch(&[(b'x', 3), (b'y', 3)]))),
            Some(b"y".to_vec())
        );
    }

    #[test]
    fn all_events_of_the_time_are_delivered_without_the_tokens_event() {
        let mut deduplicator = deduplicator();
        assert_eq!(tokens(deduplicator.filter(batch(&[(b'v', 3)]))), None);
        assert_eq!(
            tokens(deduplicator.filter(batch(&[(b'w', 3), (b'z', 4)]))),
            Some(b"vwz".to_vec())
        );
    }

    #[test]
    fn an_idle_batch_ends_the_search() {
        let mut deduplicator = deduplicator();
        assert_eq!(tokens(deduplicator.filter(batch(&[(b'v', 3)]))), None);
        assert_eq!(tokens(deduplicator.filter(batch(&[]))), Some(b"v".to_vec()));
    }

    #[test]
    fn a_transaction_too_large_to_hold_back_is_delivered_again() {
        let large = || Batch {
            buffer: vec![b'v'; MAX_HELD_BACK_BYTES / 2 + 1].into(),
            ..batch(&[(b'v', 3)])
        };
        let mut deduplicator = deduplicator();
        assert_eq!(tokens(deduplicator.filter(large())), None);
        assert_eq!(tokens(deduplicator.filter(large())), Some(b"vv".to_vec()));
    }
}
