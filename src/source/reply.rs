//! Zero-copy decoding of MongoDB's replies to one cursor: pure functions over the bytes.

pub(super) mod contents;

use bytes::Bytes;

use crate::{
    model::Operation,
    pipeline::Genuine,
    raw::{self, Elements},
    source::{
        ClusterTime, Position, SourceError,
        event::{Batch, Event, EventError, range_in},
        failure::Failure,
        last_of_transaction::mark_last_events,
        looked_up::leave_out_foreign_documents,
        split_events::FragmentMerger,
    },
};

pub use contents::ReplyContents;

/// A decoder of the replies to the `aggregate` and the `getMore`s of one change stream, in order.
#[derive(Debug)]
pub struct ReplyDecoder {
    /// A time that the stream's position has certainly reached.
    reached: Option<ClusterTime>,
    /// The time of the last event; zero when none is known.
    last_event: ClusterTime,
    /// The operation time of the previous reply.
    previous_operation_time: Option<ClusterTime>,
    /// The invalidate event that the stream was opened after. MongoDB repeats its token as the
    /// post-batch token until it has read something later, and accepts it only in `startAfter`.
    opened_after_invalidate: Option<Position>,
    /// `true` before the first reply of a stream from now, which has no earlier events.
    from_now: bool,
    /// `true` if the events of a transaction follow each other directly, as on a replica set.
    contiguous_transactions: bool,
    given: GivenPosition,
    /// What of the events is as MongoDB made it.
    genuine: Genuine,
    merger: FragmentMerger,
}

/// The position that a stream was opened at, while it is not certain that the stream is past it.
///
/// A mongos 9.0.0 or 9.0.1 makes of the token of an event a token of the event's time, which lies before
/// the event, and sends that with an empty first reply (SERVER-134795, SERVER-135099). Tokens are opaque,
/// so it cannot be seen whether a token lies before another.
#[derive(Debug)]
enum GivenPosition {
    /// Before the first reply.
    Unconfirmed(Position),
    /// The first reply was empty, and its token was not the one given.
    Doubted { given: Position, token: Bytes },
    /// The stream's own tokens count.
    Passed,
}

