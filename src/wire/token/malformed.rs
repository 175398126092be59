//! Why a token can't be decoded.

/// The reason why a token can't be decoded, as the predicate of a sentence about "the token".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedToken(pub(super) &'static str);

pub(super) const TOO_SHORT: &str =
    "is too short for a token of Weir: store tokens as bytes, and send them unchanged";
