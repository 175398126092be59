//! One message of a watch, ready to be written.

use bytes::{BufMut, Bytes};
use prost::Message as _;

use crate::{
    pb::{self, watch_response::Kind},
    wire::format::protobuf::varint_len,
};

/// The tag of `WatchResponse.resume_token`: field 1, length-delimited.
const TAG_RESUME_TOKEN: u8 = (1 << 3) | 2;
/// The tag of `WatchResponse.changes`: field 3, length-delimited.
const TAG_CHANGES: u8 = (3 << 3) | 2;

/// A `WatchResponse`: encoded events that many watchers share, or a small message of this watch's
/// own.
#[derive(Debug, Clone)]
pub struct Frame {
    token: Bytes,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    /// The fields of a `ChangeBatch`, already encoded.
    Changes(Bytes),
    Message(Kind),
}

impl Frame {
    /// Changes whose encoding (`ChangeBatch.changes` fields, one after the other) is ready.
    #[must_use]
    pub fn changes(token: Bytes, encoded: Bytes) -> Self {
        Self {
            token,
            body: Body::Changes(encoded),
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
        match &self.body {
            Body::Changes(changes) => {
                2 + varint_len(self.token.len() as u64)
                    + self.token.len()
                    + varint_len(changes.len() as u64)
                    + changes.len()
            }
            Body::Message(kind) => {
                let token = 1 + varint_len(self.token.len() as u64) + self.token.len();
                token + kind.encoded_len()
            }
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
                prost::encoding::encode_varint(changes.len() as u64, out);
                out.put_slice(&changes);
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
