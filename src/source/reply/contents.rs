//! What a reply contains.

use crate::source::{event::Batch, failure::SourceError};

/// The decoded contents of a reply.
#[derive(Debug, Default)]
pub struct ReplyContents {
    /// The batches that can be published, in order. Only a reply with fragments has several.
    pub batches: Vec<Batch>,
    /// The error that ends the stream after these batches, which stay valid.
    pub error: Option<SourceError>,
}
