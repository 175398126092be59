//! Events that MongoDB does not send today: of unknown types, with unknown fields, or with known
//! fields of another type.

use bson::Bson;

use super::*;

/// T16: drivers must not fail on a new operation, and neither may Weir.
#[test]
fn an_unknown_operation_goes_out_whole() {
    let raw = event(
        "startIndexBuild",
        doc! { "documentKey": { "_id": 1 }, "indexes": [1], "fullDocument": { "a": 1 } },
    );
    in_all_formats(|format| {
        let expected = pb::ChangeEvent {
            operation: pb::OperationType::Other.into(),
            document_key: held(doc! { "_id": 1 }, format),
            change: Some(Change::Other(pb::Other {
                operation_type: "startIndexBuild".to_owned(),
                event: held(raw.clone(), format),
            })),
            ..common()
        };
        assert_eq!(change(&raw, format), expected);
    });
}

/// T16: fields that MongoDB adds later pass through every operation.
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
        in_all_formats(|format| {
            let change = change(&raw, format);
            assert_eq!(change.operation(), operation.to_pb());
            let kept = doc! { "first": 1, "then": { "b": [true] } };
            assert_eq!(change.unknown_fields, held(kept, format));
        });
    }
}

/// T16: the drivers' specification wants extra fields of `ns` to be allowed.
#[test]
fn a_namespace_with_more_in_it_is_read_and_kept() {
    let place = doc! { "db": "shop", "coll": "orders", "tenant": 5 };
    let mut raw = event("rename", doc! { "to": place.clone() });
    raw.insert("ns", place.clone());
    in_all_formats(|format| {
        let change = change(&raw, format);
        assert_eq!(change.namespace, namespace("shop", "orders"));
        let Some(Change::Rename(rename)) = change.change else {
            panic!("a rename came as {:?}", change.change);
        };
        assert_eq!(rename.to, namespace("shop", "orders"));
        let kept = doc! { "ns": place.clone(), "to": place.clone() };
        assert_eq!(change.unknown_fields, held(kept, format));
    });
}

/// T16: only `_id` and `operationType` are sure to be there.
#[test]
fn an_event_with_nothing_but_a_token_and_an_operation_encodes() {
    for operation in Operation::ALL {
        let raw = doc! { "_id": mongo_token("82AA"), "operationType": operation.name() };
        in_all_formats(|format| {
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

/// What is not of the type that MongoDB documents is left unset and goes along as it is.
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
    ] {
        for odd in [bson::bson!([1, "two"]), Bson::Boolean(true)] {
            let mut raw = doc! { "_id": mongo_token("82AA"), "operationType": operation };
            let without = change(&raw, Format::Bson);
            raw.insert(field, odd.clone());
            in_all_formats(|format| {
                let mut change = change(&raw, format);
                let kept = doc! { field: odd.clone() };
                assert_eq!(
                    change.unknown_fields.take(),
                    held(kept, format),
                    "{operation}.{field}"
                );
                assert_eq!(change, without, "{operation}.{field}");
            });
        }
    }
}

/// A field that belongs to another operation has no place in this one's message.
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
        panic!("nothing was kept");
    };
    let kept = Document::from_reader(&bytes[..]).expect("a document");
    let sorted = |document: Document| {
        let mut fields: Vec<(String, Bson)> = document.into_iter().collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    assert_eq!(sorted(kept), sorted(fields));
}

/// Protobuf's timestamps end with the year 9999; readers refuse what lies beyond.
#[test]
fn a_wall_time_that_no_timestamp_holds_is_kept_as_an_unknown_field() {
    for millis in [i64::MIN, -62_135_596_800_001, 253_402_300_800_000, i64::MAX] {
        let at = bson::DateTime::from_millis(millis);
        let mut raw = event("drop", doc! {});
        raw.insert("wallTime", at);
        let change = change(&raw, Format::Bson);
        assert_eq!(change.wall_time, None);
        assert_eq!(
            change.unknown_fields,
            held(doc! { "wallTime": at }, Format::Bson)
        );
    }
}

/// A transaction is named by both of its fields; one without the other is not thrown away.
#[test]
fn half_a_transaction_is_kept_as_unknown_fields() {
    for half in [
        doc! { "lsid": { "id": bson::Uuid::new() } },
        doc! { "txnNumber": 5_i64 },
        doc! { "lsid": { "uid": 1 }, "txnNumber": 5_i64 },
    ] {
        let change = change(&event("drop", half.clone()), Format::Json);
        assert_eq!(change.transaction, None);
        assert_eq!(change.unknown_fields, held(half, Format::Json));
    }
}

/// What splitting leaves behind means nothing once the event is whole again.
#[test]
fn the_mark_of_a_split_is_not_shown() {
    let raw = event("drop", doc! { "splitEvent": { "fragment": 1, "of": 1 } });
    assert_eq!(change(&raw, Format::Bson).unknown_fields, None);
}
