//! One message of a watch, ready to be written.

use std::ops::Range;

use bytes::{BufMut, Bytes};
use prost::Message as _;

use crate::{
    pb::{self, FilterMatch, watch_response::Kind},
    wire::{event::EncodedEvent, format::protobuf::varint_len},
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
/// The tag of `ChangeEvent.match`: field 9, a varint. It comes last in an event, for it is the one
/// field that differs between watchers.
const TAG_MATCH: u8 = 9 << 3;

/// A `WatchResponse`: encoded events that many watchers share, or a small message of this watch's
/// own.
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
}

/// A piece of an event, a slice of the encoding that many watchers share.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Everything but the data.
    pub head: pb::EventChunk,
    /// The slice.
    pub data: Bytes,
    /// What of the event's [`match_field`] comes behind it.
    pub match_bytes: Bytes,
}

/// The fields of a `ChangeBatch`: encoded events in order, none of them copied.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pieces: Vec<Piece>,
    size: usize,
}

#[derive(Debug, Clone)]
enum Piece {
    /// Neighbours, as they lie in the chunk that they were encoded into.
    Shared { chunk: Bytes, range: Range<usize> },
    /// An event with its `match` behind it.
    WithMatch {
        message: Bytes,
        filter_match: FilterMatch,
    },
}

/// The field `match` of an event: what comes behind the bytes that all watchers share.
#[must_use]
pub fn match_field(filter_match: FilterMatch) -> [u8; 2] {
    // The numbers of the enum are small.
    [TAG_MATCH, filter_match as u8]
}

impl Changes {
    /// One field that is ready.
    #[must_use]
    pub fn from_field(field: Bytes) -> Self {
        let range = 0..field.len();
        Self {
            size: field.len(),
            pieces: vec![Piece::Shared {
                chunk: field,
                range,
            }],
        }
    }

    /// Appends an event. `told` is its `match`, where there is one to tell.
    pub fn push(&mut self, event: &EncodedEvent, filter_match: FilterMatch) {
        self.size += Self::encoded_size(event, filter_match);
        if filter_match != FilterMatch::Unspecified {
            return self.pieces.push(Piece::WithMatch {
                message: event.message(),
                filter_match,
            });
        }
        let (chunk, range) = event.chunk_range();
        if let Some(Piece::Shared {
            chunk: last,
            range: before,
        }) = self.pieces.last_mut()
            && before.end == range.start
            && std::ptr::eq(last.as_ptr(), chunk.as_ptr())
        {
            before.end = range.end;
            return;
        }
        self.pieces.push(Piece::Shared {
            chunk: chunk.clone(),
            range,
        });
    }

    /// How many bytes an event adds.
    #[must_use]
    pub fn encoded_size(event: &EncodedEvent, filter_match: FilterMatch) -> usize {
        if filter_match == FilterMatch::Unspecified {
            return event.size();
        }
        let message = event.message_len() + 2;
        1 + varint_len(message as u64) + message
    }

    /// How many bytes all of them take.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn put(&self, out: &mut impl BufMut) {
        for piece in &self.pieces {
            match piece {
                Piece::Shared { chunk, range } => out.put_slice(&chunk[range.clone()]),
                Piece::WithMatch {
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
    /// Changes, ready to be sent.
    #[must_use]
    pub fn changes(token: Bytes, changes: Changes) -> Self {
        Self {
            token,
            body: Body::Changes(changes),
        }
    }

    /// A piece of an event.
    #[must_use]
    pub fn chunk(token: Bytes, chunk: Chunk) -> Self {
        Self {
            token,
            body: Body::Chunk(chunk),
        }
    }

    /// Any other message.
    #[must_use]
    pub fn message(token: Bytes, kind: Kind) -> Self {
        Self {
            token,
            body: Body::Message(kind),
        }
    }

    /// The place after this message.
    #[must_use]
    pub fn token(&self) -> &Bytes {
        &self.token
    }

    /// The size of the message that changes of so many bytes make, with a token of so many.
    #[must_use]
    pub fn encoded_len_of(token: usize, changes: usize) -> usize {
        let field = |length: usize| 1 + varint_len(length as u64) + length;
        field(token) + field(changes)
    }

    /// The size of the whole message, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let token = self.token.len();
        match &self.body {
            Body::Changes(changes) => Self::encoded_len_of(token, changes.size()),
            Body::Chunk(chunk) => Self::encoded_len_of(token, chunk.encoded_len()),
            Body::Message(kind) => 1 + varint_len(token as u64) + token + kind.encoded_len(),
        }
    }

    /// Writes the message. One copy of the shared bytes is the floor of this path.
    pub fn encode(self, out: &mut impl BufMut) {
        match self.body {
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
                resume_token: self.token,
                kind: Some(kind),
            }
            .encode(out)
            .expect("a growing buffer takes any message"),
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
        // The data is the last field, and the head has none.
        self.head
            .encode(out)
            .expect("a growing buffer takes any message");
        put_tag_and_length(out, TAG_DATA, self.data_len());
        out.put_slice(&self.data);
        out.put_slice(&self.match_bytes);
    }
}

/// What stands before a field of so many bytes.
fn put_tag_and_length(out: &mut impl BufMut, tag: u8, length: usize) {
    out.put_u8(tag);
    prost::encoding::encode_varint(length as u64, out);
}

#[cfg(test)]
mod tests;
