//! The plans that a fingerprint distinguishes, and those that it does not.

use bson::doc;

use crate::filter::{Condition, Predicate};
use crate::pb;
use crate::pb::field_filter::Operator;
use crate::pipeline::fixtures::*;
use crate::pipeline::{Plan, View};

#[test]
fn plans_with_different_streams_have_different_fingerprints() {
    let expanded = pb::WatchRequest {
        show_expanded_events: true,
        ..request()
    };
    let requests = [
        request(),
        expanded,
        pb::WatchRequest {
            collections: Vec::new(),
            ..request()
        },
        pb::WatchRequest {
            full_document: pb::FullDocument::UpdateLookup as i32,
            ..request()
        },
        pb::WatchRequest {
            operations: vec![pb::OperationType::Insert as i32],
            ..request()
        },
        filtered(vec![eq("a", 1)]),
        filtered(vec![eq("a", "1")]),
        filtered(vec![eq("b", 1)]),
    ];
    for (i, left) in requests.iter().enumerate() {
        for (j, right) in requests.iter().enumerate() {
            let equal = plan(left.clone()).fingerprint() == plan(right.clone()).fingerprint();
            assert_eq!(equal, i == j, "{i} and {j}");
        }
    }
}

#[test]
fn the_fingerprint_does_not_depend_on_the_selection_from_the_stream() {
    let selecting = |operations: &[pb::OperationType]| {
        plan(pb::WatchRequest {
            operations: operations.iter().map(|number| *number as i32).collect(),
            ..request()
        })
    };
    let inserts = selecting(&[pb::OperationType::Insert]);
    let inserts_and_drops = selecting(&[pb::OperationType::Drop, pb::OperationType::Insert]);
    assert_eq!(inserts.fingerprint(), inserts_and_drops.fingerprint());
    assert_ne!(inserts, inserts_and_drops);

    let json = pb::WatchRequest {
        document_format: pb::DocumentFormat::Json as i32,
        ..request()
    };
    assert_eq!(plan(json), plan(request()));
}

#[test]
fn the_fingerprint_is_the_same_in_every_version() {
    let request = pb::WatchRequest {
        collections: vec!["orders".into(), "items".into()],
        operations: vec![pb::OperationType::Update as i32],
        full_document: pb::FullDocument::UpdateLookup as i32,
        filters: vec![eq("_id", 5), eq("status", "paid")],
        ..request()
    };
    let hex: String = plan(request)
        .fingerprint()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, "2376eeeae1a335e79391cc6ff288c5df");
}

/// Plans of every kind of scope, option, stage and derivation, by name.
fn plans_of_every_kind() -> Vec<(&'static str, Plan)> {
    let several = || pb::WatchRequest {
        collections: vec!["orders".into(), "items".into()],
        ..request()
    };
    let database = || pb::WatchRequest {
        collections: Vec::new(),
        ..request()
    };
    let images = |request: pb::WatchRequest| pb::WatchRequest {
        full_document: pb::FullDocument::Required as i32,
        full_document_before_change: pb::FullDocumentBeforeChange::WhenAvailable as i32,
        ..request
    };
    let inserts = |request: pb::WatchRequest| pb::WatchRequest {
        operations: vec![
            pb::OperationType::Insert as i32,
            pb::OperationType::Drop as i32,
        ],
        ..request
    };
    let filters = |request: pb::WatchRequest| pb::WatchRequest {
        filters: vec![
            eq("_id", 5),
            any_of(vec![
                compare(
                    "a.b",
                    pb::comparison::Operator::Eq,
                    r#"{"x": [1.5, null], "y": 1}"#,
                ),
                regex("c", "^x+", "i"),
                field("d", Operator::Prefix("p.".into())),
            ]),
            none_of(vec![
                field("e", Operator::Exists(true)),
                field("f", Operator::Changed(true)),
            ]),
            field("g", Operator::NotIn(list(serde_json::json!([1, "two"])))),
        ],
        ..request
    };
    let dropping = |request: pb::WatchRequest| pb::WatchRequest {
        missing_image_policy: pb::MissingImagePolicy::Drop as i32,
        ..request
    };
    let everything = || images(inserts(filters(several())));
    let mut in_view = watch(everything());
    in_view.restrict_to(&View {
        row_filter: Some(
            Predicate::AllOf(vec![
                Predicate::Field {
                    path: "_id".into(),
                    op: Condition::Gt(3.into()),
                },
                Predicate::Field {
                    path: "tenant".into(),
                    op: Condition::Eq("t".into()),
                },
            ])
            .into(),
        ),
        ..View::unrestricted()
    });
    let in_view = Plan::dedicated(&in_view);
    let narrowed = in_view.narrowed_to(doc! { "clusterTime": { "$gte": 1, "$lte": 2 } });
    vec![
        ("plain", plan(request())),
        ("several collections", plan(several())),
        ("database", plan(images(database()))),
        ("deployment", plan(pb::WatchRequest::default())),
        ("operations", plan(inserts(database()))),
        ("filters", plan(filters(request()))),
        ("filters with images", plan(images(filters(database())))),
        (
            "filters that drop",
            plan(dropping(images(filters(request())))),
        ),
        ("everything", plan(everything())),
        ("shared", Plan::shared(&watch(everything()))),
        ("in a view", in_view.clone()),
        ("unfiltered", in_view.unfiltered()),
        ("without document stages", in_view.without_document_stages()),
        ("identity only", in_view.identity_only()),
        ("narrowed", narrowed.clone()),
        (
            "rejected by documents",
            narrowed.rejected_by_documents().unwrap(),
        ),
    ]
}

/// The fingerprint is a hash of the options and stages as they are sent to MongoDB.
#[test]
fn what_is_sent_to_mongodb_is_the_same_in_every_version() {
    let fingerprints = plans_of_every_kind().into_iter().map(|(name, plan)| {
        let bytes = plan.fingerprint().map(|byte| format!("{byte:02x}"));
        (name, bytes.concat())
    });
    let fingerprints: Vec<(&str, String)> = fingerprints.collect();
    let expected = [
        ("plain", "f7445fc00d6ef5201cf11a7d644f3ffd"),
        ("several collections", "a45b40f2c5b11076fc2d7fc6b6e36432"),
        ("database", "0a37a20d61f856f7251e0797748a466d"),
        ("deployment", "26ee277cc90c12a42ce1ed477fe245e4"),
        ("operations", "78ff158d092521dd0b06c23aa8b8c9d8"),
        ("filters", "7377bdc514324a193256b1d5914448e6"),
        ("filters with images", "8d74559436f418a5fa21338268637cfc"),
        ("filters that drop", "31ffe23cc7e7e19a70c9816ffd11b334"),
        ("everything", "88c300bea2006ac06fc45b2f3bc4574e"),
        ("shared", "6de68994626d90a35b9b73f0387535eb"),
        ("in a view", "c9397e1e6805aa8cf692cddcba684080"),
        ("unfiltered", "0a37a20d61f856f7251e0797748a466d"),
        (
            "without document stages",
            "e17fecdf18496ec102463492ff49ddaa",
        ),
        ("identity only", "35b0a59e327f6a083fc0e6b20c8e2207"),
        ("narrowed", "5006eb864c99704489b05bb22e5ff18f"),
        ("rejected by documents", "e9c31fecbb91f91c154d26ed4f08f730"),
    ];
    let expected = expected.map(|(name, hex)| (name, hex.to_owned()));
    assert_eq!(fingerprints, expected);
}