impl ReplyDecoder {
    /// Returns a decoder for a stream that was opened at a position, or from now. `reached` is a time
    /// that the position has certainly reached, if one is known.
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
            contiguous_transactions: false,
            given: match at {
                Some(at) if at.token().is_some() => GivenPosition::Unconfirmed(at.clone()),
                _ => GivenPosition::Passed,
            },
            genuine: Genuine::EVERYTHING,
            merger: FragmentMerger::new(Genuine::EVERYTHING),
        }
    }

    /// Sets what of the events is as MongoDB made it; everything by default.
    #[must_use]
    pub fn with_genuine(self, genuine: Genuine) -> Self {
        Self {
            genuine,
            merger: FragmentMerger::new(genuine),
            ..self
        }
    }

    /// Sets whether the events of a transaction follow each other directly, as on a replica set. It is
    /// `false` by default: less is known then of where a transaction ends.
    #[must_use]
    pub fn with_contiguous_transactions(self, contiguous_transactions: bool) -> Self {
        Self {
            contiguous_transactions,
            ..self
        }
    }

    /// Returns a time that the position after the last reply has certainly reached.
    #[must_use]
    pub fn reached_time(&self) -> Option<ClusterTime> {
        self.reached
    }

    /// Decodes the next reply. `waited` is `true` when MongoDB held the request open because it had no
    /// event.
    pub fn decode(&mut self, buffer: Bytes, waited: bool) -> ReplyContents {
        let parts = match ReplyParts::parse(&buffer) {
            Ok(parts) => parts,
            // Transient, as drivers treat every unreadable reply: MongoDB did not send it.
            Err(error) => {
                return ReplyContents {
                    batches: Vec::new(),
                    error: Some(SourceError::new(Failure::Transient, error.to_string())),
                };
            }
        };
        let mut events = Vec::new();
        let event_error = self.read_events(&buffer, &parts, &mut events).err();
        let from_now = std::mem::take(&mut self.from_now);
        let idle = events.is_empty() && event_error.is_none() && (waited || from_now);
        let is_empty = events.is_empty() && event_error.is_none();
        let in_force = self.given_position(is_empty, idle, parts.post_batch_token);
        // An idle reply has read everything that was committed at the time of the previous reply, unless it
        // leaves the given position in force: then it promises nothing.
        let reached = match events.last() {
            Some(event) => Some(event.cluster_time),
            None if !idle || in_force.is_some() => None,
            None => self.previous_operation_time,
        };
        self.reached = self.reached.max(reached);
        self.previous_operation_time = parts.operation_time;
        let closed = parts.cursor_id == Some(0);
        let batch = Batch {
            position: match &event_error {
                // The token is that of the `invalidate`, which is in no event here.
                None if closed && !self.genuine.everything => {
                    events.last().map(|event| event.position(&buffer))
                }
                None if in_force.is_some() => in_force,
                None => self.position(&buffer, events.last(), parts.post_batch_token),
                // The post-batch token is after the malformed event.
                Some(_) => events.last().map(|event| event.position(&buffer)),
            },
            operation_time: parts.operation_time,
            closed,
            idle,
            events,
            buffer,
        };
        let mut contents = self.merger.merge_batch(batch);
        if self.genuine.document_ids {
            for batch in &mut contents.batches {
                leave_out_foreign_documents(batch);
            }
        }
        // After the merge, since the first fragment of an event may lack the transaction.
        let events = contents.batches.iter_mut().flat_map(|it| &mut it.events);
        mark_last_events(events, self.contiguous_transactions);
        if contents.error.is_none() {
            contents.error = event_error.map(SourceError::from);
        }
        contents
    }

    /// Reads events up to the first malformed one.
    fn read_events(
        &mut self,
        buffer: &Bytes,
        reply: &ReplyParts<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), EventError> {
        for element in Elements::new(reply.batch)? {
            let document = element?.as_document().ok_or(raw::Error::Value)?;
            let range = range_in(buffer, document);
            let mut event = Event::parse_genuine(buffer, range, self.genuine)?;
            // A stage may have done what Weir does not know.
            if !self.genuine.everything
                && reply
                    .operation_time
                    .is_some_and(|now| event.cluster_time > now)
            {
                event.cluster_time = ClusterTime::default();
            }
            // Events come in order of time, so an event without a time or with an earlier one is not
            // earlier than the event before it.
            if event.cluster_time == ClusterTime::default() {
                event.cluster_time = self.reached.unwrap_or_default();
            }
            event.cluster_time = event.cluster_time.max(self.last_event);
            self.last_event = event.cluster_time;
            events.push(event);
        }
        Ok(())
    }

    /// Returns the position that the stream was opened at, if it stays in force after a reply: while the
    /// replies are empty and their tokens may lie before it. A reply with events ends that. So does a reply
    /// that MongoDB held back, unless it repeats the doubtful token; and on a replica set any other token, as only
    /// a mongos goes back.
    fn given_position(
        &mut self,
        is_empty: bool,
        idle: bool,
        post_batch_token: Option<&[u8]>,
    ) -> Option<Position> {
        let token = post_batch_token.filter(|_| is_empty);
        self.given = match (
            std::mem::replace(&mut self.given, GivenPosition::Passed),
            token,
        ) {
            (GivenPosition::Unconfirmed(given), Some(token))
                if given.token().is_none_or(|it| it != token) =>
            {
                let token = Bytes::copy_from_slice(token);
                GivenPosition::Doubted { given, token }
            }
            (
                GivenPosition::Doubted {
                    given,
                    token: doubted,
                },
                Some(token),
            ) if doubted == token || !idle && !self.contiguous_transactions => {
                GivenPosition::Doubted {
                    given,
                    token: doubted,
                }
            }
            _ => GivenPosition::Passed,
        };
        match &self.given {
            GivenPosition::Doubted { given, .. } => Some(given.clone()),
            GivenPosition::Unconfirmed(_) | GivenPosition::Passed => None,
        }
    }

    /// Returns the position after a batch.
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
                // An invalidate event closes the stream, which can only be resumed right after it.
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

/// The relevant fields of a reply to `aggregate` or `getMore`.
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
            batch: batch.ok_or(ReplyError::Missing("firstBatch or nextBatch"))?,
            cursor_id,
            post_batch_token,
            operation_time,
        })
    }
}

/// The reason why bytes are not a valid reply. The message never contains the reply's content.
#[derive(Debug, thiserror::Error)]
enum ReplyError {
    #[error("the reply is not well-formed BSON: {0}")]
    Malformed(#[from] raw::Error),
    #[error("the reply has no valid field {0}")]
    Missing(&'static str),
}

#[cfg(test)]
mod tests;
