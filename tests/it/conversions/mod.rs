//! Converts Weir's messages back to MongoDB's own terms, and builds requests.
#![allow(
    dead_code,
    unused_imports,
    reason = "benches/soak uses only a part of this"
)]

mod driver_stream;

pub use driver_stream::DriverStream;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, Timestamp, doc};
use prost_types::value::Kind as ValueKind;
use weir::pb;
use weir::pb::change_event::Change;
use weir::pb::field_filter::Operator;
use weir::pb::filter::Kind;

/// The document in BSON format; null as null, and `None` where the field is unset.
pub fn bson(document: Option<&pb::Document>) -> Option<Bson> {
    match document?.value.as_ref().expect("a document holds a value") {
        pb::document::Value::Bson(bytes) => {
            let document = Document::from_reader(&bytes[..]).expect("BSON bytes are a document");
            Some(document.into())
        }
        pb::document::Value::Null(_) => Some(Bson::Null),
        other => panic!("expected BSON, got {other:?}"),
    }
}

/// The document that an insert, update or replace holds after the change.
pub fn after(change: &pb::ChangeEvent) -> Option<Bson> {
    bson(match change.change.as_ref()? {
        Change::Insert(insert) => insert.full_document.as_ref(),
        Change::Update(update) => update.full_document.as_ref(),
        Change::Replace(replace) => replace.full_document.as_ref(),
        _ => None,
    })
}

/// The document that an update, replace or delete holds from before the change.
pub fn before(change: &pb::ChangeEvent) -> Option<Bson> {
    bson(match change.change.as_ref()? {
        Change::Update(update) => update.full_document_before_change.as_ref(),
        Change::Replace(replace) => replace.full_document_before_change.as_ref(),
        Change::Delete(delete) => delete.full_document_before_change.as_ref(),
        _ => None,
    })
}

/// The `_id` of the changed document.
pub fn id(change: &pb::ChangeEvent) -> Bson {
    let key = bson(change.document_key.as_ref()).expect("the change has a document key");
    let key = key.as_document().expect("a document key is a document");
    key.get("_id").expect("a document key has an _id").clone()
}

/// MongoDB's name of the operation.
pub fn operation(change: &pb::ChangeEvent) -> String {
    let words = change.operation().as_str_name().to_lowercase();
    let mut words = words.trim_start_matches("operation_type_").split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(1);
        name + &head.to_uppercase() + tail
    })
}

/// MongoDB's names of the operations, in order.
pub fn operations(changes: &[pb::ChangeEvent]) -> Vec<String> {
    changes.iter().map(operation).collect()
}

/// The event in MongoDB's form, rebuilt from a message in BSON format, without the token and
/// without fields that MongoDB omits when they are empty.
pub fn as_mongodb_event(change: &pb::ChangeEvent) -> Document {
    let mut event = doc! { "operationType": operation(change) };
    let mut put = |key: &str, value: Option<Bson>| {
        if let Some(value) = value {
            event.insert(key, value);
        }
    };
    put("ns", change.namespace.as_ref().map(namespace));
    put("clusterTime", change.cluster_time.map(timestamp));
    let wall_time = change.wall_time.as_ref().map(|time| {
        let millis = time.seconds * 1000 + i64::from(time.nanos) / 1_000_000;
        Bson::DateTime(DateTime::from_millis(millis))
    });
    put("wallTime", wall_time);
    put("documentKey", bson(change.document_key.as_ref()));
    if let Some(transaction) = &change.transaction {
        let session = uuid(&transaction.session_id);
        put("lsid", Some(doc! { "id": session }.into()));
        put("txnNumber", Some(transaction.number.into()));
        put(
            "commitTimestamp",
            transaction.commit_timestamp.map(timestamp),
        );
    }
    if !change.collection_uuid.is_empty() {
        put("collectionUUID", Some(uuid(&change.collection_uuid).into()));
    }
    put("fullDocument", after(change));
    put("fullDocumentBeforeChange", before(change));
    let description = match change.change.as_ref().expect("a change is set") {
        Change::Update(update) => {
            let description = update.update_description.as_ref();
            put(
                "updateDescription",
                description.map(|it| update_description(it).into()),
            );
            None
        }
        Change::Rename(rename) => {
            put("to", rename.to.as_ref().map(namespace));
            rename.operation_description.as_ref()
        }
        Change::Create(create) => {
            let kind = Some(create.namespace_type.as_str()).filter(|kind| !kind.is_empty());
            put("nsType", kind.map(Into::into));
            create.operation_description.as_ref()
        }
        Change::CreateIndexes(create) => create.operation_description.as_ref(),
        Change::DropIndexes(drop) => drop.operation_description.as_ref(),
        Change::Modify(modify) => {
            put(
                "stateBeforeChange",
                bson(modify.state_before_change.as_ref()),
            );
            modify.operation_description.as_ref()
        }
        Change::ShardCollection(shard) => shard.operation_description.as_ref(),
        Change::RefineCollectionShardKey(refine) => refine.operation_description.as_ref(),
        Change::ReshardCollection(reshard) => reshard.operation_description.as_ref(),
        Change::EndOfTransaction(end) => end.operation_description.as_ref(),
        _ => None,
    };
    put("operationDescription", bson(description));
    if let Some(Bson::Document(unknown)) = bson(change.unknown_fields.as_ref()) {
        event.extend(unknown);
    }
    event
}

