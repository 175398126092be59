//! The conditions of row filters.

use bson::{Bson, Document, doc};

use super::documents_by;
use crate::filter::{Condition, Predicate};
use crate::pb;
use crate::pipeline::fixtures::*;
use crate::pipeline::{Plan, View, Watch};

fn is(path: &str, value: &str) -> Predicate {
    Predicate::Field {
        path: path.into(),
        op: Condition::Eq(value.into()),
    }
}

fn with_row_filter(request: pb::WatchRequest, row_filter: Predicate) -> Watch {
    let mut watch = watch(request);
    watch.restrict_to(&View {
        row_filter: Some(row_filter.into()),
        ..View::unrestricted()
    });
    watch
}

fn matches(watch: &Watch) -> Vec<Document> {
    let stages = Plan::dedicated(watch).stages();
    let condition = |stage: Document| stage.get_document("$match").unwrap().clone();
    stages.into_iter().map(condition).collect()
}

fn absent(image: &str) -> Document {
    doc! { image: { "$eq": Bson::Null } }
}

fn present(image: &str) -> Document {
    doc! { image: { "$ne": Bson::Null } }
}

const AFTER: &str = "fullDocument";
const BEFORE: &str = "fullDocumentBeforeChange";

/// The client's policy on missing images does not matter.
#[test]
fn every_image_must_meet_the_row_filter_and_one_must_be_present() {
    let expected = documents_by(vec![doc! { "$and": [
        { "$or": [absent(AFTER), { "fullDocument.tenant": { "$eq": "a" } }] },
        { "$or": [absent(BEFORE), { "fullDocumentBeforeChange.tenant": { "$eq": "a" } }] },
        { "$or": [present(AFTER), present(BEFORE)] },
    ] }]);
    for policy in [
        pb::MissingImagePolicy::Deliver,
        pb::MissingImagePolicy::Drop,
    ] {
        let request = pb::WatchRequest {
            missing_image_policy: policy.into(),
            ..request()
        };
        let found = matches(&with_row_filter(request, is("tenant", "a")));
        assert_eq!(found, std::slice::from_ref(&expected));
    }
}

#[test]
fn a_row_filter_on_the_key_is_one_condition_on_the_key() {
    let key = documents_by(vec![doc! { "documentKey._id.tenant": { "$eq": "a" } }]);
    assert_eq!(
        matches(&with_row_filter(request(), is("_id.tenant", "a"))),
        [key]
    );
}

#[test]
fn a_row_filter_that_never_holds_passes_no_document_operation() {
    let others = doc! { "operationType": { "$nin": super::OTHERS.to_vec() } };
    for nothing in [
        Predicate::AnyOf(vec![]),
        Predicate::NoneOf(vec![Predicate::AllOf(vec![])]),
        Predicate::AllOf(vec![is("tenant", "a"), Predicate::AnyOf(vec![])]),
    ] {
        let found = matches(&with_row_filter(request(), nothing));
        assert_eq!(found, std::slice::from_ref(&others));
    }
}

/// mongod moves leading stages into the oplog scan if it can, and looks up documents after that.
#[test]
fn conditions_on_the_key_come_before_conditions_on_documents() {
    let request = pb::WatchRequest {
        filters: vec![eq("_id", "x"), eq("status", "open")],
        operations: vec![pb::OperationType::Insert.into()],
        ..request()
    };
    let row_filter = Predicate::AllOf(vec![is("_id.t", "a"), is("tenant", "a")]);
    let watch = with_row_filter(request, row_filter);
    let about: Vec<(bool, bool)> = matches(&watch)
        .iter()
        .map(|stage| {
            let text = stage.to_string();
            (text.contains("documentKey"), text.contains("fullDocument"))
        })
        .collect();
    let (operation, key, documents) = ((false, false), (true, false), (true, true));
    assert_eq!(about, [operation, key, key, documents, documents]);
    let before = Plan::dedicated(&watch).without_document_stages();
    assert_eq!(before.stages().len(), 3);
}

#[test]
fn row_filters_change_dedicated_plans_and_residuals_but_not_the_shared_plan() {
    let open = watch(request());
    let (a, b) = (
        with_row_filter(request(), is("tenant", "a")),
        with_row_filter(request(), is("tenant", "b")),
    );
    let plans = [&open, &a, &b].map(Plan::dedicated);
    let residuals = [&open, &a, &b].map(Watch::shared_residual);
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        assert_ne!(plans[i].fingerprint(), plans[j].fingerprint());
        assert_ne!(residuals[i], residuals[j]);
    }
    assert_eq!(Plan::shared(&a), Plan::shared(&open));
    // A row filter differs from a filter with the same condition.
    let filtered = watch(filtered(vec![eq("tenant", "a")]));
    assert_ne!(filtered.shared_residual(), a.shared_residual());
    // MongoDB applies the row filter, and the evaluator applies it again.
    for watch in [&a, &b] {
        assert_eq!(watch.dedicated_residual(), watch.shared_residual());
    }
    assert!(open.dedicated_residual().passes_everything());
    assert!(!a.shared_residual().passes_everything());
}

#[test]
fn a_row_filter_is_ignored_if_no_document_operation_is_selected() {
    let request = pb::WatchRequest {
        operations: vec![pb::OperationType::Drop.into()],
        ..request()
    };
    let (open, filtered) = (
        watch(request.clone()),
        with_row_filter(request, is("tenant", "a")),
    );
    assert_eq!(Plan::dedicated(&filtered), Plan::dedicated(&open));
    assert_eq!(filtered.shared_residual(), open.shared_residual());
}
