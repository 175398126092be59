//! An event by its time and a digest of its token.

use crate::{digest::sha256_of_parts, source::ClusterTime};

/// An event, by its time and a hash of MongoDB's token: 24 bytes, whatever the size of the token.
///
/// Two positions of one stream whose last events have equal anchors have no event between them. A
/// stream that started between events and has had none since uses its start token as the anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The event's cluster time.
    pub time: ClusterTime,
    /// The first half of a SHA-256.
    pub digest: [u8; 16],
}

impl Anchor {
    /// Returns the anchor of the event with MongoDB's `token` and `time`.
    #[must_use]
    pub fn new(token: &[u8], time: ClusterTime) -> Self {
        Self {
            time,
            digest: digest(token),
        }
    }

    /// Returns whether this is the anchor of the event with this token.
    #[must_use]
    pub fn matches(&self, token: &[u8]) -> bool {
        self.digest == digest(token)
    }
}

/// The hash is part of resume tokens, so it never changes.
fn digest(token: &[u8]) -> [u8; 16] {
    let digest = sha256_of_parts(&[b"anchor\0", token]);
    *digest.first_chunk().expect("a SHA-256 digest has 32 bytes")
}
