//! Watches that start or end at a time.

use crate::support::{Database, WatchStream, Weir, error_info, eventually, within};
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

fn after(token: &Bytes, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request
    }
}

fn at(seconds: u32) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: seconds.into(),
        // Ignored, both ways.
        nanos: 999_999_999,
    }
}

fn from(seconds: u32, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::StartTime(at(seconds))),
        ..request
    }
}

fn until(seconds: u32, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        end_time: Some(at(seconds)),
        ..request
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

fn ids<'a>(changes: impl IntoIterator<Item = &'a pb::ChangeEvent>) -> Vec<i32> {
    changes.into_iter().map(id).collect()
}

fn second(change: &pb::ChangeEvent) -> u32 {
    change.cluster_time.expect("a time").seconds
}

async fn insert(database: &Database, id: i32) {
    let orders = database.collection("orders");
    orders
        .insert_one(doc! {"_id": id})
        .await
        .expect("an insert");
}

/// Writes for at least three seconds. Returns the changes, after one that is not returned.
async fn changes_of_three_seconds(weir: &Weir, database: &Database) -> Vec<pb::ChangeEvent> {
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    let mut changes: Vec<pb::ChangeEvent> = Vec::new();
    eventually("three seconds have passed", async || {
        insert(database, i32::try_from(changes.len()).expect("few")).await;
        changes.push(watch.next_change().await);
        second(&changes[changes.len() - 1]) >= second(&changes[0]) + 3
    })
    .await;
    changes
}

/// All changes of a watch that ends with OK, and its last token.
async fn all(mut watch: WatchStream) -> (Vec<pb::ChangeEvent>, Bytes) {
    let whole = async {
        let mut changes = Vec::new();
        while let Some(message) = watch.try_next().await.expect("it ends with OK") {
            match message.kind {
                Some(Kind::Changes(batch)) => changes.extend(batch.changes),
                Some(Kind::StateChange(_) | Kind::Progress(_)) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        changes
    };
    let changes = within("the end", whole).await;
    (changes, watch.token())
}

#[tokio::test]
async fn a_watch_from_a_time_starts_with_the_first_change_of_that_second() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let changes = changes_of_three_seconds(&weir, &database).await;
    let middle = second(&changes[0]) + 1;
    let expected: Vec<_> = changes.iter().filter(|it| second(it) >= middle).collect();
    assert!(expected.len() < changes.len());

    let request = from(middle, database.watch_request(&["orders"]));
    let mut watch = weir.watch(request.clone()).await;
    assert_eq!(watch.opened.start_mode(), pb::StartMode::Time);
    let start = watch.opened.start_time.expect("a time");
    assert_eq!((start.seconds, start.increment), (middle, 1));
    let opened = watch.token();
    let got = watch.changes(expected.len()).await;
    assert_eq!(ids(&got), ids(expected));

    // Nothing had been handled when `Opened` came, so its token starts at the same time and fits
    // every filter.
    for operations in [vec![], vec![pb::OperationType::Insert.into()]] {
        let again = pb::WatchRequest {
            operations,
            ..after(&opened, database.watch_request(&["orders"]))
        };
        let mut again = weir.watch(again).await;
        assert_eq!(again.opened.start_mode(), pb::StartMode::Token);
        assert_eq!(again.opened.start_time, Some(start));
        assert_eq!(ids(&again.changes(got.len()).await), ids(&got));
    }
}

/// A watch from now, the first of its feed, opened during writes: the reported start position is
/// not later than the first change that it gets. Otherwise progress could be reported beyond that
/// change, and a resume by time would miss it.
#[tokio::test]
async fn no_change_lies_before_the_reported_start_position() {
    const ROUNDS: usize = 40;
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection("orders");
    // A single writer: with several, the stand-in reports a time at which one of them is not done
    // yet.
    let _writing = AbortOnDropHandle::new(tokio::spawn(async move {
        for id in 0.. {
            orders
                .insert_one(doc! {"_id": id})
                .await
                .expect("an insert");
        }
    }));
    for round in 0..ROUNDS {
        let request = pb::WatchRequest {
            // So that the watch has its own feed.
            collections: vec!["orders".to_owned(), format!("none_{round}")],
            ..database.watch_request(&[])
        };
        let mut watch = weir.watch(request).await;
        let began = watch.opened.start_time.expect("MongoDB reports the time");
        let first = watch.next_change().await;
        let first = first.cluster_time.expect("a change has a time");
        let time = |it: pb::ClusterTime| (it.seconds, it.increment);
        assert!(
            time(began) <= time(first),
            "round {round}: {began:?}, then {first:?}"
        );
    }
}

/// (The stand-in also sends earlier events, which MongoDB does not; they are skipped here.)
#[tokio::test]
async fn a_watch_from_the_future_starts_at_its_time() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut now = weir.watch(database.watch_request(&["orders"])).await;
    insert(&database, 0).await;
    let start = second(&now.next_change().await) + 2;
    let request = from(start, database.watch_request(&["orders"]));
    let mut watch = weir.watch(request).await;
    assert_eq!(watch.opened.start_mode(), pb::StartMode::Time);

    let mut next = 0;
    let mut last = None;
    eventually("the time has come", async || {
        next += 1;
        insert(&database, next).await;
        let change = now.next_change().await;
        let come = second(&change) >= start;
        last = Some(change);
        come
    })
    .await;
    let first = loop {
        let change = watch.next_change().await;
        if second(&change) >= start {
            break change;
        }
    };
    assert_eq!(Some(id(&first)), last.as_ref().map(id));
}

