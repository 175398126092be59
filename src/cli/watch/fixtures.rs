//! Messages of every kind, for the tests of both output formats.

use bytes::Bytes;

use super::message::Message;
use crate::pb;
use crate::pb::change_event::Change;

pub fn json(text: &str) -> Option<pb::Document> {
    Some(pb::Document {
        value: Some(pb::document::Value::Json(text.to_owned())),
    })
}

pub fn null() -> Option<pb::Document> {
    Some(pb::Document {
        value: Some(pb::document::Value::Null(0)),
    })
}

pub fn orders() -> Option<pb::Namespace> {
    Some(pb::Namespace {
        database: "shop".to_owned(),
        collection: "orders".to_owned(),
    })
}

pub fn shop() -> Option<pb::Namespace> {
    Some(pb::Namespace {
        database: "shop".to_owned(),
        collection: String::new(),
    })
}

fn second(seconds: u32, increment: u32) -> Option<pb::ClusterTime> {
    Some(pb::ClusterTime { seconds, increment })
}

/// Returns an event of shop.orders at 2025-01-31T12:00:00.250Z with the key 1.
pub fn event(operation: pb::OperationType, change: Change) -> pb::ChangeEvent {
    pb::ChangeEvent {
        resume_token: Bytes::from_static(b"event"),
        operation: operation.into(),
        namespace: orders(),
        cluster_time: second(1_738_324_800, 3),
        wall_time: Some(prost_types::Timestamp {
            seconds: 1_738_324_800,
            nanos: 250_000_000,
        }),
        document_key: json(r#"{"_id": 1}"#),
        change: Some(change),
        ..pb::ChangeEvent::default()
    }
}

/// Like `event`, but without a key, as for events of collections.
pub fn event_without_key(operation: pb::OperationType, change: Change) -> pb::ChangeEvent {
    pb::ChangeEvent {
        document_key: None,
        ..event(operation, change)
    }
}

pub fn insert() -> pb::ChangeEvent {
    event(
        pb::OperationType::Insert,
        Change::Insert(pb::Insert {
            full_document: json(r#"{"_id": 1, "status": "paid"}"#),
        }),
    )
}

pub fn update() -> pb::ChangeEvent {
    event(
        pb::OperationType::Update,
        Change::Update(pb::Update {
            update_description: Some(pb::UpdateDescription {
                updated_fields: json(r#"{"total": 5}"#),
                removed_fields: vec!["note".to_owned(), "a\"b".to_owned()],
                truncated_arrays: vec![pb::TruncatedArray {
                    field: "items".to_owned(),
                    new_size: 2,
                }],
                disambiguated_paths: vec![pb::DisambiguatedPath {
                    path: "a.0".to_owned(),
                    components: vec![
                        pb::PathComponent {
                            kind: Some(pb::path_component::Kind::Field("a".to_owned())),
                        },
                        pb::PathComponent {
                            kind: Some(pb::path_component::Kind::Index(0)),
                        },
                    ],
                }],
            }),
            full_document: null(),
            full_document_before_change: json(r#"{"_id": 1, "total": 4}"#),
        }),
    )
}

pub fn opened() -> Message {
    Message::Opened(pb::Opened {
        watch_id: "w1".to_owned(),
        start_mode: pb::StartMode::Token.into(),
        start_time: second(1_738_324_800, 1),
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 500_000_000,
        }),
        max_message_bytes: 3_145_728,
        feed_mode: pb::FeedMode::Dedicated.into(),
    })
}

pub fn progress() -> Message {
    Message::Progress(pb::Progress {
        cluster_time: second(1_738_324_800, 7),
        upstream_time: second(1_738_324_802, 1),
    })
}

pub fn reconnecting() -> Message {
    Message::StateChange(pb::StateChange {
        state: pb::WatchState::UpstreamReconnecting.into(),
        reason: "MongoDB is \u{1b}[31maway".to_owned(),
    })
}

pub fn invalidated() -> Message {
    Message::Invalidated(pb::Invalidated {
        cause: pb::OperationType::Drop.into(),
        namespace: orders(),
        cluster_time: second(1_738_324_800, 9),
        wall_time: Some(prost_types::Timestamp {
            seconds: 1_738_324_800,
            nanos: 500_000_000,
        }),
    })
}

/// Returns the events of collections and databases, with all their details.
pub fn collection_events() -> Vec<pb::ChangeEvent> {
    let description = || json(r#"{"d": 1}"#);
    let mut dropped_database = event_without_key(
        pb::OperationType::DropDatabase,
        Change::DropDatabase(pb::DropDatabase {}),
    );
    dropped_database.namespace = shop();
    vec![
        event_without_key(pb::OperationType::Drop, Change::Drop(pb::Drop {})),
        event_without_key(
            pb::OperationType::Rename,
            Change::Rename(pb::Rename {
                to: Some(pb::Namespace {
                    database: "shop".to_owned(),
                    collection: "old".to_owned(),
                }),
                operation_description: description(),
            }),
        ),
        dropped_database,
        event_without_key(
            pb::OperationType::Create,
            Change::Create(pb::Create {
                operation_description: description(),
                namespace_type: "collection".to_owned(),
            }),
        ),
        event_without_key(
            pb::OperationType::CreateIndexes,
            Change::CreateIndexes(pb::CreateIndexes {
                indexes: vec![],
                operation_description: description(),
            }),
        ),
        event_without_key(
            pb::OperationType::DropIndexes,
            Change::DropIndexes(pb::DropIndexes {
                indexes: vec![],
                operation_description: description(),
            }),
        ),
        event_without_key(
            pb::OperationType::Modify,
            Change::Modify(pb::Modify {
                operation_description: description(),
                state_before_change: json(r#"{"s": 1}"#),
            }),
        ),
        event_without_key(
            pb::OperationType::ShardCollection,
            Change::ShardCollection(pb::ShardCollection {
                operation_description: description(),
            }),
        ),
        event_without_key(
            pb::OperationType::RefineCollectionShardKey,
            Change::RefineCollectionShardKey(pb::RefineCollectionShardKey {
                operation_description: description(),
            }),
        ),
        event_without_key(
            pb::OperationType::ReshardCollection,
            Change::ReshardCollection(pb::ReshardCollection {
                operation_description: description(),
            }),
        ),
        event_without_key(
            pb::OperationType::Other,
            Change::Other(pb::Other {
                operation_type: "startIndexBuild".to_owned(),
                event: json(r#"{"whole": 1}"#),
            }),
        ),
    ]
}

/// Returns the event that a transaction has ended, which has no namespace.
pub fn end_of_transaction() -> pb::ChangeEvent {
    let end = pb::EndOfTransaction {
        operation_description: json(r#"{"d": 1}"#),
    };
    pb::ChangeEvent {
        namespace: None,
        transaction: Some(pb::Transaction {
            last: true,
            ..transaction()
        }),
        ..event_without_key(
            pb::OperationType::EndOfTransaction,
            Change::EndOfTransaction(end),
        )
    }
}

fn transaction() -> pb::Transaction {
    pb::Transaction {
        session_id: Bytes::from_static(b"0123456789abcdef"),
        number: 12,
        last: false,
        commit_timestamp: None,
    }
}

/// Returns an event with all rare fields.
pub fn in_transaction() -> pb::ChangeEvent {
    pb::ChangeEvent {
        transaction: Some(pb::Transaction {
            last: true,
            commit_timestamp: second(1_738_324_799, 4),
            ..transaction()
        }),
        collection_uuid: Bytes::from_static(b"fedcba9876543210"),
        r#match: pb::FilterMatch::Entered.into(),
        unknown_fields: json(r#"{"lsid": {"id": 1, "uid": 2}, "new": 1}"#),
        ..event(
            pb::OperationType::Delete,
            Change::Delete(pb::Delete {
                full_document_before_change: json(r#"{"_id": 1}"#),
            }),
        )
    }
}

pub fn omitted() -> pb::ChangeEvent {
    event(
        pb::OperationType::Insert,
        Change::Omitted(pb::Omitted {
            event_bytes: 4_000_000,
            max_message_bytes: 3_145_728,
        }),
    )
}

pub fn replace() -> pb::ChangeEvent {
    event(
        pb::OperationType::Replace,
        Change::Replace(pb::Replace {
            full_document: json(r#"{"_id": 1, "a": 2}"#),
            full_document_before_change: json(r#"{"_id": 1, "a": 1}"#),
        }),
    )
}
