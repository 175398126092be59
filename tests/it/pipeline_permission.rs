//! Who may have stages in `pipeline`: nobody without the flag, and nobody whose view the policy narrows, whatever
//! the stages are and in whatever form they come.

use crate::conversions::{eq, value};
use crate::support::orders::{ORDERS, id, insert};
use crate::support::{
    Database, Figure, PolicyServer, WatchStream, Weir, error_info, eventually, tally, within,
};
use mongodb::bson::{Bson, Document, doc};
use prost_types::value::Kind as ValueKind;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weir::pb::{self, pipeline_stage::Kind, watch_request::Start};

/// A stage in each of its forms.
fn forms(stage: &Document) -> [pb::PipelineStage; 3] {
    let json = Bson::Document(stage.clone()).into_relaxed_extjson();
    let text = Kind::Json(json.to_string());
    let Some(ValueKind::StructValue(map)) = value(json).kind else {
        panic!("a stage is a document");
    };
    let bytes = Kind::Bson(stage.to_vec().expect("BSON").into());
    [text, Kind::Struct(map), bytes].map(|kind| pb::PipelineStage { kind: Some(kind) })
}

/// Stages of every kind with which a caller could see a hidden field or document: renamed, copied, as a size or a
/// condition, by the names of fields, by a path into arrays, and at places that a mask does not know.
fn attacks() -> Vec<Document> {
    let secret = "$fullDocument.ssn";
    vec![
        doc! { "$match": { "fullDocument.ssn": "123" } },
        doc! { "$match": { "$expr": { "$gt": [secret, "1"] } } },
        doc! { "$match": { "updateDescription.updatedFields.ssn": { "$exists": true } } },
        doc! { "$match": { "fullDocument.tenant": { "$ne": "a" } } },
        doc! { "$match": { "fullDocument": { "$regularExpression": { "pattern": "1", "options": "" } } } },
        doc! { "$project": { "fullDocument": { "note": secret } } },
        doc! { "$project": { "operationType": secret } },
        doc! { "$addFields": { "fullDocument.note": secret } },
        doc! { "$addFields": { "ns.coll": { "$objectToArray": "$fullDocument" } } },
        doc! { "$set": { "documentKey.copy": "$$ROOT" } },
        doc! { "$set": { "fullDocument.items": { "$arrayElemAt": ["$fullDocument.items.ssn", 0] } } },
        doc! { "$set": { "wallTime": { "$size": { "$ifNull": ["$fullDocument.hidden", []] } } } },
        doc! { "$set": { "x": { "$bsonSize": "$fullDocument" } } },
        doc! { "$set": { "x": { "$getField": { "field": "ssn", "input": "$fullDocument" } } } },
        doc! { "$unset": "fullDocument.tenant" },
        doc! { "$unset": ["operationType", "fullDocument.0"] },
        doc! { "$replaceRoot": { "newRoot": { "_id": "$_id", "all": "$$ROOT" } } },
        doc! { "$replaceRoot": { "newRoot": { "$mergeObjects": ["$fullDocument", { "_id": "$_id" }] } } },
        doc! { "$replaceWith": { "_id": "$_id", "before": "$fullDocumentBeforeChange" } },
        doc! { "$redact": { "$cond": [{ "$eq": ["$ssn", "123"] }, "$$KEEP", "$$DESCEND"] } },
        doc! { "$redact": "$$KEEP" },
        // Without effect, unknown, and malformed.
        doc! { "$match": {} },
        doc! { "$lookup": { "from": "other", "as": "x", "pipeline": [] } },
        doc! { "$match": { "$where": "this.ssn" } },
        doc! { "nonsense": 1, "more": 2 },
        doc! {},
    ]
}

fn assert_not_allowed(status: &Status, says: &str) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let info = error_info(status);
    assert_eq!(info.reason, "PIPELINE_NOT_ALLOWED", "{status:?}");
    assert!(info.metadata.is_empty(), "{status:?}");
    assert!(status.get_details_bad_request().is_none(), "{status:?}");
    assert!(status.message().contains(says), "{status:?}");
}

async fn is_allowed(weir: &Weir) -> bool {
    let mut client = weir.client().await;
    let info = client.get_server_info(pb::GetServerInfoRequest {});
    let info = within("an answer", info).await.expect("an answer");
    let limits = info.into_inner().limits.expect("limits");
    limits.pipeline_allowed
}