/// Starting later without an error would leave a gap.
#[tokio::test]
async fn a_time_before_the_oldest_entry_of_the_oplog_is_refused() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut client = weir.client().await;
    let info = client.get_server_info(pb::GetServerInfoRequest {}).await;
    let info = info.expect("an answer").into_inner();
    let oldest = info.oldest_resumable_time.expect("the oplog can be read");
    for seconds in [0, oldest.seconds - 1] {
        let request = from(seconds, database.watch_request(&["orders"]));
        let status = client.watch(request).await.expect_err("it is too early");
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        let info = error_info(&status);
        assert_eq!(info.reason, "RESUME_TOKEN_EXPIRED");
        assert_eq!(info.metadata["token_time"], format!("{seconds}.1"));
        let oldest = format!("{}.{}", oldest.seconds, oldest.increment);
        assert_eq!(info.metadata["oldest_time"], oldest);
    }
}

#[tokio::test]
async fn a_bounded_read_ends_with_ok_after_the_last_change_of_its_last_second() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let changes = changes_of_three_seconds(&weir, &database).await;
    let (first, last) = (second(&changes[0]) + 1, second(&changes[0]) + 2);
    let within = |from: u32, until: u32| -> Vec<i32> {
        let seconds = from..=until;
        let inside = changes.iter().filter(|it| seconds.contains(&second(it)));
        ids(inside)
    };
    let orders = || database.watch_request(&["orders"]);
    for (from_second, until_second) in [(first, last), (first, first), (last, last)] {
        let request = until(until_second, from(from_second, orders()));
        let (got, _) = all(weir.watch(request).await).await;
        assert_eq!(ids(&got), within(from_second, until_second));
    }
    // Starting from a token.
    let request = until(last, after(&changes[0].resume_token, orders()));
    let (got, end) = all(weir.watch(request).await).await;
    assert_eq!(ids(&got), within(first - 1, last)[1..]);
    // Changes after the end follow its last token.
    let mut rest = weir.watch(after(&end, orders())).await;
    assert_eq!(second(&rest.next_change().await), last + 1);

    // From a token after the end there is nothing to read.
    let newest = &changes[changes.len() - 1].resume_token;
    let (got, _) = all(weir.watch(until(last, after(newest, orders()))).await).await;
    assert_eq!(got, []);
}

/// MongoDB's clock decides about the end when no change comes after it.
#[tokio::test]
async fn a_bounded_read_of_a_quiet_collection_ends_once_mongodbs_clock_has_passed() {
    let database = Database::options().noop_heartbeat_seconds(1).start().await;
    let weir = Weir::start(&database).await;
    let mut now = weir.watch(database.watch_request(&["orders"])).await;
    insert(&database, 1).await;
    let change = now.next_change().await;
    let end = second(&change) + 1;
    let nothing_matches = pb::WatchRequest {
        operations: vec![pb::OperationType::Delete.into()],
        ..until(end, database.watch_request(&["orders"]))
    };
    let everything = until(end, from(end - 1, database.watch_request(&["orders"])));
    let (none, token) = all(weir.watch(nothing_matches).await).await;
    assert_eq!(none, []);
    let (one, _) = all(weir.watch(everything).await).await;
    assert_eq!(one, [change]);

    insert(&database, 2).await;
    let mut rest = weir
        .watch(after(&token, database.watch_request(&["orders"])))
        .await;
    assert_eq!(
        id(&rest.next_change().await),
        2,
        "the last token is the end's"
    );
}

/// The end of the collection after the last second does not affect the bounded read.
#[tokio::test]
async fn a_bounded_read_ends_with_ok_although_the_collection_was_dropped_later() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let changes = changes_of_three_seconds(&weir, &database).await;
    database.collection("orders").drop().await.expect("a drop");
    let first = second(&changes[0]);
    let early = ids(changes.iter().filter(|it| second(it) <= first + 1));
    for operations in [vec![], vec![pb::OperationType::Insert.into()]] {
        let request = pb::WatchRequest {
            operations,
            ..until(first + 1, from(first, database.watch_request(&["orders"])))
        };
        let (got, _) = all(weir.watch(request).await).await;
        assert_eq!(ids(&got), early);
    }
    // The same where no change shows that the end has passed.
    let deletes = pb::WatchRequest {
        operations: vec![pb::OperationType::Delete.into()],
        ..until(first + 1, from(first, database.watch_request(&["orders"])))
    };
    let (got, _) = all(weir.watch(deletes).await).await;
    assert_eq!(got, []);
}
