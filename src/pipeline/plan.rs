//! The change-stream pipeline of a feed.

use std::collections::BTreeSet;

use bson::{Bson, Document, doc};
use sha2::{Digest as _, Sha256};

use super::Watch;
use super::match_stage::{Clause, all_of, any_of, certain_match, possible_match, with_document};
use crate::filter::Predicate;
use crate::model::{BeforeChange, INTERNAL_DATABASES, MissingImage, Operation, Scope};

const AFTER: &str = "fullDocument";
const BEFORE: &str = "fullDocumentBeforeChange";

/// The change stream of one feed. Watches with equal plans can share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The collection, database or deployment to open the stream on.
    pub scope: Scope,
    /// The options of the `$changeStream` stage that differ from MongoDB's defaults, except the start
    /// position.
    pub change_stream: Document,
    /// The stages after `$changeStream`, without `$changeStreamSplitLargeEvent`.
    pub stages: Vec<Document>,
    /// The operations to deliver; `None` means all. The stream also contains the events that show why a
    /// watch was invalidated; the feed drops those after reading them.
    pub operations: Option<BTreeSet<Operation>>,
}

impl Plan {
    /// Returns the plan of a watch that has its own change stream, where MongoDB does all the filtering
    /// that a pipeline can express; see [`Residual::for_dedicated`](crate::filter::Residual::for_dedicated) for
    /// the rest.
    ///
    /// The stages are `$match`, cheapest first: namespaces and operations, then conditions on the document
    /// key, then conditions on documents. The row filter and the client's filter have one stage each for
    /// their key and for their documents.
    ///
    /// mongod moves a condition into the oplog scan, before it looks up documents, if it can rewrite the
    /// condition for oplog entries. It can for `ns`, `operationType` and `documentKey`, but not for
    /// `fullDocument`, and it moves an `$or` only as a whole. So the two kinds are in separate stages.
    pub fn dedicated(watch: &Watch) -> Plan {
        let mut on_documents = Vec::new();
        if selects_documents(watch.operations.as_ref()) {
            if let Some(row_filter) = &watch.row_filter {
                on_documents.extend(row_filter_conditions(row_filter));
            }
            if let Some(filter) = &watch.filter {
                let pre_images = watch.before_change != BeforeChange::Off;
                let conditions = document_conditions(filter, watch.missing_image, pre_images);
                on_documents.extend(conditions);
            }
        }
        on_documents.sort_by_key(uses_images);
        let conditions = envelope_condition(watch, watch.operations.as_ref())
            .into_iter()
            .chain(on_documents);
        Plan::new(watch, conditions, watch.operations.clone())
    }

    /// Returns the plan that all watches of this scope with these image options share. It selects
    /// namespaces only; operations and documents are left to
    /// [`Residual::for_shared`](crate::filter::Residual::for_shared).
    pub fn shared(watch: &Watch) -> Plan {
        Plan::new(watch, envelope_condition(watch, None), None)
    }

    fn new(
        watch: &Watch,
        conditions: impl IntoIterator<Item = Document>,
        operations: Option<BTreeSet<Operation>>,
    ) -> Plan {
        Plan {
            scope: watch.scope.clone(),
            change_stream: change_stream(watch),
            stages: conditions
                .into_iter()
                .map(|condition| doc! { "$match": condition })
                .collect(),
            operations,
        }
    }

    /// Returns the plan without its stages, widened to the whole database if it selects some collections.
    /// Its stream skips no event, so an empty reply means that there was none.
    pub fn unfiltered(&self) -> Plan {
        let scope = match &self.scope {
            Scope::Collections { database, .. } => Scope::Database {
                database: database.clone(),
            },
            scope => scope.clone(),
        };
        Plan {
            scope,
            change_stream: self.change_stream.clone(),
            stages: Vec::new(),
            operations: None,
        }
    }

    /// Returns the plan without the stages that use documents. MongoDB looks up the same documents for
    /// its stream, and skips no event because of them.
    #[must_use]
    pub fn without_document_stages(&self) -> Plan {
        let mut plan = self.clone();
        plan.stages.retain(|stage| !uses_images(stage));
        plan
    }

    /// Returns whether the stream fails if a pre-image is missing.
    #[must_use]
    pub fn requires_pre_image(&self) -> bool {
        matches!(self.change_stream.get_str(BEFORE), Ok("required"))
    }

