//! The events of a test, and the entries of the oplog that they become.

use mongodb::bson::{DateTime, Document, Timestamp, doc};

use super::reply::bytes_of;
use super::token::Place;
use super::{DATABASE, ServerError, event_token, time};

/// The operation of an entry that no stream shows.
pub(super) const NOOP: &str = "n";

/// An event to append to a log.
pub enum Event {
    /// A document. Missing `_id`, `clusterTime` and `wallTime` are filled in: tokens that tell
    /// events apart, and times that rise by a second from [`FIRST_SECOND`](super::FIRST_SECOND).
    Document(Document),
    /// These bytes, unchecked. Their resume token is [`event_token`] of their position.
    Raw(Vec<u8>),
    /// A document that a stream can't be sent when it asks for what makes the event fail: the whole
    /// reply fails, also when the stream resumes after this event, because MongoDB enriches it before
    /// passing it over.
    Failing {
        event: Document,
        when: Enrichment,
        error: ServerError,
    },
}

impl From<Document> for Event {
    fn from(document: Document) -> Self {
        Self::Document(document)
    }
}

/// The part of an event that MongoDB adds and fails at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrichment {
    /// The look-up of the document: `fullDocument: "updateLookup"`.
    LookUp,
    /// Any document: `fullDocument` or `fullDocumentBeforeChange`, whatever its value.
    AnyImage,
    /// A document that is required: `fullDocument: "required"`.
    RequiredPostImage,
    /// A document that is required: `fullDocumentBeforeChange: "required"`.
    RequiredPreImage,
    /// The event as it is, unless a `$project` takes its documents away.
    WholeEvent,
}

impl Event {
    /// An event that is larger than MongoDB can send once a document is added to it (10334).
    pub fn too_large(event: Document) -> Self {
        Self::Failing {
            event,
            when: Enrichment::AnyImage,
            error: ServerError::too_large(),
        }
    }

    /// An event that is larger than MongoDB can send by itself (10334), and can't be split
    /// (SERVER-91313).
    pub fn too_large_to_split(event: Document) -> Self {
        Self::Failing {
            event,
            when: Enrichment::WholeEvent,
            error: ServerError::too_large(),
        }
    }

    /// An event whose pre-image is gone (47).
    pub fn without_pre_image(event: Document) -> Self {
        Self::Failing {
            event,
            when: Enrichment::RequiredPreImage,
            error: ServerError::image_missing("pre-image"),
        }
    }

    /// An event whose post-image is gone (47).
    pub fn without_post_image(event: Document) -> Self {
        Self::Failing {
            event,
            when: Enrichment::RequiredPostImage,
            error: ServerError::image_missing("post-image"),
        }
    }

    /// An event whose key has two documents, on two shards (280, SERVER-55179).
    pub fn ambiguous(event: Document) -> Self {
        Self::Failing {
            event,
            when: Enrichment::LookUp,
            error: ServerError::new(280)
                .named("ChangeStreamFatalError")
                .label("NonResumableChangeStreamError")
                .message(
                    "PlanExecutor error during aggregation :: caused by :: found more than one \
                     document matching { _id: 1 }",
                ),
        }
    }
}

/// A change of a document with this `_id` in a collection, with everything that MongoDB sends except
/// `_id`, `clusterTime` and `wallTime`, which are added later. `fullDocument` and
/// `fullDocumentBeforeChange` come only on streams that ask for them.
pub fn change(operation: &str, collection: &str, id: i32) -> Document {
    let mut event = doc! {
        "operationType": operation,
        "ns": { "db": DATABASE, "coll": collection },
        "documentKey": { "_id": id },
    };
    match operation {
        "update" => {
            event.insert(
                "updateDescription",
                doc! {
                    "updatedFields": { "n": id },
                    "removedFields": [],
                    "truncatedArrays": [],
                },
            );
            event.insert("fullDocument", doc! { "_id": id, "n": id });
            event.insert("fullDocumentBeforeChange", doc! { "_id": id, "n": 0 });
        }
        "delete" => {
            event.insert("fullDocumentBeforeChange", doc! { "_id": id, "n": 0 });
        }
        "replace" => {
            event.insert("fullDocument", doc! { "_id": id, "n": id });
            event.insert("fullDocumentBeforeChange", doc! { "_id": id, "n": 0 });
        }
        _ => {
            event.insert("fullDocument", doc! { "_id": id, "n": id });
        }
    }
    event
}

