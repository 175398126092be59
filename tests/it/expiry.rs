//! The end of the oplog, and how progress keeps a watch ahead of it.
//!
//! A server resumes from what its own feeds hold, whatever has left the oplog. So the tests ask
//! another replica, or one that keeps no feed.

use std::time::Duration;

use crate::support::{Database, FailCommand, WatchStream, Weir, error_info, eventually};
use bytes::Bytes;
use bytesize::ByteSize;
use mongodb::bson::{Document, doc};
use tonic::{Code, Status};
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

/// A database with a short oplog. It is pruned only every 1,000 entries.
async fn short_oplog_database() -> Database {
    Database::options().oplog_max_entries(50).start().await
}

fn after(token: &Bytes, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request
    }
}

fn orders(database: &Database) -> pb::WatchRequest {
    pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..database.watch_request(&["orders"])
    }
}

async fn insert(database: &Database, document: Document) {
    let orders = database.collection("orders");
    orders.insert_one(document).await.expect("an insert");
}

/// A time in the form of an error's details.
fn as_text(time: Option<pb::ClusterTime>) -> String {
    let time = time.expect("a time");
    format!("{}.{}", time.seconds, time.increment)
}

fn parsed(time: &str) -> (u32, u32) {
    let (seconds, increment) = time.split_once('.').expect("seconds.increment");
    let number = |digits: &str| digits.parse().expect("a number");
    (number(seconds), number(increment))
}

/// Writes to a collection until the token has left the oplog, as the status says.
async fn roll_the_oplog_over(
    replica: &Weir,
    database: &Database,
    collection: &str,
    request: pb::WatchRequest,
) -> Status {
    let mut expired = None;
    eventually("the oplog rolls over", async || {
        let many = (0..1000).map(|_| doc! {"status": "noise"});
        let collection = database.collection(collection);
        collection.insert_many(many).await.expect("inserts");
        expired = replica.try_watch(request.clone()).await.err();
        expired.is_some()
    })
    .await;
    let expired = expired.expect("the loop ended with it");
    assert_eq!(expired.code(), Code::OutOfRange, "{expired:?}");
    assert_eq!(error_info(&expired).reason, "RESUME_TOKEN_EXPIRED");
    expired
}

/// The token of a progress that has passed the current time.
async fn progress_from_now(weir: &Weir, watch: &mut WatchStream) -> Bytes {
    let mut client = weir.client().await;
    let info = client.get_server_info(pb::GetServerInfoRequest {}).await;
    let now = info.expect("an answer").into_inner().upstream_time;
    watch
        .until("progress up to now", |kind| match kind {
            Kind::Progress(progress) => {
                (in_order(progress.cluster_time) >= in_order(now)).then_some(())
            }
            _ => None,
        })
        .await;
    watch.token()
}

/// The second of the oplog's oldest entry.
async fn oldest_second(database: &Database) -> u32 {
    let oplog = database
        .client()
        .database("local")
        .collection::<Document>("oplog.rs");
    let oldest = oplog.find_one(doc! {}).sort(doc! {"$natural": 1}).await;
    let oldest = oldest.expect("the oplog can be read").expect("an entry");
    oldest.get_timestamp("ts").expect("it has a time").time
}

fn in_order(time: Option<pb::ClusterTime>) -> (u32, u32) {
    time.map_or((0, 0), |time| (time.seconds, time.increment))
}

/// A quiet collection in a busy database.
#[tokio::test]
async fn a_progress_token_of_a_quiet_collection_outlives_the_oplog() {
    let database = short_oplog_database().await;
    let weir = Weir::start(&database).await;
    let replica = Weir::without_linger(&database).await;
    let mut quiet = weir.watch(orders(&database)).await;
    insert(&database, doc! {"_id": 1}).await;
    let event = quiet.next_change().await.resume_token;
    let early = progress_from_now(&weir, &mut quiet).await;

    for forgotten in [&event, &early] {
        let request = after(forgotten, orders(&database));
        roll_the_oplog_over(&replica, &database, "noise", request).await;
    }
    let late = progress_from_now(&weir, &mut quiet).await;
    drop(quiet);

    insert(&database, doc! {"_id": 2}).await;
    let mut resumed = replica.watch(after(&late, orders(&database))).await;
    assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
    assert_eq!(id(&resumed.next_change().await), 2);
}

