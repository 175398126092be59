//! Positions in a ring, and in the stream that it holds the end of.

use crate::{
    model::Operation,
    source::{Anchor, ClusterTime, Position},
};

/// The sequence number of an item: counts all events and invalidations of a ring, from 0.
pub(in crate::hub) type Seq = u64;

/// An `invalidate` event with its cause.
#[derive(Debug, Clone)]
pub struct Invalidation {
    /// The operation that caused it, where MongoDB reported one.
    pub cause: Option<Operation>,
    /// The position right after the event.
    pub position: Position,
    /// The `wallTime` of the event in milliseconds since 1970.
    pub wall_time: Option<i64>,
}

/// The progress of a feed or a catch-up.
#[derive(Debug, Clone)]
pub struct FeedPosition {
    /// The position after everything that was published.
    pub position: Position,
    /// MongoDB's time in its latest reply.
    pub upstream_time: Option<ClusterTime>,
    /// The last event before the position.
    pub anchor: Option<Anchor>,
}
