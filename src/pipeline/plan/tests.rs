use bson::{Document, doc};

use crate::model::Operation;
use crate::pb;
use crate::pipeline::Plan;
use crate::pipeline::fixtures::*;

mod changed;
mod client_stages;
mod filters;
mod fingerprint;
mod identity;
mod row_filters;

const OTHERS: [&str; 4] = ["insert", "update", "replace", "delete"];

/// Returns the conditions of the plan's `$match` stages.
fn matches(request: pb::WatchRequest) -> Vec<Document> {
    plan(request)
        .stages()
        .into_iter()
        .map(|stage| {
            assert_eq!(stage.len(), 1, "{stage}");
            stage.get_document("$match").unwrap().clone()
        })
        .collect()
}

/// Returns the condition of a filter: an event of another operation, or one of these alternatives.
fn documents_by(alternatives: Vec<Document>) -> Document {
    let mut any = vec![doc! { "operationType": { "$nin": OTHERS.to_vec() } }];
    any.extend(alternatives);
    doc! { "$or": any }
}

#[test]
fn a_watch_without_conditions_has_no_stage_and_no_option() {
    let plan = plan(request());
    assert_eq!(plan.stages(), Vec::<Document>::new());
    assert_eq!(plan.options().to_document(), doc! {});
    assert_eq!(plan.operations(), None);
    assert_eq!(plan.scope().to_string(), "shop.orders");
}

#[test]
fn options_that_differ_from_mongodbs_defaults_are_set() {
    let full = |full_document: pb::FullDocument| pb::WatchRequest {
        full_document: full_document as i32,
        ..request()
    };
    let before = |before: pb::FullDocumentBeforeChange| pb::WatchRequest {
        full_document_before_change: before as i32,
        ..request()
    };
    use pb::FullDocument as Full;
    use pb::FullDocumentBeforeChange as Before;
    for (request, expected) in [
        (full(Full::Unspecified), doc! {}),
        (full(Full::Default), doc! {}),
        (
            full(Full::UpdateLookup),
            doc! { "fullDocument": "updateLookup" },
        ),
        (
            full(Full::WhenAvailable),
            doc! { "fullDocument": "whenAvailable" },
        ),
        (full(Full::Required), doc! { "fullDocument": "required" }),
        (before(Before::Unspecified), doc! {}),
        (before(Before::Off), doc! {}),
        (
            before(Before::WhenAvailable),
            doc! { "fullDocumentBeforeChange": "whenAvailable" },
        ),
        (
            before(Before::Required),
            doc! { "fullDocumentBeforeChange": "required" },
        ),
        (
            pb::WatchRequest {
                show_expanded_events: true,
                ..request()
            },
            doc! { "showExpandedEvents": true },
        ),
        (
            pb::WatchRequest {
                database: String::new(),
                collections: Vec::new(),
                ..request()
            },
            doc! { "allChangesForCluster": true },
        ),
    ] {
        assert_eq!(plan(request).options().to_document(), expected);
    }
}

#[test]
fn several_collections_filter_a_database_stream_and_pass_its_end() {
    let request = pb::WatchRequest {
        collections: vec!["orders".into(), "items".into()],
        ..request()
    };
    let names = vec!["items", "orders"];
    let namespaces = doc! { "$or": [
        { "ns.coll": { "$in": &names } },
        { "to.coll": { "$in": &names } },
        { "operationType": { "$in": ["dropDatabase", "invalidate"] } },
    ] };
    assert_eq!(matches(request.clone()), std::slice::from_ref(&namespaces));

    let mut expected = namespaces;
    expected.insert(
        "operationType",
        doc! { "$in": ["insert", "dropDatabase", "invalidate"] },
    );
    let request = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert as i32],
        ..request
    };
    assert_eq!(matches(request), [expected]);
}

#[test]
fn selected_operations_also_pass_the_events_that_end_a_stream() {
    let at = |database: &str, collections: &[&str]| {
        let plan = plan(pb::WatchRequest {
            database: database.into(),
            collections: collections.iter().map(|name| name.to_string()).collect(),
            operations: vec![
                pb::OperationType::Delete as i32,
                pb::OperationType::Insert as i32,
                pb::OperationType::Insert as i32,
            ],
            ..pb::WatchRequest::default()
        });
        assert_eq!(
            plan.operations().cloned(),
            Some([Operation::Insert, Operation::Delete].into())
        );
        plan.stages()
    };
    let operations =
        |names: &[&str]| vec![doc! { "$match": { "operationType": { "$in": names.to_vec() } } }];
    assert_eq!(
        at("shop", &["orders"]),
        operations(&[
            "insert",
            "delete",
            "drop",
            "rename",
            "dropDatabase",
            "invalidate"
        ])
    );
    assert_eq!(
        at("shop", &[]),
        operations(&["insert", "delete", "dropDatabase", "invalidate"])
    );
    let deployment = at("", &[]);
    assert_eq!(deployment.len(), 1);
    let condition = deployment[0].get_document("$match").unwrap();
    assert_eq!(
        condition.get_document("operationType").unwrap(),
        &doc! { "$in": ["insert", "delete"] }
    );
}

