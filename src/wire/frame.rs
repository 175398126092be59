//! The messages of a watch, ready to be written.

use std::ops::Range;

use bytes::{BufMut, Bytes};
use prost::Message as _;

use crate::{
    pb::{self, FilterMatch, watch_response::Kind},
    wire::{
        compression::{Compression, PREFIX_BYTES},
        encoded_event::{EncodedEvent, match_field},
        format::protobuf::varint_len,
    },
};

/// The tag of `WatchResponse.resume_token`: field 1, length-delimited.
const TAG_RESUME_TOKEN: u8 = (1 << 3) | 2;
/// The tag of `WatchResponse.changes`: field 3, length-delimited.
const TAG_CHANGES: u8 = (3 << 3) | 2;

/// The tag of `WatchResponse.event_chunk`: field 6, length-delimited.
const TAG_EVENT_CHUNK: u8 = (6 << 3) | 2;
/// The tag of `EventChunk.data`: field 5, length-delimited.
const TAG_DATA: u8 = (5 << 3) | 2;

/// The tag of `ChangeBatch.changes`: field 1, length-delimited.
const TAG_CHANGE: u8 = (1 << 3) | 2;
/// A `WatchResponse`: shared encoded events, or a small message of one watch.
#[derive(Debug, Clone)]
pub struct Frame {
    token: Bytes,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Changes(Changes),
    Chunk(Chunk),
    Message(Kind),
    /// The whole message with gRPC's prefix, compressed.
    Compressed(Bytes),
}

/// A piece of an event: a slice of its shared encoding.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// All fields except `data`.
    pub head: pb::EventChunk,
    /// The slice of the event's encoding.
    pub data: Bytes,
    /// The bytes of the event's [`match_field`] that follow the slice in `data`.
    pub match_bytes: Bytes,
}

/// The fields of a `ChangeBatch`: encoded events in order, not copied.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    parts: Vec<ChangesPart>,
    size: usize,
}

#[derive(Debug, Clone)]
enum ChangesPart {
    /// Consecutive events in the buffer that they were encoded into.
    Shared { buffer: Bytes, range: Range<usize> },
    /// An event, followed by its `match`.
    WithMatch {
        message: Bytes,
        filter_match: FilterMatch,
    },
}

impl Changes {
    /// Returns changes with one encoded `ChangeBatch.changes` field.
    #[must_use]
    pub fn from_field(field: Bytes) -> Self {
        let range = 0..field.len();
        Self {
            size: field.len(),
            parts: vec![ChangesPart::Shared {
                buffer: field,
                range,
            }],
        }
    }

    /// Appends an event, with `match` unless it is unspecified.
    pub fn push(&mut self, event: &EncodedEvent, filter_match: FilterMatch) {
        self.size += Self::encoded_size(event, filter_match);
        if filter_match != FilterMatch::Unspecified {
            return self.parts.push(ChangesPart::WithMatch {
                message: event.message(),
                filter_match,
            });
        }
        let (buffer, range) = event.buffer_range();
        if let Some(ChangesPart::Shared {
            buffer: last,
            range: before,
        }) = self.parts.last_mut()
            && before.end == range.start
            && std::ptr::eq(last.as_ptr(), buffer.as_ptr())
        {
            before.end = range.end;
            return;
        }
        self.parts.push(ChangesPart::Shared {
            buffer: buffer.clone(),
            range,
        });
    }

    /// Returns the number of bytes that an event adds.
    #[must_use]
    pub fn encoded_size(event: &EncodedEvent, filter_match: FilterMatch) -> usize {
        if filter_match == FilterMatch::Unspecified {
            return event.size();
        }
        let message = event.message_len() + 2;
        1 + varint_len(message as u64) + message
    }

    /// Returns the size of all events in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns whether there are no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn put(&self, out: &mut impl BufMut) {
        for part in &self.parts {
            match part {
                ChangesPart::Shared { buffer, range } => out.put_slice(&buffer[range.clone()]),
                ChangesPart::WithMatch {
                    message,
                    filter_match,
                } => {
                    out.put_u8(TAG_CHANGE);
                    prost::encoding::encode_varint(message.len() as u64 + 2, out);
                    out.put_slice(message);
                    out.put_slice(&match_field(*filter_match));
                }
            }
        }
    }
}

