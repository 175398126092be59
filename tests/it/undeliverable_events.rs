//! Events that MongoDB can't send: everything before them comes, the watch ends once, and the
//! client can resume after them.

use crate::conversions::{field, id};
use crate::support::orders::{ORDERS, insert};
use crate::support::{Database, FailCommand, Figure, Weir, error_info, eventually, tally};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mongodb::bson::{Bson, doc};
use pb::watch_response::Kind;
use tonic::Status;
use weir::pb;
use weir::pb::field_filter::Operator;
use weir::pb::watch_request::Start;

/// MongoDB's codes for events that it can't send, with Weir's reasons.
const CODES: [(i32, &str); 2] = [
    (47, "IMAGE_UNAVAILABLE"),
    (10334, "UPSTREAM_EVENT_TOO_LARGE"),
];

/// Reads to the end. Returns the ids, the last token and the status.
async fn to_the_end(weir: &Weir, request: pb::WatchRequest) -> (Vec<Bson>, Bytes, Status) {
    let mut watch = match weir.try_watch(request).await {
        Ok(watch) => watch,
        Err(status) => return (Vec::new(), Bytes::new(), status),
    };
    let mut ids = Vec::new();
    loop {
        match watch.try_next().await {
            Ok(Some(message)) => {
                if let Some(Kind::Changes(batch)) = message.kind {
                    ids.extend(batch.changes.iter().map(id));
                }
            }
            Ok(None) => panic!("the watch ended with OK after {ids:?}"),
            Err(status) => return (ids, watch.token(), status),
        }
    }
}

fn from(token: &Bytes, request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request.clone()
    }
}

fn numbers(ids: impl IntoIterator<Item = i32>) -> Vec<Bson> {
    ids.into_iter().map(Bson::from).collect()
}

/// A missing required image among events that can be sent, read by the feed or a catch-up, with and
/// without a document filter in MongoDB. (The stand-in reads up to 200 events ahead of what it
/// sends, where MongoDB does not: the events right before may then come only with other image
/// options.)
#[tokio::test]
async fn a_watch_ends_right_before_a_missing_image_and_resumes_right_after_it() {
    let database = Database::options().start().await;
    let orders = database.collection(ORDERS);
    let plain = database.watch_request(&[ORDERS]);
    let required = pb::WatchRequest {
        full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
        ..plain.clone()
    };
    let filtered = pb::WatchRequest {
        filters: vec![field("kind", Operator::Exists(true))],
        ..required.clone()
    };
    let weir = Weir::start(&database).await;
    let mut other = weir.watch(plain.clone()).await;
    let modes = [pb::FeedMode::Shared, pb::FeedMode::Dedicated];
    let mut live = Vec::new();
    for request in [required, filtered] {
        for mode in modes {
            let request = pb::WatchRequest {
                feed_mode: mode.into(),
                ..request.clone()
            };
            let watch = weir.watch(request.clone()).await;
            live.push((request, watch.token(), watch));
        }
    }
    let write = async |ids: std::ops::Range<i32>| {
        let documents = ids.map(|number| doc! {"_id": number, "kind": "a"});
        orders.insert_many(documents).await.expect("inserts");
    };
    write(0..5).await;
    let mut changes = other.changes(5).await;
    for (_, _, watch) in &mut live {
        let ids: Vec<Bson> = watch.changes(5).await.iter().map(id).collect();
        assert_eq!(ids, numbers(0..5));
    }
    let update = orders.update_one(doc! {"_id": 1}, doc! {"$set": {"kind": "b"}});
    update.await.expect("an update");
    write(5..8).await;
    changes.extend(other.changes(4).await);
    let all = numbers([0, 1, 2, 3, 4, 1, 5, 6, 7]);
    assert_eq!(changes.iter().map(id).collect::<Vec<_>>(), all);
    let poison = changes[5].cluster_time.expect("an event has a time");
    let poison = format!("{}.{}", poison.seconds, poison.increment);

    let replica = Weir::without_linger(&database).await;
    for (request, start, mut watch) in live {
        let status = watch.end().await;
        let ended = (numbers(0..5), watch.token(), status);
        // Another server reads all of it again.
        let again = to_the_end(&replica, from(&start, &request)).await;
        // From right before it, the watch ends at once, and once.
        let once_more = to_the_end(&replica, from(&ended.1, &request)).await;
        assert_eq!(once_more.0, []);
        let once_more = (numbers(0..5), ended.1.clone(), once_more.2);
        for (ids, token, status) in [ended, again, once_more] {
            let info = error_info(&status);
            assert_eq!(info.reason, "IMAGE_UNAVAILABLE");
            assert!(info.metadata.contains_key("after_time"));
            // With other image options the last token resumes with everything that did not come.
            let token = if token.is_empty() { &start } else { &token };
            let mut without = replica.watch(from(token, &plain)).await;
            let rest = without.changes(all.len() - ids.len()).await;
            let rest = rest.iter().map(id);
            assert_eq!(ids.iter().cloned().chain(rest).collect::<Vec<_>>(), all);

            // The next token lies right after the event, for the same request.
            let reported = info.metadata.get("next_token");
            assert!(reported.is_some() || ids.len() < 5, "{info:?}");
            if let Some(next) = reported {
                assert_eq!(info.metadata["event_time"], poison);
                let next = Bytes::from(STANDARD.decode(next).expect("base64"));
                let mut after = replica.watch(from(&next, &request)).await;
                let ids: Vec<Bson> = after.changes(3).await.iter().map(id).collect();
                assert_eq!(ids, numbers(5..8), "{request:?}");
            }
            tally(Figure::Faults, 1);
        }
    }
    // Watches that need no image notice nothing.
    insert(&database, 8).await;
    assert_eq!(id(&other.next_change().await), Bson::Int32(8));
}

