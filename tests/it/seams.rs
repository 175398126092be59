//! The points where the source of a watch changes: from MongoDB to a feed's ring, from the ring back to
//! MongoDB, from one server to the next. Nothing is missing there, and nothing comes twice.

mod client;
mod schedule;

use std::cell::Cell;

use crate::conversions::eq;
use crate::support::orders::{ORDERS, id, insert, resume};
use crate::support::{Database, FailCommand, WatchStream, Weir};
use bytes::Bytes;
use bytesize::ByteSize;
use mongodb::bson::doc;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;
use weir::pb;

/// A server whose ring holds a few of the documents of [`write`].
async fn small_ring(database: &Database) -> Weir {
    Weir::with(database, |config| config.ring_bytes = ByteSize::kib(64)).await
}

async fn write(database: &Database, ids: impl IntoIterator<Item = i32>) {
    let orders = database.collection(ORDERS);
    for id in ids {
        let document = doc! {"_id": id, "text": "x".repeat(10_000)};
        orders.insert_one(document).await.expect("an insert");
    }
}

async fn tokens(watch: &mut WatchStream, count: usize) -> Vec<Bytes> {
    let changes = watch.changes(count).await;
    changes.into_iter().map(|it| it.resume_token).collect()
}

async fn ids(watch: &mut WatchStream, count: usize) -> Vec<i32> {
    watch.changes(count).await.iter().map(id).collect()
}

/// Events in the ring cause no query.
#[tokio::test]
async fn a_token_in_the_ring_resumes_from_the_ring() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let mut first = weir.watch(database.watch_request(&[ORDERS])).await;
    let opened = first.token();
    write(&database, 0..10).await;
    let mut all = vec![opened];
    all.extend(tokens(&mut first, 10).await);
    drop(first);
    let gone = FailCommand::on(&["aggregate", "getMore", "find"]).code(286);
    database.fail(gone.app_name("weir")).await;
    for (seen, token) in (0..).zip(all) {
        let mut resumed = weir.watch(resume(&database, token)).await;
        let rest: Vec<i32> = (seen..10).collect();
        assert_eq!(ids(&mut resumed, rest.len()).await, rest, "after {seen}");
    }
    database.clear_failures().await;
}

/// At the start of the ring: events that have just left it come from MongoDB, later ones from the
/// ring.
#[tokio::test]
async fn a_token_that_has_just_left_the_ring_resumes_exactly() {
    const WRITES: i32 = 24;
    let database = Database::options().start().await;
    let weir = small_ring(&database).await;
    let mut first = weir.watch(database.watch_request(&[ORDERS])).await;
    let opened = first.token();
    write(&database, 0..WRITES).await;
    let mut all = vec![opened];
    all.extend(tokens(&mut first, 24).await);
    let mut open = Vec::new();
    for (seen, token) in (0..).zip(all) {
        let mut resumed = weir.watch(resume(&database, token)).await;
        let rest: Vec<i32> = (seen..WRITES).collect();
        assert_eq!(ids(&mut resumed, rest.len()).await, rest, "after {seen}");
        open.push(resumed);
    }
    insert(&database, WRITES).await;
    for mut resumed in open {
        assert_eq!(ids(&mut resumed, 1).await, [WRITES]);
    }
}

/// The ring advances while a watch joins it: at any distance from its end, also right at its start.
#[tokio::test]
async fn a_token_that_is_leaving_the_ring_resumes_exactly() {
    const ROUNDS: usize = 60;
    const NEXT: i32 = 12;
    let database = Database::options().start().await;
    let weir = small_ring(&database).await;
    let mut first = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut seen: Vec<(i32, Bytes)> = Vec::new();
    let joining = async {
        for _ in 0..ROUNDS {
            let change = first.next_change().await;
            seen.push((id(&change), change.resume_token));
            let back = fastrand::usize(..seen.len().min(16));
            let (last, token) = seen[seen.len() - 1 - back].clone();
            let mut resumed = weir.watch(resume(&database, token)).await;
            let expected: Vec<i32> = (last + 1..=last + NEXT).collect();
            assert_eq!(ids(&mut resumed, NEXT as usize).await, expected);
        }
    };
    tokio::select! {
        () = joining => {}
        () = write(&database, 0..) => unreachable!("it continues for ever"),
    }
}