/// A busy collection in which nothing passes the filter.
#[tokio::test]
async fn a_progress_token_outlives_the_oplog_when_only_filtered_documents_change() {
    let database = short_oplog_database().await;
    let weir = Weir::start(&database).await;
    let replica = Weir::without_linger(&database).await;
    let mine = || pb::WatchRequest {
        filters: vec![status_is("mine")],
        ..orders(&database)
    };
    let mut watch = weir.watch(mine()).await;
    let opened = watch.token();
    insert(&database, doc! {"_id": 1, "status": "mine"}).await;
    let event = watch.next_change().await.resume_token;

    for forgotten in [&opened, &event] {
        let request = after(forgotten, mine());
        roll_the_oplog_over(&replica, &database, "orders", request).await;
    }
    let late = progress_from_now(&weir, &mut watch).await;
    drop(watch);

    insert(&database, doc! {"_id": 2, "status": "another's"}).await;
    insert(&database, doc! {"_id": 3, "status": "mine"}).await;
    let mut resumed = replica.watch(after(&late, mine())).await;
    assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
    assert_eq!(id(&resumed.next_change().await), 3);
    // A progress token fits every filter, as it belongs to no event.
    let mut unfiltered = replica.watch(after(&late, orders(&database))).await;
    assert_eq!(unfiltered.opened.start_mode(), pb::StartMode::Token);
    assert_eq!(id(&unfiltered.next_change().await), 2);
}

/// By token, and by the token's time when the filter differs.
#[tokio::test]
async fn a_token_that_has_left_the_oplog_is_refused_as_expired() {
    let database = short_oplog_database().await;
    let weir = Weir::start(&database).await;
    let mut watch = weir.watch(orders(&database)).await;
    insert(&database, doc! {"_id": 1}).await;
    let event = watch.next_change().await;
    drop(watch);
    let request = after(&event.resume_token, orders(&database));
    let replica = Weir::without_linger(&database).await;
    roll_the_oplog_over(&replica, &database, "noise", request.clone()).await;

    let other_filter = pb::WatchRequest {
        filters: vec![status_is("mine")],
        ..request.clone()
    };
    let by_time = pb::WatchRequest {
        start: Some(Start::StartTime(prost_types::Timestamp {
            seconds: event.cluster_time.expect("a time").seconds.into(),
            nanos: 0,
        })),
        ..request.clone()
    };
    for (request, time) in [
        (request, as_text(event.cluster_time)),
        (other_filter, as_text(event.cluster_time)),
        (
            by_time,
            format!("{}.1", event.cluster_time.expect("a time").seconds),
        ),
    ] {
        // Refused in place of the response headers, so that a client's own retry sees it.
        let mut client = replica.client().await;
        let status = client.watch(request).await.expect_err("it has expired");
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        let info = error_info(&status);
        assert_eq!(info.reason, "RESUME_TOKEN_EXPIRED");
        assert_eq!(info.metadata["token_time"], time);
        assert!(
            parsed(&info.metadata["oldest_time"]) > parsed(&time),
            "{info:?}"
        );
    }
}

