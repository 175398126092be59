//! Checks that no field of an event is lost in its encoding.

use bytes::Bytes;
use weir::{
    pb::{self, change_event::Change, document::Value},
    raw::{Element, ElementType, Elements},
    source::Event,
};

fn elements(document: &[u8]) -> impl Iterator<Item = Element<'_>> {
    Elements::new(document)
        .into_iter()
        .flatten()
        .map_while(Result::ok)
}

fn bson(document: Option<&pb::Document>) -> Option<&Bytes> {
    match document?.value.as_ref()? {
        Value::Bson(bytes) => Some(bytes),
        _ => None,
    }
}

/// Asserts that `change`, in the BSON format, has every field of `raw`, in its own field or among the
/// unknown fields.
pub fn assert_no_field_lost(raw: &[u8], event: &Event, change: &pb::ChangeEvent) {
    assert_eq!(change.operation, event.operation.to_pb() as i32);
    if let Some(Change::Other(other)) = &change.change {
        let whole = bson(other.event.as_ref()).expect("it is BSON");
        return assert_eq!(whole, raw);
    }
    let unknown = bson(change.unknown_fields.as_ref());
    let mut unknown: Vec<Element<'_>> = unknown.map_or_else(Vec::new, |it| elements(it).collect());
    let fields: Vec<Element<'_>> = elements(raw).collect();
    // From the last to the first, because only the first of repeated fields has its own field.
    for (at, field) in fields.iter().enumerate().rev() {
        let first = fields[..at].iter().all(|it| it.key != field.key);
        if field.key == b"_id" || field.key == b"splitEvent" {
            continue;
        }
        let same = |it: &Element<'_>| {
            it.kind == field.kind && it.key == field.key && it.value == field.value
        };
        if let Some(at) = unknown.iter().position(same) {
            unknown.remove(at);
            continue;
        }
        assert!(
            first && is_in_its_field(field, change),
            "{} of {:?} is lost in {change:?}",
            String::from_utf8_lossy(field.key),
            field.kind
        );
    }
    assert!(unknown.is_empty(), "{unknown:?} is not in the event");
}

/// Returns whether a field is in its own field of the message.
fn is_in_its_field(field: &Element<'_>, change: &pb::ChangeEvent) -> bool {
    let has_document =
        |document: Option<&pb::Document>| match document.and_then(|it| it.value.as_ref()) {
            Some(Value::Null(_)) => field.kind == ElementType::Null,
            Some(Value::Bson(bytes)) => field.as_document() == Some(bytes),
            _ => false,
        };
    let kind = change.change.as_ref();
    match field.key {
        b"operationType" => true,
        b"ns" => change.namespace.is_some(),
        b"to" => matches!(kind, Some(Change::Rename(it)) if it.to.is_some()),
        b"clusterTime" => {
            let time = change.cluster_time.map(|it| (it.seconds, it.increment));
            time.is_some() && field.as_timestamp() == time
        }
        b"wallTime" => {
            let time = change.wall_time.as_ref();
            let millis = time.map(|it| it.seconds * 1000 + i64::from(it.nanos) / 1_000_000);
            millis.is_some() && field.as_datetime_millis() == millis
        }
        b"documentKey" => has_document(change.document_key.as_ref()),
        b"lsid" => {
            let only_id = field.as_document().map(|lsid| elements(lsid).count()) == Some(1);
            only_id && change.transaction.is_some()
        }
        b"txnNumber" => {
            let number = change.transaction.as_ref().map(|it| it.number);
            number.is_some() && field.as_int() == number
        }
        b"commitTimestamp" => {
            let transaction = change.transaction.as_ref();
            let time = transaction.and_then(|it| it.commit_timestamp);
            let time = time.map(|it| (it.seconds, it.increment));
            time.is_some() && field.as_timestamp() == time
        }
        b"collectionUUID" => field
            .as_binary()
            .is_some_and(|(_, uuid)| uuid == change.collection_uuid),
        b"fullDocument" => has_document(after(change)),
        b"fullDocumentBeforeChange" => has_document(before(change)),
        b"updateDescription" => match kind {
            Some(Change::Update(update)) => update.update_description.is_some(),
            _ => false,
        },
        b"nsType" => matches!(kind, Some(Change::Create(_))),
        b"operationDescription" => has_document(match kind {
            Some(Change::Rename(it)) => it.operation_description.as_ref(),
            Some(Change::Create(it)) => it.operation_description.as_ref(),
            Some(Change::CreateIndexes(it)) => it.operation_description.as_ref(),
            Some(Change::DropIndexes(it)) => it.operation_description.as_ref(),
            Some(Change::Modify(it)) => it.operation_description.as_ref(),
            Some(Change::ShardCollection(it)) => it.operation_description.as_ref(),
            Some(Change::RefineCollectionShardKey(it)) => it.operation_description.as_ref(),
            Some(Change::ReshardCollection(it)) => it.operation_description.as_ref(),
            Some(Change::EndOfTransaction(it)) => it.operation_description.as_ref(),
            _ => None,
        }),
        b"stateBeforeChange" => match kind {
            Some(Change::Modify(it)) => has_document(it.state_before_change.as_ref()),
            _ => false,
        },
        _ => false,
    }
}

fn after(change: &pb::ChangeEvent) -> Option<&pb::Document> {
    match change.change.as_ref()? {
        Change::Insert(it) => it.full_document.as_ref(),
        Change::Update(it) => it.full_document.as_ref(),
        Change::Replace(it) => it.full_document.as_ref(),
        _ => None,
    }
}

fn before(change: &pb::ChangeEvent) -> Option<&pb::Document> {
    match change.change.as_ref()? {
        Change::Update(it) => it.full_document_before_change.as_ref(),
        Change::Replace(it) => it.full_document_before_change.as_ref(),
        Change::Delete(it) => it.full_document_before_change.as_ref(),
        _ => None,
    }
}

/// Returns the documents of a change, each with its original bytes. `whole` is the same change in the BSON
/// format.
pub fn document_pairs(
    whole: &pb::ChangeEvent,
    change: &pb::ChangeEvent,
) -> Vec<(Bytes, pb::Document)> {
    let other = |change: &pb::ChangeEvent| match change.change.as_ref() {
        Some(Change::Other(it)) => it.event.clone(),
        _ => None,
    };
    let pairs = [
        (after(whole).cloned(), after(change).cloned()),
        (before(whole).cloned(), before(change).cloned()),
        (whole.document_key.clone(), change.document_key.clone()),
        (whole.unknown_fields.clone(), change.unknown_fields.clone()),
        (other(whole), other(change)),
    ];

    pairs
        .into_iter()
        .filter_map(|(whole, change)| {
            let (whole, change) = match (whole, change) {
                (None, None) => return None,
                (Some(whole), Some(change)) => (whole, change),
                (one, another) => panic!("{one:?} in one format, {another:?} in another"),
            };
            if matches!(whole.value, Some(Value::Null(_))) {
                assert_eq!(whole, change);
                return None;
            }
            Some((bson(Some(&whole))?.clone(), change))
        })
        .collect()
}