    /// Returns the plan without documents, so that MongoDB looks up none. Its events carry only the fields
    /// that identify them.
    #[must_use]
    pub fn identity_only(&self) -> Plan {
        let mut plan = self.without_document_stages();
        for image in [AFTER, BEFORE] {
            plan.change_stream.remove(image);
        }
        plan.stages.push(doc! {
            "$project": { "_id": 1, "operationType": 1, "clusterTime": 1, "ns": 1 },
        });
        plan
    }

    /// Returns the plan of those events among its own that meet a condition, which uses no document.
    ///
    /// MongoDB applies such a condition before it looks up documents: it moves a `$match` before the stages
    /// that add them, and rewrites conditions on `clusterTime` for oplog entries
    /// (`change_stream_pipeline_helpers.cpp` and `change_stream_rewrite_helpers.cpp` in its repository). So
    /// an event that is left out cannot fail.
    #[must_use]
    pub fn narrowed_to(&self, condition: Document) -> Plan {
        let mut plan = self.clone();
        plan.stages.insert(0, doc! { "$match": condition });
        plan
    }

    /// Returns the plan of the events that the stages that use documents reject, and all others pass: together
    /// with those of this plan they are the events of
    /// [`without_document_stages`](Self::without_document_stages).
    #[must_use]
    pub fn rejected_by_documents(&self) -> Plan {
        let on_documents = self.stages.iter().filter(|stage| uses_images(stage));
        let conditions = on_documents.filter_map(|stage| stage.get_document("$match").ok());
        let mut plan = self.without_document_stages();
        plan.stages.push(doc! {
            "$match": { "$nor": [all_of(conditions.cloned().collect())] },
        });
        plan
    }

    /// Returns whether documents decide which events the stream contains.
    #[must_use]
    pub fn filters_documents(&self) -> bool {
        self.stages.iter().any(uses_images)
    }

    /// Returns a hash that identifies the events of this plan's stream. It is the same in every process
    /// and version, so a resume token can record the stream that it came from. `operations` is left out,
    /// because it selects from the stream.
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(b"weir plan 1\0");
        let scope = self.scope.canonical_bytes();
        hash.update((scope.len() as u64).to_be_bytes());
        hash.update(scope);
        // A BSON document starts with its length, so concatenation is unambiguous.
        for document in std::iter::once(&self.change_stream).chain(&self.stages) {
            hash.update(
                document
                    .to_vec()
                    .expect("validation keeps NUL out of every field name"),
            );
        }
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hash.finalize()[..16]);
        fingerprint
    }
}

/// Returns whether a stage uses the document before or after the change, as a key or as a value.
fn uses_images(stage: &Document) -> bool {
    stage.to_string().contains(AFTER)
}