/// Nothing is retried that cannot succeed.
#[tokio::test]
async fn an_expired_token_is_tried_once() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let mut in_time = weir.watch(orders(&database)).await;
    insert(&database, doc! {"_id": 1}).await;
    let event = in_time.next_change().await.resume_token;
    let fresh = after(&event, orders(&database));
    insert(&database, doc! {"_id": 2}).await;
    in_time.next_change().await;
    // Its feed is open and began after the event: only MongoDB can deliver what follows it.
    let replica = Weir::start(&database).await;
    let _open = replica.watch(orders(&database)).await;
    // The oplog's error on the first attempt only: a second attempt would succeed.
    let forgotten = FailCommand::on(&["aggregate"]).code(286).times(1);
    database.fail(forgotten).await;
    let status = replica.try_watch(fresh.clone()).await.err();
    let status = status.expect("the one attempt failed");
    assert_eq!(error_info(&status).reason, "RESUME_TOKEN_EXPIRED");
    let mut resumed = replica.watch(fresh).await;
    assert_eq!(id(&resumed.next_change().await), 2);
    assert_eq!(replica.metrics().await.sum("weir_feed_restarts_total"), 0.0);
}

/// The metric warns an operator in time that a watch is about to lose its position.
#[tokio::test]
async fn the_headroom_shrinks_before_a_position_leaves_the_oplog() {
    const KEPT: u32 = 1500;
    let database = Database::options().oplog_max_entries(KEPT).start().await;
    let weir = Weir::with(&database, |config| config.ring_bytes = ByteSize::kib(64)).await;
    let replica = Weir::without_linger(&database).await;
    let headroom = async || weir.metrics().await.sum("weir_oplog_headroom_seconds");

    // Some seconds of history, as much as the oplog keeps.
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..KEPT / 15 {
        pace.tick().await;
        let some = (0..15).map(|_| doc! {"status": "noise"});
        let noise = database.collection("noise").insert_many(some).await;
        noise.expect("inserts");
    }
    // A client that stops reading, and so does not advance with its feed.
    let mut unread = WatchStream::narrow(weir.grpc_addr(), orders(&database)).await;
    let mut reader = weir.watch(orders(&database)).await;
    for id in 0..20 {
        insert(&database, doc! {"_id": id, "text": "x".repeat(100_000)}).await;
        reader.next_change().await;
    }
    eventually("the headroom is reported", async || headroom().await > 1.0).await;
    let first = headroom().await;

    // The oplog approaches that position in steps, and the metric shows each of them.
    let request = after(&unread.token(), orders(&database));
    let oldest = oldest_second(&database).await;
    while oldest_second(&database).await == oldest {
        let many = (0..100).map(|_| doc! {"status": "noise"});
        let noise = database.collection("noise").insert_many(many).await;
        noise.expect("inserts");
    }
    eventually("the headroom shrinks", async || headroom().await < first).await;
    let there = replica.try_watch(request.clone()).await;
    assert!(
        there.is_ok(),
        "the metric did not show it in time: {:?}",
        there.err()
    );
    roll_the_oplog_over(&replica, &database, "noise", request).await;
    eventually("no headroom is left", async || headroom().await == 0.0).await;

    // Buffered messages come first, and then the error.
    let expired = unread.end().await;
    assert_eq!(expired.code(), Code::OutOfRange, "{expired:?}");
    let info = error_info(&expired);
    assert_eq!(info.reason, "RESUME_TOKEN_EXPIRED");
    assert!(parsed(&info.metadata["oldest_time"]) > parsed(&info.metadata["token_time"]));
}

fn status_is(status: &str) -> pb::Filter {
    let value = prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(status.to_owned())),
    };
    pb::Filter {
        kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
            path: "status".to_owned(),
            operator: Some(pb::field_filter::Operator::Eq(value)),
        })),
    }
}

fn id(change: &pb::ChangeEvent) -> i32 {
    let key = change
        .document_key
        .as_ref()
        .and_then(|key| key.value.as_ref());
    let Some(pb::document::Value::Bson(key)) = key else {
        panic!("no document key in BSON: {change:?}");
    };
    let key = Document::from_reader(&key[..]).expect("BSON");
    key.get_i32("_id").expect("a number")
}