fn timestamp(time: pb::ClusterTime) -> Bson {
    Bson::Timestamp(Timestamp {
        time: time.seconds,
        increment: time.increment,
    })
}

fn namespace(namespace: &pb::Namespace) -> Bson {
    let mut event = doc! { "db": &namespace.database };
    if !namespace.collection.is_empty() {
        event.insert("coll", &namespace.collection);
    }
    event.into()
}

fn uuid(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Uuid,
        bytes: bytes.to_vec(),
    }
}

fn update_description(description: &pb::UpdateDescription) -> Document {
    let truncated = description.truncated_arrays.iter().map(|array| {
        let new_size = i32::try_from(array.new_size).expect("arrays are small");
        Bson::Document(doc! { "field": &array.field, "newSize": new_size })
    });
    let mut event = doc! {
        "updatedFields": bson(description.updated_fields.as_ref()).unwrap_or(Bson::Null),
        "removedFields": &description.removed_fields,
        "truncatedArrays": truncated.collect::<Vec<_>>(),
    };
    if !description.disambiguated_paths.is_empty() {
        let paths = description.disambiguated_paths.iter().map(|path| {
            let components: Vec<Bson> = path.components.iter().map(component).collect();
            (path.path.clone(), Bson::Array(components))
        });
        event.insert("disambiguatedPaths", paths.collect::<Document>());
    }
    event
}

fn component(component: &pb::PathComponent) -> Bson {
    match component.kind.as_ref().expect("a component is set") {
        pb::path_component::Kind::Field(name) => name.as_str().into(),
        pb::path_component::Kind::Index(index) => {
            i32::try_from(*index).expect("arrays are small").into()
        }
    }
}

/// Converts JSON to `google.protobuf.Value`, in which filters take Extended JSON.
pub fn value(json: serde_json::Value) -> prost_types::Value {
    let kind = match json {
        serde_json::Value::Null => ValueKind::NullValue(0),
        serde_json::Value::Bool(value) => ValueKind::BoolValue(value),
        serde_json::Value::Number(number) => {
            ValueKind::NumberValue(number.as_f64().expect("a JSON number is a double"))
        }
        serde_json::Value::String(text) => ValueKind::StringValue(text),
        serde_json::Value::Array(items) => ValueKind::ListValue(prost_types::ListValue {
            values: items.into_iter().map(value).collect(),
        }),
        serde_json::Value::Object(fields) => ValueKind::StructValue(prost_types::Struct {
            fields: fields
                .into_iter()
                .map(|(key, field)| (key, value(field)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

/// A condition on one field.
pub fn field(path: &str, operator: Operator) -> pb::Filter {
    pb::Filter {
        kind: Some(Kind::Field(pb::FieldFilter {
            path: path.into(),
            operator: Some(operator),
        })),
    }
}

/// A comparison with Extended JSON text, whose documents keep the order of their keys.
pub fn compare(path: &str, operator: pb::comparison::Operator, json: &str) -> pb::Filter {
    let literal = pb::comparison::Literal::Json(json.into());
    field(
        path,
        Operator::Compare(pb::Comparison {
            operator: operator.into(),
            literal: Some(literal),
        }),
    )
}

/// A condition that the field equals a value in Extended JSON.
pub fn eq(path: &str, json: serde_json::Value) -> pb::Filter {
    field(path, Operator::Eq(value(json)))
}
