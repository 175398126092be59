//! From raw BSON to the protobuf bytes that go out.
//!
//! An event is encoded once for each format and each view, straight from MongoDB's bytes: payloads are
//! copied, never decoded, and what a view hides is left out on the way. [`ResumeToken`] is the envelope that every token travels in.

mod event;
pub mod format;
mod frame;
mod redact;
mod token;

pub use event::{EncodedEvent, RenderOptions, encode, encode_omitted};
pub use frame::{Changes, Chunk, Frame, match_field};
pub use token::{Anchor, MalformedToken, ResumeToken, TokenContext, TokenKeys};
