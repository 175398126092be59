use bson::{Bson, Document, Timestamp, doc};

use super::*;
use crate::model::EndTime;
use crate::pipeline::Watch;

/// A watch with stages of its own, as validation leaves them.
fn staged(request: pb::WatchRequest, stages: &[Document]) -> Watch {
    Watch {
        client_stages: stages.iter().cloned().collect(),
        ..watch(request)
    }
}

fn staged_plan(request: pb::WatchRequest, stages: &[Document]) -> Plan {
    Plan::dedicated(&staged(request, stages))
}

fn project() -> Document {
    doc! { "$project": { "fullDocument.total": 1, "operationType": 1 } }
}

fn not_invalidate() -> Document {
    doc! { "$match": { "operationType": { "$ne": "invalidate" } } }
}

#[test]
fn the_stages_follow_exactly_the_selected_operations_the_end_and_the_filters_in_their_order() {
    let stages = [
        project(),
        doc! { "$set": { "b": 1, "a": { "d": 1, "c": 2 } } },
    ];
    assert_eq!(
        staged_plan(request(), &stages).stages(),
        [not_invalidate(), stages[0].clone(), stages[1].clone()]
    );
    let request = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert as i32],
        filters: vec![eq("_id", 7)],
        ..request()
    };
    let mut watch = staged(request, &stages);
    watch.end_time = Some(EndTime::after_second(99));
    let plan = Plan::dedicated(&watch);
    let end = Timestamp {
        time: 100,
        increment: 0,
    };
    assert_eq!(
        plan.stages(),
        [
            doc! { "$match": { "operationType": { "$in": ["insert"] } } },
            doc! { "$match": { "clusterTime": { "$lt": end } } },
            doc! { "$match": documents_by(vec![doc! { "documentKey._id": { "$eq": 7 } }]) },
            stages[0].clone(),
            stages[1].clone(),
        ]
    );
    // Selected by the stages; a name may be another one behind them.
    assert_eq!(plan.operations(), None);
    assert!(plan.has_client_stages() && plan.filters_documents());
    assert!(!Plan::shared(&watch).has_client_stages());
    assert!(watch.dedicated_residual().passes_everything());
}

#[test]
fn other_operations_pass_by_excluding_the_rest() {
    let request = pb::WatchRequest {
        operations: vec![
            pb::OperationType::Insert as i32,
            pb::OperationType::Other as i32,
        ],
        ..request()
    };
    let stages = staged_plan(request, &[project()]).stages();
    let condition = stages[0].get_document("$match").unwrap();
    let excluded = condition.get_document("operationType").unwrap();
    let excluded = excluded.get_array("$nin").unwrap();
    for name in ["invalidate", "drop", "update"] {
        assert!(excluded.contains(&Bson::from(name)), "{name}");
    }
    assert!(!excluded.contains(&Bson::from("insert")));
}

/// Behind the stages a namespace may be a made-up one, or missing.
#[test]
fn the_namespaces_of_mongodb_are_left_out_in_front_of_the_stages() {
    for (database, has_database) in [("shop", false), ("", true)] {
        let request = pb::WatchRequest {
            database: database.into(),
            ..pb::WatchRequest::default()
        };
        let stages = staged_plan(request, &[project()]).stages();
        assert_eq!(stages[1..], [not_invalidate(), project()]);
        let any = stages[0].get_document("$match").unwrap().get_array("$or");
        let [Bson::Document(own), Bson::Document(renamed)] = &any.unwrap()[..] else {
            panic!("{stages:?}");
        };
        assert!(own.contains_key("ns.coll") && renamed.contains_key("to.coll"));
        assert!(renamed.contains_key("to"));
        assert_eq!(own.contains_key("ns.db"), has_database);
        assert_eq!(renamed.contains_key("to.db"), has_database);
    }
}

#[test]
fn plans_differ_by_the_order_of_keys_and_by_whose_a_stage_is() {
    let plan = |stages: &[Document]| staged_plan(request(), stages);
    let [ab, ba] = [doc! { "a": 1, "b": 2 }, doc! { "b": 2, "a": 1 }]
        .map(|value| plan(&[doc! { "$match": { "fullDocument.x": value } }]));
    assert_ne!(ab, ba);
    assert_ne!(ab.fingerprint(), ba.fingerprint());
    assert_eq!(plan(&[project()]), plan(&[project()]));
    assert_ne!(plan(&[project()]), plan(&[project(), project()]));
    assert_ne!(plan(&[project()]), super::plan(request()));

    let filter = pb::WatchRequest {
        filters: vec![eq("_id", 7)],
        ..request()
    };
    let by_filter = staged_plan(filter, &[project()]);
    let own = by_filter.stages()[1].clone();
    let by_stage = plan(&[own, project()]);
    assert_eq!(by_filter.stages(), by_stage.stages());
    assert_ne!(by_filter, by_stage);
    assert_eq!(by_filter.fingerprint(), by_stage.fingerprint());
}

#[test]
fn derived_plans_have_no_stage_of_the_client_unless_its_events_are_wanted() {
    let watched = pb::WatchRequest {
        collections: vec!["orders".into(), "items".into()],
        operations: vec![pb::OperationType::Insert as i32],
        full_document: pb::FullDocument::UpdateLookup as i32,
        filters: vec![eq("status", "open")],
        ..request()
    };
    let plan = staged_plan(watched.clone(), &[project()]);
    let identity = doc! {
        "$project": { "_id": 1, "operationType": 1, "clusterTime": 1, "ns": 1 },
    };
    for derived in [plan.identity_only(), plan.without_document_stages()] {
        assert!(!derived.has_client_stages() && !derived.filters_documents());
        assert_eq!(derived.stages()[1], plan.stages()[1], "the operations");
    }
    assert_eq!(plan.rejected_by_documents(), None);
    let narrowed = plan.narrowed_to(doc! { "_id": 1 });
    assert_eq!(narrowed.stages()[0], doc! { "$match": { "_id": 1 } });
    assert_eq!(narrowed.stages()[1..], plan.stages());

    let outline = plan.scope_outline();
    assert_eq!(outline.stages(), [plan.stages()[0].clone(), identity]);
    assert_eq!(outline.options().to_document(), doc! {});
    assert_eq!(
        outline.stages(),
        Plan::shared(&watch(watched)).identity_only().stages()
    );
}
