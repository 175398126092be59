//! What a feed asks of MongoDB.

use std::collections::BTreeSet;

use bson::{Bson, Document, doc};
use sha2::{Digest as _, Sha256};

use super::match_stage::{Verdict, all_of, any_of, possibly, surely, with_document};
use super::{BeforeChange, MissingImage, Operation, Predicate, Scope, Watch};

const AFTER: &str = "fullDocument";
const BEFORE: &str = "fullDocumentBeforeChange";

/// What one feed needs. Watches with equal plans can read the same change stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What is watched: the collection, database or deployment to open the stream on.
    pub scope: Scope,
    /// The options of the `$changeStream` stage that differ from MongoDB's defaults, without any
    /// that says where to start.
    pub change_stream: Document,
    /// The stages after `$changeStream`, without `$changeStreamSplitLargeEvent`.
    pub stages: Vec<Document>,
    /// The operations that the client wants; `None` means all. The stream also holds the events
    /// that tell why a watch was invalidated, which are to be dropped after a look at them.
    pub asked: Option<BTreeSet<Operation>>,
}

impl Plan {
    /// The plan of a watch with a change stream of its own, where MongoDB does all the filtering
    /// that a pipeline can say; see [`Residual::beyond`](super::Residual::beyond) for the rest.
    ///
    /// The stages are `$match`, cheapest first: namespaces and operations, then what the document key
    /// rules out, then what needs documents; of the latter two one each for the view's guard and for the
    /// filter. mongod moves a condition into the
    /// oplog scan, before any document is looked up, where it can rewrite it for oplog entries:
    /// `ns`, `operationType` and `documentKey` it can, `fullDocument` it cannot. An `$or` moves
    /// only as a whole, so conditions that can move stand in stages of their own, apart from those
    /// that cannot.
    pub fn dedicated(watch: &Watch) -> Plan {
        let mut on_documents = Vec::new();
        if wants_documents(watch.operations.as_ref()) {
            if let Some(guard) = &watch.view.guard {
                on_documents.extend(guard_conditions(guard));
            }
            if let Some(filter) = &watch.filter {
                let pre_images = watch.before_change != BeforeChange::Off;
                let conditions = document_conditions(filter, watch.missing_image, pre_images);
                on_documents.extend(conditions);
            }
        }
        on_documents.sort_by_key(names_documents);
        let envelope = envelope(&watch.scope, watch.operations.as_ref());
        let conditions = envelope.into_iter().chain(on_documents);
        Plan::new(watch, conditions, watch.operations.clone())
    }

    /// The plan that every watch of this scope with these image options can share: the namespaces
    /// are narrowed, and nothing is said of operations or documents, which is left to
    /// [`Residual::of`](super::Residual::of).
    pub fn shared(watch: &Watch) -> Plan {
        Plan::new(watch, envelope(&watch.scope, None), None)
    }

    fn new(
        watch: &Watch,
        conditions: impl IntoIterator<Item = Document>,
        asked: Option<BTreeSet<Operation>>,
    ) -> Plan {
        Plan {
            scope: watch.scope.clone(),
            change_stream: change_stream(watch),
            stages: conditions
                .into_iter()
                .map(|condition| doc! { "$match": condition })
                .collect(),
            asked,
        }
    }

    /// The same without any stage that leaves an event out: over the whole database where the plan
    /// narrows that to some of its collections. A reply without events has then passed over nothing.
    pub fn unnarrowed(&self) -> Plan {
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
            asked: None,
        }
    }

    /// The same without the stages that judge documents: the stream in which MongoDB looks up whatever it
    /// looks up in this plan's.
    #[must_use]
    pub fn before_documents(&self) -> Plan {
        let mut plan = self.clone();
        plan.stages.retain(|stage| !names_documents(stage));
        plan
    }

    /// Whether the documents of before the changes must be there.
    #[must_use]
    pub fn needs_before(&self) -> bool {
        matches!(self.change_stream.get_str(BEFORE), Ok("required"))
    }

    /// The same without documents, in which MongoDB looks up none: of each event what tells which one it
    /// is, and no more.
    #[must_use]
    pub fn outline(&self) -> Plan {
        let mut plan = self.before_documents();
        for image in [AFTER, BEFORE] {
            plan.change_stream.remove(image);
        }
        plan.stages.push(doc! {
            "$project": { "_id": 1, "operationType": 1, "clusterTime": 1, "ns": 1 },
        });
        plan
    }

    /// Names what the stream of this plan holds: equal for plans whose streams hold the same
    /// events, and the same in every process and version, so that a resume token can tell whether
    /// it came from such a stream. `asked` is no part of it, because it chooses from the stream.
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(b"weir plan 1\0");
        let scope = self.scope.canonical_bytes();
        hash.update((scope.len() as u64).to_be_bytes());
        hash.update(scope);
        // BSON documents begin with their length, so they can follow each other.
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

/// Whether a stage names a document before or after the change, as a key or as a value.
fn names_documents(stage: &Document) -> bool {
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

/// The events that tell that a stream ends and why. They pass whatever operations are asked for.
fn control(scope: &Scope) -> &'static [Operation] {
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
        // A deployment never goes away.
        Scope::Deployment => &[],
    }
}

fn wants_documents(asked: Option<&BTreeSet<Operation>>) -> bool {
    asked.is_none_or(|asked| asked.iter().any(|operation| operation.is_document()))
}

