//! What a watch is shown of an event.

use super::{FieldMask, Format};

/// The token audience: the clients that may share resume tokens, such as those of one tenant. It is a hash
/// of the values that distinguish them from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenAudience(pub [u8; 8]);

/// What a watch is shown of an event that it gets: everything that decides about the encoded bytes, and
/// nothing else.
///
/// Made once for a watch, from its request and the policy's decision, and shared in an `Arc`. Watches with
/// equal renderings share encoded events; those with different renderings never do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rendering {
    /// The encoding of documents.
    pub format: Format,
    /// The fields of documents that are shown.
    pub mask: FieldMask,
    /// The clients that may resume from the tokens; `None` if the policy does not separate them.
    pub audience: Option<TokenAudience>,
}

impl Rendering {
    /// Returns the rendering that shows everything in a format, with tokens for everybody.
    #[must_use]
    pub fn unrestricted(format: Format) -> Self {
        Self {
            format,
            ..Self::default()
        }
    }
}
