//! Encoding of raw BSON events as protobuf bytes, and of resume tokens.
//!
//! An event is encoded once for each format and each view, directly from MongoDB's bytes: payloads are
//! copied and never decoded, and fields that a view hides are left out. A [`ResumeToken`] is the
//! envelope of every token that a client receives.

mod compression;
mod event;
pub mod format;
mod frame;
mod redact;
mod token;

pub use compression::{Compression, PREFIX_BYTES};
pub use event::{EncodedEvent, RenderOptions, TIMESTAMP_MILLIS, encode, encode_omitted};
pub use frame::{Changes, Chunk, Frame, match_field};
pub use token::{MalformedToken, ResumeToken, TokenContext, TokenKeys};
