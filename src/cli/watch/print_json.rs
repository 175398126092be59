//! `--output json`: one object in relaxed Extended JSON per line, so that a BSON library parses times and
//! documents with their types. Field names are those of MongoDB.

use std::fmt::Write as _;

use super::documents::{rfc3339, to_json, uuid};
use super::message::Message;
use super::{display_names, token};
use crate::pb;
use crate::pb::change_event::Change;

/// Appends `message` to `out`, with one line per change. Prints progress only with `show_progress`.
pub fn print(message: &Message, resume_token: &[u8], show_progress: bool, out: &mut String) {
    match message {
        Message::Changes(changes) => {
            for event in changes {
                change(event, out);
            }
        }
        Message::Opened(opened) => {
            let mut line = Line::start(out, "opened");
            line.text("watchId", &opened.watch_id);
            line.text("startMode", display_names::start_mode(opened.start_mode));
            line.time("startTime", opened.start_time.as_ref());
            if let Some(interval) = &opened.progress_interval {
                let seconds = interval.seconds as f64 + f64::from(interval.nanos) / 1e9;
                line.raw("progressIntervalSeconds", &seconds.to_string());
            }
            line.raw("maxMessageBytes", &opened.max_message_bytes.to_string());
            line.text("feedMode", display_names::feed_mode(opened.feed_mode));
            line.end(resume_token);
        }
        Message::Progress(progress) => {
            if show_progress {
                let mut line = Line::start(out, "progress");
                line.time("clusterTime", progress.cluster_time.as_ref());
                line.time("upstreamTime", progress.upstream_time.as_ref());
                line.end(resume_token);
            }
        }
        Message::StateChange(change) => {
            let mut line = Line::start(out, "state");
            line.text("state", display_names::watch_state(change.state));
            if !change.reason.is_empty() {
                line.text("reason", &change.reason);
            }
            line.end(resume_token);
        }
        Message::Invalidated(invalidated) => {
            let mut line = Line::start(out, "invalidated");
            let cause = pb::OperationType::try_from(invalidated.cause);
            line.text(
                "cause",
                cause.map_or(display_names::UNKNOWN, display_names::operation),
            );
            line.namespace("ns", invalidated.namespace.as_ref());
            line.time("clusterTime", invalidated.cluster_time.as_ref());
            line.wall_time(invalidated.wall_time.as_ref());
            line.end(resume_token);
        }
        Message::NoContent => {}
    }
}

