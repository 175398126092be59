//! The stage that selects namespaces and operations.

use std::collections::BTreeSet;

use bson::{Bson, Document, Regex, Timestamp, doc};

use super::Watch;
use super::stage::PipelineStage;
use crate::model::{INTERNAL_DATABASES, Operation, Scope};

/// Returns the stage that selects the namespaces of the scope and these operations, if it is needed.
pub(super) fn scope_and_operations(
    watch: &Watch,
    operations: Option<&BTreeSet<Operation>>,
) -> Option<PipelineStage> {
    let mut condition = namespace_condition(watch);
    condition.extend(
        operations
            .and_then(|operations| operation_condition(&watch.scope, operations))
            .unwrap_or_default(),
    );
    (!condition.is_empty()).then_some(PipelineStage::ScopeAndOperations(condition))
}

/// Returns the stages in front of a client's own: the namespaces of the scope, exactly the selected operations,
/// and the times before the end of the watch.
///
/// No event passes that the client did not ask for. A stage may change the name of an operation, and Weir could
/// not leave the event out behind it. So `invalidate` does not pass either: a closed cursor tells of it.
pub(super) fn stages_before_client_stages(watch: &Watch) -> Vec<PipelineStage> {
    let scope = match &watch.scope {
        Scope::Collection { .. } | Scope::Collections { .. } => namespace_condition(watch),
        Scope::Database { .. } => visible_namespace(doc! {}),
        Scope::Deployment => visible_namespace(doc! { "$nin": INTERNAL_DATABASES.to_vec() }),
    };
    let operations = match &watch.operations {
        None => doc! { "operationType": { "$ne": Operation::Invalidate.name() } },
        Some(operations) if operations.contains(&Operation::Other) => operation_not_in(
            Operation::ALL
                .into_iter()
                .filter(|operation| !operations.contains(operation)),
        ),
        Some(operations) => operation_in(operations.iter().copied()),
    };
    let mut stages = Vec::new();
    if !scope.is_empty() {
        stages.push(PipelineStage::Scope(scope));
    }
    stages.push(PipelineStage::Operations(operations));
    if let Some(time) = watch.end_time.and_then(|end| end.first_second_past()) {
        let end = Timestamp { time, increment: 0 };
        stages.push(PipelineStage::Part(doc! { "clusterTime": { "$lt": end } }));
    }
    stages
}

/// Returns the condition that an event has a namespace of the users, in a database that meets a condition: its
/// own or, for a rename, the new one. MongoDB leaves its own namespaces out by itself; other servers may not,
/// and behind a client's stages a namespace may be a made-up one. See `Event::is_internal`.
fn visible_namespace(database: Document) -> Document {
    let own = Bson::RegularExpression(Regex {
        pattern: bson::raw::cstr!("^(system\\.|\\$)").into(),
        options: bson::raw::cstr!("").into(),
    });
    let visible = |field: &str| {
        let mut condition = Document::new();
        if !database.is_empty() {
            condition.insert(format!("{field}.db"), database.clone());
        }
        condition.insert(format!("{field}.coll"), doc! { "$not": own.clone() });
        condition
    };
    let mut renamed = visible("to");
    renamed.insert("to", doc! { "$exists": true });
    doc! { "$or": [visible("ns"), renamed] }
}

/// Returns the condition on the namespace, empty where the stream has no other namespaces. `to`, the new
/// name of a rename, may be in the scope although the old one is not.
fn namespace_condition(watch: &Watch) -> Document {
    match &watch.scope {
        Scope::Collection { .. } | Scope::Database { .. } => Document::new(),
        // The stream is limited to the database already, and mongod scans far faster for a collection
        // name than for a pair of names.
        Scope::Collections { collections, .. } => {
            let names: Vec<&str> = collections.iter().map(String::as_str).collect();
            // MongoDB limits the ends of transactions to those that wrote to the database.
            let nameless = control_operations(&watch.scope).iter().copied();
            let nameless = nameless.chain(watch.expanded.then_some(Operation::EndOfTransaction));
            doc! { "$or": [
                { "ns.coll": { "$in": &names } },
                { "to.coll": { "$in": &names } },
                operation_in(nameless),
            ] }
        }
        // MongoDB leaves its own databases out by itself; other servers send what happens there.
        Scope::Deployment => {
            let internal = INTERNAL_DATABASES.to_vec();
            doc! { "$or": [
                { "ns.db": { "$nin": &internal } },
                { "to.db": { "$exists": true, "$nin": &internal } },
            ] }
        }
    }
}

fn operation_condition(scope: &Scope, operations: &BTreeSet<Operation>) -> Option<Document> {
    let mut passing = operations.clone();
    passing.extend(control_operations(scope));
    if !passing.contains(&Operation::Other) {
        return Some(operation_in(passing.into_iter()));
    }
    // `Other` is every unknown name, so the condition excludes the operations that are not selected.
    let mut unwanted = Operation::ALL
        .into_iter()
        .filter(|operation| !passing.contains(operation) && *operation != Operation::Invalidate)
        .peekable();
    unwanted
        .peek()
        .is_some()
        .then(|| operation_not_in(unwanted))
}

fn operation_not_in(operations: impl Iterator<Item = Operation>) -> Document {
    let names: Vec<&str> = operations.map(Operation::name).collect();
    doc! { "operationType": { "$nin": names } }
}

fn operation_in(operations: impl Iterator<Item = Operation>) -> Document {
    let names: Vec<&str> = operations.map(Operation::name).collect();
    doc! { "operationType": { "$in": names } }
}

/// Returns the operations that end a stream. Their events pass whatever operations are selected. They name no
/// collection of the scope, except in the stream of a single collection.
fn control_operations(scope: &Scope) -> &'static [Operation] {
    match scope {
        Scope::Collection { .. } => &[
            Operation::Drop,
            Operation::Rename,
            Operation::DropDatabase,
            Operation::Invalidate,
        ],
        Scope::Collections { .. } | Scope::Database { .. } => {
            &[Operation::DropDatabase, Operation::Invalidate]
        }
        // A deployment is never dropped.
        Scope::Deployment => &[],
    }
}
