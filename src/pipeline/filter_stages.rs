//! The stages of row filters and of clients' filters.
//!
//! mongod moves a condition into the oplog scan, before it looks up documents, if it can rewrite the condition
//! for oplog entries. It can for `ns`, `operationType` and `documentKey`, but not for `fullDocument`, and it
//! moves an `$or` only as a whole. So conditions on the document key and conditions on documents are in
//! separate stages.

use bson::{Bson, Document, doc};

use super::Watch;
use super::match_stage::{Clause, all_of, any_of, certain_match, possible_match, with_document};
use super::stage::{PipelineStage, Reads};
use crate::filter::Predicate;
use crate::model::{BeforeChange, MissingImage, Operation};

const AFTER: &str = "fullDocument";
const BEFORE: &str = "fullDocumentBeforeChange";

/// Returns the stages of the row filter and of the client's filter, cheapest first: each has one for the
/// document key and one for documents.
pub(super) fn filter_stages(watch: &Watch) -> Vec<PipelineStage> {
    let mut stages = Vec::new();
    if let Some(row_filter) = &watch.row_filter {
        let conditions = row_filter_conditions(&row_filter.predicate());
        let stage = |(reads, condition)| PipelineStage::RowFilter(reads, condition);
        stages.extend(conditions.into_iter().map(stage));
    }
    if let Some(filter) = &watch.filter {
        let pre_images = watch.before_change != BeforeChange::Off;
        let conditions = document_conditions(&filter.predicate(), watch.missing_image, pre_images);
        let stage = |(reads, condition)| PipelineStage::Filter(reads, condition);
        stages.extend(conditions.into_iter().map(stage));
    }
    stages.sort_by_key(PipelineStage::reads_documents);
    stages
}

/// Returns the conditions of a row filter, cheapest first: it certainly holds for every image that an
/// event carries; if there is none, for the document key alone. Events of other operations pass.
fn row_filter_conditions(row_filter: &Predicate) -> Vec<(Reads, Document)> {
    if row_filter.is_about_id_only() {
        return match with_document(row_filter, AFTER) {
            Clause::Always => Vec::new(),
            Clause::Never => vec![(Reads::Key, for_document_operations(Vec::new()))],
            Clause::When(key) => vec![(Reads::Key, for_document_operations(vec![key]))],
        };
    }
    let mut conditions = Vec::new();
    match possible_match(row_filter) {
        Clause::Always => {}
        Clause::Never => return vec![(Reads::Key, for_document_operations(Vec::new()))],
        Clause::When(key) => conditions.push((Reads::Key, for_document_operations(vec![key]))),
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
        conditions.push((Reads::Documents, for_document_operations(vec![all_of(all)])));
    }
    conditions
}

/// Returns the conditions of the client's filter, cheapest first. Each passes all events of other
/// operations and, if the filter uses `changed`, all events that may match.
fn document_conditions(
    filter: &Predicate,
    missing_image: MissingImage,
    pre_images: bool,
) -> Vec<(Reads, Document)> {
    // `_id` never changes, so any of the documents gives the same result.
    if filter.is_about_id_only() {
        return match with_document(filter, AFTER) {
            Clause::When(key) => vec![(Reads::Key, for_document_operations(vec![key]))],
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
        conditions.push((Reads::Key, for_document_operations(vec![key])));
    }
    conditions.push((Reads::Documents, for_document_operations(alternatives)));
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
