//! Zero-copy decoding of MongoDB's replies to one cursor: pure functions over the bytes.

mod caught_up;
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
        token_time::token_time,
    },
};

pub use contents::ReplyContents;

use caught_up::{CaughtUpProof, Told};

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
    /// `true` for a stream from now, which has no earlier events.
    from_now: bool,
    /// What is known of whether the stream has caught up.
    proof: CaughtUpProof,
    /// `true` if MongoDB leaves no event of the stream's namespaces out.
    is_unfiltered: bool,
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
            proof: CaughtUpProof::new(at),
            is_unfiltered: false,
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

    /// Sets whether the stream leaves no event of its namespaces out, so that an empty reply which took long is
    /// the end of what there is. It is `false` by default.
    #[must_use]
    pub fn with_unfiltered(self, is_unfiltered: bool) -> Self {
        Self {
            is_unfiltered,
            ..self
        }
    }

    /// Returns whether the last reply was empty and did not tell how far the stream is.
    pub(super) fn is_untold(&self) -> bool {
        self.proof.is_untold
    }

    /// Returns whether the tokens of the stream do not tell times.
    pub(super) fn has_opaque_tokens(&self) -> bool {
        self.proof.has_opaque_tokens
    }

    /// Returns whether the stream has read everything that had been committed when it was opened.
    pub(super) fn has_caught_up(&self) -> bool {
        self.proof.caught_up
    }

    /// Records that no event lies between the stream's position and a time, and that it has none at that time.
    pub(super) fn raise(&mut self, time: ClusterTime) {
        self.reached = self.reached.max(Some(time));
        self.proof.caught_up |= self.proof.target.is_some_and(|target| time >= target);
    }

    /// Returns a time that the position after the last reply has certainly reached: all events of the stream before
    /// this time lie before the position.
    #[must_use]
    pub fn reached_time(&self) -> Option<ClusterTime> {
        self.reached
    }

    /// Decodes the next reply. `waited` is `true` when it took about as long as MongoDB waits for an event.
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
        let is_empty = events.is_empty() && event_error.is_none();
        let waited = waited && is_empty;
        let told = parts.post_batch_token.and_then(token_time);
        let in_force = self.given_position(is_empty, waited, parts.post_batch_token, told);
        // While the given position is in force, and behind a malformed event, the token promises nothing.
        let told = told.filter(|_| in_force.is_none() && event_error.is_none());
        // Without a token that tells, an empty reply to a stream that leaves nothing out has read what was
        // committed at the time of the previous reply.
        let is_end = waited
            && self.is_unfiltered
            && self.proof.has_begun()
            && told.is_none()
            && in_force.is_none();
        let passed = told.map(|time| self.proof.reached_by(parts.post_batch_token, time));
        self.reached = self
            .reached
            .max(events.last().map(|event| event.cluster_time))
            .max(passed)
            .max(self.previous_operation_time.filter(|_| is_end));
        let closed = parts.cursor_id == Some(0);
        self.proof.add(&Told {
            from_now: self.from_now,
            operation_time: parts.operation_time,
            last_event: events.last().map(|event| event.cluster_time),
            token: parts.post_batch_token.filter(|_| in_force.is_none()),
            time: told,
            is_empty: is_empty && !closed,
            is_end,
            waited,
        });
        self.previous_operation_time = parts.operation_time.or(self.previous_operation_time);
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
            caught_up: self.proof.caught_up && event_error.is_none(),
            waited,
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
    /// replies are empty and their tokens may lie before it. A reply with events ends that, and a token that tells a
    /// later time. So does a reply that took long, unless it repeats the doubtful token; and on a replica set any
    /// other token, as only a mongos goes back.
    fn given_position(
        &mut self,
        is_empty: bool,
        waited: bool,
        post_batch_token: Option<&[u8]>,
        told: Option<ClusterTime>,
    ) -> Option<Position> {
        let token = post_batch_token.filter(|_| is_empty);
        // By its token, as the known time of an event may be an earlier one.
        let given = match &self.given {
            GivenPosition::Unconfirmed(given) | GivenPosition::Doubted { given, .. } => {
                given.token()
            }
            GivenPosition::Passed => None,
        };
        let given = given.and_then(|token| token_time(token));
        if given.is_some_and(|given| told > Some(given)) {
            self.given = GivenPosition::Passed;
        }
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
            ) if doubted == token || !waited && !self.contiguous_transactions => {
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
