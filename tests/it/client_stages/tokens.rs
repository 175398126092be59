//! Resume tokens with stages: the same, others, or none.

use super::{ORDERS, ids, insert, number, order, staged, weir, without_ring};
use crate::conversions::id;
use crate::support::{Database, WatchStream, Weir, eventually};
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use pb::watch_request::Start;
use tokio_util::task::AbortOnDropHandle;
use weir::pb;

/// Whether a stream has the order of a number.
pub type Passes = fn(i32) -> bool;

/// The request from a token on.
pub fn after(token: &Bytes, request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request.clone()
    }
}

/// Requests of one scope whose streams differ: without stages, and with stages that leave events out, change them
/// or take their times away. With each, whether it gets the order of a number.
fn requests(database: &Database) -> Vec<(pb::WatchRequest, Passes)> {
    let plain = database.watch_request(&[ORDERS]);
    let with = |stages: &[Document]| staged(plain.clone(), stages);
    vec![
        (plain.clone(), |_| true),
        (
            with(&[doc! { "$match": { "fullDocument.status": "open" } }]),
            |id| id % 2 == 0,
        ),
        (
            with(&[doc! { "$match": { "fullDocument.total": { "$gte": 30 } } }]),
            |id| id >= 3,
        ),
        (with(&[doc! { "$project": { "documentKey": 1 } }]), |_| true),
        (
            with(&[
                doc! { "$match": { "fullDocument.status": "paid" } },
                doc! { "$set": { "clusterTime": 7, "fullDocument": "gone" } },
            ]),
            |id| id % 2 == 1,
        ),
    ]
}

/// Writes the orders 1 to 6 in one transaction, so that all have one time, and then the order 7.
async fn seven_orders(database: &Database) {
    let orders = database.collection(ORDERS);
    let mut session = database.client().start_session().await.expect("a session");
    session.start_transaction().await.expect("a transaction");
    for id in 1..=6 {
        let insert = orders.insert_one(order(id));
        insert.session(&mut session).await.expect("an insert");
    }
    session.commit_transaction().await.expect("a commit");
    insert(database, [7]).await;
}

fn expected_after(id: i32, passes: Passes) -> Vec<i32> {
    (id + 1..=7).filter(|id| passes(*id)).collect()
}

async fn received(watch: &mut WatchStream, count: usize) -> Vec<(i32, Bytes)> {
    let changes = watch.changes(count).await;
    let one = |change: pb::ChangeEvent| (number(&id(&change)), change.resume_token);
    changes.into_iter().map(one).collect()
}

