//! A batch of raw change events, with the few fields that routing needs.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    model::{EventField, EventIndex, INTERNAL_DATABASES, Operation},
    pipeline::Genuine,
    raw::{self, Element, Elements},
    source::{ClusterTime, Position, transaction::TransactionId},
};

/// The events of one reply of MongoDB.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The bytes that contain the events: the reply itself, or an event merged from fragments.
    pub buffer: Bytes,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The position after the batch. `None` between the fragments of an event, where resuming would lose
    /// the fragments before it.
    pub position: Option<Position>,
    /// The server's operation time when it replied.
    pub operation_time: Option<ClusterTime>,
    /// `true` when MongoDB has closed the cursor.
    pub closed: bool,
    /// `true` when the stream has certainly read everything that had been committed when it was opened. No
    /// empty reply shows that by itself, however long it took: MongoDB may be scanning oplog entries that are
    /// not for this stream.
    pub caught_up: bool,
    /// `true` if the reply is empty and took about as long as MongoDB waits for an event. It may still have come
    /// in the midst of a scan, so this proves nothing: it only sets the pace of what is done at each such reply.
    pub waited: bool,
}

impl Batch {
    /// Returns by how many seconds the last event is behind MongoDB's time; 0 without events.
    #[must_use]
    pub fn lag_seconds(&self) -> u32 {
        match (self.operation_time, self.events.last()) {
            (Some(now), Some(last)) => now.seconds_since(last.cluster_time),
            _ => 0,
        }
    }
}

/// One event: its range in the batch's buffer, and the fields that routing needs.
#[derive(Debug, Clone)]
pub struct Event {
    /// The range of the whole raw BSON document.
    pub bytes: Range<usize>,
    /// The range of its `_id`, a raw BSON document.
    pub token: Range<usize>,
    /// Its `operationType`, which fragments may lack.
    pub operation: Operation,
    /// Its `clusterTime`, or that of the event before it when that is later or MongoDB sent none; zero
    /// when neither is known. Where a client's stages may have changed it, a time that the stream had reached
    /// before.
    pub cluster_time: ClusterTime,
    /// Its `wallTime` in milliseconds since 1970.
    pub wall_time: Option<i64>,
    /// `true` if it is known to be the last change of its transaction in the stream; see
    /// `last_of_transaction`.
    pub is_last_of_transaction: bool,
    /// `true` if it is about one of MongoDB's own databases or collections, which have no change streams.
    /// MongoDB leaves such events out, other servers may not.
    pub is_internal: bool,
    /// `true` if it was put together from fragments. Its token is that of the last one.
    pub is_merged: bool,
    /// Its transaction.
    pub(super) transaction: TransactionId,
    /// Its index among the fragments of a split event; `None` for a whole event.
    pub(super) fragment: Option<Fragment>,
    /// Where its fields are, for everyone who reads it.
    pub index: EventIndex,
}

/// The `splitEvent` field: this is fragment `index` of `of`, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragment {
    pub index: i64,
    pub of: i64,
}

/// The reason why the bytes of an event can't be used. The message never contains the event's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The document is not well-formed BSON on its top level.
    #[error("the event is not well-formed BSON: {0}")]
    Malformed(#[from] raw::Error),
    /// It has no `_id`, or an `_id` that is not a document.
    #[error("the event has no resume token")]
    NoToken,
    /// A client's stages have removed or replaced the `_id`, and MongoDB has not noticed it.
    #[error("the stages of the pipeline have changed the _id of an event, its resume token")]
    ChangedToken,
}

