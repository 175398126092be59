//! What watches and feeds are doing, and how a feed is shared.

use crate::pb;

/// The stage of a watch or a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// MongoDB has not answered the opening yet.
    Opening,
    /// It reads past events.
    CatchingUp,
    /// It has read everything so far.
    Live,
    /// The connection to MongoDB is lost.
    Reconnecting,
}

impl Stage {
    /// Every stage, in the order of the enum.
    pub const ALL: [Self; 4] = [
        Self::Opening,
        Self::CatchingUp,
        Self::Live,
        Self::Reconnecting,
    ];
}

/// The mode of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One change stream for all watches of a scope, filtered in Weir.
    Shared,
    /// One change stream for equal watches, filtered by MongoDB.
    Dedicated,
}

impl Mode {
    /// Returns the mode as the API has it.
    #[must_use]
    pub fn to_pb(self) -> pb::FeedMode {
        match self {
            Self::Shared => pb::FeedMode::Shared,
            Self::Dedicated => pb::FeedMode::Dedicated,
        }
    }

    /// Returns the name for logs, spans and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}