/// A status that does not fit into the trailers would be lost as a whole.
#[tokio::test]
async fn the_status_stays_small_whatever_the_key() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection(ORDERS);
    let required = pb::WatchRequest {
        full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
        ..database.watch_request(&[ORDERS])
    };
    for length in [10, 700, 1_200, 2_400, 10_000, 1_000_000] {
        let key = "k".repeat(length);
        orders.insert_one(doc! {"_id": &key}).await.unwrap();
        let watch = weir.watch(required.clone()).await;
        let set = doc! {"$set": {"a": 1}};
        orders.update_one(doc! {"_id": &key}, set).await.unwrap();
        let (_, _, status) = to_the_end(&weir, from(&watch.token(), &required)).await;
        // Trailers hold the details in base64.
        let size = status.details().len() * 4 / 3 + status.message().len();
        assert!(size < 7 << 10, "{size} bytes with a key of {length}");
        let info = error_info(&status);
        assert!(info.metadata.contains_key("event_time"), "{length}");
        // The token right after the event is there too, and works.
        let next = &info.metadata["next_token"];
        let next = Bytes::from(STANDARD.decode(next).expect("base64"));
        let mut after = weir.watch(from(&next, &required)).await;
        assert_eq!(after.opened.start_mode(), pb::StartMode::Token);
        let key = format!("after {length}");
        orders.insert_one(doc! {"_id": &key}).await.unwrap();
        assert_eq!(id(&after.next_change().await), Bson::String(key));
    }
}

/// A failure of Weir's commands only.
fn weir_command_failure(commands: &[&str], code: i32) -> FailCommand {
    FailCommand::on(commands).code(code).app_name("weir")
}

/// A failure that does not recur costs only another opening.
#[tokio::test]
async fn a_failure_that_does_not_recur_loses_nothing() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    let restarts = async || weir.metrics().await.sum("weir_feed_restarts_total");
    for (first, (code, _)) in (0..).step_by(10).zip(CODES) {
        let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
        let before = restarts().await;
        database
            .fail(weir_command_failure(&["getMore"], code).times(1))
            .await;
        for number in first..first + 5 {
            insert(&database, number).await;
        }
        let ids: Vec<Bson> = watch.changes(5).await.iter().map(id).collect();
        assert_eq!(ids, numbers(first..first + 5), "{code}");
        eventually("it was opened again", async || restarts().await > before).await;
        insert(&database, first + 5).await;
        assert_eq!(id(&watch.next_change().await), Bson::Int32(first + 5));
        assert_eq!(restarts().await, before + 1.0);
        tally(Figure::Faults, 1);
        drop(watch);
        weir.wait_for_no_feeds().await;
    }
}

/// A failure that recurs is met once more, and examined at once: one end, no loop.
#[tokio::test]
async fn a_failure_that_persists_ends_the_watch_once() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    let restarts = async || weir.metrics().await.sum("weir_feed_restarts_total");
    for (first, (code, reason)) in (0..).step_by(10).zip(CODES) {
        for (number, commands) in (first..).zip([&["getMore"][..], &["getMore", "aggregate"]]) {
            let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
            let before = restarts().await;
            database.fail(weir_command_failure(commands, code)).await;
            let status = watch.end().await;
            let info = error_info(&status);
            assert_eq!(info.reason, reason, "{commands:?}");
            assert!(info.metadata.contains_key("after_time"), "{info:?}");
            assert!(!info.metadata.contains_key("next_token"), "{info:?}");
            assert_eq!(restarts().await, before + 1.0, "{code} {commands:?}");
            weir.wait_for_no_feeds().await;
            database.clear_failures().await;

            // Its token works once the failure is gone.
            let request = from(&watch.token(), &database.watch_request(&[ORDERS]));
            let mut again = weir.watch(request).await;
            insert(&database, number).await;
            assert_eq!(id(&again.next_change().await), Bson::Int32(number));
            drop(again);
            weir.wait_for_no_feeds().await;
            tally(Figure::Faults, 1);
        }
    }
    eventually("no cursor is left", async || {
        database.open_cursors().await == 0
    })
    .await;
}

/// A catch-up whose first reply fails, while the feed of other watches continues.
#[tokio::test]
async fn a_failing_catch_up_ends_only_its_own_watch() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let request = database.watch_request(&[ORDERS]);
    let start = weir.watch(request.clone()).await.token();
    insert(&database, 0).await;
    let replica = Weir::start(&database).await;
    let mut other = replica.watch(request.clone()).await;
    for (number, (code, reason)) in (1..).zip(CODES) {
        // The first attempt fails, so does the second, event by event, and so does the examination.
        database
            .fail(weir_command_failure(&["aggregate"], code).times(3))
            .await;
        let (ids, _, status) = to_the_end(&replica, from(&start, &request)).await;
        assert_eq!(ids, []);
        let info = error_info(&status);
        assert_eq!(info.reason, reason);
        assert!(info.metadata.contains_key("after_time"), "{info:?}");
        assert!(!info.metadata.contains_key("next_token"), "{info:?}");

        // The examination finds that nothing fails by itself: then nothing is lost either.
        database
            .fail(weir_command_failure(&["aggregate"], code).times(2))
            .await;
        let mut again = replica.watch(from(&start, &request)).await;
        assert_eq!(id(&again.next_change().await), Bson::Int32(0));

        // It fails only once: then nothing is lost.
        database
            .fail(weir_command_failure(&["aggregate"], code).times(1))
            .await;
        let mut again = replica.watch(from(&start, &request)).await;
        assert_eq!(id(&again.next_change().await), Bson::Int32(0));

        insert(&database, number).await;
        assert_eq!(id(&other.next_change().await), Bson::Int32(number));
        tally(Figure::Faults, 2);
    }
}
