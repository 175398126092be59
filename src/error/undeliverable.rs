//! What an error says of an event that MongoDB can't send.

use bytes::Bytes;

use crate::source::ClusterTime;

/// The known facts of an event that MongoDB can't send.
#[derive(Debug, Clone, Default)]
pub struct UndeliverableEvent {
    /// The time of the last position before it.
    pub after: Option<ClusterTime>,
    /// Its own time.
    pub time: Option<ClusterTime>,
    /// The token of the position right after it, valid for the same request.
    pub next_token: Option<Bytes>,
}
