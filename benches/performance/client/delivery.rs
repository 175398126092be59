//! Parses a message of a watch only as far as a load generator needs: the stamps of its documents,
//! in place.

use bytes::{Buf as _, Bytes};
use prost::{Message as _, bytes::BufMut};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use weir::pb;

use crate::upstream::document::Stamp;

/// The field numbers on the path to a document, from `watch.proto`.
mod field {
    pub const RESPONSE_OPENED: u64 = 2;
    pub const RESPONSE_CHANGES: u64 = 3;
    pub const BATCH_CHANGES: u64 = 1;
    pub const EVENT_INSERT: u64 = 20;
    pub const INSERT_FULL_DOCUMENT: u64 = 1;
    pub const DOCUMENT_BSON: u64 = 1;
}

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    Opened,
    /// With this many events.
    Changes(u64),
    Other,
}

/// Parses a message and calls `event` with the stamp of each event.
pub fn read(message: &[u8], mut event: impl FnMut(Stamp)) -> Option<Message> {
    let mut kind = Message::Other;
    for field in Fields(message) {
        let (number, value) = field?;
        match number {
            field::RESPONSE_OPENED => kind = Message::Opened,
            field::RESPONSE_CHANGES => {
                let mut events = 0;
                for change in Fields(value) {
                    let (number, change) = change?;
                    if number == field::BATCH_CHANGES {
                        event(stamp(change)?);
                        events += 1;
                    }
                }
                kind = Message::Changes(events);
            }
            _ => {}
        }
    }
    Some(kind)
}

fn stamp(event: &[u8]) -> Option<Stamp> {
    let insert = inner(event, field::EVENT_INSERT)?;
    let document = inner(insert, field::INSERT_FULL_DOCUMENT)?;
    Stamp::read(inner(document, field::DOCUMENT_BSON)?)
}

/// The bytes of the first field with this number.
fn inner(message: &[u8], number: u64) -> Option<&[u8]> {
    let fields = Fields(message).map_while(|field| field);
    let mut found = fields.filter(|(of, _)| *of == number);
    found.next().map(|(_, value)| value)
}

/// The fields of an encoded message; stops where it is malformed. Integers come without their
/// value.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| {
            let key = self.varint()?;
            let length = match key & 7 {
                0 => {
                    self.varint()?;
                    0
                }
                1 => 8,
                2 => usize::try_from(self.varint()?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (value, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            Some((key >> 3, value))
        })
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

/// Encodes requests, and leaves messages as raw bytes.
#[derive(Debug, Clone, Copy)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = pb::WatchRequest;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = pb::WatchRequest;
    type Error = Status;

    fn encode(&mut self, request: pb::WatchRequest, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&request.encode_to_vec());
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}
