//! Which plans are equal, and which stages read documents.

use bson::{Bson, Document, doc};
use proptest::prelude::*;
use proptest::sample::select;

use crate::filter::{Condition, Predicate};
use crate::pb;
use crate::pipeline::fixtures::*;
use crate::pipeline::{Plan, Watch};

fn is(path: &str, literal: impl Into<Bson>) -> Predicate {
    Predicate::Field {
        path: path.to_owned(),
        op: Condition::Eq(literal.into()),
    }
}

fn bytes(documents: &[Document]) -> Vec<Vec<u8>> {
    let bytes = documents.iter().map(|document| document.to_vec().unwrap());
    bytes.collect()
}

#[test]
fn plans_that_differ_only_in_the_order_of_keys_are_different() {
    let with = |literal: Document| {
        let mut watch = watch(request());
        watch.filter = Some(is("a", literal).into());
        Plan::dedicated(&watch)
    };
    let one = with(doc! { "x": 1, "y": 2 });
    assert_eq!(one, with(doc! { "x": 1, "y": 2 }));
    let other = with(doc! { "y": 2, "x": 1 });
    assert_ne!(one, other);
    assert!(!one.has_stream_of(&other));
    assert_ne!(one.fingerprint(), other.fingerprint());
}

#[test]
fn a_plan_with_nan_equals_itself() {
    let with_nan = || {
        plan(filtered(vec![eq(
            "a",
            serde_json::json!({"$numberDouble": "NaN"}),
        )]))
    };
    assert_eq!(with_nan(), with_nan());
}

/// A name or a value that reads like the field of a document is none.
#[test]
fn only_stages_that_read_documents_are_removed_with_them() {
    let images = ["fullDocument", "fullDocumentBeforeChange"];
    let several = plan(pb::WatchRequest {
        collections: images.map(str::to_owned).into(),
        ..request()
    });
    let by_id = plan(filtered(vec![
        eq("_id", "fullDocument"),
        eq("_id.fullDocument", 1),
    ]));
    for plan in [several, by_id] {
        assert!(!plan.filters_documents());
        assert_eq!(plan.without_document_stages(), plan);
        assert_eq!(plan.stages().len(), 1);
        assert_eq!(plan.identity_only().stages()[..1], plan.stages());
    }

    let on_documents = plan(filtered(vec![eq("_id", 1), eq("a", 1)]));
    assert!(on_documents.filters_documents());
    let [key, _] = &on_documents.stages()[..] else {
        panic!("{on_documents:?}");
    };
    let without = on_documents.without_document_stages();
    assert_eq!(without.stages(), std::slice::from_ref(key));
    assert!(!without.filters_documents());
    let rejected = on_documents.rejected_by_documents();
    assert!(rejected.is_some_and(|it| it.filters_documents()));
}

/// Watches of few different parts, so that two of them often have equal plans.
fn watches() -> impl Strategy<Value = Watch> {
    let requests = (
        select(vec![
            vec![],
            vec!["a"],
            vec!["b"],
            vec!["a", "b"],
            vec!["ab"],
        ]),
        select(vec![vec![], vec![1], vec![1, 2], vec![5]]),
        0..4_i32,
        0..4_i32,
        0..3_i32,
        any::<bool>(),
    );
    let requests = requests.prop_map(
        |(collections, operations, full_document, before_change, missing_image, expanded)| {
            pb::WatchRequest {
                collections: collections.into_iter().map(str::to_owned).collect(),
                operations,
                full_document,
                full_document_before_change: before_change,
                missing_image_policy: missing_image,
                show_expanded_events: expanded,
                ..request()
            }
        },
    );
    let predicates = || {
        let literals = select(vec![
            Bson::Int32(1),
            Bson::Int64(1),
            Bson::Double(1.0),
            Bson::Double(0.0),
            Bson::Double(-0.0),
            Bson::Double(f64::NAN),
            Bson::String("1".to_owned()),
            doc! { "x": 1, "y": 2 }.into(),
            doc! { "y": 2, "x": 1 }.into(),
            doc! { "y": 2, "x": { "x": 1, "y": 2 } }.into(),
            doc! { "y": 2, "x": { "y": 2, "x": 1 } }.into(),
        ]);
        let fields = (select(vec!["_id", "a"]), literals).prop_map(|(path, it)| is(path, it));
        let several = prop::collection::vec(fields.clone(), 1..3);
        prop_oneof![
            Just(None),
            fields.prop_map(Some),
            several
                .clone()
                .prop_map(|parts| Some(Predicate::AllOf(parts))),
            several.prop_map(|parts| Some(Predicate::NoneOf(parts))),
        ]
    };
    (requests, predicates(), predicates()).prop_map(|(request, filter, row_filter)| {
        let mut watch = watch(request);
        watch.filter = filter.map(Into::into);
        watch.row_filter = row_filter.map(Into::into);
        watch
    })
}

fn plans() -> impl Strategy<Value = Plan> {
    (watches(), 0..7).prop_map(|(watch, kind)| {
        let dedicated = Plan::dedicated(&watch);
        match kind {
            0 => Plan::shared(&watch),
            1 => dedicated.unfiltered(),
            2 => dedicated.identity_only(),
            3 => dedicated.without_document_stages(),
            4 => dedicated.narrowed_to(doc! { "_id": 1 }),
            5 if dedicated.filters_documents() => dedicated
                .rejected_by_documents()
                .expect("no stages of a client"),
            _ => dedicated,
        }
    })
}

fn check(left: &Plan, right: &Plan) {
    let same_stream = left.scope() == right.scope()
        && bytes(&[left.options().to_document()]) == bytes(&[right.options().to_document()])
        && bytes(&left.stages()) == bytes(&right.stages());
    let same = same_stream && left.operations() == right.operations();
    assert_eq!(left == right, same, "{left:?} and {right:?}");
    assert_eq!(left.has_stream_of(right), same_stream);
    assert_eq!(left.fingerprint() == right.fingerprint(), same_stream);
    if same {
        // Stages of equal BSON read the same, whatever they are for.
        assert_eq!(
            left.without_document_stages(),
            right.without_document_stages()
        );
        assert_eq!(left.identity_only(), right.identity_only());
    }
}

proptest! {
    /// Each plan is compared with all others of a handful.
    #[test]
    fn plans_are_equal_exactly_if_mongodb_gets_the_same_and_the_same_is_selected(
        plans in prop::collection::vec(plans(), 2..8),
    ) {
        for left in &plans {
            for right in &plans {
                check(left, right);
            }
        }
    }
}