/// A catch-up that finds nothing has not reached the end yet: MongoDB answers in pieces, and a
/// piece may contain nothing that the filter passes.
#[tokio::test]
async fn a_match_after_thousands_of_filtered_events_is_delivered() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let wanted = || pb::WatchRequest {
        filters: vec![eq("wanted", json!(true))],
        ..database.watch_request(&[ORDERS])
    };
    let mut watch = weir.watch(wanted()).await;
    let orders = database.collection(ORDERS);
    let document = |id: i32, wanted: bool| doc! {"_id": id, "wanted": wanted};
    orders
        .insert_one(document(0, true))
        .await
        .expect("an insert");
    let token = watch.next_change().await.resume_token;
    let many = (1..2000).map(|id| document(id, false));
    orders.insert_many(many).await.expect("inserts");
    orders
        .insert_one(document(2000, true))
        .await
        .expect("an insert");

    let replica = Weir::start(&database).await;
    let _open = replica.watch(wanted()).await;
    let start = Some(pb::watch_request::Start::ResumeToken(token));
    let mut resumed = replica.watch(pb::WatchRequest { start, ..wanted() }).await;
    orders
        .insert_one(document(2001, true))
        .await
        .expect("an insert");
    assert_eq!(ids(&mut resumed, 2).await, [2000, 2001]);
}

/// A feed that is behind the client: what the feed has yet to read is not new to the client.
#[tokio::test]
async fn a_watch_that_joins_a_feed_behind_it_gets_nothing_twice() {
    const WRITES: i32 = 6000;
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let replica = Weir::start(&database).await;
    let mut first = weir.watch(database.watch_request(&[ORDERS])).await;
    // More feeds that MongoDB has to serve.
    let mut others = Vec::new();
    for number in 0..12 {
        let other = pb::WatchRequest {
            filters: vec![eq("none", json!(number))],
            feed_mode: pb::FeedMode::Dedicated.into(),
            ..database.watch_request(&[ORDERS])
        };
        others.push(weir.watch(other).await);
    }
    let orders = database.collection(ORDERS);
    let many = (0..WRITES).map(|id| doc! {"_id": id});
    orders.insert_many(many).await.expect("inserts");
    let token = replica
        .watch(database.watch_request(&[ORDERS]))
        .await
        .token();
    let mut ahead = weir.watch(resume(&database, token)).await;
    ahead.next_state(pb::WatchState::Live).await;
    insert(&database, WRITES).await;
    assert_eq!(ids(&mut ahead, 1).await, [WRITES]);
    assert_eq!(ids(&mut first, 1).await, [0]);
}

/// Whatever happens in whatever order, a client receives exactly what it asked for, from where it
/// started. `WEIR_SEAM_CASES` sets the number of schedules.
#[test]
fn any_schedule_of_writes_joins_stalls_and_resumes_is_complete() {
    let cases = std::env::var("WEIR_SEAM_CASES").ok();
    let cases = cases.map_or(4, |cases| cases.parse().expect("a number of cases"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let database = runtime.block_on(Database::options().start());
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 40,
        ..Config::default()
    });
    let fell_behind = Cell::new(0.0);
    let outcome = runner.run(&schedule::schedules(), |schedule| {
        let ran = runtime.block_on(client::run(&database, &schedule));
        let ran = ran.map(|more| fell_behind.set(fell_behind.get() + more));
        ran.map_err(|problem| {
            // A run that is aborted shows at least this.
            eprintln!("{problem}\n{schedule}");
            TestCaseError::fail(problem)
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    println!(
        "clients fell behind {} times in {cases} schedules",
        fell_behind.get()
    );
}