/// An insert of a document with this `_id`, with everything that MongoDB sends except `_id`,
/// `clusterTime` and `wallTime`, which are added later.
pub fn insert(id: i32) -> Document {
    doc! {
        "operationType": "insert",
        "fullDocument": { "_id": id },
        "ns": { "db": DATABASE, "coll": "orders" },
        "documentKey": { "_id": id },
    }
}

/// An event about a collection as a whole, such as "drop".
pub fn about(operation: &str, collection: &str) -> Document {
    doc! { "operationType": operation, "ns": { "db": DATABASE, "coll": collection } }
}

/// An entry of the oplog.
pub(super) struct Entry {
    /// The database and the name of its log.
    pub database: String,
    pub log: String,
    /// The event as it is sent by a stand-in that filters nothing.
    pub bytes: Vec<u8>,
    /// The event as a document; `None` for raw bytes.
    pub event: Option<Document>,
    /// Its `_id`, where it has one.
    pub token: Option<Document>,
    pub place: Place,
    /// The streams on other collections that show it too.
    pub also_in: Vec<String>,
    pub failing: Option<(Enrichment, ServerError)>,
}

/// The place of a new entry.
pub(super) struct Slot {
    /// The number of the events before it in its log.
    pub position: usize,
    /// Its time, unless the event has one.
    pub seconds: u32,
    /// The number of events before it that have this time, unless the event has one.
    pub number: u32,
    /// Whether its token has the form of MongoDB's.
    pub real_token: bool,
}

impl Entry {
    pub fn new(database: &str, log: &str, event: Event, slot: &Slot) -> Self {
        let entry = |bytes, event, token, place| Self {
            database: database.to_owned(),
            log: log.to_owned(),
            bytes,
            event,
            token,
            place,
            also_in: Vec::new(),
            failing: None,
        };
        let (event, failing) = match event {
            Event::Document(event) => (event, None),
            Event::Failing { event, when, error } => (event, Some((when, error))),
            Event::Raw(bytes) => {
                let place = Place::event(time(slot.seconds, 1), 0);
                return entry(bytes, None, Some(event_token(slot.position)), place);
            }
        };
        let time = event
            .get_timestamp("clusterTime")
            .unwrap_or(time(slot.seconds, 1));
        let place = Place::event(time, slot.number);
        let token = if slot.real_token {
            token_of(place, &event)
        } else {
            event_token(slot.position)
        };
        let mut whole = doc! { "_id": token };
        whole.extend(event);
        complete(&mut whole, time);
        let token = whole.get_document("_id").ok().cloned();
        Self {
            failing,
            ..entry(bytes_of(&whole), Some(whole), token, place)
        }
    }

    pub fn time(&self) -> Timestamp {
        self.place.time()
    }

    /// The operation of an event that is a document.
    pub fn operation(&self) -> &str {
        let event = self.event.as_ref();
        let operation = event.and_then(|event| event.get_str("operationType").ok());
        operation.unwrap_or_default()
    }

    /// The `invalidate` that follows this event on a stream that it ends.
    pub fn invalidation(&self) -> Document {
        let place = self.place.invalidation();
        let event = self.event.clone().unwrap_or_default();
        let mut invalidate = doc! {
            "_id": token_of(place, &event),
            "operationType": "invalidate",
        };
        complete(&mut invalidate, place.time());
        invalidate
    }
}

/// The token of an event at a place.
fn token_of(place: Place, event: &Document) -> Document {
    let operation = event.get_str("operationType").unwrap_or_default();
    let namespace = event.get_document("ns").map(Document::to_string);
    let key = event.get_document("documentKey").cloned();
    let namespace = namespace.unwrap_or_default();
    place.event_token(operation, &namespace, &key.unwrap_or_default())
}

/// Adds the times that an event lacks.
fn complete(event: &mut Document, time: Timestamp) {
    if !event.contains_key("clusterTime") {
        event.insert("clusterTime", time);
    }
    if !event.contains_key("wallTime") {
        let wall_time = DateTime::from_millis(i64::from(time.time) * 1000);
        event.insert("wallTime", wall_time);
    }
}