#[tokio::test]
async fn without_the_flag_nothing_is_said_about_stages() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let mut client = weir.client().await;
    assert!(!is_allowed(&weir).await);
    let good = database.watch_request(&[ORDERS]);
    let wrong = pb::WatchRequest {
        document_format: 99,
        feed_mode: pb::FeedMode::Shared.into(),
        filters: vec![eq("$bad", json!(1))],
        start: Some(Start::ResumeToken("nonsense".into())),
        ..good.clone()
    };
    for request in [good, wrong] {
        for stage in attacks().iter().flat_map(forms) {
            for count in [1, 100] {
                let request = pb::WatchRequest {
                    pipeline: vec![stage.clone(); count],
                    ..request.clone()
                };
                let status = WatchStream::open(&mut client, request).await;
                let status = status.err().expect("it is refused");
                assert_not_allowed(&status, "--allow-pipeline");
            }
        }
    }
    let open = Weir::with(&database, |config| config.allow_pipeline = true).await;
    assert!(is_allowed(&open).await);
}

const POLICY: &str = "
version: 1
rules:
  - {name: filter, principals: ['key:filter'], namespaces: ['$db.*'], filter: {tenant: {$claim: tenant}}, pre_images: true}
  - {name: hide, principals: ['key:hide'], namespaces: ['$db.*'], hide: [ssn], pre_images: true, operations: [all]}
  - {name: both, principals: ['key:both'], namespaces: ['$db.*'], filter: {tenant: a}, hide: [items.ssn]}
  - {name: scoped, principals: ['key:mixed'], namespaces: [$db.public]}
  - {name: mixed, principals: ['key:mixed'], namespaces: ['$db.*'], hide: [ssn]}
  - {name: inserts, principals: ['key:inserts'], namespaces: [$db.orders], operations: [insert]}
  - {name: free, principals: ['key:free'], namespaces: [$db.orders]}
";

