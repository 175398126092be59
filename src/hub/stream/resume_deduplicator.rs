//! Skips the events before a token in a stream that was opened by the token's time.
//!
//! A start by time returns all events of that time again. Those up to and including the token's event
//! were delivered before; those after it, for example of the same transaction, were not. If the token's
//! event does not come (another filter may not pass it), all events of that time are delivered: a
//! duplicate is allowed, a lost event is not.

use bytes::Bytes;

use crate::{
    hub::stream::scan::EndProof,
    source::{Batch, ClusterTime, Position},
};

/// Holds batches back until the token's event is found or cannot come any more. Of a time with more
/// events than may be held back it discards them, and they are read again if they are needed.
#[derive(Debug)]
pub(super) struct ResumeDeduplicator {
    token: Bytes,
    time: ClusterTime,
    /// What the replies prove. Behind a mongos events of the time may come after an empty one.
    proof: EndProof,
    held_back: Vec<Batch>,
    held_back_bytes: usize,
    /// `true` once events were discarded.
    discarded: bool,
}

/// The state of the search after a batch. The deduplicator is done unless it continues.
#[derive(Debug)]
pub(super) enum Search {
    /// The token's event may still come.
    Continues,
    /// The search has ended: these batches are to be delivered.
    Ended(Vec<Batch>),
    /// The event did not come, and events were discarded that are to be delivered: the stream must be
    /// opened again, without a search.
    Failed,
}

/// The maximum bytes of events held back.
const MAX_HELD_BACK_BYTES: usize = 16 << 20;

impl ResumeDeduplicator {
    /// Creates a deduplicator for the event with `token` and `time`. `is_sharded`: MongoDB is a mongos.
    pub(super) fn new(token: Bytes, time: ClusterTime, is_sharded: bool) -> Self {
        Self {
            token,
            time,
            proof: EndProof::new(is_sharded, &Position::Time(time)),
            held_back: Vec::new(),
            held_back_bytes: 0,
            discarded: false,
        }
    }

    /// Adds a batch.
    pub(super) fn filter(&mut self, mut batch: Batch) -> Search {
        let index = batch
            .events
            .iter()
            .position(|event| batch.buffer[event.token.clone()] == self.token);
        if let Some(index) = index {
            batch.events.drain(..=index);
            return Search::Ended(vec![batch]);
        }
        let may_still_come = self.proof.after(&batch).is_none()
            && batch
                .events
                .last()
                .is_none_or(|event| event.cluster_time <= self.time);
        if may_still_come {
            self.hold_back(batch);
            return Search::Continues;
        }
        if self.discarded {
            return Search::Failed;
        }
        self.held_back.push(batch);
        Search::Ended(std::mem::take(&mut self.held_back))
    }

    fn hold_back(&mut self, batch: Batch) {
        self.held_back_bytes += batch.buffer.len();
        self.discarded |= self.held_back_bytes > MAX_HELD_BACK_BYTES;
        if self.discarded {
            self.held_back.clear();
        } else {
            self.held_back.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Operation, source::Event};

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
            caught_up: events.is_empty(),
            waited: events.is_empty(),
        }
    }

    /// A batch of more than half of what may be held back.
    fn large(events: &[(u8, u32)]) -> Batch {
        let mut buffer: Vec<u8> = events.iter().map(|(token, _)| *token).collect();
        buffer.resize(MAX_HELD_BACK_BYTES / 2 + 1, b'-');
        Batch {
            buffer: buffer.into(),
            ..batch(events)
        }
    }

    /// The tokens of the events to deliver. `None` while the search continues.
    fn tokens(search: Search) -> Option<Vec<u8>> {
        let batches = match search {
            Search::Continues => return None,
            Search::Ended(batches) => batches,
            Search::Failed => panic!("the search failed"),
        };
        let tokens = batches
            .iter()
            .flat_map(|it| it.events.iter().map(|event| it.buffer[event.token.start]));
        Some(tokens.collect())
    }

    fn deduplicator() -> ResumeDeduplicator {
        ResumeDeduplicator::new(Bytes::from_static(b"x"), AT, false)
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
    fn the_tokens_event_is_found_after_more_than_can_be_held_back() {
        let mut deduplicator = deduplicator();
        for _ in 0..5 {
            assert_eq!(tokens(deduplicator.filter(large(&[(b'v', 3)]))), None);
        }
        assert!(deduplicator.held_back.is_empty());
        assert_eq!(
            tokens(deduplicator.filter(large(&[(b'x', 3), (b'y', 3)]))),
            Some(b"y".to_vec())
        );
    }

    #[test]
    fn discarded_events_are_read_again_without_the_tokens_event() {
        for last in [batch(&[(b'z', 4)]), batch(&[])] {
            let mut deduplicator = deduplicator();
            for _ in 0..2 {
                assert_eq!(tokens(deduplicator.filter(large(&[(b'v', 3)]))), None);
            }
            assert!(matches!(deduplicator.filter(last), Search::Failed));
        }
    }
}
