//! A client's own stages, `WatchRequest.pipeline`, through a real database: what they give, and what stays true of
//! times, ends and errors whatever they do to an event. `tokens` holds that no position is lost, and `scripted`
//! plays what the tests' database does otherwise than MongoDB.

mod busy;
mod ends;
mod large;
mod misleading;
mod scripted;
mod tokens;

use crate::conversions::{as_mongodb_event, bson, id};
use crate::support::{Database, WatchStream, Weir, error_info, eventually, within};
use futures::StreamExt as _;
use mongodb::bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use pb::change_event::Change;
use pb::pipeline_stage::Kind as Form;
use tonic::Code;
use weir::pb;

const ORDERS: &str = "orders";

/// The forms of a stage in a request.
const FORMS: [fn(&Document) -> Form; 3] = [
    |stage| Form::Bson(stage.to_vec().expect("BSON").into()),
    |stage| Form::Json(Bson::from(stage.clone()).into_relaxed_extjson().to_string()),
    |stage| {
        let json = Bson::from(stage.clone()).into_relaxed_extjson();
        match crate::conversions::value(json).kind {
            Some(prost_types::value::Kind::StructValue(fields)) => Form::Struct(fields),
            other => panic!("no struct: {other:?}"),
        }
    },
];

/// The request with these stages, in BSON.
fn staged(request: pb::WatchRequest, stages: &[Document]) -> pb::WatchRequest {
    in_form(request, stages, FORMS[0])
}

fn in_form(
    request: pb::WatchRequest,
    stages: &[Document],
    form: fn(&Document) -> Form,
) -> pb::WatchRequest {
    let stage = |stage: &Document| pb::PipelineStage {
        kind: Some(form(stage)),
    };
    pb::WatchRequest {
        pipeline: stages.iter().map(stage).collect(),
        ..request
    }
}

/// A server that allows stages.
async fn weir(database: &Database) -> Weir {
    weir_at(database.uri()).await
}

async fn weir_at(uri: &str) -> Weir {
    Weir::at(uri, |config| config.allow_pipeline = true).await
}

/// One whose feeds close at once, so that a resume needs MongoDB and not the ring.
async fn without_ring(uri: &str) -> Weir {
    Weir::at(uri, |config| {
        config.allow_pipeline = true;
        config.feed_linger = std::time::Duration::ZERO;
    })
    .await
}

fn order(id: i32) -> Document {
    doc! {
        "_id": id,
        "total": 10 * id,
        "status": if id % 2 == 0 { "open" } else { "paid" },
        "buyer": { "name": "Ada", "level": 5 },
    }
}

async fn insert(database: &Database, ids: impl IntoIterator<Item = i32>) {
    let orders = database.collection(ORDERS);
    for id in ids {
        orders.insert_one(order(id)).await.expect("an insert");
    }
}

async fn ids(watch: &mut WatchStream, count: usize) -> Vec<i32> {
    let changes = watch.changes(count).await;
    changes.iter().map(|it| number(&id(it))).collect()
}

fn number(id: &Bson) -> i32 {
    id.as_i32().unwrap_or_else(|| panic!("no number: {id}"))
}

/// The whole event of a change of an unknown kind, without what the tests' database adds.
fn other(change: &pb::ChangeEvent) -> (String, Document) {
    let Some(Change::Other(other)) = &change.change else {
        panic!("not other: {change:?}");
    };
    let Some(Bson::Document(mut event)) = bson(other.event.as_ref()) else {
        panic!("no event: {other:?}");
    };
    event.remove("splitEvent");
    (other.operation_type.clone(), event)
}

/// The event as MongoDB has it, without its token.
fn event_of(change: &pb::ChangeEvent) -> Document {
    let mut event = match &change.change {
        Some(Change::Other(_)) => other(change).1,
        _ => as_mongodb_event(change),
    };
    event.remove("_id");
    event
}

/// What the driver gets through these stages.
struct Original(mongodb::change_stream::ChangeStream<RawDocumentBuf>);

impl Original {
    async fn open(database: &Database, stages: &[Document]) -> Self {
        let orders = database.collection(ORDERS);
        let stream = orders.watch().pipeline(stages.to_vec()).await;
        Self(stream.expect("a change stream").with_type())
    }

    async fn next(&mut self) -> Document {
        let event = within("the driver's next event", self.0.next()).await;
        let event = event.expect("it goes on").expect("an event");
        let mut event = Document::try_from(event).expect("an event is BSON");
        event.remove("_id");
        event
    }
}