#[test]
fn other_excludes_the_known_operations_that_are_not_selected() {
    let request = pb::WatchRequest {
        operations: vec![
            pb::OperationType::Insert as i32,
            pb::OperationType::Other as i32,
        ],
        ..request()
    };
    assert_eq!(
        matches(request),
        [doc! { "operationType": { "$nin": [
            "update", "replace", "delete", "create", "createIndexes", "dropIndexes", "modify",
            "shardCollection", "refineCollectionShardKey", "reshardCollection", "endOfTransaction",
        ] } }]
    );
}

#[test]
fn selecting_every_operation_adds_no_condition() {
    let request = pb::WatchRequest {
        operations: (1..=16).collect(),
        show_expanded_events: true,
        ..request()
    };
    assert_eq!(plan(request.clone()).stages(), Vec::<Document>::new());
    assert_eq!(plan(request).operations().unwrap().len(), 16);
}

/// MongoDB leaves its own databases out, other servers may not. A rename counts by both of its names.
#[test]
fn a_deployment_watch_leaves_out_mongodbs_own_databases() {
    let deployment = pb::WatchRequest::default();
    let internal = ["admin", "config", "local"].to_vec();
    let expected = doc! { "$or": [
        { "ns.db": { "$nin": &internal } },
        { "to.db": { "$exists": true, "$nin": &internal } },
    ] };
    assert_eq!(matches(deployment.clone()), std::slice::from_ref(&expected));
    let shared = Plan::shared(&watch(deployment));
    assert_eq!(shared.stages(), [doc! { "$match": expected }]);
}

/// The event has no namespace (SERVER-78269). MongoDB sends it only with `showExpandedEvents`.
#[test]
fn the_end_of_a_transaction_passes_the_condition_on_several_collections() {
    let end = pb::OperationType::EndOfTransaction as i32;
    let insert = pb::OperationType::Insert as i32;
    for (operations, passes) in [(vec![], true), (vec![end], true), (vec![insert], false)] {
        let request = pb::WatchRequest {
            collections: vec!["orders".into(), "items".into()],
            show_expanded_events: true,
            operations,
            ..request()
        };
        for plan in [plan(request.clone()), Plan::shared(&watch(request))] {
            let stages = plan.stages();
            let [stage] = stages.as_slice() else {
                panic!("{stages:?}");
            };
            let condition = stage.get_document("$match").unwrap();
            let nameless = doc! {
                "operationType": { "$in": ["dropDatabase", "invalidate", "endOfTransaction"] },
            };
            assert_eq!(condition.get_array("$or").unwrap()[2], nameless.into());
            let is_dedicated = plan.operations().is_some();
            if let Ok(selected) = condition.get_document("operationType") {
                let names = selected.get_array("$in").unwrap();
                assert_eq!(names.contains(&"endOfTransaction".into()), passes);
            } else {
                assert!(passes || !is_dedicated);
            }
        }
    }
}

#[test]
fn operations_and_namespaces_come_before_conditions_on_documents() {
    let request = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert as i32],
        ..filtered(vec![eq("a", 1)])
    };
    assert_eq!(
        matches(request),
        [
            doc! { "operationType": { "$in": [
                "insert", "drop", "rename", "dropDatabase", "invalidate",
            ] } },
            documents_by(vec![
                doc! { "$and": [
                    { "fullDocument": { "$ne": null } },
                    { "fullDocument.a": { "$eq": 1 } },
                ] },
                doc! { "fullDocument": { "$eq": null } },
            ]),
        ]
    );
}

#[test]
fn a_filter_is_ignored_if_no_document_operation_is_selected() {
    let drops = pb::WatchRequest {
        operations: vec![pb::OperationType::Drop as i32],
        ..request()
    };
    let filtered_drops = pb::WatchRequest {
        filters: vec![eq("a", 1)],
        ..drops.clone()
    };
    assert_eq!(plan(filtered_drops), plan(drops));
}

#[test]
fn a_shared_stream_contains_the_events_of_every_watch_of_its_scope() {
    let picky = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert as i32],
        full_document: pb::FullDocument::UpdateLookup as i32,
        collections: vec!["orders".into(), "items".into()],
        ..filtered(vec![eq("a", 1)])
    };
    let plain = pb::WatchRequest {
        operations: Vec::new(),
        filters: Vec::new(),
        ..picky.clone()
    };
    let shared = Plan::shared(&watch(picky.clone()));
    assert_eq!(shared, Plan::shared(&watch(plain.clone())));
    assert_eq!(shared.operations(), None);
    assert_eq!(
        shared.options().to_document(),
        doc! { "fullDocument": "updateLookup" }
    );
    assert_eq!(
        shared.stages(),
        [doc! { "$match": { "$or": [
            { "ns.coll": { "$in": ["items", "orders"] } },
            { "to.coll": { "$in": ["items", "orders"] } },
            { "operationType": { "$in": ["dropDatabase", "invalidate"] } },
        ] } }]
    );
    let one = pb::WatchRequest {
        collections: vec!["orders".into()],
        ..picky
    };
    assert_eq!(Plan::shared(&watch(one)).stages(), Vec::<Document>::new());
}

#[test]
fn a_watch_without_conditions_has_equal_shared_and_dedicated_plans() {
    for collections in [vec![], vec!["orders".into()], vec!["a".into(), "b".into()]] {
        let request = pb::WatchRequest {
            collections,
            full_document_before_change: pb::FullDocumentBeforeChange::Required as i32,
            show_expanded_events: true,
            ..request()
        };
        let watch = watch(request);
        assert_eq!(Plan::shared(&watch), Plan::dedicated(&watch));
    }
}
