//! Encoding of raw BSON events as protobuf bytes, and of resume tokens.
//!
//! An event is encoded once for each [`Rendering`](crate::model::Rendering), directly from MongoDB's bytes:
//! payloads are copied and never decoded, and fields that the rendering does not show are left out. A
//! [`ResumeToken`] is the envelope of every token that a client receives.

mod compression;
mod encoded_event;
mod event;
pub mod format;
mod frame;
mod redact;
mod token;

pub use compression::{Compression, PREFIX_BYTES};
pub use encoded_event::{EncodedEvent, match_field};
pub use event::{TIMESTAMP_MILLIS, encode, encode_omitted};
pub use frame::{Changes, Chunk, Frame};
pub use token::{MalformedToken, ResumeToken, TokenContext, TokenKeys};
