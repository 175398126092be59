//! Replies that come early, late and empty in the midst of MongoDB's scan: a bounded watch that ends with OK has
//! everything, and `LIVE` and `Progress` never overtake an event.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use mongodb::bson::{Document, doc};
use pb::watch_request::Start;
use pb::watch_response::Kind;
use tonic::Code;
use weir::pb;

use crate::conversions::id;
use crate::support::orders::ORDERS;
use crate::support::stand_in::{
    Answer, FIRST_SECOND, Rule, StandIn, Tokens, Version, change, time,
};
use crate::support::{Database, Direction, Mode, Proxy, WatchStream, Weir, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);

fn second(seconds: u32) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: seconds.into(),
        nanos: 0,
    }
}

/// What a bounded watch received.
#[derive(Debug, Default)]
struct Received {
    ids: Vec<i32>,
    /// The number of events before each `LIVE`.
    live_after: Vec<usize>,
    /// The second of each `Progress`, with the number of events before it.
    progresses: Vec<(u32, usize)>,
}

async fn read_to_end(mut watch: WatchStream, context: &str) -> Received {
    let mut received = Received::default();
    let whole = async {
        while let Some(message) = watch.try_next().await.expect("it ends with OK") {
            match message.kind {
                Some(Kind::Changes(batch)) => {
                    let ids = batch.changes.iter().map(id);
                    received.ids.extend(ids.filter_map(|id| id.as_i32()));
                }
                Some(Kind::StateChange(change)) if change.state() == pb::WatchState::Live => {
                    received.live_after.push(received.ids.len());
                }
                Some(Kind::Progress(progress)) => {
                    let reached = progress.cluster_time.map_or(0, |it| it.seconds);
                    received.progresses.push((reached, received.ids.len()));
                }
                _ => {}
            }
        }
    };
    let ended = tokio::time::timeout(LIMIT, whole).await;
    assert!(ended.is_ok(), "{context} does not end: {received:?}");
    received
}

/// One server, with many watches that read the past while each of its replies is slow and reads a few entries.
async fn bounded_watches_of_the_past_are_complete_on(version: Version, tokens: Tokens) {
    let stand_in = StandIn::start_as(version.clone());
    stand_in.set_tokens(tokens);
    let (orders, others) = (stand_in.log(ORDERS), stand_in.log("others"));
    let mut matching = Vec::new();
    let count = 30;
    for number in 0..count {
        // Every entry is one second later than the one before.
        let kind = fastrand::u32(..10);
        let of_other = kind < 3 && tokens != Tokens::Staying;
        if of_other {
            others.push(change("insert", "others", number));
            continue;
        }
        let is_rare = kind == 9 || number + 1 == count;
        let operation = if is_rare { "delete" } else { "insert" };
        orders.push(change(operation, ORDERS, number));
        if is_rare {
            matching.push((FIRST_SECOND + number.unsigned_abs(), number));
        }
    }
    let last = FIRST_SECOND + count.unsigned_abs() - 1;
    // MongoDB's clock passes the last end, by an entry for nobody; an event past the end where tokens do not rise.
    match tokens {
        Tokens::Staying => {
            stand_in.set_clock(time(last + 3, 1));
            orders.push(change("delete", ORDERS, 1_000));
        }
        _ => others.push(change("insert", "others", count)),
    }
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    stand_in.set_scan_limit(Some(fastrand::usize(2..6)));
    let wait = Duration::from_millis(fastrand::u64(900..1_050));
    let slow = stand_in.play(Rule::on("getMore").answer(Answer::Usual.after(wait)));
    let bounded = |from: u32, until: u32| pb::WatchRequest {
        start: Some(Start::StartTime(second(from))),
        end_time: Some(second(until)),
        operations: vec![pb::OperationType::Delete.into()],
        feed_mode: pb::FeedMode::Dedicated.into(),
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..stand_in.watch_request(&[ORDERS])
    };
    let runs = (0..6).map(|_| {
        let from = FIRST_SECOND + fastrand::u32(0..8);
        (from, fastrand::u32(from + 12..=last))
    });
    let runs = runs.map(async |(from, until)| {
        let context = format!("{version:?}, {tokens:?}, {from} to {until}");
        let watch = weir.watch(bounded(from, until)).await;
        (from, until, read_to_end(watch, &context).await)
    });
    for (from, until, received) in join_all(runs).await {
        let expected: Vec<(u32, i32)> = matching
            .iter()
            .copied()
            .filter(|(second, _)| (from..=until).contains(second))
            .collect();
        let context = format!("{version:?}, {tokens:?}, {from} to {until}: {received:?}");
        let ids: Vec<i32> = expected.iter().map(|(_, id)| *id).collect();
        assert_eq!(received.ids, ids, "{context}");
        for (reached, before) in &received.progresses {
            let due = expected.iter().filter(|(second, _)| second < reached);
            assert!(due.count() <= *before, "progress overtook: {context}");
        }
        // All of them were there at the opening.
        for before in &received.live_after {
            assert_eq!(*before, ids.len(), "live too early: {context}");
        }
    }
    assert!(slow.count() > 0);
}

