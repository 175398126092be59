//! An event as the bytes of `ChangeBatch.changes`.

use std::ops::Range;

use bytes::Bytes;

use crate::{pb::FilterMatch, wire::format::protobuf::varint_len};

/// The tag of `ChangeEvent.match`: field 9, a varint. It is the last field of an event, because it is
/// the only one that differs between watchers.
const TAG_MATCH: u8 = 9 << 3;

/// An encoded event: its ranges in a buffer that it shares with the events encoded with it.
#[derive(Debug, Clone)]
pub struct EncodedEvent {
    /// The shared buffer.
    pub(super) buffer: Bytes,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) token_start: u32,
    pub(super) token_end: u32,
}

/// Encodes the field `match` of an event, which follows the bytes that all watchers share.
#[must_use]
pub fn match_field(filter_match: FilterMatch) -> [u8; 2] {
    // All numbers of the enum are below 128, so that one byte is the whole varint.
    [TAG_MATCH, filter_match as u8]
}

impl EncodedEvent {
    /// Returns the `ChangeBatch.changes` field, including its tag.
    #[must_use]
    pub fn field(&self) -> Bytes {
        self.buffer.slice(self.start as usize..self.end as usize)
    }

    /// Returns the size of the field in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns the event's resume token.
    #[must_use]
    pub fn token(&self) -> Bytes {
        self.buffer
            .slice(self.token_start as usize..self.token_end as usize)
    }

    /// Returns the size of the token in bytes.
    #[must_use]
    pub fn token_len(&self) -> usize {
        (self.token_end - self.token_start) as usize
    }

    /// Returns the event as a `ChangeEvent` message, without the tag of the batch.
    #[must_use]
    pub fn message(&self) -> Bytes {
        self.buffer
            .slice(self.message_start() as usize..self.end as usize)
    }

    /// Returns the size of the message in bytes.
    pub(super) fn message_len(&self) -> usize {
        (self.end - self.message_start()) as usize
    }

    /// Returns the shared buffer and the range of the field in it.
    pub(super) fn buffer_range(&self) -> (&Bytes, Range<usize>) {
        (&self.buffer, self.start as usize..self.end as usize)
    }

    fn message_start(&self) -> u32 {
        // The token is the first field of the message, after its tag and its length.
        let head = 1 + varint_len(u64::from(self.token_end - self.token_start));
        self.token_start - u32::try_from(head).unwrap_or_default()
    }
}
