//! What the tests' database does otherwise than MongoDB, played by a scripted mongod and mongos: it finds a token's
//! event whatever the stages leave out, and sends every event.

use std::sync::Arc;
use std::time::Duration;

use super::tokens::Passes;
use super::{number, staged, weir_at, without_ring};
use crate::conversions::id;
use crate::support::stand_in::{Event, Log, Rule, ServerError, StandIn, Version, change};
use crate::support::{WatchStream, Weir, error_info, error_reason, eventually};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::join_all;
use mongodb::bson::{Document, doc};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use weir::pb;

const ORDERS: &str = "orders";

const VERSIONS: [fn() -> Version; 4] = [
    || Version::mongod([8, 2, 11]),
    || Version::mongod([9, 0, 0]),
    || Version::mongos([8, 2, 11]),
    || Version::mongos([9, 0, 1]),
];

fn inserts(ids: std::ops::RangeInclusive<i32>) -> Vec<Event> {
    ids.map(|id| change("insert", ORDERS, id).into()).collect()
}

async fn ids(watch: &mut WatchStream, count: usize) -> Vec<i32> {
    let changes = watch.changes(count).await;
    changes.iter().map(|it| number(&id(it))).collect()
}

/// Reads to the end. Returns the ids and the status.
async fn to_the_end(weir: &Weir, request: pb::WatchRequest) -> (Vec<i32>, Status) {
    let mut watch = match weir.try_watch(request).await {
        Ok(watch) => watch,
        Err(status) => return (Vec::new(), status),
    };
    let mut got = Vec::new();
    loop {
        match watch.try_next().await {
            Ok(Some(message)) => {
                if let Some(pb::watch_response::Kind::Changes(batch)) = message.kind {
                    got.extend(batch.changes.iter().map(|it| number(&id(it))));
                }
            }
            Ok(None) => panic!("it ended without a status"),
            Err(status) => return (got, status),
        }
    }
}

/// The text of MongoDB's `plan_executor_pipeline.cpp`.
fn changed_token(found: &str) -> ServerError {
    ServerError::new(280)
        .named("ChangeStreamFatalError")
        .label("NonResumableChangeStreamError")
        .message(format!(
            "PlanExecutor error during aggregation :: caused by :: Encountered an event whose _id field, \
             which contains the resume token, was modified by the pipeline. Modifying the _id field of an \
             event makes it impossible to resume the stream from that point. Only transformations that \
             retain the unmodified _id field are allowed. Expected: {{ _id: {{ _data: \"82\" }} }} but found: \
             {found}"
        ))
}

/// One attempt, and no resume by time: every one would meet the same event.
#[tokio::test]
async fn mongodbs_refusal_of_a_changed_token_ends_the_watches_at_once() {
    for found in ["{}", "{ _id: \"found more than one document\" }"] {
        let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
        let weir = weir_at(stand_in.uri()).await;
        let request = staged(
            stand_in.watch_request(&[ORDERS]),
            &[doc! { "$project": { "_id": "x" } }],
        );
        let mut watches = [
            weir.watch(request.clone()).await,
            weir.watch(request.clone()).await,
        ];
        let openings = stand_in.command_count("aggregate");
        stand_in.play(Rule::on("getMore").answer(changed_token(found)));
        for watch in &mut watches {
            let status = watch.end().await;
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert_eq!(error_reason(&status), "PIPELINE_CHANGED_TOKEN");
        }
        assert_eq!(stand_in.command_count("aggregate"), openings);
        stand_in.play(Rule::on("aggregate").answer(changed_token(found)));
        weir.wait_for_no_feeds().await;
        let refused = weir.try_watch(request).await.err().expect("it is refused");
        assert_eq!(error_reason(&refused), "PIPELINE_CHANGED_TOKEN");
    }
}

/// Requests whose streams do not contain each other's events, with the orders that each gets.
fn requests(stand_in: &StandIn) -> Vec<(pb::WatchRequest, Passes)> {
    let plain = stand_in.watch_request(&[ORDERS]);
    let with = |stage: Document| staged(plain.clone(), &[stage]);
    vec![
        (plain.clone(), |_| true),
        (
            with(doc! { "$match": { "fullDocument.n": { "$in": [2, 4, 6, 8] } } }),
            |id| id % 2 == 0,
        ),
        (
            with(doc! { "$match": { "fullDocument.n": { "$gte": 4 } } }),
            |id| id >= 4,
        ),
        (with(doc! { "$project": { "documentKey": 1 } }), |_| true),
    ]
}