/// A server replies early, slowly and without an event at random places of its scan, whatever its tokens tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_watch_of_the_past_is_complete_whatever_the_replies_are_like() {
    let runs = [
        (Version::mongod([8, 2, 11]), Tokens::Opaque),
        (Version::mongod([9, 0, 0]), Tokens::Rising),
        (Version::mongod([9, 0, 0]), Tokens::Staying),
        (Version::mongod([9, 0, 0]), Tokens::Opaque),
        (Version::mongos([9, 0, 2]), Tokens::Rising),
        (Version::mongos([9, 0, 0]), Tokens::Rising),
    ];
    join_all(
        runs.map(|(version, tokens)| bounded_watches_of_the_past_are_complete_on(version, tokens)),
    )
    .await;
}

/// A rename behind 550 other events, read through a network that delays each reply by more than a second: no reply
/// in the midst of the scan is the end of what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_watch_gets_the_rename_behind_many_other_events_over_a_slow_network() {
    const RUNS: usize = 6;
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), |config| {
        config.max_catch_ups = 2 * RUNS;
        // Each watch reads the past on a stream of its own.
        config.feed_linger = Duration::ZERO;
    })
    .await;
    let request = pb::WatchRequest {
        operations: vec![pb::OperationType::Rename.into()],
        feed_mode: pb::FeedMode::Dedicated.into(),
        ..database.watch_request(&[])
    };
    let start: Bytes = weir.watch(request.clone()).await.token();
    weir.wait_for_no_feeds().await;
    let old = database.collection("old");
    old.insert_many((0..550).map(|id| doc! {"_id": id}))
        .await
        .expect("inserts");
    let name = |collection: &str| format!("{}.{collection}", database.name());
    database
        .admin(doc! {"renameCollection": name("old"), "to": name("new")})
        .await;
    let mut client = weir.client().await;
    let mut now = async || {
        let info = client.get_server_info(pb::GetServerInfoRequest {}).await;
        let now = info.expect("an answer").into_inner().upstream_time;
        now.expect("a time").seconds
    };
    let end = now().await;
    eventually("its last second is over", async || {
        let noise = database.client().database("elsewhere");
        let noise = noise.collection::<Document>("noise");
        noise.insert_one(doc! {"x": 1}).await.expect("an insert");
        now().await > end + 1
    })
    .await;
    let delay = Mode::Delay(Duration::from_millis(1_050));
    proxy.set_one_way(Direction::Down, delay);
    let runs = (0..RUNS).map(async |run| {
        let bounded = pb::WatchRequest {
            start: Some(Start::ResumeToken(start.clone())),
            end_time: Some(second(end)),
            ..request.clone()
        };
        let watch = within("it opens", weir.watch(bounded)).await;
        let renames = read_renames(watch).await;
        assert_eq!(renames, 1, "run {run}");
    });
    join_all(runs).await;
}

/// The number of renames before the end of a watch.
async fn read_renames(mut watch: WatchStream) -> usize {
    let mut renames = 0;
    let whole = async {
        loop {
            match watch.try_next().await {
                Ok(Some(message)) => {
                    if let Some(Kind::Changes(batch)) = message.kind {
                        renames += batch.changes.len();
                    }
                }
                Ok(None) => break,
                Err(status) => panic!("{:?}: {status:?}", Code::Ok),
            }
        }
    };
    tokio::time::timeout(LIMIT, whole)
        .await
        .unwrap_or_else(|_| panic!("it does not end"));
    renames
}
