//! From raw BSON to the protobuf bytes that go out.
//!
//! An event is encoded once for each format, straight from MongoDB's bytes: payloads are copied,
//! never decoded. [`ResumeToken`] is the envelope that every token travels in.

mod event;
pub mod format;
mod frame;
mod token;

pub use event::{EncodedEvent, encode, omitted};
pub use frame::{Changes, Chunk, Frame, match_field};
pub use token::{Anchor, MalformedToken, ResumeToken, Stamp};
