//! What a feed reads: an ordered run of raw change events, behind a trait.
//!
//! [`Source`] opens a [`Plan`] at a [`Position`] and gives a [`Cursor`], which yields [`Batch`]es.
//! [`mongo`] is the real one, which hands [`ReplyReader`] what the driver received; the hub's tests script
//! another. Nothing here reconnects: a failure
//! is classified ([`Failure`]) and handed up, and the hub decides.

mod event;
mod failure;
pub mod mongo;
mod reply;
#[cfg(test)]
pub(crate) mod scripted;
mod split_events;

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::plan::Plan;

pub use event::{Batch, Event, EventError};
pub use failure::{Failure, SourceError};
pub use reply::{ReplyContents, ReplyReader};

/// A moment in MongoDB's logical time: whole seconds since 1970, and a counter within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterTime {
    /// Seconds since 1970.
    pub seconds: u32,
    /// Counts the operations within that second.
    pub increment: u32,
}

impl ClusterTime {
    /// Whole seconds from `earlier` to `self`; 0 when `earlier` is not earlier.
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

/// A place in a change stream from which one can go on, strictly after everything before it.
///
/// Tokens are MongoDB's, as raw BSON documents, and opaque: they are compared for equality and
/// never for order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Right after an event.
    Event {
        /// The event's `_id`.
        token: Bytes,
        /// The event's cluster time.
        time: ClusterTime,
    },
    /// A post-batch token that stands for a point in time and no event.
    HighWater {
        /// MongoDB's `postBatchResumeToken`.
        token: Bytes,
        /// A time that the place has surely reached.
        time: ClusterTime,
    },
    /// Right after an `invalidate` event; MongoDB wants `startAfter` for these.
    Invalidate {
        /// The event's `_id`.
        token: Bytes,
        /// The event's cluster time.
        time: ClusterTime,
    },
    /// At a time, inclusive: events of that very time come again.
    Time(ClusterTime),
}

impl Position {
    /// A time that the place has surely reached.
    #[must_use]
    pub fn time(&self) -> ClusterTime {
        match self {
            Self::Event { time, .. }
            | Self::HighWater { time, .. }
            | Self::Invalidate { time, .. }
            | Self::Time(time) => *time,
        }
    }

    /// MongoDB's token, where the place has one.
    #[must_use]
    pub fn token(&self) -> Option<&Bytes> {
        match self {
            Self::Event { token, .. }
            | Self::HighWater { token, .. }
            | Self::Invalidate { token, .. } => Some(token),
            Self::Time(_) => None,
        }
    }
}

/// How many events a reply of MongoDB brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    /// As many as there are, within bounds.
    Default,
    /// One. A reply fails as a whole at an event that MongoDB can't send; so what stands before that
    /// one comes all the same.
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

/// Opens change streams.
pub trait Source: Send + Sync + 'static {
    /// Opens `plan`'s change stream at `at`, or from now when that is `None`. One attempt.
    fn open<'a>(
        &'a self,
        plan: &'a Plan,
        at: Option<&'a Position>,
        batch_size: BatchSize,
    ) -> BoxFuture<'a, Result<Box<dyn Cursor>, SourceError>>;

    /// The oldest time that a stream can start at; `None` where it cannot be read.
    fn oldest_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>>;

    /// MongoDB's operation time now: whatever was acknowledged before this was called is not later.
    /// `None` where MongoDB does not tell.
    fn current_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>>;

    /// Whether `plan`'s stream, which leaves no event out, surely holds nothing after `at` that is not
    /// later than `until`. `false` where there is something, and where that can't be told.
    fn has_no_events<'a>(
        &'a self,
        plan: &'a Plan,
        at: &'a Position,
        until: ClusterTime,
    ) -> BoxFuture<'a, Result<bool, SourceError>>;

    /// Asks the deployment for its facts, which also tells whether it answers.
    fn facts(&self) -> BoxFuture<'_, Result<ServerFacts, SourceError>>;
}

/// An open change stream.
pub trait Cursor: Send {
    /// The next batch; empty ones come when the stream is quiet, about once a second.
    ///
    /// Dropping the future loses nothing: the next call takes up where it was. After an error the
    /// cursor is done with.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, SourceError>>;
}
