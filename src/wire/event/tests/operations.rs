//! Tests of every documented operation with all its fields.

use bson::{Binary, Bson, Uuid, spec::BinarySubtype};

use super::*;

/// Asserts the encoding of an event in every format.
fn assert_encodes_as(
    operation: &str,
    number: pb::OperationType,
    fields: Document,
    change_of: impl Fn(Format) -> Change,
) {
    for_all_formats(|format| {
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
fn an_insert_has_the_key_and_the_document() {
    let document = doc! { "_id": 1, "status": "new" };
    for_all_formats(|format| {
        let insert = event(
            "insert",
            doc! { "documentKey": { "region": "eu", "_id": 1 }, "fullDocument": document.clone() },
        );
        let expected = pb::ChangeEvent {
            operation: pb::OperationType::Insert.into(),
            document_key: formatted(doc! { "region": "eu", "_id": 1 }, format),
            change: Some(Change::Insert(pb::Insert {
                full_document: formatted(document.clone(), format),
            })),
            ..common()
        };
        assert_eq!(change(&insert, format), expected);
    });
}

#[test]
fn a_replace_has_both_documents() {
    assert_encodes_as(
        "replace",
        pb::OperationType::Replace,
        doc! { "fullDocument": { "a": 2 }, "fullDocumentBeforeChange": { "a": 1 } },
        |format| {
            Change::Replace(pb::Replace {
                full_document: formatted(doc! { "a": 2 }, format),
                full_document_before_change: formatted(doc! { "a": 1 }, format),
            })
        },
    );
}

#[test]
fn a_delete_has_the_document_before_the_change() {
    assert_encodes_as(
        "delete",
        pb::OperationType::Delete,
        doc! { "fullDocumentBeforeChange": { "a": 1 } },
        |format| {
            Change::Delete(pb::Delete {
                full_document_before_change: formatted(doc! { "a": 1 }, format),
            })
        },
    );
}

/// Clients must be able to distinguish "MongoDB found no document" from "MongoDB did not look".
#[test]
fn an_absent_a_null_and_a_present_document_are_encoded_differently() {
    for (fields, after_and_before) in [
        (doc! {}, [0, 0]),
        (doc! { "fullDocument": Bson::Null }, [1, 0]),
        (doc! { "fullDocumentBeforeChange": Bson::Null }, [0, 1]),
        (doc! { "fullDocument": { "a": 1 } }, [2, 0]),
        (doc! { "fullDocumentBeforeChange": { "a": 1 } }, [0, 2]),
    ] {
        for_all_formats(|format| {
            let document = |state| match state {
                0 => None,
                1 => null(),
                _ => formatted(doc! { "a": 1 }, format),
            };
            let [after, before] = after_and_before.map(document);
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

#[test]
fn a_drop_has_only_the_common_fields() {
    assert_encodes_as("drop", pb::OperationType::Drop, doc! {}, |_| {
        Change::Drop(pb::Drop {})
    });
}

#[test]
fn a_rename_has_the_new_name_and_its_description() {
    assert_encodes_as(
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
    assert_encodes_as(
        "rename",
        pb::OperationType::Rename,
        doc! {
            "to": { "db": "shop", "coll": "old" },
            "operationDescription": description.clone(),
        },
        |format| {
            Change::Rename(pb::Rename {
                to: namespace("shop", "old"),
                operation_description: formatted(description.clone(), format),
            })
        },
    );
}

/// The namespace of these events has no collection.
#[test]
fn a_drop_of_a_database_has_no_collection() {
    for_all_formats(|format| {
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

/// `nsType` is in lower case, which the driver's event type does not expect.
#[test]
fn a_create_has_its_options_and_the_type_of_the_collection() {
    let description = doc! { "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } };
    for kind in ["collection", "timeseries", "view", ""] {
        let mut fields = doc! { "operationDescription": description.clone() };
        if !kind.is_empty() {
            fields.insert("nsType", kind);
        }
        assert_encodes_as("create", pb::OperationType::Create, fields, |format| {
            Change::Create(pb::Create {
                operation_description: formatted(description.clone(), format),
                namespace_type: kind.to_owned(),
            })
        });
    }
}

#[test]
fn indexes_are_sent_one_by_one_and_in_the_whole_description() {
    let first = doc! { "v": 2, "key": { "status": 1 }, "name": "status_1" };
    let second = doc! { "v": 2, "key": { "at": -1 }, "name": "at_-1", "sparse": true };
    let description = doc! { "indexes": [first.clone(), second.clone()] };
    let indexes = |format| {
        [&first, &second]
            .map(|index| formatted(index.clone(), format).expect("a document"))
            .to_vec()
    };
    let fields = doc! { "operationDescription": description.clone() };
    assert_encodes_as(
        "createIndexes",
        pb::OperationType::CreateIndexes,
        fields.clone(),
        |format| {
            Change::CreateIndexes(pb::CreateIndexes {
                indexes: indexes(format),
                operation_description: formatted(description.clone(), format),
            })
        },
    );
    assert_encodes_as(
        "dropIndexes",
        pb::OperationType::DropIndexes,
        fields,
        |format| {
            Change::DropIndexes(pb::DropIndexes {
                indexes: indexes(format),
                operation_description: formatted(description.clone(), format),
            })
        },
    );
}

#[test]
fn a_modify_has_its_description_and_the_state_before() {
    let description = doc! { "index": { "name": "at_1", "expireAfterSeconds": 60 } };
    let before = doc! { "collectionOptions": {}, "indexOptions": { "expireAfterSeconds": 30_i64 } };
    assert_encodes_as(
        "modify",
        pb::OperationType::Modify,
        doc! {
            "operationDescription": description.clone(),
            "stateBeforeChange": before.clone(),
        },
        |format| {
            Change::Modify(pb::Modify {
                operation_description: formatted(description.clone(), format),
                state_before_change: formatted(before.clone(), format),
            })
        },
    );
}

/// No server of the tests is sharded, so these events follow MongoDB's documentation.
#[test]
fn sharding_events_have_their_descriptions() {
    let description = doc! {
        "reshardUUID": Uuid::new(),
        "shardKey": { "a": 1, "b": "hashed" },
        "oldShardKey": { "a": 1 },
        "unique": false,
        "numInitialChunks": 1_i64 << 40,
        "presplitHashedZones": true,
        "provenance": "moveCollection",
    };
    let fields = doc! { "operationDescription": description.clone() };
    assert_encodes_as(
        "shardCollection",
        pb::OperationType::ShardCollection,
        fields.clone(),
        |format| {
            Change::ShardCollection(pb::ShardCollection {
                operation_description: formatted(description.clone(), format),
            })
        },
    );
    assert_encodes_as(
        "refineCollectionShardKey",
        pb::OperationType::RefineCollectionShardKey,
        fields.clone(),
        |format| {
            Change::RefineCollectionShardKey(pb::RefineCollectionShardKey {
                operation_description: formatted(description.clone(), format),
            })
        },
    );
    assert_encodes_as(
        "reshardCollection",
        pb::OperationType::ReshardCollection,
        fields,
        |format| {
            Change::ReshardCollection(pb::ReshardCollection {
                operation_description: formatted(description.clone(), format),
            })
        },
    );
}

fn transaction(session: Uuid, number: i64) -> pb::Transaction {
    pb::Transaction {
        session_id: session.bytes().to_vec().into(),
        number,
        last: false,
        commit_timestamp: None,
    }
}

#[test]
fn events_of_a_transaction_have_its_id() {
    let session = Uuid::new();
    for number in [0, 1, i64::MAX, -1] {
        let fields = doc! { "lsid": { "id": session }, "txnNumber": number };
        let change = change(&event("delete", fields), Format::Bson);
        assert_eq!(change.transaction, Some(transaction(session, number)));
        assert_eq!(change.unknown_fields, None);
    }
}

/// MongoDB adds the digest of the user to the session's id. The message has no field for it.
#[test]
fn the_digest_of_a_sessions_user_is_kept() {
    let session = Uuid::new();
    let digest = Binary {
        subtype: BinarySubtype::Generic,
        bytes: vec![7; 32],
    };
    let lsid = doc! { "id": session, "uid": digest };
    for_all_formats(|format| {
        let fields = doc! { "lsid": lsid.clone(), "txnNumber": 3_i64 };
        let change = change(&event("delete", fields), format);
        assert_eq!(change.transaction, Some(transaction(session, 3)));
        let unknown = formatted(doc! { "lsid": lsid.clone() }, format);
        assert_eq!(change.unknown_fields, unknown);
    });
}

/// SERVER-101553: on events of transactions that wrote to several shards.
#[test]
fn a_commit_timestamp_belongs_to_the_transaction() {
    let session = Uuid::new();
    let time = Timestamp {
        time: 1_700_000_001,
        increment: 9,
    };
    let fields = doc! { "lsid": { "id": session }, "txnNumber": 3_i64, "commitTimestamp": time };
    let with = change(&event("insert", fields.clone()), Format::Bson);
    let expected = pb::Transaction {
        commit_timestamp: Some(pb::ClusterTime {
            seconds: 1_700_000_001,
            increment: 9,
        }),
        ..transaction(session, 3)
    };
    assert_eq!(with.transaction, Some(expected));
    assert_eq!(with.unknown_fields, None);

    // Of another type, or outside of a transaction.
    let mut odd = fields;
    odd.insert("commitTimestamp", 5);
    let odd = change(&event("insert", odd), Format::Bson);
    assert_eq!(odd.transaction, Some(transaction(session, 3)));
    assert_eq!(
        odd.unknown_fields,
        formatted(doc! { "commitTimestamp": 5 }, Format::Bson)
    );
    let alone = doc! { "commitTimestamp": time };
    let outside = change(&event("insert", alone.clone()), Format::Bson);
    assert_eq!(outside.transaction, None);
    assert_eq!(outside.unknown_fields, formatted(alone, Format::Bson));
}

/// The event has no namespace and no key (SERVER-78269).
#[test]
fn an_end_of_transaction_has_its_transaction_and_description() {
    let session = Uuid::new();
    let description = doc! { "lsid": { "id": session }, "txnNumber": 3_i64 };
    let mut fields = description.clone();
    fields.insert("operationDescription", description.clone());
    let mut end = event("endOfTransaction", fields);
    end.remove("ns");
    for_all_formats(|format| {
        let expected = pb::ChangeEvent {
            operation: pb::OperationType::EndOfTransaction.into(),
            namespace: None,
            transaction: Some(transaction(session, 3)),
            change: Some(Change::EndOfTransaction(pb::EndOfTransaction {
                operation_description: formatted(description.clone(), format),
            })),
            ..common()
        };
        assert_eq!(change(&end, format), expected);
    });
}

#[test]
fn the_last_change_of_a_transaction_is_marked() {
    let session = Uuid::new();
    let fields = doc! { "lsid": { "id": session }, "txnNumber": 0_i64 };
    let (buffer, mut events) = parsed(&[raw_document(&event("drop", fields))]).unwrap();
    events[0].is_last_of_transaction = true;
    let rendering = all_fields(Format::Bson);
    let encoded = encode(&buffer, &events, &token_context(), &rendering, |chunk| {
        chunk
    });
    let expected = pb::Transaction {
        last: true,
        ..transaction(session, 0)
    };
    assert_eq!(batch(encoded[0].field())[0].transaction, Some(expected));
}

#[test]
fn a_collection_uuid_is_sent_as_16_bytes() {
    let uuid = Uuid::new();
    let change = change(
        &event("drop", doc! { "collectionUUID": uuid }),
        Format::Struct,
    );
    assert_eq!(change.collection_uuid, uuid.bytes().to_vec());
    assert_eq!(change.unknown_fields, None);
}

/// A clock may be before 1970, and a timestamp's fraction counts upwards even there.
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
