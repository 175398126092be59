//! The stage that selects namespaces and operations.

use std::collections::BTreeSet;

use bson::{Document, doc};

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
    let unwanted: Vec<&str> = Operation::ALL
        .into_iter()
        .filter(|operation| !passing.contains(operation) && *operation != Operation::Invalidate)
        .map(Operation::name)
        .collect();
    (!unwanted.is_empty()).then(|| doc! { "operationType": { "$nin": unwanted } })
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
