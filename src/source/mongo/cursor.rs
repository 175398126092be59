//! An open change stream: replies of MongoDB as batches of events.

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::time::{Duration, Instant, sleep_until};

use crate::source::{
    Batch, Cursor, SourceError,
    failure::Failure,
    reply::{ReplyContents, ReplyReader},
};

use super::{MAX_AWAIT, reply_timeout::ReplyTimeout};

/// A server may answer early, without an event, in the midst of what holds none for the stream. One
/// that has done so this many times in a row is given a pause before it is asked again.
const MAX_EARLY_EMPTY_REPLIES: u32 = 16;
/// How long.
const EARLY_EMPTY_REPLY_PAUSE: Duration = Duration::from_millis(10);

/// An open change stream on MongoDB.
pub(super) struct MongoCursor {
    cursor: RawBatchCursor,
    reply_timeout: ReplyTimeout,
    replies: ReplyReader,
    /// When the reply that is awaited was asked for.
    requested_at: Option<Instant>,
    /// How many replies in a row came early and brought nothing.
    early_empty_replies: u32,
    /// Until when MongoDB is not asked again.
    pause_until: Option<Instant>,
    /// Batches of the last reply that are still to be handed out, in reverse order.
    ready: Vec<Batch>,
    /// What comes after them, where nothing can.
    error: Option<SourceError>,
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
                if let Some(until) = self.pause_until {
                    sleep_until(until).await;
                    self.pause_until = None;
                }
                // Kept here, as this future may be dropped and made again while the reply is awaited.
                let requested_at = *self.requested_at.get_or_insert_with(Instant::now);
                let reply = self.reply().await?;
                self.requested_at = None;
                let waited = requested_at.elapsed() >= MAX_AWAIT / 2;
                let reply = Bytes::from_owner(Reply(reply));
                let ReplyContents { batches, error } = self.replies.read(reply, waited);
                self.pause_after(&batches, waited);
                self.ready = batches;
                self.ready.reverse();
                self.broken = broken;
            }
        })
    }
}

impl MongoCursor {
    /// The stream behind `cursor`, whose replies are read as those of the place that it was opened at.
    pub(super) fn new(
        cursor: RawBatchCursor,
        reply_timeout: ReplyTimeout,
        replies: ReplyReader,
    ) -> Self {
        Self {
            cursor,
            reply_timeout,
            replies,
            requested_at: None,
            early_empty_replies: 0,
            pause_until: None,
            ready: Vec::new(),
            error: None,
        }
    }

    /// Keeps a server that answers at once, and says nothing, from being asked as fast as it answers.
    fn pause_after(&mut self, batches: &[Batch], waited: bool) {
        let early_and_empty = !waited && batches.iter().all(|batch| batch.events.is_empty());
        self.early_empty_replies = if early_and_empty {
            self.early_empty_replies.saturating_add(1)
        } else {
            0
        };
        if self.early_empty_replies > MAX_EARLY_EMPTY_REPLIES {
            self.pause_until = Some(Instant::now() + EARLY_EMPTY_REPLY_PAUSE);
        }
    }

    async fn reply(&mut self) -> Result<RawBatch, SourceError> {
        match self
            .reply_timeout
            .wait(self.cursor.next(), self.replies.reached_time())
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
