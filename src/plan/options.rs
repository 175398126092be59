//! The choices of a watch as plain enums: nothing behind validation meets an unspecified or
//! unknown number.

use bytes::Bytes;

/// Where a watch starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// From the moment of opening.
    Now,
    /// Strictly after this resume token: 1 byte to 16 KiB, not parsed yet.
    Token(Bytes),
    /// At the changes of this second since 1970, or later.
    Time(u32),
}

/// Whether updates carry the document as it is after the change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FullDocument {
    /// Updates carry the changed fields only.
    #[default]
    Default,
    /// The document as MongoDB finds it when it reads the event, or null.
    UpdateLookup,
    /// The stored post-image, or null.
    WhenAvailable,
    /// The stored post-image; without one the watch fails.
    Required,
}

impl FullDocument {
    /// The value of the `$changeStream` option; `None` where MongoDB's default says it.
    pub const fn option(self) -> Option<&'static str> {
        match self {
            FullDocument::Default => None,
            FullDocument::UpdateLookup => Some("updateLookup"),
            FullDocument::WhenAvailable => Some("whenAvailable"),
            FullDocument::Required => Some("required"),
        }
    }
}

/// Whether updates, replaces and deletes carry the document as it was before the change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BeforeChange {
    /// Never.
    #[default]
    Off,
    /// The stored pre-image, or null.
    WhenAvailable,
    /// The stored pre-image; without one the watch fails.
    Required,
}

impl BeforeChange {
    /// The value of the `$changeStream` option; `None` where MongoDB's default says it.
    pub const fn option(self) -> Option<&'static str> {
        match self {
            BeforeChange::Off => None,
            BeforeChange::WhenAvailable => Some("whenAvailable"),
            BeforeChange::Required => Some("required"),
        }
    }
}

/// How documents are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// BSON bytes as MongoDB sent them.
    #[default]
    Bson,
    /// Relaxed Extended JSON text.
    Json,
    /// Canonical Extended JSON text.
    CanonicalJson,
    /// `google.protobuf.Struct` holding relaxed Extended JSON.
    Struct,
}

/// What to do with an event that the largest message cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Oversize {
    /// Send it in pieces.
    #[default]
    Chunk,
    /// Send a stub without the change.
    Omit,
    /// End the watch.
    Fail,
}

/// What a filter decides about an event that lacks the document it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MissingImage {
    /// Deliver what may match.
    #[default]
    Deliver,
    /// Deliver only what surely matches.
    Drop,
}

/// What happens when the watched collection or database goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Invalidate {
    /// Tell it, then end.
    #[default]
    End,
    /// Tell it, then go on with what is created under the same name.
    Continue,
}

/// How a watch gets its events from MongoDB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FeedMode {
    /// The server chooses.
    #[default]
    Auto,
    /// One change stream for the whole scope, filtered in process.
    Shared,
    /// A change stream filtered by MongoDB.
    Dedicated,
}
