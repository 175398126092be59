//! Sources of raw change events, in order, behind a trait.
//!
//! A [`Source`] opens a [`Plan`] at a [`Position`] and returns a [`Cursor`], which yields [`Batch`]es.
//! [`mongo`] implements it over the driver and decodes its replies with a [`ReplyDecoder`]; the hub's
//! tests use a scripted source. Nothing here reconnects a stream: a failure is classified ([`Failure`])
//! and returned, and the hub decides. Only a call that met a dead connection is made again at once.

mod anchor;
mod event;
mod failure;
mod looked_up;
pub mod mongo;
mod reply;
#[cfg(test)]
pub(crate) mod scripted;
mod split_events;
mod transaction;

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::pipeline::Plan;

pub use anchor::Anchor;
pub use event::{Batch, Event, EventError};
pub use failure::{Failure, Refusal, SourceError};
pub use reply::{ReplyContents, ReplyDecoder};

/// A MongoDB cluster time: whole seconds since 1970, and a counter within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterTime {
    /// Seconds since 1970.
    pub seconds: u32,
    /// The counter of operations within that second.
    pub increment: u32,
}

impl ClusterTime {
    /// Returns the whole seconds from `earlier` to `self`; 0 when `earlier` is not earlier.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> u32 {
        self.seconds.saturating_sub(earlier.seconds)
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seconds, self.increment)
    }
}

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
    /// [`Source`] starts at the event's time; to start after the event, its token has to be found first.
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
}

/// The maximum number of events in one reply of MongoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    /// The source's default.
    Default,
    /// One event. When MongoDB can't send an event, the whole reply fails; with one event in each reply,
    /// the events before it still arrive.
    One,
}

/// Facts about the deployment behind a source.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// MongoDB's version, such as "8.0.4".
    pub version: String,
    /// The replica set's name; "sharded" behind a mongos, empty on a standalone server.
    pub set_name: String,
    /// The server's operation time.
    pub now: Option<ClusterTime>,
}

/// A deployment that change streams can be opened on.
pub trait Source: Send + Sync + 'static {
    /// Opens `plan`'s change stream at `at`, or at the current time when that is `None`. A dead connection
    /// is replaced, as in every call; beyond that, it makes one attempt.
    fn open<'a>(
        &'a self,
        plan: &'a Plan,
        at: Option<&'a Position>,
        batch_size: BatchSize,
    ) -> BoxFuture<'a, Result<Box<dyn Cursor>, SourceError>>;

    /// Returns the oldest time that a stream can start at; `None` when it can't be read.
    fn oldest_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>>;

    /// Returns MongoDB's current operation time. Writes acknowledged before the call are not later than
    /// it. `None` when the server does not report one.
    fn current_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>>;

    /// Returns `true` when `plan`'s stream, which filters no events, certainly has no event after `at`
    /// and up to `until`. Returns `false` when it has one, and when that can't be determined.
    fn has_no_events<'a>(
        &'a self,
        plan: &'a Plan,
        at: &'a Position,
        until: ClusterTime,
    ) -> BoxFuture<'a, Result<bool, SourceError>>;

    /// Returns whether MongoDB is a mongos. Asked once.
    fn is_sharded(&self) -> BoxFuture<'_, Result<bool, SourceError>>;

    /// Asks the deployment for its facts. This also shows that the deployment responds.
    fn facts(&self) -> BoxFuture<'_, Result<ServerFacts, SourceError>>;
}

/// An open change stream.
pub trait Cursor: Send {
    /// Returns the next batch. On a quiet stream, empty batches come about once a second.
    ///
    /// Cancel safe: after the future is dropped, the next call continues to wait for the same reply. The
    /// cursor must not be used after an error.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, SourceError>>;
}
