//! An open change stream, which turns MongoDB's replies into batches of events.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    limit::Permit,
    source::{
        Batch, ClusterTime, Cursor, SourceError,
        failure::Failure,
        reply::{ReplyContents, ReplyDecoder},
    },
};

use super::{closing::Closing, prover::Prover, reply_timeout::ReplyTimeout};

/// The time for which MongoDB holds a `getMore` open on a quiet stream. An idle stream costs one round
/// trip in this time, and its position moves once in this time.
pub(super) const MAX_AWAIT: Duration = Duration::from_secs(1);

/// The time after which an empty reply counts as one that MongoDB waited with. It sets the pace of what is done
/// at such replies, and proves nothing: a busy server may take as long in the midst of a scan.
const WAITED: Duration = Duration::from_millis(900);

/// The number of early empty replies in a row after which the cursor pauses before the next `getMore`. A
/// server may reply before the await time and without an event while it scans oplog entries that are
/// not for the stream.
const MAX_EARLY_EMPTY_REPLIES: u32 = 16;
/// The length of that pause.
const EARLY_EMPTY_REPLY_PAUSE: Duration = Duration::from_millis(10);

/// An open change stream on MongoDB.
pub(super) struct MongoCursor {
    reader: ReplyReader,
    decoder: ReplyDecoder,
    prover: Prover,
    /// The time at which the awaited reply was requested.
    requested_at: Option<Instant>,
    /// The number of early empty replies in a row.
    early_empty_replies: u32,
    /// The end of the current pause.
    pause_until: Option<Instant>,
    /// The batches of the last reply that `next` has not returned yet, in reverse order.
    ready: Vec<Batch>,
    /// The error that follows them and ends the stream.
    error: Option<SourceError>,
}

impl Cursor for MongoCursor {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, SourceError>> {
        Box::pin(async move {
            loop {
                if let Some(batch) = self.ready.pop() {
                    return Ok(batch);
                }
                if let Some(error) = self.error.take() {
                    return Err(error);
                }
                if let Some(until) = self.pause_until {
                    sleep_until(until).await;
                    self.pause_until = None;
                }
                // Stored in `self` because this future may be dropped and recreated during the wait.
                let requested_at = *self.requested_at.get_or_insert_with(Instant::now);
                let reply = tokio::select! {
                    biased;
                    proved = self.prover.answer() => {
                        if let Some(batch) = proved.tell(&mut self.decoder) {
                            return Ok(batch);
                        }
                        continue;
                    }
                    reply = self.reader.reply(self.decoder.reached_time()) => reply?,
                };
                self.requested_at = None;
                let waited = requested_at.elapsed() >= WAITED;
                let reply = Bytes::from_owner(Reply(reply));
                let ReplyContents { batches, error } = self.decoder.decode(reply, waited);
                self.pause_after(&batches, waited);
                if error.is_none() {
                    self.prover.observe(&self.decoder, &batches);
                }
                self.ready = batches;
                self.ready.reverse();
                self.error = error;
            }
        })
    }

    fn set_awaited_time(&mut self, time: Option<ClusterTime>) {
        self.prover.set_awaited_time(time);
    }
}

impl MongoCursor {
    /// Returns the stream of `cursor`, whose client may be `closed` at some time. `decoder` decodes its replies, from
    /// the position where it was opened, and `prover` finds out what they do not tell.
    pub(super) fn new(
        (cursor, closed): (RawBatchCursor, CancellationToken),
        reply_timeout: ReplyTimeout,
        decoder: ReplyDecoder,
        prover: Prover,
        has_client_stages: bool,
    ) -> Self {
        Self {
            reader: ReplyReader {
                cursor: Closing::new(cursor, closed),
                reply_timeout,
                has_client_stages,
            },
            decoder,
            prover,
            requested_at: None,
            early_empty_replies: 0,
            pause_until: None,
            ready: Vec::new(),
            error: None,
        }
    }

    /// Returns the stream with the right to have it, which it keeps until it is closed.
    pub(super) fn holding(mut self, permit: Option<Arc<Permit>>) -> Self {
        self.reader.cursor.hold(permit);
        self
    }

    /// Sets a pause when the server keeps replying at once without an event, to avoid a busy loop.
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
}

/// The replies of one stream.
struct ReplyReader {
    cursor: Closing<RawBatchCursor>,
    reply_timeout: ReplyTimeout,
    /// `true` if the stream has stages of a client.
    has_client_stages: bool,
}

impl ReplyReader {
    /// Returns the next reply, for which MongoDB scans the oplog from the time `from`, or from now. Cancel safe.
    async fn reply(&mut self, from: Option<ClusterTime>) -> Result<RawBatch, SourceError> {
        let reply = self.reply_timeout.wait(self.cursor.next_reply(), from);
        let reply = reply.await.inspect_err(|_| self.cursor.give_up())?;
        match reply {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => {
                let error = SourceError::from(error);
                Err(if self.has_client_stages {
                    error.of_client_stages()
                } else {
                    error
                })
            }
            None => Err(SourceError::new(
                Failure::Transient,
                "the cursor is exhausted",
            )),
        }
    }
}

/// A reply as the owner of its bytes, so that they can be shared without a copy.
struct Reply(RawBatch);

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.0.as_raw_document().as_bytes()
    }
}
