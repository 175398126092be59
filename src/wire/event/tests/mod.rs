//! Tests that decode encoded events with prost and compare them as a whole.

mod field_mask;
mod hostile;
mod included_fields;
mod operations;
mod unexpected_fields;
mod updates;

use bson::{Document, Timestamp, doc};
use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::*;
use crate::{
    model::Format,
    pb::{self, change_event::Change},
    pipeline::{Plan, fixtures::watch},
    source::{ClusterTime, EventError, Position},
};

const FORMATS: [Format; 4] = [
    Format::Bson,
    Format::Json,
    Format::CanonicalJson,
    Format::Struct,
];

/// The time of all test events.
const TIME: ClusterTime = ClusterTime {
    seconds: 1_700_000_000,
    increment: 7,
};

fn token_context() -> TokenContext {
    let plan = Plan::shared(&watch(pb::WatchRequest::default()));
    TokenContext::new("rs0", &plan)
}

/// Returns the rendering without hidden fields.
fn all_fields(format: Format) -> Rendering {
    Rendering::unrestricted(format)
}

fn mongo_token(name: &str) -> Document {
    doc! { "_data": name }
}

/// Returns an event in MongoDB's form: the common fields, then `fields`.
fn event(operation: &str, fields: Document) -> Document {
    let mut event = doc! {
        "_id": mongo_token("82AA"),
        "operationType": operation,
        "clusterTime": Timestamp { time: TIME.seconds, increment: TIME.increment },
        "wallTime": bson::DateTime::from_millis(1_700_000_000_123),
        "ns": { "db": "shop", "coll": "orders" },
    };
    event.extend(fields);
    event
}

/// Returns the encoding of an [`event`], without the operation and the change.
fn common() -> pb::ChangeEvent {
    pb::ChangeEvent {
        resume_token: event_token("82AA"),
        namespace: namespace("shop", "orders"),
        cluster_time: Some(pb::ClusterTime {
            seconds: TIME.seconds,
            increment: TIME.increment,
        }),
        wall_time: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 123_000_000,
        }),
        ..pb::ChangeEvent::default()
    }
}

fn event_token(name: &str) -> Bytes {
    token_context().encode(
        &Position::Event {
            token: raw_document(&mongo_token(name)).into(),
            time: TIME,
        },
        None,
        None,
    )
}

fn namespace(database: &str, collection: &str) -> Option<pb::Namespace> {
    Some(pb::Namespace {
        database: database.to_owned(),
        collection: collection.to_owned(),
    })
}

fn raw_document(document: &Document) -> Vec<u8> {
    document.to_vec().expect("the document can be encoded")
}

/// Returns a document in a format. The formats have their own tests.
fn formatted(document: Document, format: Format) -> Option<pb::Document> {
    let mut out = BytesMut::new();
    put_document(&mut out, 1, &raw_document(&document), format);
    let insert = pb::Insert::decode(out.freeze()).expect("a document decodes");
    insert.full_document
}

fn null() -> Option<pb::Document> {
    Some(pb::Document {
        value: Some(pb::document::Value::Null(0)),
    })
}

/// Parses raw events as parts of one reply.
fn parsed(raw: &[Vec<u8>]) -> Result<(Vec<u8>, Vec<Event>), EventError> {
    let buffer = raw.concat();
    let mut end = 0;
    let mut events = Vec::new();
    for event in raw {
        let start = end;
        end += event.len();
        events.push(Event::parse(&buffer, start..end)?);
    }
    Ok((buffer, events))
}

fn encoded(raw: &[Vec<u8>], format: Format) -> Result<Vec<EncodedEvent>, EventError> {
    let (buffer, events) = parsed(raw)?;
    Ok(encode(
        &buffer,
        &events,
        &token_context(),
        &all_fields(format),
        |chunk| chunk,
    ))
}

fn batch(changes: Bytes) -> Vec<pb::ChangeEvent> {
    let batch = pb::ChangeBatch::decode(changes).expect("a batch decodes");
    batch.changes
}

/// Encodes one event and decodes it with prost.
fn change(event: &Document, format: Format) -> pb::ChangeEvent {
    let encoded = encoded(&[raw_document(event)], format).expect("the event is well-formed");
    let mut changes = batch(encoded[0].field());
    assert_eq!(changes.len(), 1);
    changes.remove(0)
}

/// Runs a test in each format.
fn for_all_formats(mut test: impl FnMut(Format)) {
    FORMATS.into_iter().for_each(&mut test);
}

#[test]
fn the_field_the_message_and_the_token_belong_to_the_same_event() {
    let raw: Vec<Vec<u8>> = (0..5_usize)
        .map(|index| {
            let name = "8".repeat(1 + index * 40);
            let mut event = event("insert", doc! { "fullDocument": { "_id": index as i32 } });
            event.insert("_id", mongo_token(&name));
            raw_document(&event)
        })
        .collect();
    for_all_formats(|format| {
        let encoded = encoded(&raw, format).expect("the events are well-formed");
        assert_eq!(encoded.len(), 5);
        for (index, event) in encoded.iter().enumerate() {
            let message = pb::ChangeEvent::decode(event.message()).expect("it decodes");
            assert_eq!(batch(event.field()), std::slice::from_ref(&message));
            assert_eq!(event.field().len(), event.size());
            assert_eq!(event.message().len(), event.message_len());
            assert_eq!(event.token(), message.resume_token);
            assert_eq!(event.token().len(), event.token_len());
            assert_eq!(
                message.resume_token,
                event_token(&"8".repeat(1 + index * 40))
            );
        }
    });
}

#[test]
fn no_events_encode_to_nothing() {
    let encoded = encode(
        &[],
        &[],
        &token_context(),
        &all_fields(Format::Bson),
        |chunk| chunk,
    );
    assert!(encoded.is_empty());
}

/// The stub of a too large event has the operation, the position and the sizes.
#[test]
fn a_stub_has_the_common_fields_of_the_event_and_its_sizes() {
    let fields = doc! {
        "documentKey": { "_id": 1 },
        "fullDocument": { "_id": 1, "text": "long" },
        "fromAfar": "this one goes too",
    };
    let (buffer, events) = parsed(&[raw_document(&event("insert", fields))]).unwrap();
    for_all_formats(|format| {
        for with_key in [true, false] {
            let stub = encode_omitted(
                &buffer,
                &events[0],
                &token_context(),
                &all_fields(format),
                FilterMatch::Left,
                (5_000_000_000, 65_536),
                with_key,
            );
            let expected = pb::ChangeEvent {
                operation: pb::OperationType::Insert.into(),
                document_key: formatted(doc! { "_id": 1 }, format).filter(|_| with_key),
                change: Some(Change::Omitted(pb::Omitted {
                    event_bytes: 5_000_000_000,
                    max_message_bytes: 65_536,
                })),
                r#match: FilterMatch::Left.into(),
                ..common()
            };
            assert_eq!(batch(stub), [expected]);
        }
    });
}