/// The conditions on namespace and operation, where there are any.
fn envelope(scope: &Scope, asked: Option<&BTreeSet<Operation>>) -> Option<Document> {
    let mut condition = Document::new();
    if let Scope::Collections { collections, .. } = scope {
        let names: Vec<&str> = collections.iter().map(String::as_str).collect();
        // By name alone: mongod scans far faster for that than for pairs of database and name, and
        // the stream is the database's. `to` brings the rename of another collection to a watched
        // name. The control events hold no collection.
        condition.insert(
            "$or",
            vec![
                doc! { "ns.coll": { "$in": &names } },
                doc! { "to.coll": { "$in": &names } },
                operation_in(control(scope).iter().copied()),
            ],
        );
    }
    if let Some(asked) = asked
        && let Some(operations) = operation_condition(scope, asked)
    {
        condition.extend(operations);
    }
    (!condition.is_empty()).then_some(condition)
}

fn operation_condition(scope: &Scope, asked: &BTreeSet<Operation>) -> Option<Document> {
    let mut passing = asked.clone();
    passing.extend(control(scope));
    if !passing.contains(&Operation::Other) {
        return Some(operation_in(passing.into_iter()));
    }
    // Other is every name but the known ones: what was not asked for is left out instead.
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

/// The conditions on documents, cheapest first. Each lets every event about something else pass,
/// and with `changed` in the filter every event that it may hold for.
fn document_conditions(
    filter: &Predicate,
    missing_image: MissingImage,
    pre_images: bool,
) -> Vec<Document> {
    // `_id` never changes, so which document is judged does not matter.
    if filter.is_about_id_only() {
        return match with_document(filter, AFTER) {
            Verdict::When(key) => vec![about_documents(vec![key])],
            Verdict::Always | Verdict::Never => Vec::new(),
        };
    }

    let possibly = possibly(filter);
    let without_document = match missing_image {
        MissingImage::Deliver => possibly.clone(),
        MissingImage::Drop => surely(filter),
    };
    let with_after = with_document(filter, AFTER);
    if with_after == Verdict::Always && without_document == Verdict::Always {
        return Vec::new();
    }
    let mut ways = Vec::new();
    ways.extend(seeing(AFTER, with_after));
    if pre_images {
        ways.extend(seeing(BEFORE, with_document(filter, BEFORE)));
    }
    ways.extend(blind(without_document, pre_images));

    let mut conditions = Vec::new();
    // What may match by its key is a superset of everything below: one cheap look at the key
    // spares mongod the look-up of documents that cannot match.
    if let Verdict::When(key) = possibly {
        conditions.push(about_documents(vec![key]));
    }
    conditions.push(about_documents(ways));
    conditions
}

/// The conditions of a guard, cheapest first: it surely holds for every image that an event carries, or
/// by the key alone where it carries none. An event about anything else passes.
fn guard_conditions(guard: &Predicate) -> Vec<Document> {
    if guard.is_about_id_only() {
        return match with_document(guard, AFTER) {
            Verdict::Always => Vec::new(),
            Verdict::Never => vec![about_documents(Vec::new())],
            Verdict::When(key) => vec![about_documents(vec![key])],
        };
    }
    let mut conditions = Vec::new();
    match possibly(guard) {
        Verdict::Always => {}
        Verdict::Never => return vec![about_documents(Vec::new())],
        Verdict::When(key) => conditions.push(about_documents(vec![key])),
    }
    let mut all = Vec::new();
    for image in [AFTER, BEFORE] {
        match with_document(guard, image) {
            Verdict::Always => {}
            Verdict::Never => all.push(absent(image)),
            Verdict::When(holds) => all.push(any_of(vec![absent(image), holds])),
        }
    }
    let mut shown = vec![present(AFTER), present(BEFORE)];
    match surely(guard) {
        Verdict::Always => {}
        Verdict::Never => all.push(any_of(shown)),
        Verdict::When(key) => {
            shown.push(key);
            all.push(any_of(shown));
        }
    }
    if !all.is_empty() {
        conditions.push(about_documents(vec![all_of(all)]));
    }
    conditions
}

fn about_documents(ways: Vec<Document>) -> Document {
    let names: Vec<&str> = Operation::DOCUMENT.map(Operation::name).to_vec();
    let mut any = vec![doc! { "operationType": { "$nin": names } }];
    any.extend(ways);
    any_of(any)
}

/// The way of an event with this image.
fn seeing(image: &str, verdict: Verdict) -> Option<Document> {
    match verdict {
        Verdict::Never => None,
        Verdict::Always => Some(present(image)),
        Verdict::When(condition) => Some(all_of(vec![present(image), condition])),
    }
}

/// The way of an event without the document after the change. A delete never has one, so with its
/// pre-image at hand that alone judges it.
fn blind(verdict: Verdict, pre_images: bool) -> Option<Document> {
    let mut parts = vec![absent(AFTER)];
    if pre_images {
        parts.push(any_of(vec![
            doc! { "operationType": { "$ne": Operation::Delete.name() } },
            absent(BEFORE),
        ]));
    }
    match verdict {
        Verdict::Never => return None,
        Verdict::Always => {}
        Verdict::When(condition) => parts.push(condition),
    }
    Some(all_of(parts))
}

/// MongoDB reads "not null" as "there and not null", which is what an image must be.
fn present(image: &str) -> Document {
    doc! { image: { "$ne": Bson::Null } }
}

/// MongoDB reads "null" as "null or missing". Both come: the one from a look-up that found
/// nothing, the other from events that never hold the image.
fn absent(image: &str) -> Document {
    doc! { image: { "$eq": Bson::Null } }
}

#[cfg(test)]
mod tests;