/// From every token of every request, with every other request, on this server and another one.
#[tokio::test]
async fn a_token_goes_on_exactly_with_the_same_stages_with_others_and_without() {
    let database = Database::start().await;
    let servers = [weir(&database).await, without_ring(database.uri()).await];
    let requests = requests(&database);
    let mut live = Vec::new();
    for (request, _) in &requests {
        live.push(servers[0].watch(request.clone()).await);
    }
    let start = live[0].token();
    seven_orders(&database).await;
    let mut tokens = vec![(0, start)];
    for (watch, (_, passes)) in live.iter_mut().zip(&requests) {
        let all = expected_after(0, *passes);
        let got = received(watch, all.len()).await;
        assert_eq!(got.iter().map(|(id, _)| *id).collect::<Vec<_>>(), all);
        tokens.extend(got);
    }
    for (at, token) in &tokens {
        for (request, passes) in &requests {
            for server in &servers {
                let expected = expected_after(*at, *passes);
                let mut back = server.watch(after(token, request)).await;
                let what = format!("after {at}: {:?}", request.pipeline);
                assert_eq!(back.opened.start_mode(), pb::StartMode::Token, "{what}");
                assert_eq!(ids(&mut back, expected.len()).await, expected, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_position_between_events_goes_on_with_other_stages() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let requests = requests(&database);
    let quiet = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..staged(
            database.watch_request(&[ORDERS]),
            &[doc! { "$match": { "operationType": "nothing" } }],
        )
    };
    let mut watch = weir.watch(quiet).await;
    insert(&database, [1, 2, 3]).await;
    // A time at which the stream has passed these.
    let second = |progress: pb::Progress| progress.cluster_time.expect("a time").seconds;
    let first = second(watch.next_progress().await);
    while second(watch.next_progress().await) <= first + 1 {}
    let token = watch.token();
    insert(&database, [4, 5, 6, 7]).await;
    for (request, passes) in &requests {
        let mut back = weir.watch(after(&token, request)).await;
        let expected = expected_after(3, *passes);
        let got = ids(&mut back, expected.len()).await;
        assert_eq!(got, expected, "{:?}", request.pipeline);
    }
}

/// MongoDB's token of a long key is too long for Weir's, which has its digest.
#[tokio::test]
async fn a_token_of_a_long_key_goes_on_exactly_with_other_stages() {
    let database = Database::start().await;
    let weir = without_ring(database.uri()).await;
    let key = |number: i32| format!("{}{number}", "k".repeat(9_000));
    let plain = database.watch_request(&[ORDERS]);
    let even = staged(
        plain.clone(),
        &[doc! { "$match": { "fullDocument.even": true } }],
    );
    let untimed = staged(plain.clone(), &[doc! { "$project": { "documentKey": 1 } }]);
    let mut live = weir.watch(plain.clone()).await;
    let mut session = database.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for number in 0..6 {
        let document = doc! { "_id": key(number), "even": number % 2 == 0 };
        let orders = database.collection(ORDERS);
        orders
            .insert_one(document)
            .session(&mut session)
            .await
            .unwrap();
    }
    session.commit_transaction().await.unwrap();
    let changes = live.changes(6).await;
    drop(live);
    for (number, change) in (0..6).zip(&changes) {
        for (request, step) in [(&even, 2), (&untimed, 1), (&plain, 1)] {
            weir.wait_for_no_feeds().await;
            let mut back = weir.watch(after(&change.resume_token, request)).await;
            let expected: Vec<String> = (number + 1..6)
                .filter(|it| it % step == 0)
                .map(key)
                .collect();
            let got = back.changes(expected.len()).await;
            let got: Vec<String> = got
                .iter()
                .map(|it| id(it).as_str().unwrap().to_owned())
                .collect();
            assert!(got == expected, "after {number}, {:?}", request.pipeline);
        }
    }
}

#[tokio::test]
async fn a_watch_with_stages_survives_killed_cursors_and_a_restart_of_the_database() {
    let mut database = Database::options().on_disk().start().await;
    let weir = weir(&database).await;
    let mut watches = Vec::new();
    for (request, passes) in requests(&database) {
        watches.push((weir.watch(request.clone()).await, request, passes));
    }
    let check = async |watches: &mut Vec<(WatchStream, pb::WatchRequest, Passes)>, id| {
        for (watch, request, passes) in watches {
            if passes(id) {
                assert_eq!(ids(watch, 1).await, [id], "{:?}", request.pipeline);
            }
        }
    };
    for id in 1..=4 {
        insert(&database, [id]).await;
        check(&mut watches, id).await;
        database.kill_cursors(&[ORDERS]).await;
    }
    let tokens: Vec<Bytes> = watches.iter().map(|(watch, ..)| watch.token()).collect();
    database.restart().await;
    insert(&database, [5]).await;
    check(&mut watches, 5).await;
    insert(&database, [6, 7]).await;
    // What was delivered before the restart is not delivered again, with the same stages and without.
    let second = without_ring(database.uri()).await;
    for ((_, request, passes), token) in watches.iter().zip(&tokens) {
        let last = (1..=4).rfind(|id| passes(*id)).expect("each gets one");
        let mut back = second.watch(after(token, request)).await;
        let expected = expected_after(4, *passes);
        assert_eq!(ids(&mut back, expected.len()).await, expected);
        let plain = database.watch_request(&[ORDERS]);
        let mut plain = second.watch(after(token, &plain)).await;
        // A position may lie behind what the stages leave out.
        let first = ids(&mut plain, 1).await[0];
        assert!((last + 1..=5).contains(&first), "{first} after {last}");
    }
}

/// A client that reads slowly loses its place in the ring, and reads on from its own stream.
#[tokio::test]
async fn a_watch_with_stages_that_fell_behind_gets_everything_once() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.allow_pipeline = true;
        config.ring_bytes = bytesize::ByteSize::kib(64);
    })
    .await;
    for stage in [
        doc! { "$match": { "fullDocument.status": "open" } },
        doc! { "$project": { "documentKey": 1, "fullDocument": 1 } },
    ] {
        let every = if stage.contains_key("$match") { 2 } else { 1 };
        let request = staged(database.watch_request(&[ORDERS]), &[stage]);
        let mut fast = weir.watch(request.clone()).await;
        let mut slow = WatchStream::narrow(weir.grpc_addr(), request).await;
        let large = |id: i32| {
            let mut order = order(id);
            order.insert("padding", "x".repeat(20_000));
            order
        };
        let all: Vec<i32> = (1..=200).filter(|id| id % every == 0).collect();
        for id in 1..=200 {
            database
                .collection(ORDERS)
                .insert_one(large(id))
                .await
                .unwrap();
        }
        assert_eq!(ids(&mut fast, all.len()).await, all);
        assert_eq!(ids(&mut slow, all.len()).await, all);
        database
            .collection(ORDERS)
            .delete_many(doc! {})
            .await
            .unwrap();
    }
}

/// Nothing of what is written passes the stages, so the watch can't join by an event. `scripted` plays it with a server
/// that holds replies back.
#[tokio::test]
async fn a_catch_up_whose_stages_leave_everything_out_becomes_live_on_a_busy_collection() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.allow_pipeline = true;
        config.max_catch_ups = 1;
    })
    .await;
    let stage = doc! { "$match": { "fullDocument.status": "unheard of" } };
    let nothing = staged(database.watch_request(&[ORDERS]), &[stage]);
    let token = weir.watch(database.watch_request(&[ORDERS])).await.token();
    insert(&database, 1..=50).await;
    let orders = database.collection(ORDERS);
    let writer = AbortOnDropHandle::new(tokio::spawn(async move {
        for id in 1_000.. {
            orders.insert_one(order(id)).await.expect("an insert");
        }
    }));
    for _ in 0..3 {
        let mut watch = weir.watch(after(&token, &nothing)).await;
        eventually("it has joined the ring", async || {
            weir.metrics().await.sum("weir_catch_ups") == 0.0
        })
        .await;
        // It is served: what passes comes.
        let late = doc! { "status": "unheard of" };
        database.collection(ORDERS).insert_one(late).await.unwrap();
        watch.next_change().await;
    }
    drop(writer);
}
