//! Leaves out documents that MongoDB's look-up returns in place of the changed one.
//!
//! An update look-up finds the current document by the event's key. Where the key is a regular expression,
//! MongoDB may match it against other keys and return another document (SERVER-137213). Such a document
//! would be shown, filtered and stored as the changed one, so the event gets null instead, as if the look-up
//! had found nothing.

use bytes::Bytes;

use crate::{
    filter::equal_numbers,
    model::{EventField, Operation},
    raw::{self, Element, ElementType, Elements},
    source::event::{Batch, Event},
};

/// The maximum number of nested levels that are compared field by field. MongoDB stores no more.
const MAX_LEVELS: usize = 180;

/// Returns whether the `_id` of an update's document differs from that of its key. Without one of them there is nothing to compare.
fn has_foreign_document(event: &Event, buffer: &[u8]) -> bool {
    if event.operation != Operation::Update {
        return false;
    }
    let id_in = |field| {
        let document = event
            .index
            .get_document(&buffer[event.bytes.clone()], field)?;
        id_of(document)
    };
    match (
        id_in(EventField::DocumentKey),
        id_in(EventField::FullDocument),
    ) {
        (Some(key), Some(found)) => !are_equal(&key, &found, MAX_LEVELS),
        _ => false,
    }
}

/// Returns whether MongoDB finds one value by the other. The document may have been deleted and inserted again
/// with an equal number of another type, also inside of its key. The order of fields counts.
fn are_equal(left: &Element<'_>, right: &Element<'_>, levels: usize) -> bool {
    if left.kind == right.kind && left.value == right.value {
        return true;
    }
    let is_nested = matches!(
        left.kind,
        ElementType::EmbeddedDocument | ElementType::Array
    );
    if !is_nested || left.kind != right.kind || levels == 0 {
        return equal_numbers(left, right);
    }
    let (Ok(mut left), Ok(mut right)) = (Elements::new(left.value), Elements::new(right.value))
    else {
        return false;
    };
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(Ok(left)), Some(Ok(right)))
                if left.key == right.key && are_equal(&left, &right, levels - 1) => {}
            _ => return false,
        }
    }
}

fn id_of(document: &[u8]) -> Option<Element<'_>> {
    let mut fields = Elements::new(document).ok()?.map_while(Result::ok);
    fields.find(|field| field.key == b"_id")
}

/// Sets `fullDocument` to null in the events of a batch that have another document. Such a batch gets a new
/// buffer; any other stays as it is.
pub(super) fn leave_out_foreign_documents(batch: &mut Batch) {
    let is_foreign = |event: &Event| has_foreign_document(event, &batch.buffer);
    if !batch.events.iter().any(is_foreign) {
        return;
    }
    let mut buffer = Vec::with_capacity(batch.buffer.len());
    for event in &mut batch.events {
        let start = buffer.len();
        let whole = &batch.buffer[event.bytes.clone()];
        if has_foreign_document(event, &batch.buffer) {
            tracing::debug!("a look-up returned another document than the changed one");
            buffer.extend_from_slice(&without_document(whole));
        } else {
            buffer.extend_from_slice(whole);
        }
        // The fields were read before, so they can be read again.
        if let Ok(moved) = Event::parse(&buffer, start..buffer.len()) {
            *event = Event {
                bytes: moved.bytes,
                token: moved.token,
                index: moved.index,
                ..event.clone()
            };
        }
    }
    batch.buffer = buffer.into();
}