/// Stages that leave an event typed.
fn typed() -> Vec<Vec<Document>> {
    let kept = doc! { "operationType": 1, "ns": 1, "documentKey": 1, "clusterTime": 1 };
    let mut project = kept.clone();
    project.insert("fullDocument.total", 1);
    vec![
        vec![doc! { "$match": { "fullDocument.status": "open" } }],
        vec![doc! { "$project": project }],
        vec![doc! { "$project": { "fullDocument.buyer": 0, "wallTime": 0 } }],
        vec![
            doc! { "$addFields": { "fullDocument.twice": { "$multiply": ["$fullDocument.total", 2] } } },
        ],
        vec![doc! { "$set": { "fullDocument.buyer.level": 6, "label": "new" } }],
        vec![doc! { "$unset": ["fullDocument.buyer.name", "wallTime"] }],
        vec![
            doc! { "$replaceRoot": { "newRoot": { "$mergeObjects": ["$$ROOT", { "seen": true }] } } },
        ],
        vec![
            doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "fullDocument": { "a": 1 } }] } },
        ],
        vec![doc! { "$redact": { "$cond": {
            "if": { "$eq": ["$level", 5] }, "then": "$$PRUNE", "else": "$$DESCEND",
        } } }],
        // Several, in their order.
        vec![
            doc! { "$match": { "operationType": "insert", "fullDocument.total": { "$gte": 20 } } },
            doc! { "$set": { "fullDocument.net": { "$subtract": ["$fullDocument.total", 1] } } },
            doc! { "$unset": "fullDocument.total" },
            doc! { "$match": { "fullDocument.total": { "$exists": false } } },
            doc! { "$project": { "fullDocument.net": 1, "operationType": 1, "documentKey": 1 } },
        ],
    ]
}

#[tokio::test]
async fn each_stage_alone_and_several_together_give_what_the_driver_gets_in_every_form() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let request = database.watch_request(&[ORDERS]);
    let mut streams = Vec::new();
    for stages in typed() {
        let original = Original::open(&database, &stages).await;
        let mut watches = Vec::new();
        for form in FORMS {
            let watch = weir.watch(in_form(request.clone(), &stages, form)).await;
            assert_eq!(watch.opened.feed_mode(), pb::FeedMode::Dedicated);
            watches.push(watch);
        }
        streams.push((stages, original, watches));
    }
    insert(&database, [1, 2, 3, 4]).await;
    for (stages, mut original, mut watches) in streams {
        let passing = match stages[0].get_document("$match") {
            Err(_) => 4,
            Ok(condition) if condition.contains_key("operationType") => 3,
            Ok(_) => 2,
        };
        for _ in 0..passing {
            let mut expected = original.next().await;
            expected.remove("splitEvent");
            for watch in &mut watches {
                let change = watch.next_change().await;
                assert_eq!(change.operation(), pb::OperationType::Insert);
                assert_eq!(event_of(&change), expected, "{stages:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_replaced_root_and_an_event_without_a_known_operation_come_whole_as_other() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let cases = [
        (
            doc! { "$replaceRoot": { "newRoot": { "_id": "$_id", "total": "$fullDocument.total" } } },
            "",
            doc! { "total": 10 },
        ),
        (
            doc! { "$replaceWith": { "$mergeObjects": [{ "sum": "$fullDocument.total" }, { "_id": "$_id" }] } },
            "",
            doc! { "sum": 10 },
        ),
        (
            doc! { "$project": { "fullDocument.total": 1 } },
            "",
            doc! { "fullDocument": { "total": 10 } },
        ),
        (
            doc! { "$project": { "operationType": "renamed", "fullDocument.total": 1 } },
            "renamed",
            doc! { "operationType": "renamed", "fullDocument": { "total": 10 } },
        ),
        (
            doc! { "$project": { "operationType": { "$literal": 7 } } },
            "",
            doc! { "operationType": 7 },
        ),
    ];
    let mut watches = Vec::new();
    for (stage, ..) in &cases {
        let request = database.watch_request(&[ORDERS]);
        watches.push(
            weir.watch(staged(request, std::slice::from_ref(stage)))
                .await,
        );
    }
    insert(&database, [1]).await;
    for (mut watch, (stage, name, expected)) in watches.into_iter().zip(cases) {
        let change = watch.next_change().await;
        assert_eq!(change.operation(), pb::OperationType::Other, "{stage}");
        let (operation, mut event) = other(&change);
        assert_eq!(operation, name);
        // Without the token it is exactly what the stage makes.
        assert!(event.remove("_id").is_some(), "{event}");
        assert_eq!(event, expected, "{stage}");
    }
}

#[tokio::test]
async fn a_stage_that_removes_or_changes_the_token_ends_all_watches_of_its_stream() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    for stage in [
        doc! { "$project": { "_id": 0 } },
        doc! { "$unset": "_id" },
        doc! { "$set": { "_id": { "_data": "00" } } },
        doc! { "$replaceWith": "$fullDocument" },
        doc! { "$project": { "_id": "secret" } },
    ] {
        let request = staged(
            database.watch_request(&[ORDERS]),
            std::slice::from_ref(&stage),
        );
        let mut watches = [
            weir.watch(request.clone()).await,
            weir.watch(request.clone()).await,
        ];
        let token = watches[0].token();
        insert(&database, [100]).await;
        for watch in &mut watches {
            let status = watch.end().await;
            assert_eq!(
                status.code(),
                Code::FailedPrecondition,
                "{stage}: {status:?}"
            );
            assert_eq!(error_info(&status).reason, "PIPELINE_CHANGED_TOKEN");
            assert!(status.message().contains("_id") && !status.message().contains("secret"));
        }
        // The position is still good: with the corrected stages the event comes.
        let mut corrected = weir
            .watch(tokens::after(
                &token,
                &staged(request, &[doc! { "$match": {} }]),
            ))
            .await;
        assert_eq!(ids(&mut corrected, 1).await, [100], "{stage}");
        database
            .collection(ORDERS)
            .delete_one(doc! {})
            .await
            .unwrap();
    }
    eventually("no feed fails on", async || {
        weir.metrics().await.sum("weir_catch_ups") == 0.0
    })
    .await;
}

#[tokio::test]
async fn stages_that_mongodb_refuses_are_an_invalid_request() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let stage = doc! { "$project": { "a": { "$noSuchExpression": "a secret" } } };
    let request = staged(database.watch_request(&[ORDERS]), &[stage]);
    let status = match weir.try_watch(request).await {
        Err(status) => status,
        Ok(mut watch) => {
            // A server may look at an expression only once there is an event.
            insert(&database, [1]).await;
            watch.end().await
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
    assert!(!status.message().contains("secret"), "{status:?}");
}

#[tokio::test]
async fn equal_stages_share_a_stream_and_another_order_of_keys_has_its_own() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.allow_pipeline = true;
        // Stages need a stream of their own whatever this says.
        config.feeds_per_scope = 0;
    })
    .await;
    let request = |value: Document| {
        let stage = doc! { "$match": { "fullDocument.buyer": value } };
        staged(database.watch_request(&[ORDERS]), &[stage])
    };
    let stored = || request(doc! { "name": "Ada", "level": 5 });
    let mut same = [weir.watch(stored()).await, weir.watch(stored()).await];
    let turned = request(doc! { "level": 5, "name": "Ada" });
    let mut turned = weir.watch(turned).await;
    assert_eq!(weir.metrics().await.sum("weir_feeds"), 2.0);
    insert(&database, [1, 2]).await;
    for watch in &mut same {
        assert_eq!(watch.opened.feed_mode(), pb::FeedMode::Dedicated);
        assert_eq!(ids(watch, 2).await, [1, 2]);
    }
    // MongoDB compares documents with their order.
    database
        .collection(ORDERS)
        .insert_one(doc! { "_id": 3, "buyer": { "level": 5, "name": "Ada" } })
        .await
        .unwrap();
    assert_eq!(ids(&mut turned, 1).await, [3]);
}

