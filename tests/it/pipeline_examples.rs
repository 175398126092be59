//! The examples of docs/pipeline.md are stages that MongoDB takes, and `weir watch` sends them as they are written.

use std::collections::BTreeSet;

use crate::conversions::value;
use crate::support::orders::ORDERS;
use crate::support::{Database, WAIT_LIMIT, WatchStream, Weir, error_info, repository, weir};
use mongodb::bson::doc;
use prost_types::value::Kind as ValueKind;
use serde_json::Value;
use tonic::Code;
use tonic_types::StatusExt as _;
use weir::pb::{self, pipeline_stage::Kind};

/// The stages on the page, in the form in which it writes them: after `--stage`, or in `struct`.
fn examples() -> Vec<pb::PipelineStage> {
    let page = repository().join("docs/pipeline.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let texts = page.split("--stage '").skip(1).map(|rest| {
        let (text, _) = rest.split_once('\'').expect("a quote at its end");
        Kind::Json(text.to_owned())
    });
    let maps = page.split("{\"struct\": ").skip(1).map(|rest| {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let json = values.next().expect("a value").expect("an object");
        match value(json).kind {
            Some(ValueKind::StructValue(fields)) => Kind::Struct(fields),
            other => panic!("{other:?} is no object"),
        }
    });
    texts
        .chain(maps)
        .map(|kind| pb::PipelineStage { kind: Some(kind) })
        .collect()
}

fn name_of(stage: &pb::PipelineStage) -> String {
    match stage.kind.as_ref().expect("a form") {
        Kind::Json(text) => {
            let stage: serde_json::Map<String, Value> =
                serde_json::from_str(text).expect("an object");
            stage.keys().next().cloned()
        }
        Kind::Struct(stage) => stage.fields.keys().next().cloned(),
        Kind::Bson(_) => None,
    }
    .expect("one name")
}

/// Each of them passes some of these changes, and each stage that MongoDB allows is among them.
#[tokio::test]
async fn every_example_of_a_stage_is_taken_and_passes_events() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.allow_pipeline = true).await;
    let examples = examples();
    let names: BTreeSet<String> = examples.iter().map(name_of).collect();
    let expected = [
        "$addFields",
        "$match",
        "$project",
        "$redact",
        "$replaceRoot",
        "$replaceWith",
        "$set",
        "$unset",
    ];
    assert_eq!(
        names.iter().collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
    let mut client = weir.client().await;
    let mut watches = Vec::new();
    for stage in examples {
        let request = pb::WatchRequest {
            full_document: pb::FullDocument::UpdateLookup.into(),
            pipeline: vec![stage.clone()],
            ..database.watch_request(&[ORDERS])
        };
        let opened = WatchStream::open(&mut client, request).await;
        let opened = opened.unwrap_or_else(|status| panic!("{stage:?}: {status:?}"));
        watches.push((stage, opened));
    }
    let orders = database.collection(ORDERS);
    let order = doc! {
        "_id": 1, "status": "new", "total": 2000, "limit": 10, "net": 5.5, "card": "1234", "address": "x",
        "secret": false,
    };
    orders.insert_one(order).await.expect("an insert");
    let pay = doc! { "$set": { "status": "paid" } };
    orders
        .update_one(doc! { "_id": 1 }, pay)
        .await
        .expect("an update");
    for (stage, watch) in &mut watches {
        let change = watch.next_change().await;
        assert!(!change.resume_token.is_empty(), "{stage:?}");
        let text = format!("{change:?}");
        if format!("{stage:?}").contains("fullDocument.card") {
            assert!(!text.contains("1234"), "{stage:?}: {text}");
        }
    }
}

/// What only MongoDB knows to be wrong is told with its code, by the call itself.
#[tokio::test]
async fn what_mongodb_refuses_in_a_stage_is_told_with_its_code() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.allow_pipeline = true).await;
    for stage in [
        r#"{"$match": {"total": {"$isOdd": 1}}}"#,
        r#"{"$addFields": {"x": {"$noSuchOperator": 1}}}"#,
    ] {
        let request = pb::WatchRequest {
            pipeline: vec![pb::PipelineStage {
                kind: Some(Kind::Json(stage.to_owned())),
            }],
            ..database.watch_request(&[ORDERS])
        };
        let mut client = weir.client().await;
        let status = WatchStream::open(&mut client, request).await;
        let status = status.err().unwrap_or_else(|| panic!("{stage} was taken"));
        assert_eq!(status.code(), Code::InvalidArgument, "{stage}: {status:?}");
        let info = error_info(&status);
        assert_eq!(info.reason, "INVALID_REQUEST", "{status:?}");
        assert!(info.metadata.contains_key("mongodb_code"), "{status:?}");
        let bad = status.get_details_bad_request().expect("a bad field");
        assert_eq!(bad.field_violations[0].field, "pipeline", "{status:?}");
    }
}

#[tokio::test]
async fn weir_watch_sends_its_stages_in_order_and_explains_a_refusal() {
    let database = Database::start().await;
    let server = Weir::with(&database, |config| config.allow_pipeline = true).await;
    let address = server.grpc_addr().to_string();
    let scope = format!("{}.{ORDERS}", database.name());
    let run = |address: &str, stages: &[&str]| {
        let mut arguments = vec![
            "watch", &scope, "--server", address, "--output", "json", "--limit", "1",
        ];
        for stage in stages {
            arguments.extend(["--stage", stage]);
        }
        weir(&[], &arguments)
    };
    // In the other order the second stage would match nothing.
    let mut process = run(
        &address,
        &[
            r#"{"$set": {"fullDocument.gross": {"$add": ["$fullDocument.net", 1]}}}"#,
            r#"{"$match": {"fullDocument.gross": 3}}"#,
        ],
    );
    let opened = |output: &str| output.contains(r#""type":"opened""#);
    process.wait_for_output("opened", WAIT_LIMIT, opened).await;
    let orders = database.collection(ORDERS);
    for net in [1, 2] {
        let order = doc! { "_id": net, "net": net };
        orders.insert_one(order).await.expect("an insert");
    }
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{process}");
    let output = process.stdout();
    assert!(
        output.contains(r#""gross":3"#) && !output.contains(r#""gross":2"#),
        "{output}"
    );

    let strict = Weir::start(&database).await;
    for (address, says) in [
        (
            &address,
            "--stage '{\"$out\": \"x\"}': is \"$out\", which is not a stage",
        ),
        (
            &strict.grpc_addr().to_string(),
            "ask the operator of the server for --allow-pipeline",
        ),
    ] {
        let mut process = run(address, &[r#"{"$match": {}}"#, r#"{"$out": "x"}"#]);
        let status = process.wait_for_exit(WAIT_LIMIT).await;
        assert_eq!(status.code(), Some(1), "{process}");
        assert!(process.stderr().contains(says), "{process}");
    }
}