/// MongoDB looks for a token's event behind the stages, and refuses a token whose event they leave out.
#[tokio::test]
async fn a_token_whose_event_the_stages_leave_out_goes_on_exactly_on_every_server() {
    join_all(VERSIONS.map(|version| async move {
        let stand_in = StandIn::start_as(version());
        let orders = stand_in.log(ORDERS);
        let weir = weir_at(stand_in.uri()).await;
        let requests = requests(&stand_in);
        let mut live = Vec::new();
        for (request, _) in &requests {
            live.push(weir.watch(request.clone()).await);
        }
        // All of one time.
        orders.push_at_once(inserts(1..=6));
        orders.push_all(inserts(7..=8));
        stand_in.push_noops(1);
        let mut tokens: Vec<(i32, Bytes)> = Vec::new();
        for (watch, (_, passes)) in live.iter_mut().zip(&requests) {
            let count = (1..=8).filter(|id| passes(*id)).count();
            for change in watch.changes(count).await {
                tokens.push((number(&id(&change)), change.resume_token));
            }
        }
        let replica = without_ring(stand_in.uri()).await;
        for (at, token) in &tokens {
            for (request, passes) in &requests {
                let expected: Vec<i32> = (at + 1..=8).filter(|id| passes(*id)).collect();
                let mut back = replica.watch(super::tokens::after(token, request)).await;
                let what = format!("{:?} after {at}: {:?}", version(), request.pipeline);
                assert_eq!(back.opened.start_mode(), pb::StartMode::Token, "{what}");
                assert_eq!(ids(&mut back, expected.len()).await, expected, "{what}");
            }
        }
    }))
    .await;
}

fn next_token(status: &Status) -> Bytes {
    let info = error_info(status);
    let token = info.metadata.get("next_token");
    let token = token.unwrap_or_else(|| panic!("no next_token: {info:?}"));
    STANDARD.decode(token).expect("base64").into()
}

#[tokio::test]
async fn stages_lose_nothing_around_an_event_that_cannot_be_sent() {
    let stages: [(Document, Passes); 2] = [
        (
            doc! { "$match": { "fullDocument.n": { "$in": [1, 3, 5, 7] } } },
            |id| id % 2 == 1,
        ),
        (
            doc! { "$project": { "documentKey": 1, "operationType": 1 } },
            |_| true,
        ),
    ];
    let plays = VERSIONS.into_iter().flat_map(|version| {
        let stages = stages.clone();
        stages.into_iter().map(move |stage| (version, stage))
    });
    join_all(plays.map(|(version, (stage, passes))| async move {
        let what = format!("{:?}, {stage}", version());
        let stand_in = Arc::new(StandIn::start_as(version()));
        let orders = stand_in.log(ORDERS);
        let weir = weir_at(stand_in.uri()).await;
        let request = pb::WatchRequest {
            full_document: pb::FullDocument::UpdateLookup.into(),
            ..staged(stand_in.watch_request(&[ORDERS]), &[stage])
        };
        let start = weir.watch(request.clone()).await.token();
        let update = |id| change("update", ORDERS, id);
        orders.push_all((1..=4).map(|id| update(id).into()));
        orders.push(Event::too_large(update(5)));
        orders.push_all((6..=7).map(|id| update(id).into()));
        // The oplog goes on, as MongoDB writes to it every ten seconds: behind a mongos only that proves what was
        // left out.
        let noops = {
            let stand_in = Arc::clone(&stand_in);
            AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    stand_in.push_noops(1);
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }))
        };
        let (got, status) = to_the_end(&weir, super::tokens::after(&start, &request)).await;
        let expected: Vec<i32> = (1..=4).filter(|id| passes(*id)).collect();
        assert_eq!(got, expected, "{what}: {status:?}");
        assert_eq!(error_reason(&status), "UPSTREAM_EVENT_TOO_LARGE", "{what}");
        assert!(
            error_info(&status).metadata.contains_key("next_token"),
            "{what}: {status:?}"
        );
        let token = next_token(&status);
        let mut resumed = weir.watch(super::tokens::after(&token, &request)).await;
        let expected: Vec<i32> = (6..=7).filter(|id| passes(*id)).collect();
        assert_eq!(ids(&mut resumed, expected.len()).await, expected, "{what}");
        drop(noops);
    }))
    .await;
}

