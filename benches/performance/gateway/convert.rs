//! Converts the driver's typed events to the API's messages.

use mongodb::{
    bson::{self, Document, Timestamp},
    change_stream::event::{ChangeStreamEvent, OperationType},
};
use serde::Serialize;
use tonic::Status;
use weir::pb::{self, change_event::Change, document::Value, watch_response::Kind};

/// A message with one event.
pub fn response(event: ChangeStreamEvent<Document>) -> Result<pb::WatchResponse, Status> {
    let resume_token = bytes(&event.id)?;
    let (operation, change) = change(&event)?;
    let namespace = event.ns.map(|ns| pb::Namespace {
        database: ns.db,
        collection: ns.coll.unwrap_or_default(),
    });
    let converted = pb::ChangeEvent {
        resume_token: resume_token.clone().into(),
        operation: operation.into(),
        namespace,
        cluster_time: event.cluster_time.map(cluster_time),
        wall_time: event.wall_time.map(|time| prost_types::Timestamp {
            seconds: time.timestamp_millis().div_euclid(1_000),
            nanos: (time.timestamp_millis().rem_euclid(1_000) * 1_000_000) as i32,
        }),
        document_key: document(event.document_key.as_ref())?,
        change: Some(change),
        ..pb::ChangeEvent::default()
    };
    Ok(pb::WatchResponse {
        resume_token: resume_token.into(),
        kind: Some(Kind::Changes(pb::ChangeBatch {
            changes: vec![converted],
        })),
    })
}

fn change(event: &ChangeStreamEvent<Document>) -> Result<(pb::OperationType, Change), Status> {
    let full_document = || document(event.full_document.as_ref());
    Ok(match &event.operation_type {
        OperationType::Insert => {
            let full_document = full_document()?;
            let change = Change::Insert(pb::Insert { full_document });
            (pb::OperationType::Insert, change)
        }
        OperationType::Update => {
            let description = event.update_description.as_ref();
            let update_description = match description {
                Some(description) => Some(pb::UpdateDescription {
                    updated_fields: document(Some(&description.updated_fields))?,
                    removed_fields: description.removed_fields.clone(),
                    ..pb::UpdateDescription::default()
                }),
                None => None,
            };
            let change = Change::Update(pb::Update {
                update_description,
                full_document: full_document()?,
                ..pb::Update::default()
            });
            (pb::OperationType::Update, change)
        }
        OperationType::Replace => {
            let change = Change::Replace(pb::Replace {
                full_document: full_document()?,
                ..pb::Replace::default()
            });
            (pb::OperationType::Replace, change)
        }
        OperationType::Delete => {
            let change = Change::Delete(pb::Delete::default());
            (pb::OperationType::Delete, change)
        }
        other => {
            let change = Change::Other(pb::Other {
                operation_type: format!("{other:?}"),
                event: None,
            });
            (pb::OperationType::Other, change)
        }
    })
}

fn cluster_time(time: Timestamp) -> pb::ClusterTime {
    pb::ClusterTime {
        seconds: time.time,
        increment: time.increment,
    }
}

fn document(document: Option<&Document>) -> Result<Option<pb::Document>, Status> {
    let Some(document) = document else {
        return Ok(None);
    };
    let bytes = bytes(document)?;
    Ok(Some(pb::Document {
        value: Some(Value::Bson(bytes.into())),
    }))
}

fn bytes(value: &impl Serialize) -> Result<Vec<u8>, Status> {
    bson::serialize_to_vec(value).map_err(|error| Status::internal(error.to_string()))
}
