//! Tests of events that MongoDB does not send today: of unknown operations, with unknown fields, or with
//! known fields of another type.

use bson::Bson;

use super::*;

/// As the drivers' specification requires, a new operation must not cause an error.
#[test]
fn an_event_of_an_unknown_operation_is_sent_as_a_whole_document() {
    let raw = event(
        "startIndexBuild",
        doc! { "documentKey": { "_id": 1 }, "indexes": [1], "fullDocument": { "a": 1 } },
    );
    for_all_formats(|format| {
        let expected = pb::ChangeEvent {
            operation: pb::OperationType::Other.into(),
            document_key: formatted(doc! { "_id": 1 }, format),
            change: Some(Change::Other(pb::Other {
                operation_type: "startIndexBuild".to_owned(),
                event: formatted(raw.clone(), format),
            })),
            ..common()
        };
        assert_eq!(change(&raw, format), expected);
    });
}

/// Fields that MongoDB adds later must pass through.
#[test]
fn unknown_fields_are_kept_by_every_operation() {
    for operation in Operation::ALL {
        if matches!(operation, Operation::Other | Operation::Invalidate) {
            continue;
        }
        let raw = event(
            operation.name(),
            doc! { "first": 1, "then": { "b": [true] } },
        );
        for_all_formats(|format| {
            let change = change(&raw, format);
            assert_eq!(change.operation(), operation.to_pb());
            let kept = doc! { "first": 1, "then": { "b": [true] } };
            assert_eq!(change.unknown_fields, formatted(kept, format));
        });
    }
}

/// The drivers' specification allows extra fields of `ns`.
#[test]
fn a_namespace_with_extra_fields_is_decoded_and_kept_as_an_unknown_field() {
    let extended_namespace = doc! { "db": "shop", "coll": "orders", "tenant": 5 };
    let mut raw = event("rename", doc! { "to": extended_namespace.clone() });
    raw.insert("ns", extended_namespace.clone());
    for_all_formats(|format| {
        let change = change(&raw, format);
        assert_eq!(change.namespace, namespace("shop", "orders"));
        let Some(Change::Rename(rename)) = change.change else {
            panic!("a rename came as {:?}", change.change);
        };
        assert_eq!(rename.to, namespace("shop", "orders"));
        let kept = doc! { "ns": extended_namespace.clone(), "to": extended_namespace.clone() };
        assert_eq!(change.unknown_fields, formatted(kept, format));
    });
}

/// Only `_id` and `operationType` are always present.
#[test]
fn an_event_with_only_a_token_and_an_operation_is_encoded() {
    for operation in Operation::ALL {
        let raw = doc! { "_id": mongo_token("82AA"), "operationType": operation.name() };
        for_all_formats(|format| {
            let change = change(&raw, format);
            assert_eq!(change.operation(), operation.to_pb());
            assert_eq!(change.namespace, None);
            assert_eq!(change.cluster_time, None);
            assert_eq!(change.wall_time, None);
            assert_eq!(change.document_key, None);
            assert_eq!(change.transaction, None);
            assert_eq!(change.unknown_fields, None);
            assert!(change.change.is_some(), "{operation:?}");
        });
    }
}

/// The field of the message stays unset.
#[test]
fn fields_of_an_unexpected_type_are_kept_as_unknown_fields() {
    for (operation, field) in [
        ("insert", "clusterTime"),
        ("insert", "wallTime"),
        ("insert", "ns"),
        ("insert", "documentKey"),
        ("insert", "fullDocument"),
        ("insert", "lsid"),
        ("insert", "txnNumber"),
        ("insert", "collectionUUID"),
        ("update", "updateDescription"),
        ("update", "fullDocument"),
        ("update", "fullDocumentBeforeChange"),
        ("replace", "fullDocument"),
        ("replace", "fullDocumentBeforeChange"),
        ("delete", "fullDocumentBeforeChange"),
        ("rename", "to"),
        ("rename", "operationDescription"),
        ("create", "operationDescription"),
        ("create", "nsType"),
        ("createIndexes", "operationDescription"),
        ("dropIndexes", "operationDescription"),
        ("modify", "operationDescription"),
        ("modify", "stateBeforeChange"),
        ("shardCollection", "operationDescription"),
        ("endOfTransaction", "operationDescription"),
        ("insert", "commitTimestamp"),
    ] {
        for odd in [bson::bson!([1, "two"]), Bson::Boolean(true)] {
            let mut raw = doc! { "_id": mongo_token("82AA"), "operationType": operation };
            let without = change(&raw, Format::Bson);
            raw.insert(field, odd.clone());
            for_all_formats(|format| {
                let mut change = change(&raw, format);
                let kept = doc! { field: odd.clone() };
                assert_eq!(
                    change.unknown_fields.take(),
                    formatted(kept, format),
                    "{operation}.{field}"
                );
                assert_eq!(change, without, "{operation}.{field}");
            });
        }
    }
}

/// The message of an operation has no field for them.
#[test]
fn known_fields_of_other_operations_are_kept_as_unknown_fields() {
    let fields = doc! {
        "fullDocument": { "a": 1 },
        "to": { "db": "x", "coll": "y" },
        "nsType": "view",
        "stateBeforeChange": {},
    };
    let kept = change(&event("drop", fields.clone()), Format::Bson).unknown_fields;
    let Some(pb::document::Value::Bson(bytes)) = kept.and_then(|it| it.value) else {
        panic!("there are no unknown fields");
    };
    let kept = Document::from_reader(&bytes[..]).expect("a document");
    let sorted = |document: Document| {
        let mut fields: Vec<(String, Bson)> = document.into_iter().collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    assert_eq!(sorted(kept), sorted(fields));
}

/// Protobuf's timestamps end with the year 9999, and parsers reject later ones.
#[test]
fn a_wall_time_outside_the_range_of_a_timestamp_is_kept_as_an_unknown_field() {
    for millis in [i64::MIN, -62_135_596_800_001, 253_402_300_800_000, i64::MAX] {
        let at = bson::DateTime::from_millis(millis);
        let mut raw = event("drop", doc! {});
        raw.insert("wallTime", at);
        let change = change(&raw, Format::Bson);
        assert_eq!(change.wall_time, None);
        assert_eq!(
            change.unknown_fields,
            formatted(doc! { "wallTime": at }, Format::Bson)
        );
    }
}

/// A transaction needs both fields; one without the other must not be lost.
#[test]
fn an_incomplete_transaction_is_kept_as_unknown_fields() {
    for half in [
        doc! { "lsid": { "id": bson::Uuid::new() } },
        doc! { "txnNumber": 5_i64 },
        doc! { "lsid": { "uid": 1 }, "txnNumber": 5_i64 },
    ] {
        let change = change(&event("drop", half.clone()), Format::Json);
        assert_eq!(change.transaction, None);
        assert_eq!(change.unknown_fields, formatted(half, Format::Json));
    }
}

/// The field has no meaning for a whole event.
#[test]
fn the_split_event_field_is_not_sent() {
    let raw = event("drop", doc! { "splitEvent": { "fragment": 1, "of": 1 } });
    assert_eq!(change(&raw, Format::Bson).unknown_fields, None);
}
