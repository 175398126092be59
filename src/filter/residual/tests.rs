use bson::Bson;

use super::*;
use crate::filter::{Condition, Predicate};
use crate::pb;
use crate::pb::field_filter::Operator;
use crate::pipeline::fixtures::*;

fn with_images(filters: Vec<pb::Filter>) -> pb::WatchRequest {
    pb::WatchRequest {
        full_document_before_change: pb::FullDocumentBeforeChange::WhenAvailable.into(),
        ..filtered(filters)
    }
}

fn changed() -> pb::Filter {
    field("a", Operator::Changed(true))
}

#[test]
fn residuals_are_equal_if_and_only_if_the_same_events_pass() {
    let same = |request: fn() -> pb::WatchRequest| {
        let (left, right) = (watch(request()), watch(request()));
        assert_eq!(left.shared_residual(), right.shared_residual());
    };
    same(request);
    same(|| with_images(vec![eq("a", 1), changed(), regex("b", "x", "i")]));

    let exists = |value| field("a", Operator::Exists(value));
    let list =
        |operator: fn(prost_types::ListValue) -> Operator, json| field("a", operator(list(json)));
    use serde_json::json;
    let filters = vec![
        vec![],
        vec![eq("a", 1)],
        vec![eq("a", "1")],
        vec![eq("a", 1.5)],
        vec![eq("a", json!({"$numberLong": "1"}))],
        vec![eq("b", 1)],
        vec![eq("a.b", 1)],
        vec![eq("a", json!([1]))],
        vec![eq("a", json!({"x": 1}))],
        vec![field("a", Operator::Ne(value(json!(1))))],
        vec![field("a", Operator::Gt(value(json!(1))))],
        vec![field("a", Operator::Gte(value(json!(1))))],
        vec![field("a", Operator::Lt(value(json!(1))))],
        vec![field("a", Operator::Lte(value(json!(1))))],
        vec![list(Operator::In, json!([1]))],
        vec![list(Operator::In, json!([1, 2]))],
        vec![list(Operator::NotIn, json!([1]))],
        vec![exists(true)],
        vec![exists(false)],
        vec![changed()],
        vec![field("a", Operator::Changed(false))],
        vec![field("a", Operator::Prefix("x".into()))],
        vec![field("a", Operator::Prefix("xi".into()))],
        vec![regex("a", "x", "")],
        vec![regex("a", "x", "i")],
        vec![eq("a", 1), eq("b", 1)],
        vec![any_of(vec![eq("a", 1), eq("b", 1)])],
        vec![none_of(vec![eq("a", 1), eq("b", 1)])],
        vec![all_of(vec![eq("a", 1), any_of(vec![eq("b", 1)])])],
        vec![all_of(vec![any_of(vec![eq("a", 1), eq("b", 1)])])],
    ];
    let mut seen: Vec<Residual> = Vec::new();
    let mut note = |request: pb::WatchRequest| {
        let residual = watch(request).shared_residual();
        if let Some(other) = seen.iter().find(|it| **it == residual) {
            panic!("{residual:?} equals {other:?}");
        }
        seen.push(residual);
    };
    for filters in filters {
        let unfiltered = filters.is_empty();
        for (index, count) in [(0, 2), (1, 2), (0, 3), (0, 512)] {
            note(pb::WatchRequest {
                shard: Some(pb::ConsumerShard { index, count }),
                ..filtered(filters.clone())
            });
        }
        note(filtered(filters.clone()));
        note(pb::WatchRequest {
            operations: vec![pb::OperationType::Insert.into()],
            ..filtered(filters.clone())
        });
        note(pb::WatchRequest {
            operations: vec![
                pb::OperationType::Insert.into(),
                pb::OperationType::Drop.into(),
            ],
            ..filtered(filters.clone())
        });
        if !unfiltered {
            note(with_images(filters.clone()));
            note(pb::WatchRequest {
                missing_image_policy: pb::MissingImagePolicy::Drop.into(),
                ..filtered(filters)
            });
        }
    }
}

/// Watches that differ only in such options share an evaluator.
#[test]
fn options_without_effect_make_no_difference() {
    let plain = watch(request()).shared_residual();
    let dropping = watch(pb::WatchRequest {
        missing_image_policy: pb::MissingImagePolicy::Drop.into(),
        ..with_images(vec![])
    })
    .shared_residual();
    assert_eq!(plain, dropping);
    let all_the_same = Residual::new(Clauses {
        pre_images: true,
        missing_image: MissingImage::Drop,
        ..Clauses::default()
    });
    assert_eq!(all_the_same, Residual::pass_all());
}

#[test]
fn a_residual_with_nan_equals_itself() {
    let nan = || {
        Residual::new(Clauses {
            filter: Some(
                Predicate::Field {
                    path: "a".into(),
                    op: Condition::Eq(Bson::Double(f64::NAN)),
                }
                .into(),
            ),
            ..Clauses::default()
        })
    };
    assert_eq!(nan(), nan());
}
