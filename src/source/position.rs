//! A place in a change stream.

use bytes::Bytes;

use crate::source::{anchor::Anchor, cluster_time::ClusterTime};

/// A position in a change stream at which the stream can be resumed, strictly after everything before
/// it.
///
/// Tokens are MongoDB's resume tokens as raw BSON documents. They are opaque: they are compared for
/// equality and never for order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// The position right after an event.
    Event {
        /// The event's `_id`.
        token: Bytes,
        /// The event's cluster time.
        time: ClusterTime,
    },
    /// A post-batch resume token that stands for a point in time and not for an event.
    HighWater {
        /// MongoDB's `postBatchResumeToken`.
        token: Bytes,
        /// A time that the position has certainly reached.
        time: ClusterTime,
    },
    /// The position right after an `invalidate` event, which MongoDB accepts only in `startAfter`.
    Invalidate {
        /// The event's `_id`.
        token: Bytes,
        /// The event's cluster time.
        time: ClusterTime,
    },
    /// The position right after the event with this anchor, whose token is too large to be kept. A
    /// [`Source`](super::Source) starts at the event's time; to start after the event, its token has to be found first.
    EventDigest(Anchor),
    /// A time, inclusive: events of exactly that time come again.
    Time(ClusterTime),
}

impl Position {
    /// Returns a time that the position has certainly reached.
    #[must_use]
    pub fn time(&self) -> ClusterTime {
        match self {
            Self::Event { time, .. }
            | Self::HighWater { time, .. }
            | Self::Invalidate { time, .. }
            | Self::EventDigest(Anchor { time, .. })
            | Self::Time(time) => *time,
        }
    }

    /// Returns MongoDB's resume token, if the position has one.
    #[must_use]
    pub fn token(&self) -> Option<&Bytes> {
        match self {
            Self::Event { token, .. }
            | Self::HighWater { token, .. }
            | Self::Invalidate { token, .. } => Some(token),
            Self::EventDigest(_) | Self::Time(_) => None,
        }
    }

    /// Returns whether the stream can be resumed by the position's time when MongoDB does not find its token.
    /// The time of an `invalidate` would return the same `invalidate` again.
    #[must_use]
    pub fn can_resume_by_time(&self) -> bool {
        matches!(self, Self::Event { .. } | Self::HighWater { .. })
    }

    /// Copies the position with its token. The token of a position that was read from a reply is a slice that
    /// keeps the whole reply in memory.
    #[must_use]
    pub fn detached(&self) -> Self {
        let mut position = self.clone();
        if let Self::Event { token, .. }
        | Self::HighWater { token, .. }
        | Self::Invalidate { token, .. } = &mut position
        {
            *token = Bytes::copy_from_slice(token);
        }
        position
    }
}