fn change_stream(watch: &Watch) -> Document {
    let mut options = Document::new();
    if let Some(value) = watch.full_document.option() {
        options.insert("fullDocument", value);
    }
    if let Some(value) = watch.before_change.option() {
        options.insert("fullDocumentBeforeChange", value);
    }
    if watch.expanded {
        options.insert("showExpandedEvents", true);
    }
    if watch.scope == Scope::Deployment {
        options.insert("allChangesForCluster", true);
    }
    options
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

fn selects_documents(operations: Option<&BTreeSet<Operation>>) -> bool {
    operations.is_none_or(|operations| operations.iter().any(|operation| operation.is_document()))
}

/// Returns the condition on namespace and operation, if there is any.
fn envelope_condition(watch: &Watch, operations: Option<&BTreeSet<Operation>>) -> Option<Document> {
    let mut condition = namespace_condition(watch);
    condition.extend(
        operations
            .and_then(|operations| operation_condition(&watch.scope, operations))
            .unwrap_or_default(),
    );
    (!condition.is_empty()).then_some(condition)
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

/// Returns the conditions of the client's filter, cheapest first. Each passes all events of other
/// operations and, if the filter uses `changed`, all events that may match.
fn document_conditions(
    filter: &Predicate,
    missing_image: MissingImage,
    pre_images: bool,
) -> Vec<Document> {
    // `_id` never changes, so any of the documents gives the same result.
    if filter.is_about_id_only() {
        return match with_document(filter, AFTER) {
            Clause::When(key) => vec![for_document_operations(vec![key])],
            Clause::Always | Clause::Never => Vec::new(),
        };
    }

    let possible_match = possible_match(filter);
    let without_document = match missing_image {
        MissingImage::Deliver => possible_match.clone(),
        MissingImage::Drop => certain_match(filter),
    };
    let with_after = with_document(filter, AFTER);
    if with_after == Clause::Always && without_document == Clause::Always {
        return Vec::new();
    }
    let mut alternatives = Vec::new();
    alternatives.extend(with_image(AFTER, with_after));
    if pre_images {
        alternatives.extend(with_image(BEFORE, with_document(filter, BEFORE)));
    }
    alternatives.extend(without_after_image(without_document, pre_images));

    let mut conditions = Vec::new();
    // The possible matches by key are a superset of the matches below. Checking the key first is cheap,
    // and saves mongod the look-up of documents that cannot match.
    if let Clause::When(key) = possible_match {
        conditions.push(for_document_operations(vec![key]));
    }
    conditions.push(for_document_operations(alternatives));
    conditions
}

/// Returns the conditions of a row filter, cheapest first: it certainly holds for every image that an
/// event carries; if there is none, for the document key alone. Events of other operations pass.
fn row_filter_conditions(row_filter: &Predicate) -> Vec<Document> {
    if row_filter.is_about_id_only() {
        return match with_document(row_filter, AFTER) {
            Clause::Always => Vec::new(),
            Clause::Never => vec![for_document_operations(Vec::new())],
            Clause::When(key) => vec![for_document_operations(vec![key])],
        };
    }
    let mut conditions = Vec::new();
    match possible_match(row_filter) {
        Clause::Always => {}
        Clause::Never => return vec![for_document_operations(Vec::new())],
        Clause::When(key) => conditions.push(for_document_operations(vec![key])),
    }
    let mut all = Vec::new();
    for image in [AFTER, BEFORE] {
        match with_document(row_filter, image) {
            Clause::Always => {}
            Clause::Never => all.push(absent(image)),
            Clause::When(holds) => all.push(any_of(vec![absent(image), holds])),
        }
    }
    let mut alternatives = vec![present(AFTER), present(BEFORE)];
    match certain_match(row_filter) {
        Clause::Always => {}
        Clause::Never => all.push(any_of(alternatives)),
        Clause::When(key) => {
            alternatives.push(key);
            all.push(any_of(alternatives));
        }
    }
    if !all.is_empty() {
        conditions.push(for_document_operations(vec![all_of(all)]));
    }
    conditions
}

fn for_document_operations(alternatives: Vec<Document>) -> Document {
    let names: Vec<&str> = Operation::DOCUMENT.map(Operation::name).to_vec();
    let mut any = vec![doc! { "operationType": { "$nin": names } }];
    any.extend(alternatives);
    any_of(any)
}

/// Returns the condition on an event that carries this image.
fn with_image(image: &str, clause: Clause) -> Option<Document> {
    match clause {
        Clause::Never => None,
        Clause::Always => Some(present(image)),
        Clause::When(condition) => Some(all_of(vec![present(image), condition])),
    }
}

/// Returns the condition on an event without the document after the change. A delete never has one; if
/// its pre-image is present, that alone decides.
fn without_after_image(clause: Clause, pre_images: bool) -> Option<Document> {
    let mut parts = vec![absent(AFTER)];
    if pre_images {
        parts.push(any_of(vec![
            doc! { "operationType": { "$ne": Operation::Delete.name() } },
            absent(BEFORE),
        ]));
    }
    match clause {
        Clause::Never => return None,
        Clause::Always => {}
        Clause::When(condition) => parts.push(condition),
    }
    Some(all_of(parts))
}

/// Returns the condition that the image is present. In MongoDB, "not null" also excludes a missing field.
fn present(image: &str) -> Document {
    doc! { image: { "$ne": Bson::Null } }
}

/// Returns the condition that the image is absent. In MongoDB, "null" also matches a missing field. Both
/// occur: null if a look-up found nothing, missing if the operation never has the image.
fn absent(image: &str) -> Document {
    doc! { image: { "$eq": Bson::Null } }
}

#[cfg(test)]
mod tests;
