//! A batch of raw change events, and the few facts that routing one needs.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    plan::Operation,
    raw::{self, Elements},
    source::{ClusterTime, Position},
};

/// What one reply of MongoDB held.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The bytes that the events lie in: the reply itself, or events put together from fragments.
    pub buffer: Bytes,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The place after the batch. `None` inside a run of fragments, where no place is safe.
    pub position: Option<Position>,
    /// The server's own time when it answered.
    pub operation_time: Option<ClusterTime>,
    /// Whether MongoDB has closed the cursor.
    pub closed: bool,
    /// Whether MongoDB had read everything there was, and waited for more in vain. A reply without
    /// events alone does not say so: it may come in the midst of a stretch of the oplog that holds
    /// nothing for this stream.
    pub idle: bool,
}

/// One event: where it lies in its batch's buffer, and what routing needs to know of it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The whole raw BSON document.
    pub bytes: Range<usize>,
    /// Its `_id`, a raw BSON document.
    pub token: Range<usize>,
    /// Its `operationType`; a fragment need not have one.
    pub operation: Operation,
    /// Its `clusterTime`, or that of the event before it where that is later or MongoDB sent none; zero
    /// where neither is known.
    pub cluster_time: ClusterTime,
    /// Its `wallTime` in milliseconds since 1970.
    pub wall_time: Option<i64>,
    /// Its place in a run of fragments, when it is one of several.
    pub(super) fragment: Option<Fragment>,
}

/// `splitEvent`: this is fragment `index` of `of`, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragment {
    pub index: i64,
    pub of: i64,
}

/// Why the bytes of an event can't be used. Its content never shows here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The document is not well-formed BSON on its top level.
    #[error("the event is not well-formed BSON: {0}")]
    Malformed(#[from] raw::Error),
    /// It has no `_id`, or one that is no document.
    #[error("the event has no token")]
    NoToken,
}

impl Event {
    /// Reads the event that lies at `bytes` of `buffer`. Of fields that come twice, which MongoDB never
    /// sends, the first counts. One whose operation can't be read is of an operation without a name.
    ///
    /// # Errors
    /// [`EventError`] when it is not well-formed or has no `_id`, without which it has no place.
    pub fn parse(buffer: &[u8], bytes: Range<usize>) -> Result<Self, EventError> {
        let mut token = None;
        let mut operation = None;
        let mut cluster_time = None;
        let mut wall_time = None;
        let mut fragment = None;
        for field in Elements::new(&buffer[bytes.clone()])? {
            let field = field?;
            match field.key {
                b"_id" if token.is_none() => token = Some(field.as_document()),
                b"operationType" if operation.is_none() => operation = Some(field.as_str()),
                b"clusterTime" if cluster_time.is_none() => {
                    cluster_time = Some(field.as_timestamp());
                }
                b"wallTime" if wall_time.is_none() => wall_time = Some(field.as_datetime_millis()),
                b"splitEvent" if fragment.is_none() => fragment = Some(field.as_document()),
                _ => {}
            }
        }
        let token = token.flatten().ok_or(EventError::NoToken)?;
        let cluster_time = cluster_time.flatten();
        Ok(Self {
            bytes,
            token: range_in(buffer, token),
            operation: operation
                .flatten()
                .map_or(Operation::Other, Operation::from_name),
            cluster_time: cluster_time
                .map(|(seconds, increment)| ClusterTime { seconds, increment })
                .unwrap_or_default(),
            wall_time: wall_time.flatten(),
            fragment: fragment.flatten().and_then(Fragment::parse),
        })
    }

    /// An event whose bytes and token are both `bytes`, for tests of what moves events about.
    #[cfg(test)]
    pub(crate) fn for_tests(
        bytes: Range<usize>,
        operation: Operation,
        cluster_time: ClusterTime,
    ) -> Self {
        Self {
            token: bytes.clone(),
            bytes,
            operation,
            cluster_time,
            wall_time: None,
            fragment: None,
        }
    }

    /// The place right after this event, whose token lies in `buffer`.
    #[must_use]
    pub fn position(&self, buffer: &Bytes) -> Position {
        let token = buffer.slice(self.token.clone());
        let time = self.cluster_time;
        if self.operation == Operation::Invalidate {
            Position::Invalidate { token, time }
        } else {
            Position::Event { token, time }
        }
    }
}

impl Fragment {
    /// Reads a `splitEvent`. An event that was not split, marked 1 of 1 by some servers, is whole.
    fn parse(document: &[u8]) -> Option<Self> {
        let mut index = None;
        let mut of = None;
        for field in Elements::new(document).ok()? {
            let field = field.ok()?;
            match field.key {
                b"fragment" => index = field.as_int(),
                b"of" => of = field.as_int(),
                _ => {}
            }
        }
        let (index, of) = (index?, of?);
        (of > 1).then_some(Self { index, of })
    }
}

/// Where `part`, a slice of `whole`, lies in it.
pub(super) fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}