/// What stages make up is delivered as it is, and believed by nobody.
#[tokio::test]
async fn made_up_times_names_and_operations_are_delivered_and_mislead_no_one() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let far = Timestamp {
        time: u32::MAX - 1,
        increment: 7,
    };
    let stages = [doc! { "$set": {
        "clusterTime": far,
        "operationType": "invalidate",
        "ns": { "db": "admin", "coll": "system.x" },
        "lsid": "none",
    } }];
    let request = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..staged(database.watch_request(&[ORDERS]), &stages)
    };
    let mut watch = weir.watch(request.clone()).await;
    insert(&database, [1, 2]).await;
    let changes = watch.changes(2).await;
    for change in &changes {
        let (name, event) = other(change);
        assert_eq!(name, "invalidate");
        assert_eq!(event.get("clusterTime"), Some(&Bson::Timestamp(far)));
        assert_eq!(change.operation(), pb::OperationType::Other);
    }
    let progress = watch.next_progress().await;
    let [reached, now] = [progress.cluster_time, progress.upstream_time].map(Option::unwrap);
    assert!(reached.seconds <= now.seconds, "{progress:?}");
    // The token of a made-up `invalidate` is an event's.
    drop(watch);
    let mut back = weir
        .watch(tokens::after(&changes[0].resume_token, &request))
        .await;
    let again = back.next_change().await;
    assert_eq!(other(&again).1, other(&changes[1]).1);
    // A second watch starts where the stream is, although its events do not tell their times.
    let mut second = weir.watch(request).await;
    insert(&database, [3]).await;
    let key = |change: &pb::ChangeEvent| {
        let event = other(change).1;
        event
            .get_document("documentKey")
            .unwrap()
            .get_i32("_id")
            .unwrap()
    };
    assert_eq!(key(&second.next_change().await), 3);
    assert_eq!(key(&back.next_change().await), 3);
}

#[tokio::test]
async fn filters_and_operations_select_what_the_stages_get() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let request = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert.into()],
        filters: vec![crate::conversions::eq("status", serde_json::json!("open"))],
        fields: vec!["net".to_owned()],
        ..database.watch_request(&[ORDERS])
    };
    let stages = [doc! { "$set": {
        "operationType": "update",
        "fullDocument": { "net": "$fullDocument.total", "more": true },
    } }];
    let mut watch = weir.watch(staged(request, &stages)).await;
    insert(&database, [1, 2, 3, 4]).await;
    for expected in [20, 40] {
        let change = watch.next_change().await;
        assert_eq!(change.operation(), pb::OperationType::Update);
        let after = crate::conversions::after(&change);
        assert_eq!(after, Some(doc! { "net": expected }.into()));
    }
}