#[tokio::test]
async fn no_stage_is_allowed_to_a_caller_whose_view_is_narrowed() {
    let database = Database::start().await;
    let names = ["filter", "hide", "both", "mixed", "inserts", "free"];
    let clients = names.map(|name| (name, json!({"tenant": "a"})));
    let server = PolicyServer::with(&database, &clients, POLICY, |config| {
        config.allow_pipeline = true;
    })
    .await;
    let base = database.watch_request(&[ORDERS]);
    let mut tried = 0;
    let mut refused = async |name: &str, request: pb::WatchRequest| {
        tried += 1;
        let opened = server.open(name, request).await;
        opened.err().expect("it is refused")
    };
    let whole = pb::WatchRequest {
        collections: Vec::new(),
        ..base.clone()
    };
    for (name, scope) in [
        ("filter", &base),
        ("hide", &base),
        ("both", &base),
        ("mixed", &base),
        ("hide", &whole),
    ] {
        let with_filter = pb::WatchRequest {
            filters: vec![eq("note", json!(1))],
            ..scope.clone()
        };
        let from_a_token = pb::WatchRequest {
            start: Some(Start::ResumeToken("nonsense".into())),
            fields: vec!["note".to_owned()],
            ..scope.clone()
        };
        for request in [scope.clone(), with_filter, from_a_token] {
            for stage in attacks().iter().flat_map(forms) {
                let request = pb::WatchRequest {
                    pipeline: vec![stage],
                    ..request.clone()
                };
                assert_not_allowed(&refused(name, request).await, "policy");
            }
        }
        // Of what else is wrong the caller learns, of the stages nothing.
        let wrong = pb::WatchRequest {
            document_format: 99,
            pipeline: forms(&doc! { "nonsense": 1 }).to_vec(),
            ..scope.clone()
        };
        let status = refused(name, wrong).await;
        let bad = status.get_details_bad_request().expect("a bad field");
        let fields: Vec<_> = bad.field_violations.iter().map(|it| &*it.field).collect();
        assert_eq!(fields, ["document_format"]);
    }
    tally(Figure::BadInputs, tried);

    // Other rules take nothing of what a stage could show, and the stages themselves are checked.
    for (name, collection) in [("inserts", ORDERS), ("free", ORDERS), ("mixed", "public")] {
        for stage in forms(&doc! { "$match": { "operationType": "insert" } }) {
            let request = pb::WatchRequest {
                pipeline: vec![stage],
                ..database.watch_request(&[collection])
            };
            server.watch(name, request).await;
        }
        let request = pb::WatchRequest {
            pipeline: forms(&doc! { "$lookup": {} }).to_vec(),
            ..database.watch_request(&[collection])
        };
        let status = server.open(name, request).await.err().expect("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let bad = status.get_details_bad_request().expect("bad fields");
        let fields: Vec<_> = bad.field_violations.iter().map(|it| &*it.field).collect();
        assert_eq!(fields, ["pipeline[0]", "pipeline[1]", "pipeline[2]"]);
    }
    // What is not granted at all says no more with stages than without.
    let foreign = pb::WatchRequest {
        pipeline: forms(&doc! { "nonsense": 1 }).to_vec(),
        ..database.watch_request(&["invoices"])
    };
    let status = server.open("free", foreign).await.err().expect("refused");
    assert_eq!(error_info(&status).reason, "NAMESPACE_ACCESS_DENIED");
}

/// A stage runs on what the rule grants and on nothing else, whatever it makes of an event's name and place.
#[tokio::test]
async fn stages_show_no_operation_and_no_collection_that_is_not_granted() {
    let database = Database::start().await;
    let policy = "
version: 1
rules:
  - {name: inserts, principals: ['key:inserts'], namespaces: [$db.orders], operations: [insert]}
  - {name: free, principals: ['key:free'], namespaces: [$db.orders]}
";
    let clients = ["inserts", "free"].map(|name| (name, json!({})));
    let server = PolicyServer::with(&database, &clients, policy, |config| {
        config.allow_pipeline = true;
    })
    .await;
    let disguises = [
        doc! { "$match": {} },
        doc! { "$set": { "operationType": "insert" } },
        doc! { "$set": { "ns": { "db": database.name(), "coll": ORDERS } } },
        doc! { "$unset": "operationType" },
        doc! { "$project": { "fullDocument": 1 } },
        doc! { "$replaceWith": { "_id": "$_id", "operationType": "insert", "fullDocument": "$$ROOT" } },
        doc! { "$redact": "$$KEEP" },
    ];
    let mut watches = Vec::new();
    for (name, count) in [("inserts", 2), ("free", 4)] {
        for stage in &disguises {
            // The second and the third join the stream of the first.
            for form in forms(stage) {
                let request = pb::WatchRequest {
                    pipeline: vec![form],
                    ..database.watch_request(&[ORDERS])
                };
                watches.push((name, stage, count, server.watch(name, request).await));
            }
        }
    }
    let write = async |collection: &str, last: i32| {
        let orders = database.collection(collection);
        let note = format!("written to {collection}");
        orders
            .insert_one(doc! { "_id": 1, "note": &note })
            .await
            .expect("an insert");
        let set = doc! { "$set": { "note": format!("{note} again") } };
        orders
            .update_one(doc! { "_id": 1 }, set)
            .await
            .expect("an update");
        orders
            .delete_one(doc! { "_id": 1 })
            .await
            .expect("a delete");
        orders
            .insert_one(doc! { "_id": last, "note": &note })
            .await
            .expect("an insert");
    };
    write("secrets", 1).await;
    write(ORDERS, 2).await;
    for (name, stage, count, watch) in &mut watches {
        let changes = watch.changes(*count).await;
        let text = format!("{changes:?}");
        assert!(!text.contains("secrets"), "{name} {stage}: {text}");
        // The last of them is the last insert: nothing came in between.
        let shown = format!("{:?}", changes.last());
        assert!(
            shown.contains("written to orders"),
            "{name} {stage}: {shown}"
        );
        if *name == "inserts" {
            assert!(!text.contains("again"), "{stage}: {text}");
        }
    }
}

#[tokio::test]
async fn a_watch_ends_when_the_policy_begins_to_narrow_its_view() {
    let database = Database::start().await;
    let rule =
        |more: &str| format!("version: 1\nrules: [{{name: a, namespaces: [$db.orders]{more}}}]");
    let clients = [("a", json!({"tenant": "x"}))];
    for (reloads, more) in [", hide: [note]", ", filter: {tenant: {$claim: tenant}}"]
        .iter()
        .enumerate()
    {
        let server = PolicyServer::with(&database, &clients, &rule(""), |config| {
            config.allow_pipeline = true;
        })
        .await;
        let plain = database.watch_request(&[ORDERS]);
        let staged = pb::WatchRequest {
            pipeline: vec![forms(&doc! { "$match": { "operationType": "insert" } })[0].clone()],
            ..plain.clone()
        };
        let number = 10 * i32::try_from(reloads).expect("few");
        let mut with_stages = server.watch("a", staged.clone()).await;
        let mut without = server.watch("a", plain).await;
        insert(&database, number).await;
        assert_eq!(id(&with_stages.next_change().await), number);
        assert_eq!(id(&without.next_change().await), number);
        server.put_policy(&rule(more));
        eventually("it is read", async || server.reloads("ok").await == 1.0).await;
        insert(&database, number + 1).await;
        assert_not_allowed(&with_stages.end().await, "policy");
        let status = without.end().await;
        assert_eq!(error_info(&status).reason, "ACCESS_CHANGED");
        let again = pb::WatchRequest {
            start: Some(Start::ResumeToken(with_stages.token())),
            ..staged.clone()
        };
        let status = server.open("a", again).await.err().expect("refused");
        assert_not_allowed(&status, "policy");
        // Where it narrows nothing any more, the watch goes on.
        server.put_policy(&rule(""));
        eventually("it is read", async || server.reloads("ok").await == 2.0).await;
        server.watch("a", staged).await;
    }
}
