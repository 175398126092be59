//! The conditions of filters.

use bson::oid::ObjectId;
use bson::{Bson, Document, Regex, doc};
use serde_json::json;

use super::{documents_by, matches};
use crate::pb;
use crate::pb::field_filter::Operator;
use crate::pipeline::fixtures::*;

fn has_after() -> Document {
    doc! { "fullDocument": { "$ne": Bson::Null } }
}

fn no_after() -> Document {
    doc! { "fullDocument": { "$eq": Bson::Null } }
}

fn has_before() -> Document {
    doc! { "fullDocumentBeforeChange": { "$ne": Bson::Null } }
}

fn not_a_delete_with_pre_image() -> Document {
    doc! { "$or": [
        { "operationType": { "$ne": "delete" } },
        { "fullDocumentBeforeChange": { "$eq": Bson::Null } },
    ] }
}

fn bson_regex(pattern: &str, options: &str) -> Bson {
    Bson::RegularExpression(Regex {
        pattern: pattern.try_into().unwrap(),
        options: options.try_into().unwrap(),
    })
}

#[test]
fn every_operator_is_translated_explicitly() {
    let v = |json| value(json);
    for (operator, expected) in [
        (Operator::Eq(v(json!(1))), doc! { "$eq": 1 }),
        (Operator::Eq(v(json!(null))), doc! { "$eq": Bson::Null }),
        (Operator::Ne(v(json!("x"))), doc! { "$ne": "x" }),
        (Operator::Gt(v(json!(1.5))), doc! { "$gt": 1.5 }),
        (
            Operator::Gte(v(json!({"$numberLong": "7"}))),
            doc! { "$gte": 7_i64 },
        ),
        (Operator::Lt(v(json!(true))), doc! { "$lt": true }),
        (Operator::Lte(v(json!([1, "a"]))), doc! { "$lte": [1, "a"] }),
        (
            Operator::In(list(json!([1, null]))),
            doc! { "$in": [1, Bson::Null] },
        ),
        (Operator::NotIn(list(json!(["a"]))), doc! { "$nin": ["a"] }),
        (Operator::Exists(true), doc! { "$exists": true }),
        (Operator::Exists(false), doc! { "$exists": false }),
        (
            Operator::Prefix("a.b".into()),
            doc! { "$regex": bson_regex("^a\\.b", "") },
        ),
        (
            Operator::Regex(pb::RegexFilter {
                pattern: "a+".into(),
                options: "si".into(),
            }),
            doc! { "$regex": bson_regex("a+", "is") },
        ),
    ] {
        let request = filtered(vec![field("address.city", operator.clone())]);
        let expected_after = doc! { "fullDocument.address.city": expected.clone() };
        assert_eq!(
            matches(request),
            [documents_by(vec![
                doc! { "$and": [has_after(), expected_after] },
                no_after(),
            ])],
            "{operator:?}"
        );
        let by_key = filtered(vec![field("_id", operator.clone())]);
        assert_eq!(
            matches(by_key),
            [documents_by(vec![doc! { "documentKey._id": expected }])],
            "{operator:?}"
        );
    }
}

#[test]
fn groups_become_and_or_and_nor_and_single_conditions_are_not_wrapped() {
    let a = || eq("a", 1);
    let b = || eq("b", 2);
    let after_a = || doc! { "fullDocument.a": { "$eq": 1 } };
    let after_b = || doc! { "fullDocument.b": { "$eq": 2 } };
    for (filters, expected) in [
        (vec![a(), b()], doc! { "$and": [after_a(), after_b()] }),
        (
            vec![all_of(vec![a(), b()])],
            doc! { "$and": [after_a(), after_b()] },
        ),
        (
            vec![any_of(vec![a(), b()])],
            doc! { "$or": [after_a(), after_b()] },
        ),
        (
            vec![none_of(vec![a(), b()])],
            doc! { "$nor": [after_a(), after_b()] },
        ),
        (vec![all_of(vec![a()])], after_a()),
        (vec![any_of(vec![a()])], after_a()),
        (vec![none_of(vec![a()])], doc! { "$nor": [after_a()] }),
        (
            vec![none_of(vec![any_of(vec![a(), all_of(vec![b()])])])],
            doc! { "$nor": [{ "$or": [after_a(), after_b()] }] },
        ),
    ] {
        assert_eq!(
            matches(filtered(filters)),
            [documents_by(vec![
                doc! { "$and": [has_after(), expected] },
                no_after(),
            ])]
        );
    }
}

#[test]
fn an_event_without_its_document_does_not_pass_if_missing_images_are_dropped() {
    let request = pb::WatchRequest {
        missing_image_policy: pb::MissingImagePolicy::Drop as i32,
        ..filtered(vec![eq("a", 1)])
    };
    assert_eq!(
        matches(request),
        [documents_by(vec![doc! { "$and": [
            has_after(),
            { "fullDocument.a": { "$eq": 1 } },
        ] }])]
    );
}