impl Frame {
    /// Returns a message with changes.
    #[must_use]
    pub fn changes(token: Bytes, changes: Changes) -> Self {
        Self {
            token,
            body: Body::Changes(changes),
        }
    }

    /// Returns a message with a piece of an event.
    #[must_use]
    pub fn chunk(token: Bytes, chunk: Chunk) -> Self {
        Self {
            token,
            body: Body::Chunk(chunk),
        }
    }

    /// Returns any other message.
    #[must_use]
    pub fn message(token: Bytes, kind: Kind) -> Self {
        Self {
            token,
            body: Body::Message(kind),
        }
    }

    /// Returns a message that is compressed and has gRPC's prefix.
    #[must_use]
    pub fn compressed(token: Bytes, message: Bytes) -> Self {
        Self {
            token,
            body: Body::Compressed(message),
        }
    }

    /// Returns the message compressed, with gRPC's prefix; `None` if it is not worth it.
    #[must_use]
    pub fn compress(&self, compression: Compression) -> Option<Bytes> {
        let mut message = Vec::with_capacity(self.encoded_len());
        self.encode(&mut message);
        compression.compress(&message)
    }

    /// Returns the message with gRPC's prefix if it is compressed; `None` if [`encode`](Self::encode) writes it.
    #[must_use]
    pub fn as_compressed(&self) -> Option<&Bytes> {
        match &self.body {
            Body::Compressed(message) => Some(message),
            _ => None,
        }
    }

    /// Returns the resume token for the position after this message.
    #[must_use]
    pub fn token(&self) -> &Bytes {
        &self.token
    }

    /// Returns the size of a message whose token and changes have these sizes, in bytes.
    #[must_use]
    pub fn encoded_len_of(token: usize, changes: usize) -> usize {
        let field = |length: usize| 1 + varint_len(length as u64) + length;
        field(token) + field(changes)
    }

    /// Returns the size of the message on the wire in bytes, without gRPC's prefix.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let token = self.token.len();
        match &self.body {
            Body::Changes(changes) => Self::encoded_len_of(token, changes.size()),
            Body::Chunk(chunk) => Self::encoded_len_of(token, chunk.encoded_len()),
            Body::Message(kind) => 1 + varint_len(token as u64) + token + kind.encoded_len(),
            Body::Compressed(message) => message.len() - PREFIX_BYTES,
        }
    }

    /// Appends the message to `out`, with one copy of the shared bytes and without gRPC's prefix.
    pub fn encode(&self, out: &mut impl BufMut) {
        match &self.body {
            Body::Changes(changes) => {
                put_tag_and_length(out, TAG_RESUME_TOKEN, self.token.len());
                out.put_slice(&self.token);
                put_tag_and_length(out, TAG_CHANGES, changes.size());
                changes.put(out);
            }
            Body::Chunk(chunk) => {
                put_tag_and_length(out, TAG_RESUME_TOKEN, self.token.len());
                out.put_slice(&self.token);
                put_tag_and_length(out, TAG_EVENT_CHUNK, chunk.encoded_len());
                chunk.put(out);
            }
            Body::Message(kind) => pb::WatchResponse {
                resume_token: self.token.clone(),
                kind: Some(kind.clone()),
            }
            .encode(out)
            .expect("a growing buffer takes any message"),
            Body::Compressed(message) => out.put_slice(&message[PREFIX_BYTES..]),
        }
    }
}

impl Chunk {
    fn data_len(&self) -> usize {
        self.data.len() + self.match_bytes.len()
    }

    fn encoded_len(&self) -> usize {
        let data = self.data_len();
        self.head.encoded_len() + 1 + varint_len(data as u64) + data
    }

    fn put(&self, out: &mut impl BufMut) {
        // `data` is the last field, and it is empty in the head.
        self.head
            .encode(out)
            .expect("a growing buffer takes any message");
        put_tag_and_length(out, TAG_DATA, self.data_len());
        out.put_slice(&self.data);
        out.put_slice(&self.match_bytes);
    }
}

/// Appends the tag and the length of a field of `length` bytes.
fn put_tag_and_length(out: &mut impl BufMut, tag: u8, length: usize) {
    out.put_u8(tag);
    prost::encoding::encode_varint(length as u64, out);
}

#[cfg(test)]
mod tests;
