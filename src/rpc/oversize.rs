//! Delivery of an event that no message of its watch can hold, as the client's oversize policy says.

use bytes::Bytes;

use crate::{
    error::Error,
    hub::{EventSelection, Evicted, RevocableBuffer, Watcher},
    model::Oversize,
    pb::{self, FilterMatch},
    pipeline::Watch,
    source::Event,
    wire::{self, Changes, Chunk, Frame},
};

/// The bytes of a chunk message beyond its data and its token.
const CHUNK_OVERHEAD: usize = 64;

/// The way in which an oversized event is delivered.
pub(super) enum Delivery {
    /// Not at all: the watch ends with this error.
    Refused(Error),
    /// As a stub without its documents.
    Stub(Frame),
    /// In chunks.
    Chunks(ChunkedEvent),
}

/// An event that is being sent in chunks. Its bytes are in a revocable buffer, so that a client that does not
/// read can't hold them when memory is short. After an eviction the event is read again, and continues where
/// it stopped if it is unchanged.
pub(super) struct ChunkedEvent {
    /// The event's metadata, for the accounting when all chunks are sent.
    pub event: Event,
    buffer: RevocableBuffer,
    token: Bytes,
    filter_match: FilterMatch,
    /// The size of the whole event with its `match` field, in bytes.
    size: usize,
    id: u64,
    index: u32,
    /// The number of bytes sent so far.
    sent: usize,
    evicted: Option<Evicted>,
}

/// The next step of an event in chunks.
pub(super) enum NextChunk {
    Chunk(Frame),
    Last(Frame),
    /// The buffer was evicted: the event must be read again.
    Evicted,
}

/// Decides how to deliver the event at index `at` of a selection. `interrupted` is an event that was evicted
/// before all chunks were sent; `id` identifies this event among the chunked ones if it is a different one.
pub(super) fn deliver(
    watch: &Watch,
    watcher: &Watcher,
    selection: &EventSelection,
    at: usize,
    interrupted: Option<ChunkedEvent>,
    id: u64,
) -> Delivery {
    let limit = watch.max_message_bytes;
    let encoded = selection.encoded(&watch.rendering);
    let event = encoded.event(at);
    let message = event.message();
    let filter_match = selection.transition(at).to_pb();
    let size = message.len() + match_suffix(filter_match).len();
    match watch.oversize {
        Oversize::Fail => Delivery::Refused(Error::EventTooLarge {
            event_bytes: size as u64,
            limit,
        }),
        Oversize::Omit => {
            let segment = selection.segment();
            let stub = |with_key| {
                wire::encode_omitted(
                    segment.buffer(),
                    selection.event(at),
                    segment.token_context(),
                    &watch.rendering,
                    filter_match,
                    (size as u64, limit),
                    with_key,
                )
            };
            let token = event.token();
            let mut changes = stub(true);
            if Frame::encoded_len_of(token.len(), changes.len()) > limit as usize {
                changes = stub(false);
            }
            Delivery::Stub(Frame::changes(token, Changes::from_field(changes)))
        }
        Oversize::Chunk => {
            let interrupted = interrupted
                .filter(|interrupted| interrupted.matches(&event.token(), &message, filter_match));
            Delivery::Chunks(match interrupted {
                Some(interrupted) => ChunkedEvent {
                    buffer: watcher.revocable_buffer(message),
                    ..interrupted
                },
                None => ChunkedEvent {
                    event: selection.event(at).clone(),
                    buffer: watcher.revocable_buffer(message),
                    // A copy: a slice would keep the whole encoded segment alive.
                    token: Bytes::copy_from_slice(&event.token()),
                    filter_match,
                    size,
                    id,
                    index: 0,
                    sent: 0,
                    evicted: None,
                },
            })
        }
    }
}

/// Returns the encoded `match` field, which follows the event's own bytes.
fn match_suffix(filter_match: FilterMatch) -> Bytes {
    if filter_match == FilterMatch::Unspecified {
        return Bytes::new();
    }
    Bytes::copy_from_slice(&wire::match_field(filter_match))
}

impl ChunkedEvent {
    /// Returns the next chunk. Only the last chunk carries the event's own token: before it, the event has
    /// not been delivered.
    pub(super) fn next(&mut self, before: &[u8], limit: u32) -> NextChunk {
        let message = match self.buffer.bytes() {
            Ok(message) => message,
            Err(evicted) => {
                self.evicted = Some(evicted);
                return NextChunk::Evicted;
            }
        };
        let max_data = limit as usize - CHUNK_OVERHEAD - self.token.len().max(before.len());
        let start = self.sent;
        let end = self.size.min(start + max_data);
        let within = |at: usize| at.min(message.len());
        let beyond = |at: usize| at.saturating_sub(message.len());
        let data = message.slice(within(start)..within(end));
        let last = end == self.size;
        let head = pb::EventChunk {
            id: self.id,
            index: self.index,
            last,
            total_bytes: self.size as u64,
            data: Bytes::new(),
        };
        self.index = self.index.saturating_add(1);
        self.sent = end;
        let match_bytes = match_suffix(self.filter_match).slice(beyond(start)..beyond(end));
        let chunk = Chunk {
            head,
            data,
            match_bytes,
        };
        if last {
            NextChunk::Last(Frame::chunk(self.token.clone(), chunk))
        } else {
            NextChunk::Chunk(Frame::chunk(Bytes::copy_from_slice(before), chunk))
        }
    }

    /// Returns whether an event that was read again is identical to this one. A document that was looked up
    /// may have changed.
    fn matches(&self, token: &[u8], message: &[u8], filter_match: FilterMatch) -> bool {
        self.token == token
            && self.filter_match == filter_match
            && self.size == message.len() + match_suffix(filter_match).len()
            && self.evicted.is_some_and(|it| it.matches(message))
    }
}

#[cfg(test)]
mod tests;
