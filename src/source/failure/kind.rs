//! The kinds of failures, by what they mean for a stream.

/// The meaning of a failure for the stream that it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// MongoDB or this cursor is unavailable: open again at the same position after a pause.
    Transient,
    /// MongoDB lacks memory or limits the rate (146, 16500): the same, after a longer pause.
    Overloaded,
    /// The position is no longer in the oplog (286, 136).
    HistoryLost,
    /// This pipeline did not find the token (280); the position itself may still be in the oplog.
    TokenNotFound,
    /// MongoDB can't parse the token.
    TokenInvalid,
    /// A required pre- or post-image is missing (47).
    ImageMissing,
    /// An event is larger than MongoDB can send (10334).
    EventTooLarge,
    /// A look-up found several documents with the event's key, on several shards (280, 170).
    LookupAmbiguous,
    /// A shard that the position needs was removed from the cluster (464).
    ShardRemoved,
    /// The deployment has no change streams (40573), or not with these options (40415).
    Unsupported,
    /// Weir's MongoDB user lacks a privilege.
    AccessDenied,
    /// Weir's MongoDB user could not log in. The password may be wrong, or MongoDB may be temporarily
    /// unable to check it, as in an election or while its users change.
    LoginFailed,
    /// The namespace is a view or a time-series collection, which has no change stream (166, 115).
    NotACollection,
    /// The namespace is MongoDB's own, or its name is invalid (73).
    InvalidName,
    /// MongoDB does not compile a regular expression of the pipeline (51091).
    PatternRefused,
    /// The stages of a client have changed the `_id` of an event, its token (280): the next attempt would meet the
    /// same event.
    PipelineChangedToken,
    /// MongoDB refuses the stages of a client, or they fail on an event.
    StagesRefused,
    /// MongoDB refuses with another code that it documents, or fails by itself: no retry is known to help.
    Refused,
    /// Anything else: a code that MongoDB does not document, or a reply that it should never send.
    Unexpected,
}

impl Failure {
    /// Returns `true` when the failure concerns one event, so that the events before it can be read.
    #[must_use]
    pub fn concerns_one_event(self) -> bool {
        matches!(
            self,
            Self::ImageMissing | Self::EventTooLarge | Self::LookupAmbiguous
        )
    }

    /// Returns `true` when the failure passes by itself, so that the stream can be opened again.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Transient | Self::Overloaded)
    }

    /// Returns `true` when the failure of an opening with a token may be the token's alone. Some compatible
    /// servers deny access (13) for a token that names a collection of the server's own, such as `db.$cmd`;
    /// without a token the denial is about the rights of Weir's user.
    #[must_use]
    pub fn may_mean_the_token(self) -> bool {
        matches!(self, Self::TokenNotFound | Self::AccessDenied)
    }
}
