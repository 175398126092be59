//! Fills one message with events.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    hub::EventSelection,
    pb::FilterMatch,
    plan::{Format, View, Watch},
    source::EventError,
    wire::{Changes, EncodedEvent, Frame},
};

/// A batch is closed once it holds this many bytes. Larger batches save little, and a client waits
/// for the whole of one.
const BATCH_BYTES: usize = 64 << 10;

/// A message of changes that is being filled.
pub(super) struct Batch {
    format: Format,
    limit: usize,
    end_time: Option<u32>,
    changes: Changes,
    /// The token of the last event.
    token: Bytes,
}

/// How far a batch got with a run.
#[derive(Debug)]
pub(super) struct Filled {
    /// How many of the run's events are in the batch.
    pub count: usize,
    /// Why the next one is not. `None`: there is none.
    pub full: Option<Full>,
}

/// Why an event is not in the batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// It goes into the next one.
    Batch,
    /// It is larger than any message may be, and next to go.
    Oversize,
    /// It is later than the client wants any.
    End,
}

impl Batch {
    pub(super) fn new(watch: &Watch) -> Self {
        Self {
            format: watch.format,
            limit: watch.max_message_bytes as usize,
            end_time: watch.end_time,
            changes: Changes::default(),
            token: Bytes::new(),
        }
    }

    /// Takes events of a run as they look in a view, as many as fit; `token` becomes that of the last one
    /// taken.
    pub(super) fn fill(
        &mut self,
        run: &EventSelection,
        view: &Arc<View>,
        token: &mut Vec<u8>,
    ) -> Result<Filled, EventError> {
        let encoded = run.encoded(self.format, view)?;
        let mut count = 0;
        let mut full = None;
        while count < run.len() {
            let event = encoded.event(count);
            let told = run.transition(count).to_pb();
            full = self.refuses(event, told, run.event(count).cluster_time.seconds);
            if full.is_some() {
                break;
            }
            self.changes.push(event, told);
            count += 1;
        }
        if count > 0 {
            self.token = encoded.event(count - 1).token();
            token.clear();
            token.extend_from_slice(&self.token);
        }
        Ok(Filled { count, full })
    }

    /// Why an event can't be taken, if it can't.
    fn refuses(&self, event: &EncodedEvent, told: FilterMatch, second: u32) -> Option<Full> {
        let size = self.changes.size() + Changes::encoded_size(event, told);
        let empty = self.changes.is_empty();
        if self.end_time.is_some_and(|end| second > end) {
            return Some(Full::End);
        }
        if Frame::encoded_len_of(event.token_len(), size) > self.limit {
            return Some(if empty { Full::Oversize } else { Full::Batch });
        }
        (size > BATCH_BYTES && !empty).then_some(Full::Batch)
    }

    /// The message, if anything is in it.
    pub(super) fn into_frame(self) -> Option<Frame> {
        (!self.changes.is_empty()).then(|| Frame::changes(self.token, self.changes))
    }
}
