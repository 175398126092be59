//! The options of a watch as plain enums. After validation no value is unspecified or unknown.

use bytes::Bytes;

/// The start position of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// The moment of opening.
    Now,
    /// Strictly after this resume token: 1 byte to 16 KiB, not parsed yet.
    Token(Bytes),
    /// The first change of this second since 1970, or the first after it.
    Time(u32),
}

/// The document after the change in update events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FullDocument {
    /// Only the changed fields.
    #[default]
    Default,
    /// The document as it is when MongoDB reads the event, or null.
    UpdateLookup,
    /// The stored post-image, or null.
    WhenAvailable,
    /// The stored post-image; without one the watch fails.
    Required,
}

impl FullDocument {
    /// Returns the value of the `$changeStream` option, `None` for MongoDB's default.
    pub const fn option(self) -> Option<&'static str> {
        match self {
            FullDocument::Default => None,
            FullDocument::UpdateLookup => Some("updateLookup"),
            FullDocument::WhenAvailable => Some("whenAvailable"),
            FullDocument::Required => Some("required"),
        }
    }
}

/// The document before the change in update, replace and delete events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BeforeChange {
    /// No such document.
    #[default]
    Off,
    /// The stored pre-image, or null.
    WhenAvailable,
    /// The stored pre-image; without one the watch fails.
    Required,
}

impl BeforeChange {
    /// Returns the value of the `$changeStream` option, `None` for MongoDB's default.
    pub const fn option(self) -> Option<&'static str> {
        match self {
            BeforeChange::Off => None,
            BeforeChange::WhenAvailable => Some("whenAvailable"),
            BeforeChange::Required => Some("required"),
        }
    }
}

/// The encoding of documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// The BSON bytes that MongoDB sent.
    #[default]
    Bson,
    /// Relaxed Extended JSON text.
    Json,
    /// Canonical Extended JSON text.
    CanonicalJson,
    /// `google.protobuf.Struct` with relaxed Extended JSON.
    Struct,
}

/// The handling of an event that does not fit into the largest message.
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

/// The result of a filter for an event without the document that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MissingImage {
    /// Deliver events that may match.
    #[default]
    Deliver,
    /// Deliver only events that certainly match.
    Drop,
}

/// The handling of a watched collection or database that is dropped or renamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Invalidate {
    /// Send `Invalidated`, then end.
    #[default]
    End,
    /// Send `Invalidated`, then continue with what is created under the same name.
    Continue,
}

/// The kind of feed that serves a watch.
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