fn without_document(event: &[u8]) -> Bytes {
    let fields = Elements::new(event).into_iter().flatten();
    raw::document(fields.map_while(Result::ok).map(|field| {
        if field.key == b"fullDocument" {
            Element {
                kind: ElementType::Null,
                value: &[],
                ..field
            }
        } else {
            field
        }
    }))
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, doc};

    use super::*;
    use crate::source::scripted::{batch, event, insert};

    fn update(name: &str, key: impl Into<Bson>, document: impl Into<Bson>) -> Document {
        let fields = doc! {
            "documentKey": { "shard": 1, "_id": key.into() },
            "updateDescription": { "updatedFields": { "a": 1 } },
            "fullDocument": document.into(),
        };
        event(name, "update", 2, fields)
    }

    fn document_after(update: &Document) -> Option<Bson> {
        let around = [insert("before", 1), update.clone(), insert("after", 3)];
        let mut batch = batch(&around);
        let before = batch.clone();
        leave_out_foreign_documents(&mut batch);
        let read =
            |event: &Event| Document::from_reader(&batch.buffer[event.bytes.clone()]).unwrap();
        let events: Vec<Document> = batch.events.iter().map(read).collect();
        assert_eq!((&events[0], &events[2]), (&around[0], &around[2]));
        for (moved, event) in batch.events.iter().zip(&before.events) {
            assert_eq!(
                batch.buffer[moved.token.clone()],
                before.buffer[event.token.clone()]
            );
            assert_eq!(moved.cluster_time, event.cluster_time);
            assert_eq!(moved.operation, event.operation);
        }
        assert_eq!(batch.position, before.position);
        let rest = |event: &Document| {
            let mut event = event.clone();
            event.remove("fullDocument");
            event
        };
        assert_eq!(rest(&events[1]), rest(update));
        events[1].get("fullDocument").cloned()
    }

    /// SERVER-137213, in which a key that is a regular expression is matched against other keys.
    #[test]
    fn a_looked_up_document_with_another_id_becomes_null() {
        let pattern = Bson::RegularExpression(bson::Regex {
            pattern: "^a".try_into().unwrap(),
            options: "".try_into().unwrap(),
        });
        let foreign = [
            update("r", pattern.clone(), doc! { "_id": "abc", "a": 1 }),
            update("s", "a", doc! { "a": 1, "_id": "A" }),
            update("n", 1, doc! { "_id": "1" }),
            update("d", doc! { "x": 1 }, doc! { "_id": { "x": 2 } }),
            update(
                "k",
                doc! { "x": 1, "y": 2 },
                doc! { "_id": { "y": 2, "x": 1 } },
            ),
            update("l", doc! { "x": 1 }, doc! { "_id": { "x": 1, "y": 2 } }),
            update("m", doc! { "x": 1 }, doc! { "_id": { "y": 1 } }),
            update("o", doc! { "x": 1 }, doc! { "_id": { "x": "1" } }),
            update(
                "q",
                doc! { "x": [1, 2] },
                doc! { "_id": { "x": { "0": 1, "1": 2 } } },
            ),
        ];
        for update in foreign {
            assert_eq!(document_after(&update), Some(Bson::Null), "{update}");
        }
        let own = [
            update("r", pattern.clone(), doc! { "_id": pattern, "a": 1 }),
            update("n", 1, doc! { "_id": 1.0, "a": 1 }),
            update("i", 1, doc! { "_id": 1_i64 }),
            update("f", 0.0, doc! { "_id": -0.0 }),
            update("d", doc! { "x": 1 }, doc! { "_id": { "x": 1_i64 } }),
            update(
                "a",
                doc! { "x": [{ "y": 1 }], "z": 2 },
                doc! { "_id": { "x": [{ "y": 1.0 }], "z": 2 } },
            ),
            update("z", Bson::Null, doc! { "_id": null }),
            update("w", 1, doc! { "without": "an id" }),
            update("e", 1, Bson::Null),
        ];
        for update in own {
            let document = update.get("fullDocument").cloned();
            assert_eq!(document_after(&update), document, "{update}");
        }
    }

    /// Of these, `fullDocument` is part of the change.
    #[test]
    fn only_updates_are_looked_up() {
        let fields = doc! { "documentKey": { "_id": 1 }, "fullDocument": { "_id": 2 } };
        for operation in ["insert", "replace", "delete"] {
            let odd = event("a", operation, 2, fields.clone());
            let document = odd.get("fullDocument").cloned();
            assert_eq!(document_after(&odd), document);
        }
    }
}