/// The `invalidate` is not among the stream's events, but MongoDB closes the cursor.
#[tokio::test]
async fn a_closed_cursor_tells_of_the_end_of_the_namespace_on_every_server() {
    join_all(VERSIONS.map(|version| async move {
        let stand_in = StandIn::start_as(version());
        let orders = stand_in.log(ORDERS);
        let weir = weir_at(stand_in.uri()).await;
        for stage in [
            doc! { "$match": { "operationType": "insert" } },
            doc! { "$project": { "documentKey": 1 } },
        ] {
            let request = pb::WatchRequest {
                operations: vec![pb::OperationType::Insert.into()],
                ..staged(stand_in.watch_request(&[ORDERS]), &[stage])
            };
            let mut watch = weir.watch(request.clone()).await;
            orders.push_all(inserts(1..=2));
            orders.push(crate::support::stand_in::about("drop", ORDERS));
            assert_eq!(ids(&mut watch, 2).await, [1, 2]);
            let invalidated = watch.next_invalidated().await;
            assert_eq!(invalidated.cause(), pb::OperationType::Drop);
            let token = watch.token();
            assert_eq!(error_reason(&watch.end().await), "WATCH_INVALIDATED");
            let mut back = weir.watch(super::tokens::after(&token, &request)).await;
            orders.push_all(inserts(3..=3));
            stand_in.push_noops(1);
            assert_eq!(ids(&mut back, 1).await, [3], "{:?}", version());
        }
    }))
    .await;
}

/// A cursor that is closed for no reason is opened again.
#[tokio::test]
async fn a_cursor_that_is_closed_for_another_reason_costs_nothing() {
    let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
    let orders = stand_in.log(ORDERS);
    let weir = weir_at(stand_in.uri()).await;
    let request = staged(
        stand_in.watch_request(&[ORDERS]),
        &[doc! { "$match": { "operationType": "insert" } }],
    );
    let mut watch = weir.watch(request).await;
    orders.push_all(inserts(1..=1));
    assert_eq!(ids(&mut watch, 1).await, [1]);
    let closed = crate::support::stand_in::Answer::altered(|reply| reply.cursor = 0);
    stand_in.play(Rule::on("getMore").once().answer(closed));
    orders.push_all(inserts(2..=3));
    assert_eq!(ids(&mut watch, 2).await, [2, 3]);
}

/// Writes orders that no stage passes, until it is dropped.
fn write_on(orders: Log) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        for id in 1_000.. {
            orders.push(change("insert", ORDERS, id));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }))
}

/// Nothing of what is written passes the stages, so the watch can't join by an event. Not on a mongos: a real one holds
/// its replies back then, and this one does not.
#[tokio::test]
async fn a_catch_up_whose_stages_leave_everything_out_becomes_live_on_a_busy_collection() {
    join_all([VERSIONS[0], VERSIONS[1]].map(|version| async move {
        let stand_in = StandIn::start_as(version());
        let weir = Weir::at(stand_in.uri(), |config| {
            config.allow_pipeline = true;
            config.max_catch_ups = 1;
        })
        .await;
        let start = weir.watch(stand_in.watch_request(&[ORDERS])).await.token();
        stand_in.log(ORDERS).push_all(inserts(1..=50));
        let writer = write_on(stand_in.log(ORDERS));
        for stage in [
            doc! { "$match": { "fullDocument.n": { "$lt": 0 } } },
            doc! { "$match": { "fullDocument.n": { "$in": [-1, -2] } } },
        ] {
            let request = staged(stand_in.watch_request(&[ORDERS]), &[stage]);
            let mut watch = weir.watch(super::tokens::after(&start, &request)).await;
            eventually("it has joined the ring", async || {
                weir.metrics().await.sum("weir_catch_ups") == 0.0
            })
            .await;
            // It is served: what passes comes.
            stand_in.log(ORDERS).push(change("insert", ORDERS, -1));
            assert_eq!(ids(&mut watch, 1).await, [-1], "{:?}", version());
        }
        drop(writer);
    }))
    .await;
}

#[tokio::test]
async fn cut_connections_neither_lose_nor_repeat_an_event() {
    join_all(VERSIONS.map(|version| async move {
        let stand_in = StandIn::start_as(version());
        let weir = weir_at(stand_in.uri()).await;
        let mut watches = Vec::new();
        for (request, passes) in requests(&stand_in) {
            watches.push((weir.watch(request).await, passes));
        }
        for id in 1..=8 {
            stand_in.log(ORDERS).push_all(inserts(id..=id));
            if id % 3 == 0 {
                stand_in.cut();
            }
            stand_in.push_noops(1);
            for (watch, passes) in &mut watches {
                if passes(id) {
                    assert_eq!(ids(watch, 1).await, [id], "{:?}", version());
                }
            }
        }
    }))
    .await;
}
