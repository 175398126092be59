//! An open change stream: replies of MongoDB as batches of events.

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::time::Instant;

use crate::{
    plan::Operation,
    raw::{self, Elements},
    source::{
        Batch, ClusterTime, Cursor, Event, Position, SourceError,
        event::{EventError, range_in},
        failure::Failure,
        split::Merger,
    },
};

use super::{MAX_AWAIT, patience::Patience};

/// An open change stream on MongoDB.
pub(super) struct MongoCursor {
    cursor: RawBatchCursor,
    patience: Patience,
    /// A time that the place of this stream has surely reached.
    reached: Option<ClusterTime>,
    /// The operation time of the reply before.
    heard: Option<ClusterTime>,
    /// When the reply that is awaited was asked for.
    asked: Option<Instant>,
    /// Whether the next reply is the first of a stream from now, before which there is nothing.
    from_now: bool,
    merger: Merger,
    /// Batches of the last reply that are still to be handed out, in reverse order. Only a reply
    /// with fragments makes more than one.
    ready: Vec<Batch>,
}

impl Cursor for MongoCursor {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, SourceError>> {
        Box::pin(async move {
            loop {
                if let Some(batch) = self.ready.pop() {
                    return Ok(batch);
                }
                // Kept here, as this future may be dropped and made again while the reply is awaited.
                let asked = *self.asked.get_or_insert_with(Instant::now);
                let reply = self.reply().await?;
                self.asked = None;
                let waited = asked.elapsed() >= MAX_AWAIT / 2;
                let batch = self.read(reply, waited)?;
                self.ready = self.merger.take(batch)?;
                self.ready.reverse();
            }
        })
    }
}

impl MongoCursor {
    /// The stream behind `cursor`, which begins at a place of which a time is known that it has surely
    /// reached, or from now.
    pub(super) fn new(
        cursor: RawBatchCursor,
        patience: Patience,
        reached: Option<ClusterTime>,
        from_now: bool,
    ) -> Self {
        Self {
            cursor,
            patience,
            reached,
            heard: None,
            asked: None,
            from_now,
            merger: Merger::default(),
            ready: Vec::new(),
        }
    }

    async fn reply(&mut self) -> Result<RawBatch, SourceError> {
        match self.patience.bear(self.cursor.next(), self.reached).await? {
            Some(reply) => Ok(reply?),
            None => Err(SourceError::new(
                Failure::Transient,
                "the cursor is used up",
            )),
        }
    }

    fn read(&mut self, reply: RawBatch, waited: bool) -> Result<Batch, SourceError> {
        let buffer = Bytes::from_owner(Reply(reply));
        let parts = ReplyParts::find(&buffer)?;
        let mut events = Vec::new();
        for element in Elements::new(parts.batch).map_err(EventError::from)? {
            let document = element
                .and_then(|it| it.as_document().ok_or(raw::Error::Value))
                .map_err(EventError::from)?;
            events.push(Event::parse(&buffer, range_in(&buffer, document))?);
        }
        let from_now = std::mem::take(&mut self.from_now);
        let idle = events.is_empty() && (waited || from_now);
        // A whole second's worth of trust: a reply that was waited for in vain has seen everything
        // that was committed when the one before it was made.
        let reached = match events.last() {
            Some(event) => Some(event.cluster_time),
            None if !idle => None,
            None => self.heard,
        };
        self.reached = self.reached.max(reached);
        self.heard = parts.operation_time;
        let time = self.reached.unwrap_or_default();
        let position = match (events.last(), parts.post_batch_token) {
            (Some(event), Some(token)) if buffer[event.token.clone()] != *token => {
                // An invalidate closes the stream: the only way on is right after it.
                if event.operation == Operation::Invalidate {
                    Some(event.position(&buffer))
                } else {
                    let token = buffer.slice_ref(token);
                    Some(Position::HighWater { token, time })
                }
            }
            (Some(event), _) => Some(event.position(&buffer)),
            (None, Some(token)) => {
                let token = buffer.slice_ref(token);
                Some(Position::HighWater { token, time })
            }
            (None, None) => None,
        };
        Ok(Batch {
            events,
            position,
            operation_time: parts.operation_time,
            closed: parts.cursor_id == Some(0),
            idle,
            buffer,
        })
    }
}

/// Lets a reply's bytes be shared without a copy.
struct Reply(RawBatch);

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.0.as_raw_document().as_bytes()
    }
}

/// What a reply to `aggregate` or `getMore` holds.
struct ReplyParts<'a> {
    batch: &'a [u8],
    cursor_id: Option<i64>,
    post_batch_token: Option<&'a [u8]>,
    operation_time: Option<ClusterTime>,
}

impl<'a> ReplyParts<'a> {
    fn find(reply: &'a [u8]) -> Result<Self, EventError> {
        let mut cursor = None;
        let mut operation_time = None;
        for field in Elements::new(reply)? {
            let field = field?;
            match field.key {
                b"cursor" => cursor = field.as_document(),
                b"operationTime" => {
                    operation_time = field
                        .as_timestamp()
                        .map(|(seconds, increment)| ClusterTime { seconds, increment });
                }
                _ => {}
            }
        }
        let (mut batch, mut cursor_id, mut post_batch_token) = (None, None, None);
        for field in Elements::new(cursor.ok_or(EventError::Missing("cursor"))?)? {
            let field = field?;
            match field.key {
                // An array is a document whose keys are numbers.
                b"firstBatch" | b"nextBatch" => batch = Some(field.value),
                b"id" => cursor_id = field.as_int(),
                b"postBatchResumeToken" => post_batch_token = field.as_document(),
                _ => {}
            }
        }
        Ok(Self {
            batch: batch.ok_or(EventError::Missing("batch"))?,
            cursor_id,
            post_batch_token,
            operation_time,
        })
    }
}
