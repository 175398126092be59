//! Fills one message with events.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    hub::EventSelection,
    model::{EndTime, Rendering},
    pb::FilterMatch,
    pipeline::Watch,
    wire::{Changes, Compression, EncodedEvent, Frame},
};

/// The size at which a batch is closed, in bytes. Larger batches save little, and a client waits for the
/// whole of one.
const BATCH_BYTES: usize = 64 << 10;

/// A message of changes that is being filled.
pub(super) struct BatchBuilder {
    rendering: Arc<Rendering>,
    limit: usize,
    end_time: Option<EndTime>,
    changes: Changes,
    /// The token of the last event.
    token: Bytes,
    compression: Option<Compression>,
    /// The selection whose first events the message holds, and their number, if it is to be compressed.
    shared: Option<(EventSelection, usize)>,
}

/// The result of adding a selection of events to a batch.
#[derive(Debug)]
pub(super) struct FillResult {
    /// The number of events that were added.
    pub count: usize,
    /// The reason why the next event was not added; `None` when all were added.
    pub stopped: Option<StopReason>,
}

/// The reason why an event was not added to a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// It goes into the next batch.
    BatchFull,
    /// It is larger than any message may be. Nothing stands before it in this batch.
    Oversize,
    /// It is later than the end time that the client asked for.
    PastEnd,
}

impl BatchBuilder {
    /// Creates an empty batch. One that is compressed takes events of one selection only, since the watches
    /// that share it have the selection in common.
    pub(super) fn new(watch: &Watch, compression: Option<Compression>) -> Self {
        Self {
            compression,
            shared: None,
            rendering: Arc::clone(&watch.rendering),
            limit: watch.max_message_bytes as usize,
            end_time: watch.end_time,
            changes: Changes::default(),
            token: Bytes::new(),
        }
    }

    /// Adds as many events as fit, as the watch is shown them. Sets `token` to the token of the last event added.
    pub(super) fn fill(&mut self, selection: &EventSelection, token: &mut Vec<u8>) -> FillResult {
        let encoded = selection.encoded(&self.rendering);
        let mut count = 0;
        let mut stopped = None;
        while count < selection.len() {
            let event = encoded.event(count);
            let filter_match = selection.transition(count).to_pb();
            stopped = self.stop_reason(
                event,
                filter_match,
                selection.event(count).cluster_time.seconds,
            );
            if stopped.is_some() {
                break;
            }
            self.changes.push(event, filter_match);
            count += 1;
        }
        if count > 0 {
            if self.compression.is_some() {
                self.shared = Some((selection.clone(), count));
            }
            self.token = encoded.event(count - 1).token();
            token.clear();
            token.extend_from_slice(&self.token);
        }
        FillResult { count, stopped }
    }

    /// Returns the reason why an event can't be added, if there is one.
    fn stop_reason(
        &self,
        event: &EncodedEvent,
        filter_match: FilterMatch,
        second: u32,
    ) -> Option<StopReason> {
        let size = self.changes.size() + Changes::encoded_size(event, filter_match);
        let empty = self.changes.is_empty();
        if self.end_time.is_some_and(|end| end.is_past(second)) {
            return Some(StopReason::PastEnd);
        }
        if Frame::encoded_len_of(event.token_len(), size) > self.limit {
            return Some(if empty {
                StopReason::Oversize
            } else {
                StopReason::BatchFull
            });
        }
        (size > BATCH_BYTES && !empty).then_some(StopReason::BatchFull)
    }

    /// Returns the message, or `None` if it holds no event.
    pub(super) fn into_frame(self) -> Option<Frame> {
        if self.changes.is_empty() {
            return None;
        }
        let frame = Frame::changes(self.token, self.changes);
        let Some((compression, (selection, count))) = self.compression.zip(self.shared) else {
            return Some(frame);
        };
        let message = selection.compressed(&self.rendering, count, compression, &frame);
        Some(match message {
            Some(message) => Frame::compressed(frame.token().clone(), message),
            None => frame,
        })
    }
}
