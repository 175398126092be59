//! Sources of raw change events, in order, behind a trait.
//!
//! A [`Source`] opens a [`Plan`] at a [`Position`] and returns a [`Cursor`], which yields [`Batch`]es.
//! [`mongo`] implements it over the driver and decodes its replies with a [`ReplyDecoder`]; the hub's
//! tests use a scripted source. Nothing here reconnects a stream: a failure is classified ([`Failure`])
//! and returned, and the hub decides. Only a call that met a dead connection is made again at once.

mod anchor;
mod cluster_time;
mod event;
mod failure;
mod last_of_transaction;
mod looked_up;
pub mod mongo;
mod position;
mod reply;
#[cfg(test)]
pub(crate) mod scripted;
mod split_events;
mod token_time;
mod transaction;

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::pipeline::Plan;

pub use anchor::Anchor;
pub use cluster_time::ClusterTime;
pub use event::{Batch, Event, EventError};
pub use failure::{Failure, Refusal, SourceError};
pub use position::Position;
pub use reply::{ReplyContents, ReplyDecoder};

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

    /// Returns the same deployment for feeds: their streams are opened and read on connections that nothing
    /// else takes.
    fn for_feeds(self: Arc<Self>) -> Arc<dyn Source>;

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

    /// Says that a watch waits for the stream to pass a time, so that the cursor finds out when it has where
    /// the replies do not tell. `None`: no watch does.
    fn set_awaited_time(&mut self, _time: Option<ClusterTime>) {}
}
