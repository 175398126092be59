//! An open change stream: replies of MongoDB as batches of events.

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::time::{Duration, Instant, sleep_until};

use crate::source::{
    Batch, Cursor, SourceError,
    failure::Failure,
    reply::{Brought, Replies},
};

use super::{MAX_AWAIT, patience::Patience};

/// A server may answer early, without an event, in the midst of what holds none for the stream. One
/// that has done so this many times in a row is given a pause before it is asked again.
const HOLLOW_REPLIES: u32 = 16;
/// How long.
const HOLLOW_PAUSE: Duration = Duration::from_millis(10);

/// An open change stream on MongoDB.
pub(super) struct MongoCursor {
    cursor: RawBatchCursor,
    patience: Patience,
    replies: Replies,
    /// When the reply that is awaited was asked for.
    asked: Option<Instant>,
    /// How many replies in a row came early and brought nothing.
    hollow: u32,
    /// Until when MongoDB is not asked again.
    rest_until: Option<Instant>,
    /// Batches of the last reply that are still to be handed out, in reverse order.
    ready: Vec<Batch>,
    /// What comes after them, where nothing can.
    broken: Option<SourceError>,
}

impl Cursor for MongoCursor {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, SourceError>> {
        Box::pin(async move {
            loop {
                if let Some(batch) = self.ready.pop() {
                    return Ok(batch);
                }
                if let Some(error) = self.broken.take() {
                    return Err(error);
                }
                if let Some(until) = self.rest_until {
                    sleep_until(until).await;
                    self.rest_until = None;
                }
                // Kept here, as this future may be dropped and made again while the reply is awaited.
                let asked = *self.asked.get_or_insert_with(Instant::now);
                let reply = self.reply().await?;
                self.asked = None;
                let waited = asked.elapsed() >= MAX_AWAIT / 2;
                let reply = Bytes::from_owner(Reply(reply));
                let Brought { batches, broken } = self.replies.read(reply, waited);
                self.rest_after(&batches, waited);
                self.ready = batches;
                self.ready.reverse();
                self.broken = broken;
            }
        })
    }
}

impl MongoCursor {
    /// The stream behind `cursor`, whose replies are read as those of the place that it was opened at.
    pub(super) fn new(cursor: RawBatchCursor, patience: Patience, replies: Replies) -> Self {
        Self {
            cursor,
            patience,
            replies,
            asked: None,
            hollow: 0,
            rest_until: None,
            ready: Vec::new(),
            broken: None,
        }
    }

    /// Keeps a server that answers at once, and says nothing, from being asked as fast as it answers.
    fn rest_after(&mut self, batches: &[Batch], waited: bool) {
        let hollow = !waited && batches.iter().all(|batch| batch.events.is_empty());
        self.hollow = if hollow {
            self.hollow.saturating_add(1)
        } else {
            0
        };
        if self.hollow > HOLLOW_REPLIES {
            self.rest_until = Some(Instant::now() + HOLLOW_PAUSE);
        }
    }

    async fn reply(&mut self) -> Result<RawBatch, SourceError> {
        match self
            .patience
            .bear(self.cursor.next(), self.replies.reached())
            .await?
        {
            Some(reply) => Ok(reply?),
            None => Err(SourceError::new(
                Failure::Transient,
                "the cursor is used up",
            )),
        }
    }
}

/// Lets a reply's bytes be shared without a copy.
struct Reply(RawBatch);

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.0.as_raw_document().as_bytes()
    }
}
