//! MongoDB's replies to one cursor, read where they lie: pure functions over the bytes.

use bytes::Bytes;

use crate::{
    plan::Operation,
    raw::{self, Elements},
    source::{
        ClusterTime, Position, SourceError,
        event::{Batch, Event, EventError, range_in},
        failure::Failure,
        split_events::FragmentMerger,
    },
};

/// Reads the replies to the `aggregate` and the `getMore`s of one change stream, in their order.
#[derive(Debug)]
pub struct ReplyReader {
    /// A time that the place of this stream has surely reached.
    reached: Option<ClusterTime>,
    /// The time of the last event, as far as one is known.
    last_event: ClusterTime,
    /// The operation time of the reply before.
    previous_operation_time: Option<ClusterTime>,
    /// The invalidation that the stream was opened after. MongoDB tells its token as the stream's place
    /// until it has read something later, and it stays one that only `startAfter` takes.
    opened_after_invalidate: Option<Position>,
    /// Whether the next reply is the first of a stream from now, before which there is nothing.
    from_now: bool,
    merger: FragmentMerger,
}

/// What a reply brought.
#[derive(Debug, Default)]
pub struct ReplyContents {
    /// What can be published of it, in order. Only a reply with fragments makes several batches.
    pub batches: Vec<Batch>,
    /// Why nothing can be read after that. The events before it are as good as any.
    pub error: Option<SourceError>,
}

impl ReplyReader {
    /// The replies of a stream that was opened at a place, or from now. `reached` is a time that the
    /// place has surely reached, where one is known.
    #[must_use]
    pub fn new(at: Option<&Position>, reached: Option<ClusterTime>) -> Self {
        Self {
            reached,
            last_event: match at {
                Some(Position::Event { time, .. } | Position::Invalidate { time, .. }) => *time,
                _ => ClusterTime::default(),
            },
            previous_operation_time: None,
            opened_after_invalidate: at
                .filter(|at| matches!(at, Position::Invalidate { .. }))
                .cloned(),
            from_now: at.is_none(),
            merger: FragmentMerger::default(),
        }
    }

    /// A time that the place after the last reply has surely reached.
    #[must_use]
    pub fn reached_time(&self) -> Option<ClusterTime> {
        self.reached
    }

    /// Reads the next reply. `waited` says that MongoDB held it back for want of anything to say.
    pub fn read(&mut self, buffer: Bytes, waited: bool) -> ReplyContents {
        let parts = match ReplyParts::parse(&buffer) {
            Ok(parts) => parts,
            // Drivers call every answer that makes no sense resumable: it was not MongoDB's.
            Err(error) => {
                return ReplyContents {
                    batches: Vec::new(),
                    error: Some(SourceError::new(Failure::Transient, error.to_string())),
                };
            }
        };
        let mut events = Vec::new();
        let broken = self.read_events(&buffer, parts.batch, &mut events).err();
        let from_now = std::mem::take(&mut self.from_now);
        let idle = events.is_empty() && broken.is_none() && (waited || from_now);
        // A whole second's worth of trust: a reply that was waited for in vain has seen everything
        // that was committed when the one before it was made.
        let reached = match events.last() {
            Some(event) => Some(event.cluster_time),
            None if !idle => None,
            None => self.previous_operation_time,
        };
        self.reached = self.reached.max(reached);
        self.previous_operation_time = parts.operation_time;
        let batch = Batch {
            position: match &broken {
                None => self.position(&buffer, events.last(), parts.post_batch_token),
                // MongoDB's place is after what is broken.
                Some(_) => events.last().map(|event| event.position(&buffer)),
            },
            operation_time: parts.operation_time,
            closed: parts.cursor_id == Some(0),
            idle,
            events,
            buffer,
        };
        let mut contents = self.merger.merge_batch(batch);
        if contents.error.is_none() {
            contents.error = broken.map(SourceError::from);
        }
        contents
    }

    /// Reads events up to the first that is broken.
    fn read_events(
        &mut self,
        buffer: &Bytes,
        batch: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), EventError> {
        for element in Elements::new(batch)? {
            let document = element?.as_document().ok_or(raw::Error::Value)?;
            let mut event = Event::parse(buffer, range_in(buffer, document))?;
            // Events come in the order of their times. One without a time, or with an earlier one,
            // happened no earlier than the one before it.
            if event.cluster_time == ClusterTime::default() {
                event.cluster_time = self.reached.unwrap_or_default();
            }
            event.cluster_time = event.cluster_time.max(self.last_event);
            self.last_event = event.cluster_time;
            events.push(event);
        }
        Ok(())
    }

    /// The place after a batch.
    fn position(
        &self,
        buffer: &Bytes,
        last: Option<&Event>,
        post_batch_token: Option<&[u8]>,
    ) -> Option<Position> {
        let time = self.reached.unwrap_or_default();
        let high_water = |token| Position::HighWater {
            token: buffer.slice_ref(token),
            time,
        };
        match (last, post_batch_token) {
            (Some(event), Some(token)) if buffer[event.token.clone()] != *token => {
                // An invalidate closes the stream: the only way on is right after it.
                if event.operation == Operation::Invalidate {
                    Some(event.position(buffer))
                } else {
                    Some(high_water(token))
                }
            }
            (Some(event), _) => Some(event.position(buffer)),
            (None, Some(token)) => Some(match &self.opened_after_invalidate {
                Some(at) if at.token().is_some_and(|it| it == token) => at.clone(),
                _ => high_water(token),
            }),
            (None, None) => None,
        }
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
    fn parse(reply: &'a [u8]) -> Result<Self, ReplyError> {
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
        for field in Elements::new(cursor.ok_or(ReplyError::Missing("cursor"))?)? {
            let field = field?;
            match field.key {
                b"firstBatch" | b"nextBatch" => batch = field.as_array(),
                b"id" => cursor_id = field.as_int(),
                b"postBatchResumeToken" => post_batch_token = field.as_document(),
                _ => {}
            }
        }
        Ok(Self {
            batch: batch.ok_or(ReplyError::Missing("batch"))?,
            cursor_id,
            post_batch_token,
            operation_time,
        })
    }
}

/// Why bytes are no reply. Their content never shows here.
#[derive(Debug, thiserror::Error)]
enum ReplyError {
    #[error("the reply is not well-formed BSON: {0}")]
    Malformed(#[from] raw::Error),
    #[error("the reply has no usable {0}")]
    Missing(&'static str),
}

#[cfg(test)]
mod tests;
