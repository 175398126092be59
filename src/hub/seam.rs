//! Joins a stream that was opened by time to the place that a token stood for.
//!
//! A start by time brings every event of that very time again. Those up to and including the
//! token's event have been seen; those after it, in the same transaction say, have not. The token's
//! event tells which is which when it comes. When it does not (another filter may leave it out),
//! all of that time are delivered: a repeat is allowed, a hole is not.

use bytes::Bytes;

use crate::source::{Batch, ClusterTime};

#[derive(Debug)]
pub(super) struct Seam {
    token: Bytes,
    time: ClusterTime,
    held: Vec<Batch>,
    held_bytes: usize,
}

/// How many bytes of events are held back at most. A transaction larger than this is repeated.
const MAX_HELD_BYTES: usize = 16 << 20;

impl Seam {
    /// A seam at the event that had `token` and `time`.
    pub(super) fn new(token: Bytes, time: ClusterTime) -> Self {
        Self {
            token,
            time,
            held: Vec::new(),
            held_bytes: 0,
        }
    }

    /// Takes a batch; gives the batches to go on with once the seam is found, `None` before that.
    pub(super) fn pass(&mut self, mut batch: Batch) -> Option<Vec<Batch>> {
        let seen = batch
            .events
            .iter()
            .position(|event| batch.buffer[event.token.clone()] == self.token);
        if let Some(seen) = seen {
            batch.events.drain(..=seen);
            return Some(vec![batch]);
        }
        self.held_bytes += batch.buffer.len();
        let past = batch.closed
            || batch.idle
            || self.held_bytes > MAX_HELD_BYTES
            || batch
                .events
                .last()
                .is_some_and(|event| event.cluster_time > self.time);
        self.held.push(batch);
        past.then(|| std::mem::take(&mut self.held))
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

    /// A batch of events that are one token byte each, with their times.
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

    fn seam() -> Seam {
        Seam::new(Bytes::from_static(b"x"), AT)
    }

    #[test]
    fn everything_up_to_the_tokens_event_is_skipped() {
        let found = seam().pass(batch(&[(b'w', 3), (b'x', 3), (b'y', 3), (b'z', 4)]));
        assert_eq!(tokens(found), Some(b"yz".to_vec()));
    }

    #[test]
    fn the_tokens_event_is_found_in_a_later_batch() {
        let mut seam = seam();
        assert_eq!(tokens(seam.pass(batch(&[(b'v', 3), (b'w', 3)]))), None);
        assert_eq!(
            tokens(seam.pass(batch(&[(b'x', 3), (b'y', 3)]))),
            Some(b"y".to_vec())
        );
    }

    #[test]
    fn without_the_tokens_event_all_of_its_time_is_delivered() {
        let mut seam = seam();
        assert_eq!(tokens(seam.pass(batch(&[(b'v', 3)]))), None);
        assert_eq!(
            tokens(seam.pass(batch(&[(b'w', 3), (b'z', 4)]))),
            Some(b"vwz".to_vec())
        );
    }

    #[test]
    fn having_read_everything_ends_the_search() {
        let mut seam = seam();
        assert_eq!(tokens(seam.pass(batch(&[(b'v', 3)]))), None);
        assert_eq!(tokens(seam.pass(batch(&[]))), Some(b"v".to_vec()));
    }

    #[test]
    fn a_transaction_too_large_to_hold_back_is_repeated() {
        let large = || Batch {
            buffer: vec![b'v'; MAX_HELD_BYTES / 2 + 1].into(),
            ..batch(&[(b'v', 3)])
        };
        let mut seam = seam();
        assert_eq!(tokens(seam.pass(large())), None);
        assert_eq!(tokens(seam.pass(large())), Some(b"vv".to_vec()));
    }
}
