//! Guards in, conditions on documents out.

use std::sync::Arc;

use bson::{Bson, Document, doc};

use super::documents_by;
use crate::pb;
use crate::plan::fixtures::*;
use crate::plan::{Condition, Plan, Predicate, Residual, View, Watch};

fn is(path: &str, value: &str) -> Predicate {
    Predicate::Field {
        path: path.into(),
        op: Condition::Eq(value.into()),
    }
}

fn guarded(request: pb::WatchRequest, guard: Predicate) -> Watch {
    let mut watch = watch(request);
    watch.view = Arc::new(View {
        guard: Some(guard),
        ..View::whole()
    });
    watch
}

fn matches(watch: &Watch) -> Vec<Document> {
    let stages = Plan::dedicated(watch).stages;
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

/// T56: whatever the client says of missing images.
#[test]
fn every_image_must_satisfy_the_guard_and_one_must_be_there() {
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
        let found = matches(&guarded(request, is("tenant", "a")));
        assert_eq!(found, std::slice::from_ref(&expected));
    }
}

#[test]
fn a_guard_on_the_key_is_one_look_at_the_key() {
    let key = documents_by(vec![doc! { "documentKey._id.tenant": { "$eq": "a" } }]);
    assert_eq!(matches(&guarded(request(), is("_id.tenant", "a"))), [key]);
}

#[test]
fn a_guard_that_holds_for_nothing_lets_no_document_through() {
    let others = doc! { "operationType": { "$nin": super::OTHERS.to_vec() } };
    for nothing in [
        Predicate::AnyOf(vec![]),
        Predicate::NoneOf(vec![Predicate::AllOf(vec![])]),
        Predicate::AllOf(vec![is("tenant", "a"), Predicate::AnyOf(vec![])]),
    ] {
        let found = matches(&guarded(request(), nothing));
        assert_eq!(found, std::slice::from_ref(&others));
    }
}

/// mongod moves what it can into the scan of the oplog, stage by stage, and looks documents up after that.
#[test]
fn what_the_key_rules_out_stands_before_what_needs_documents() {
    let request = pb::WatchRequest {
        filters: vec![eq("_id", "x"), eq("status", "open")],
        operations: vec![pb::OperationType::Insert.into()],
        ..request()
    };
    let guard = Predicate::AllOf(vec![is("_id.t", "a"), is("tenant", "a")]);
    let watch = guarded(request, guard);
    let about: Vec<(bool, bool)> = matches(&watch)
        .iter()
        .map(|stage| {
            let text = stage.to_string();
            (text.contains("documentKey"), text.contains("fullDocument"))
        })
        .collect();
    let (operation, key, documents) = ((false, false), (true, false), (true, true));
    assert_eq!(about, [operation, key, key, documents, documents]);
    let before = Plan::dedicated(&watch).before_documents();
    assert_eq!(before.stages.len(), 3);
}

#[test]
fn guards_make_plans_and_residuals_of_their_own_and_leave_the_shared_stream_alone() {
    let open = watch(request());
    let (a, b) = (
        guarded(request(), is("tenant", "a")),
        guarded(request(), is("tenant", "b")),
    );
    let plans = [&open, &a, &b].map(Plan::dedicated);
    let residuals = [&open, &a, &b].map(Residual::of);
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        assert_ne!(plans[i].fingerprint(), plans[j].fingerprint());
        assert_ne!(residuals[i], residuals[j]);
    }
    assert_eq!(Plan::shared(&a), Plan::shared(&open));
    // A guard is not a filter that says the same.
    let filtered = watch(filtered(vec![eq("tenant", "a")]));
    assert_ne!(Residual::of(&filtered), Residual::of(&a));
    // MongoDB does the filtering, and the guard is looked at once more.
    for watch in [&a, &b] {
        assert_eq!(Residual::beyond(watch), Residual::of(watch));
    }
    assert!(Residual::beyond(&open).passes_everything());
    assert!(!Residual::of(&a).passes_everything());
}

#[test]
fn a_guard_does_not_matter_where_no_operation_on_documents_is_asked_for() {
    let request = pb::WatchRequest {
        operations: vec![pb::OperationType::Drop.into()],
        ..request()
    };
    let (open, guarded) = (watch(request.clone()), guarded(request, is("tenant", "a")));
    assert_eq!(Plan::dedicated(&guarded), Plan::dedicated(&open));
    assert_eq!(Residual::of(&guarded), Residual::of(&open));
}
