//! Every operation that MongoDB documents, with every field it may have.

use bson::{Binary, Bson, Uuid, spec::BinarySubtype};

use super::*;

/// Asserts what an event becomes in every format.
fn becomes(
    operation: &str,
    number: pb::OperationType,
    fields: Document,
    change_of: impl Fn(Format) -> Change,
) {
    in_all_formats(|format| {
        let expected = pb::ChangeEvent {
            operation: number.into(),
            change: Some(change_of(format)),
            ..common()
        };
        assert_eq!(
            change(&event(operation, fields.clone()), format),
            expected,
            "{operation} in {format:?}"
        );
    });
}

#[test]
fn an_insert_holds_the_key_and_the_document() {
    let document = doc! { "_id": 1, "status": "new" };
    in_all_formats(|format| {
        let insert = event(
            "insert",
            doc! { "documentKey": { "region": "eu", "_id": 1 }, "fullDocument": document.clone() },
        );
        let expected = pb::ChangeEvent {
            operation: pb::OperationType::Insert.into(),
            document_key: held(doc! { "region": "eu", "_id": 1 }, format),
            change: Some(Change::Insert(pb::Insert {
                full_document: held(document.clone(), format),
            })),
            ..common()
        };
        assert_eq!(change(&insert, format), expected);
    });
}

#[test]
fn a_replace_holds_both_documents() {
    becomes(
        "replace",
        pb::OperationType::Replace,
        doc! { "fullDocument": { "a": 2 }, "fullDocumentBeforeChange": { "a": 1 } },
        |format| {
            Change::Replace(pb::Replace {
                full_document: held(doc! { "a": 2 }, format),
                full_document_before_change: held(doc! { "a": 1 }, format),
            })
        },
    );
}

#[test]
fn a_delete_holds_the_document_before() {
    becomes(
        "delete",
        pb::OperationType::Delete,
        doc! { "fullDocumentBeforeChange": { "a": 1 } },
        |format| {
            Change::Delete(pb::Delete {
                full_document_before_change: held(doc! { "a": 1 }, format),
            })
        },
    );
}

/// T25: the client must know "MongoDB looked and found none" from "MongoDB did not look".
#[test]
fn an_absent_a_null_and_a_present_document_differ_on_the_wire() {
    for (fields, after_and_before) in [
        (doc! {}, [0, 0]),
        (doc! { "fullDocument": Bson::Null }, [1, 0]),
        (doc! { "fullDocumentBeforeChange": Bson::Null }, [0, 1]),
        (doc! { "fullDocument": { "a": 1 } }, [2, 0]),
        (doc! { "fullDocumentBeforeChange": { "a": 1 } }, [0, 2]),
    ] {
        in_all_formats(|format| {
            let image = |state| match state {
                0 => None,
                1 => null(),
                _ => held(doc! { "a": 1 }, format),
            };
            let [after, before] = after_and_before.map(image);
            let update = change(&event("update", fields.clone()), format).change;
            let expected = pb::Update {
                update_description: None,
                full_document: after.clone(),
                full_document_before_change: before.clone(),
            };
            assert_eq!(update, Some(Change::Update(expected)));
            let replace = change(&event("replace", fields.clone()), format).change;
            let expected = pb::Replace {
                full_document: after,
                full_document_before_change: before.clone(),
            };
            assert_eq!(replace, Some(Change::Replace(expected)));
            if fields.contains_key("fullDocumentBeforeChange") {
                let delete = change(&event("delete", fields.clone()), format).change;
                let expected = pb::Delete {
                    full_document_before_change: before,
                };
                assert_eq!(delete, Some(Change::Delete(expected)));
            }
        });
    }
}

/// T16.
#[test]
fn a_drop_holds_nothing_but_its_place() {
    becomes("drop", pb::OperationType::Drop, doc! {}, |_| {
        Change::Drop(pb::Drop {})
    });
}

/// T16.
#[test]
fn a_rename_holds_the_new_name_and_its_description() {
    becomes(
        "rename",
        pb::OperationType::Rename,
        doc! { "to": { "db": "shop", "coll": "old" } },
        |_| {
            Change::Rename(pb::Rename {
                to: namespace("shop", "old"),
                operation_description: None,
            })
        },
    );
    let description = doc! { "to": { "db": "shop", "coll": "old" }, "dropTarget": Uuid::new() };
    becomes(
        "rename",
        pb::OperationType::Rename,
        doc! {
            "to": { "db": "shop", "coll": "old" },
            "operationDescription": description.clone(),
        },
        |format| {
            Change::Rename(pb::Rename {
                to: namespace("shop", "old"),
                operation_description: held(description.clone(), format),
            })
        },
    );
}

/// T16: the namespace of these events has no collection.
#[test]
fn a_drop_of_a_database_names_no_collection() {
    in_all_formats(|format| {
        let mut dropped = event("dropDatabase", doc! {});
        dropped.insert("ns", doc! { "db": "shop" });
        let expected = pb::ChangeEvent {
            operation: pb::OperationType::DropDatabase.into(),
            namespace: namespace("shop", ""),
            change: Some(Change::DropDatabase(pb::DropDatabase {})),
            ..common()
        };
        assert_eq!(change(&dropped, format), expected);
    });
}