impl Event {
    /// Reads the event at `bytes` of `buffer` in one walk over its top level. Of repeated fields, which MongoDB
    /// never sends, the first counts. An unreadable operation becomes [`Operation::Other`].
    ///
    /// # Errors
    /// [`EventError`] when it is not well-formed or has no `_id`, without which it has no position.
    pub fn parse(buffer: &[u8], bytes: Range<usize>) -> Result<Self, EventError> {
        let (mut token, mut operation) = (None, None);
        let (mut cluster_time, mut wall_time) = (None, None);
        let (mut lsid, mut transaction_number) = (None, None);
        let (mut namespace_is_internal, mut new_namespace_is_internal) = (false, true);
        let mut fragment = None;
        let index = EventIndex::read_each(&buffer[bytes.clone()], |field, it| match field {
            EventField::Id => token = it.as_document(),
            EventField::OperationType => operation = it.as_str(),
            EventField::ClusterTime => cluster_time = it.as_timestamp(),
            EventField::WallTime => wall_time = it.as_datetime_millis(),
            EventField::SplitEvent => fragment = it.as_document(),
            EventField::Lsid => lsid = Some(it),
            EventField::TxnNumber => transaction_number = Some(it),
            EventField::Ns => namespace_is_internal = is_internal(&it),
            EventField::To => new_namespace_is_internal = is_internal(&it),
            _ => {}
        })?;
        let token = token.ok_or(EventError::NoToken)?;
        Ok(Self {
            bytes,
            token: range_in(buffer, token),
            operation: operation.map_or(Operation::Other, Operation::from_name),
            cluster_time: cluster_time
                .map(|(seconds, increment)| ClusterTime { seconds, increment })
                .unwrap_or_default(),
            wall_time,
            is_last_of_transaction: false,
            // MongoDB shows a rename that has either name in a visible place.
            is_internal: namespace_is_internal && new_namespace_is_internal,
            is_merged: false,
            transaction: TransactionId::read(lsid, transaction_number),
            fragment: fragment.and_then(Fragment::parse),
            index,
        })
    }

    /// Reads the event of a stream of which only some is `genuine`; see [`parse`](Self::parse). A
    /// `clusterTime` or `wallTime` that is not genuine counts as missing, and an `invalidate` is one that a stage has made.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse); [`EventError::ChangedToken`] if the `_id` is not one that MongoDB makes.
    pub(super) fn parse_genuine(
        buffer: &[u8],
        bytes: Range<usize>,
        genuine: Genuine,
    ) -> Result<Self, EventError> {
        let parsed = Self::parse(buffer, bytes);
        if genuine.everything {
            return parsed;
        }
        let mut event = match parsed {
            Err(EventError::NoToken) => return Err(EventError::ChangedToken),
            parsed => parsed?,
        };
        if !is_token(&buffer[event.token.clone()]) {
            return Err(EventError::ChangedToken);
        }
        if !genuine.time {
            event.cluster_time = ClusterTime::default();
        }
        if !genuine.wall_time {
            event.wall_time = None;
        }
        if !genuine.transaction {
            event.transaction = TransactionId::Unreadable;
        }
        if event.operation == Operation::Invalidate {
            event.operation = Operation::Other;
        }
        // The pipeline has left such events out, in front of the stages that may make up a namespace.
        event.is_internal = false;
        Ok(event)
    }

    /// Returns an event whose bytes and token are both `bytes`.
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
            is_last_of_transaction: false,
            is_internal: false,
            is_merged: false,
            transaction: TransactionId::None,
            fragment: None,
            index: EventIndex::default(),
        }
    }

    /// Returns the position right after this event. `buffer` contains its token.
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
    /// Reads a `splitEvent`. Some servers mark a whole event as fragment 1 of 1: that is no fragment.
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

/// Returns whether a document has the form of a resume token: its field `_data` is a text or, of old servers,
/// binary.
fn is_token(document: &[u8]) -> bool {
    let mut fields = Elements::new(document)
        .into_iter()
        .flatten()
        .map_while(Result::ok);
    fields.any(|it| it.key == b"_data" && (it.as_str_bytes().is_some() || it.as_binary().is_some()))
}

/// Returns whether a namespace `{db, coll}` is one of MongoDB's own: everything in admin, config and local,
/// and names that start with "system." or "$" (`DocumentSourceChangeStream::getNsRegexForChangeStream`).
fn is_internal(namespace: &Element<'_>) -> bool {
    let fields = namespace
        .as_document()
        .and_then(|document| Elements::new(document).ok());
    let mut fields = fields.into_iter().flatten().map_while(Result::ok);
    fields.any(|field| match (field.key, field.as_str_bytes()) {
        (b"db", Some(name)) => INTERNAL_DATABASES.iter().any(|it| it.as_bytes() == name),
        (b"coll", Some(name)) => name.starts_with(b"system.") || name.starts_with(b"$"),
        _ => false,
    })
}

/// Returns the range of `part`, a subslice of `whole`, in `whole`.
pub(super) fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}