#[test]
fn conditions_on_the_id_are_decided_without_the_document() {
    let id = ObjectId::parse_str("65f000000000000000000001").unwrap();
    let by_id = || eq("_id", json!({ "$oid": id.to_hex() }));
    let key = || doc! { "documentKey._id": { "$eq": id } };
    let after_a = || doc! { "fullDocument.a": { "$eq": 1 } };
    let drop = |request| pb::WatchRequest {
        missing_image_policy: pb::MissingImagePolicy::Drop as i32,
        ..request
    };

    // All of: another id certainly does not match, so the first stage drops it before any look-up.
    let all = filtered(vec![by_id(), eq("a", 1)]);
    let all_after = doc! { "$and": [has_after(), { "$and": [key(), after_a()] }] };
    assert_eq!(
        matches(all.clone()),
        [
            documents_by(vec![key()]),
            documents_by(vec![
                all_after.clone(),
                doc! { "$and": [no_after(), key()] }
            ]),
        ]
    );
    assert_eq!(
        matches(drop(all)),
        [documents_by(vec![key()]), documents_by(vec![all_after])]
    );

    // Any of: this id certainly matches, others may match.
    let any = filtered(vec![any_of(vec![by_id(), eq("a", 1)])]);
    let any_after = doc! { "$and": [has_after(), { "$or": [key(), after_a()] }] };
    assert_eq!(
        matches(any.clone()),
        [documents_by(vec![any_after.clone(), no_after()])]
    );
    assert_eq!(
        matches(drop(any)),
        [documents_by(vec![
            any_after,
            doc! { "$and": [no_after(), key()] },
        ])]
    );

    // None of: this id certainly does not match, no other certainly matches.
    let none = filtered(vec![none_of(vec![by_id(), eq("a", 1)])]);
    let none_after = doc! { "$and": [has_after(), { "$nor": [key(), after_a()] }] };
    let not_key = doc! { "$nor": [key()] };
    assert_eq!(
        matches(none.clone()),
        [
            documents_by(vec![not_key.clone()]),
            documents_by(vec![
                none_after.clone(),
                doc! { "$and": [no_after(), not_key.clone()] },
            ]),
        ]
    );
    assert_eq!(
        matches(drop(none)),
        [documents_by(vec![not_key]), documents_by(vec![none_after])]
    );
}

#[test]
fn a_filter_on_the_id_alone_needs_no_document_with_any_option() {
    let request = pb::WatchRequest {
        full_document_before_change: pb::FullDocumentBeforeChange::WhenAvailable as i32,
        missing_image_policy: pb::MissingImagePolicy::Drop as i32,
        ..filtered(vec![none_of(vec![eq("_id.shop", 1), eq("_id", "x")])])
    };
    assert_eq!(
        matches(request),
        [documents_by(vec![doc! { "$nor": [
            { "documentKey._id.shop": { "$eq": 1 } },
            { "documentKey._id": { "$eq": "x" } },
        ] }])]
    );
}

#[test]
fn a_path_that_only_starts_like_the_id_is_a_field_of_the_document() {
    assert_eq!(
        matches(filtered(vec![eq("_ids", 1)])),
        [documents_by(vec![
            doc! { "$and": [has_after(), { "fullDocument._ids": { "$eq": 1 } }] },
            no_after(),
        ])]
    );
}

#[test]
fn with_pre_images_either_document_may_match_and_a_delete_is_decided_by_its_pre_image() {
    for before in [
        pb::FullDocumentBeforeChange::WhenAvailable,
        pb::FullDocumentBeforeChange::Required,
    ] {
        let request = pb::WatchRequest {
            full_document_before_change: before as i32,
            ..filtered(vec![eq("a", 1)])
        };
        let after = doc! { "$and": [has_after(), { "fullDocument.a": { "$eq": 1 } }] };
        let old = doc! { "$and": [has_before(), { "fullDocumentBeforeChange.a": { "$eq": 1 } }] };
        assert_eq!(
            matches(request.clone()),
            [documents_by(vec![
                after.clone(),
                old.clone(),
                doc! { "$and": [no_after(), not_a_delete_with_pre_image()] },
            ])]
        );
        let drop = pb::WatchRequest {
            missing_image_policy: pb::MissingImagePolicy::Drop as i32,
            ..request
        };
        assert_eq!(matches(drop), [documents_by(vec![after, old])]);
    }
}

#[test]
fn with_pre_images_the_id_is_still_read_from_the_key() {
    let request = pb::WatchRequest {
        full_document_before_change: pb::FullDocumentBeforeChange::WhenAvailable as i32,
        ..filtered(vec![eq("_id", 5), eq("a", 1)])
    };
    let key = doc! { "documentKey._id": { "$eq": 5 } };
    assert_eq!(
        matches(request),
        [
            documents_by(vec![key.clone()]),
            documents_by(vec![
                doc! { "$and": [has_after(), { "$and": [
                    key.clone(),
                    { "fullDocument.a": { "$eq": 1 } },
                ] }] },
                doc! { "$and": [has_before(), { "$and": [
                    key.clone(),
                    { "fullDocumentBeforeChange.a": { "$eq": 1 } },
                ] }] },
                doc! { "$and": [no_after(), not_a_delete_with_pre_image(), key] },
            ]),
        ]
    );
}