fn change(event: &pb::ChangeEvent, out: &mut String) {
    let mut line = Line::start(out, "change");
    line.text("operation", display_names::operation_of(event));
    line.namespace("ns", event.namespace.as_ref());
    line.document("documentKey", event.document_key.as_ref());
    if let Some(change) = &event.change {
        details(change, &mut line);
    }
    line.time("clusterTime", event.cluster_time.as_ref());
    line.wall_time(event.wall_time.as_ref());
    if let Some(transaction) = &event.transaction {
        let session = uuid(&transaction.session_id);
        line.raw("lsid", &format!(r#"{{"id":{{"$uuid":"{session}"}}}}"#));
        line.raw("txnNumber", &transaction.number.to_string());
        if transaction.last {
            line.raw("lastOfTransaction", "true");
        }
        line.time("commitTimestamp", transaction.commit_timestamp.as_ref());
    }
    if !event.collection_uuid.is_empty() {
        let collection = uuid(&event.collection_uuid);
        line.raw("collectionUUID", &format!(r#"{{"$uuid":"{collection}"}}"#));
    }
    if let Some(transition) = display_names::filter_match(event.r#match) {
        line.text("match", transition);
    }
    line.document("unknownFields", event.unknown_fields.as_ref());
    line.end(&event.resume_token);
}

fn details(change: &Change, line: &mut Line<'_>) {
    match change {
        Change::Insert(insert) => line.document("fullDocument", insert.full_document.as_ref()),
        Change::Update(update) => {
            if let Some(description) = &update.update_description {
                line.raw("updateDescription", &update_description(description));
            }
            line.document("fullDocument", update.full_document.as_ref());
            let before = update.full_document_before_change.as_ref();
            line.document("fullDocumentBeforeChange", before);
        }
        Change::Replace(replace) => {
            line.document("fullDocument", replace.full_document.as_ref());
            let before = replace.full_document_before_change.as_ref();
            line.document("fullDocumentBeforeChange", before);
        }
        Change::Delete(delete) => {
            let before = delete.full_document_before_change.as_ref();
            line.document("fullDocumentBeforeChange", before);
        }
        Change::Drop(_) | Change::DropDatabase(_) => {}
        Change::Rename(rename) => {
            line.namespace("to", rename.to.as_ref());
            line.description(rename.operation_description.as_ref());
        }
        Change::Create(create) => {
            if !create.namespace_type.is_empty() {
                line.text("nsType", &create.namespace_type);
            }
            line.description(create.operation_description.as_ref());
        }
        Change::CreateIndexes(create) => line.description(create.operation_description.as_ref()),
        Change::DropIndexes(drop) => line.description(drop.operation_description.as_ref()),
        Change::Modify(modify) => {
            line.description(modify.operation_description.as_ref());
            line.document("stateBeforeChange", modify.state_before_change.as_ref());
        }
        Change::ShardCollection(shard) => line.description(shard.operation_description.as_ref()),
        Change::RefineCollectionShardKey(refine) => {
            line.description(refine.operation_description.as_ref());
        }
        Change::ReshardCollection(reshard) => {
            line.description(reshard.operation_description.as_ref());
        }
        Change::EndOfTransaction(end) => line.description(end.operation_description.as_ref()),
        Change::Other(other) => line.document("event", other.event.as_ref()),
        Change::Omitted(omitted) => line.raw(
            "omitted",
            &format!(
                r#"{{"eventBytes":{},"maxMessageBytes":{}}}"#,
                omitted.event_bytes, omitted.max_message_bytes
            ),
        ),
    }
}

fn update_description(description: &pb::UpdateDescription) -> String {
    let updated = description.updated_fields.as_ref().map(to_json);
    let mut json = format!(
        r#"{{"updatedFields":{}"#,
        updated.as_deref().unwrap_or("{}")
    );
    let removed = serde_json::Value::from(description.removed_fields.clone());
    let _ = write!(json, r#","removedFields":{removed}"#);
    let truncated: serde_json::Value = description
        .truncated_arrays
        .iter()
        .map(|array| serde_json::json!({ "field": array.field, "newSize": array.new_size }))
        .collect();
    let _ = write!(json, r#","truncatedArrays":{truncated}"#);
    if !description.disambiguated_paths.is_empty() {
        let paths: serde_json::Map<_, _> = description
            .disambiguated_paths
            .iter()
            .map(|path| (path.path.clone(), components(&path.components)))
            .collect();
        let paths = serde_json::Value::Object(paths);
        let _ = write!(json, r#","disambiguatedPaths":{paths}"#);
    }
    json.push('}');
    json
}

fn components(components: &[pb::PathComponent]) -> serde_json::Value {
    use pb::path_component::Kind;

    components
        .iter()
        .map(|component| match &component.kind {
            Some(Kind::Field(name)) => serde_json::Value::from(name.clone()),
            Some(Kind::Index(index)) => serde_json::Value::from(*index),
            None => serde_json::Value::Null,
        })
        .collect()
}

/// An object that is written field by field. Unset values are omitted.
struct Line<'a> {
    out: &'a mut String,
}

impl<'a> Line<'a> {
    fn start(out: &'a mut String, kind: &str) -> Line<'a> {
        let _ = write!(out, r#"{{"type":"{kind}""#);
        Line { out }
    }

    /// Writes a field whose value is already JSON.
    fn raw(&mut self, name: &str, json: &str) {
        let _ = write!(self.out, r#","{name}":{json}"#);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.raw(name, &serde_json::Value::from(text).to_string());
    }

    fn document(&mut self, name: &str, document: Option<&pb::Document>) {
        if let Some(document) = document {
            self.raw(name, &to_json(document));
        }
    }

    fn description(&mut self, document: Option<&pb::Document>) {
        self.document("operationDescription", document);
    }

    fn namespace(&mut self, name: &str, namespace: Option<&pb::Namespace>) {
        let Some(namespace) = namespace else { return };
        let database = serde_json::Value::from(namespace.database.as_str());
        if namespace.collection.is_empty() {
            self.raw(name, &format!(r#"{{"db":{database}}}"#));
        } else {
            let collection = serde_json::Value::from(namespace.collection.as_str());
            self.raw(name, &format!(r#"{{"db":{database},"coll":{collection}}}"#));
        }
    }

    fn time(&mut self, name: &str, time: Option<&pb::ClusterTime>) {
        if let Some(time) = time {
            let (t, i) = (time.seconds, time.increment);
            self.raw(name, &format!(r#"{{"$timestamp":{{"t":{t},"i":{i}}}}}"#));
        }
    }

    fn wall_time(&mut self, time: Option<&prost_types::Timestamp>) {
        if let Some(time) = time {
            self.raw("wallTime", &format!(r#"{{"$date":"{}"}}"#, rfc3339(time)));
        }
    }

    fn end(mut self, resume_token: &[u8]) {
        self.text("resumeToken", &token::encode(resume_token));
        self.out.push_str("}\n");
    }
}

#[cfg(test)]
mod tests;