/// T16 and T40: `nsType` is in lower case, which the driver's own event type does not expect.
#[test]
fn a_create_holds_its_options_and_the_kind_of_collection() {
    let description = doc! { "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } };
    for kind in ["collection", "timeseries", "view", ""] {
        let mut fields = doc! { "operationDescription": description.clone() };
        if !kind.is_empty() {
            fields.insert("nsType", kind);
        }
        becomes("create", pb::OperationType::Create, fields, |format| {
            Change::Create(pb::Create {
                operation_description: held(description.clone(), format),
                namespace_type: kind.to_owned(),
            })
        });
    }
}

/// T16.
#[test]
fn indexes_come_one_by_one_and_as_the_whole_description() {
    let first = doc! { "v": 2, "key": { "status": 1 }, "name": "status_1" };
    let second = doc! { "v": 2, "key": { "at": -1 }, "name": "at_-1", "sparse": true };
    let description = doc! { "indexes": [first.clone(), second.clone()] };
    let indexes = |format| {
        [&first, &second]
            .map(|index| held(index.clone(), format).expect("a document"))
            .to_vec()
    };
    let fields = doc! { "operationDescription": description.clone() };
    becomes(
        "createIndexes",
        pb::OperationType::CreateIndexes,
        fields.clone(),
        |format| {
            Change::CreateIndexes(pb::CreateIndexes {
                indexes: indexes(format),
                operation_description: held(description.clone(), format),
            })
        },
    );
    becomes(
        "dropIndexes",
        pb::OperationType::DropIndexes,
        fields,
        |format| {
            Change::DropIndexes(pb::DropIndexes {
                indexes: indexes(format),
                operation_description: held(description.clone(), format),
            })
        },
    );
}

/// T16.
#[test]
fn a_modify_holds_what_changed_and_what_was() {
    let description = doc! { "index": { "name": "at_1", "expireAfterSeconds": 60 } };
    let before = doc! { "collectionOptions": {}, "indexOptions": { "expireAfterSeconds": 30_i64 } };
    becomes(
        "modify",
        pb::OperationType::Modify,
        doc! {
            "operationDescription": description.clone(),
            "stateBeforeChange": before.clone(),
        },
        |format| {
            Change::Modify(pb::Modify {
                operation_description: held(description.clone(), format),
                state_before_change: held(before.clone(), format),
            })
        },
    );
}

/// T16: no server of the tests is sharded, so these come as MongoDB documents them.
#[test]
fn the_sharding_events_hold_their_descriptions() {
    let description = doc! {
        "reshardUUID": Uuid::new(),
        "shardKey": { "a": 1, "b": "hashed" },
        "oldShardKey": { "a": 1 },
        "unique": false,
        "numInitialChunks": 1_i64 << 40,
        "presplitHashedZones": true,
    };
    let fields = doc! { "operationDescription": description.clone() };
    becomes(
        "shardCollection",
        pb::OperationType::ShardCollection,
        fields.clone(),
        |format| {
            Change::ShardCollection(pb::ShardCollection {
                operation_description: held(description.clone(), format),
            })
        },
    );
    becomes(
        "refineCollectionShardKey",
        pb::OperationType::RefineCollectionShardKey,
        fields.clone(),
        |format| {
            Change::RefineCollectionShardKey(pb::RefineCollectionShardKey {
                operation_description: held(description.clone(), format),
            })
        },
    );
    becomes(
        "reshardCollection",
        pb::OperationType::ReshardCollection,
        fields,
        |format| {
            Change::ReshardCollection(pb::ReshardCollection {
                operation_description: held(description.clone(), format),
            })
        },
    );
}

#[test]
fn events_of_a_transaction_name_it() {
    let session = Uuid::new();
    for number in [0, 1, i64::MAX, -1] {
        let fields = doc! {
            "lsid": { "id": session, "uid": Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 32] } },
            "txnNumber": number,
        };
        let change = change(&event("delete", fields), Format::Bson);
        let expected = pb::Transaction {
            session_id: session.bytes().to_vec().into(),
            number,
        };
        assert_eq!(change.transaction, Some(expected));
        assert_eq!(change.unknown_fields, None);
    }
}

#[test]
fn a_collections_uuid_comes_as_its_sixteen_bytes() {
    let uuid = Uuid::new();
    let change = change(
        &event("drop", doc! { "collectionUUID": uuid }),
        Format::Struct,
    );
    assert_eq!(change.collection_uuid, uuid.bytes().to_vec());
    assert_eq!(change.unknown_fields, None);
}

/// A clock may stand before 1970, and a timestamp's fraction counts upwards even there.
#[test]
fn wall_times_before_1970_and_in_the_far_future_are_exact() {
    for (millis, seconds, nanos) in [
        (0, 0, 0),
        (-1, -1, 999_000_000),
        (-1_000, -1, 0),
        (-62_135_596_800_000, -62_135_596_800, 0),
        (253_402_300_799_999, 253_402_300_799, 999_000_000),
    ] {
        let mut dropped = event("drop", doc! {});
        dropped.insert("wallTime", bson::DateTime::from_millis(millis));
        let expected = prost_types::Timestamp { seconds, nanos };
        assert_eq!(change(&dropped, Format::Bson).wall_time, Some(expected));
    }
}
