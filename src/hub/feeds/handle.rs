//! A feed as the feed table knows it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    hub::{request_memory::HeldPlan, ring::Ring},
    pipeline::Plan,
    source::Position,
};

/// An open feed.
#[derive(Debug)]
pub(in crate::hub) struct OpenFeed {
    pub plan: Arc<Plan>,
    pub ring: Arc<Ring>,
    /// The position that it started at.
    pub start: Position,
}

/// Receives the result of opening a feed. `None`: still opening.
pub(super) type OpenOutcome = watch::Receiver<Option<Result<Arc<OpenFeed>, Error>>>;

/// Sends the result of opening a feed.
pub(super) type OpenSender = watch::Sender<Option<Result<Arc<OpenFeed>, Error>>>;

/// A feed in the feed table: open, opening, or failed to open.
#[derive(Debug, Clone)]
pub(super) struct FeedHandle {
    pub(super) opened: OpenOutcome,
    pub(super) stop: CancellationToken,
    /// The memory of its plan, if that has conditions of clients.
    pub(super) _plan: Option<Arc<HeldPlan>>,
}

impl FeedHandle {
    /// The ring, if the feed is open.
    pub(super) fn ring(&self) -> Option<Arc<Ring>> {
        match &*self.opened.borrow() {
            Some(Ok(feed)) => Some(Arc::clone(&feed.ring)),
            _ => None,
        }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}
