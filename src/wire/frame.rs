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
    Message(Kind),
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
    Told { message: Bytes, told: FilterMatch },
}

/// Appends its `match` to an event.
pub fn put_match(out: &mut impl BufMut, told: FilterMatch) {
    // The numbers of the enum are small.
    out.put_slice(&[TAG_MATCH, told as u8]);
}

impl Changes {
    /// One field that is ready.
    #[must_use]
    pub fn of(field: Bytes) -> Self {
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
    pub fn push(&mut self, event: &EncodedEvent, told: FilterMatch) {
        self.size += Self::size_of(event, told);
        if told != FilterMatch::Unspecified {
            return self.pieces.push(Piece::Told {
                message: event.message(),
                told,
            });
        }
        let (chunk, range) = event.place();
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
    pub fn size_of(event: &EncodedEvent, told: FilterMatch) -> usize {
        if told == FilterMatch::Unspecified {
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
                Piece::Told { message, told } => {
                    out.put_u8(TAG_CHANGE);
                    prost::encoding::encode_varint(message.len() as u64 + 2, out);
                    out.put_slice(message);
                    put_match(out, *told);
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

    /// The bytes that a frame of changes takes beyond the changes themselves.
    #[must_use]
    pub fn overhead(token: usize) -> usize {
        // Two tags, the token's length, and the batch's, which is at most five bytes long.
        2 + varint_len(token as u64) + token + 5
    }

    /// The size of the whole message, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let token = 1 + varint_len(self.token.len() as u64) + self.token.len();
        match &self.body {
            Body::Changes(changes) => {
                token + 1 + varint_len(changes.size() as u64) + changes.size()
            }
            Body::Message(kind) => token + kind.encoded_len(),
        }
    }

    /// Writes the message. One copy of the shared bytes is the floor of this path.
    pub fn encode(self, out: &mut impl BufMut) {
        match self.body {
            Body::Changes(changes) => {
                out.put_u8(TAG_RESUME_TOKEN);
                prost::encoding::encode_varint(self.token.len() as u64, out);
                out.put_slice(&self.token);
                out.put_u8(TAG_CHANGES);
                prost::encoding::encode_varint(changes.size() as u64, out);
                changes.put(out);
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

#[cfg(test)]
mod tests;
