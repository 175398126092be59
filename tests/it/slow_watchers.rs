//! Clients that read slowly, or not at all, harm nobody and lose nothing.

use crate::conversions::eq;
use crate::support::orders::{ORDERS, Received, id, insert, resume};
use crate::support::{Database, ServeProcess, WatchStream, Weir, eventually, within};
use bytesize::ByteSize;
use futures::future::join_all;
use mongodb::bson::doc;
use pb::watch_response::Kind;
use serde_json::json;
use weir::pb;

async fn insert_large(database: &Database, id: i32, kilobytes: usize) {
    let document =
        doc! {"_id": id, "kind": "a", "odd": id % 2 == 1, "text": "x".repeat(kilobytes * 1000)};
    let orders = database.collection(ORDERS);
    let insert = orders.insert_one(document);
    within("an insert", insert.into_future())
        .await
        .expect("an insert");
}

/// Writes these documents while a watch reads each as it comes.
async fn write_and_read(
    database: &Database,
    reader: &mut WatchStream,
    ids: std::ops::Range<i32>,
    kilobytes: usize,
) {
    for number in ids {
        insert_large(database, number, kilobytes).await;
        assert_eq!(id(&reader.next_change().await), number);
    }
}

#[tokio::test]
async fn clients_that_never_read_cost_the_others_nothing() {
    const UNREAD: usize = 24;
    const WRITES: i32 = 80;
    let database = Database::options().start().await;
    let limits = ["--ring-bytes", "1MiB", "--memory-limit", "32MiB"];
    let weir = ServeProcess::start(database.uri(), &limits).await;
    let request = || database.watch_request(&[ORDERS]);
    let opening = (0..UNREAD).map(|_| WatchStream::narrow(weir.grpc, request()));
    let mut unread = join_all(opening).await;
    let reader = WatchStream::open(&mut weir.client().await, request()).await;
    let mut reader = reader.expect("it opens");
    let before = weir.process.resident();

    // 40 MB: more than all windows, the ring and Weir's memory limit.
    write_and_read(&database, &mut reader, 0..WRITES, 500).await;

    let metrics = weir.metrics().await;
    let used = metrics.sum("weir_memory_used_bytes");
    assert!(used <= f64::from(32 << 20), "{used} bytes");
    assert!(metrics.sum("weir_ring_bytes") <= f64::from(2 << 20));
    // One message per client waits in Weir, plus what HTTP/2 buffers.
    let grown = weir.process.resident().saturating_sub(before);
    assert!(
        grown < (48 << 20) + (UNREAD as u64) * (2 << 20),
        "{grown} bytes"
    );
    // A client that does not read causes no query.
    eventually("one cursor is open", async || {
        database.open_cursors().await == 1
    })
    .await;
    let fell_behind = weir.metrics().await.sum("weir_watches_fell_behind_total");

    // It has lost nothing when it reads again.
    let mut received = Received::default();
    received.until_id(&mut unread[0], WRITES - 1).await;
    assert_eq!(received.ids, (0..WRITES).collect::<Vec<_>>());
    let fell_behind = weir.metrics().await.sum("weir_watches_fell_behind_total") - fell_behind;
    assert!(
        (1.0..=2.0).contains(&fell_behind),
        "fell behind {fell_behind} times"
    );
}

/// Messages that idle clients have taken and not sent must not use up the memory of all.
#[tokio::test]
async fn clients_that_stop_at_different_positions_do_not_use_up_the_memory() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| {
        config.memory_limit = ByteSize::mib(16);
        config.ring_bytes = ByteSize::mib(1);
    })
    .await;
    let request = || database.watch_request(&[ORDERS]);
    let mut reader = weir.watch(request()).await;
    let orders = database.collection(ORDERS);
    let mut unread = Vec::new();
    let mut last = 0;
    for _ in 0..8 {
        unread.push(WatchStream::narrow(weir.grpc_addr(), request()).await);
        // One reply of 4 MB, of which each client takes the first part.
        let many = (0..40).map(|number| {
            doc! {"_id": last + number, "text": "x".repeat(100_000)}
        });
        orders.insert_many(many).await.expect("inserts");
        last += 40;
        for number in last - 40..last {
            assert_eq!(id(&reader.next_change().await), number);
        }
    }
    insert(&database, last).await;
    assert_eq!(id(&reader.next_change().await), last);
    let mut received = Received::default();
    received.until_id(&mut unread[0], last).await;
    assert_eq!(received.ids, (0..=last).collect::<Vec<_>>());
}

/// Two filters on one feed: no other watch reads what one leaves unread.
#[tokio::test]
async fn a_client_that_never_reads_does_not_hold_up_another_filter() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.ring_bytes = ByteSize::kib(64)).await;
    let of_kind = |kind: &str| pb::WatchRequest {
        filters: vec![eq("kind", json!(kind))],
        feed_mode: pb::FeedMode::Shared.into(),
        progress_interval: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..database.watch_request(&[ORDERS])
    };
    let mut unread = WatchStream::narrow(weir.grpc_addr(), of_kind("a")).await;
    let mut reader = weir.watch(of_kind("b")).await;
    for number in 0..30 {
        insert_large(&database, number, 100).await;
    }
    let orders = database.collection(ORDERS);
    let last = doc! {"_id": 30, "kind": "b"};
    orders.insert_one(last).await.expect("an insert");
    assert_eq!(id(&reader.next_change().await), 30);
    let mut received = Received::default();
    received.until_id(&mut unread, 29).await;
    assert_eq!(received.ids, (0..30).collect::<Vec<_>>());
}

/// A client stops reading during 20 MB, more than all windows and buffers, while others keep up.
/// `request` is the slow client's, and `wants` what it matches.
async fn catches_up_and_is_live_again(
    database: &Database,
    request: impl FnOnce(pb::WatchRequest) -> pb::WatchRequest,
    wants: impl Fn(&i32) -> bool,
) {
    const WRITES: i32 = 200;
    let wanted = |to| (0..to).filter(&wants).collect::<Vec<_>>();
    let weir = Weir::with(database, |config| config.ring_bytes = ByteSize::kib(256)).await;
    let all = database.watch_request(&[ORDERS]);
    let mut slow = WatchStream::narrow(weir.grpc_addr(), request(all.clone())).await;
    let mut fast = weir.watch(all).await;
    write_and_read(database, &mut fast, 0..WRITES, 100).await;
    assert_eq!(database.open_cursors().await, 1);

    let mut received = Received::default();
    received.until_id(&mut slow, WRITES - 1).await;
    received
        .until("LIVE again", &mut slow, |it| {
            it.states.last() == Some(&pb::WatchState::Live)
        })
        .await;
    assert_eq!(received.ids, wanted(WRITES));
    assert!(
        received.states.contains(&pb::WatchState::CatchingUp),
        "{received:?}"
    );
    // Back on the ring, it causes no load on MongoDB.
    eventually("the catch-up is over", async || {
        weir.metrics().await.sum("weir_catch_ups") == 0.0 && database.open_cursors().await == 1
    })
    .await;
    write_and_read(database, &mut fast, WRITES..WRITES + 2, 100).await;
    received.until_id(&mut slow, WRITES + 1).await;
    assert_eq!(received.ids, wanted(WRITES + 2));
    assert_eq!(
        weir.metrics().await.sum("weir_watches_fell_behind_total"),
        1.0
    );
}

#[tokio::test]
async fn a_slow_client_among_fast_ones_catches_up_and_is_live_again() {
    let database = Database::options().start().await;
    catches_up_and_is_live_again(&database, |request| request, |_| true).await;
}

/// For events that it missed, the filter is evaluated anew and not taken from its match list.
#[tokio::test]
async fn a_slow_client_with_a_filter_catches_up_and_is_live_again() {
    let database = Database::options().start().await;
    let odd = |request| pb::WatchRequest {
        filters: vec![eq("odd", json!(true))],
        feed_mode: pb::FeedMode::Shared.into(),
        ..request
    };
    catches_up_and_is_live_again(&database, odd, |id| id % 2 == 1).await;
}

#[tokio::test]
async fn an_event_larger_than_every_window_arrives() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watch = WatchStream::narrow(weir.grpc_addr(), database.watch_request(&[ORDERS])).await;
    for number in 0..3 {
        insert_large(&database, number, 2000).await;
    }
    // In pieces as well.
    insert_large(&database, 3, 5000).await;
    let ids: Vec<i32> = watch.changes(4).await.iter().map(id).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
}

/// With one catch-up permit, clients that fell behind wait for each other, and all are served.
#[tokio::test]
async fn clients_that_fell_behind_are_served_in_turn() {
    const SLOW: usize = 5;
    const WRITES: i32 = 60;
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| {
        config.ring_bytes = ByteSize::kib(256);
        config.max_catch_ups = 1;
    })
    .await;
    let request = || database.watch_request(&[ORDERS]);
    let opening = (0..SLOW).map(|_| WatchStream::narrow(weir.grpc_addr(), request()));
    let mut slow = join_all(opening).await;
    let mut fast = weir.watch(request()).await;
    write_and_read(&database, &mut fast, 0..WRITES, 100).await;

    let reading = slow.iter_mut().map(async |watch| {
        let mut received = Received::default();
        received.until_id(watch, WRITES - 1).await;
        received
    });
    let all = async { within("everybody's turn", join_all(reading)).await };
    let most = async {
        let mut most: f64 = 0.0;
        loop {
            most = most.max(weir.metrics().await.sum("weir_catch_ups"));
            assert!(most <= 1.0, "{most} catch up at once");
            assert!(database.open_cursors().await <= 2);
        }
    };
    let all_received = tokio::select! {
        all_received = all => all_received,
        () = most => unreachable!("it continues for ever"),
    };
    for received in all_received {
        assert_eq!(received.ids, (0..WRITES).collect::<Vec<_>>());
        assert!(
            received.states.contains(&pb::WatchState::CatchingUp),
            "{received:?}"
        );
    }
    assert_eq!(
        weir.metrics().await.sum("weir_watches_fell_behind_total"),
        SLOW as f64
    );
}

/// Progress is due while the second half of what was read waits for a slow client.
#[tokio::test]
async fn progress_does_not_overtake_events_that_a_slow_client_has_yet_to_get() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let second = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let request = |collection| pb::WatchRequest {
        progress_interval: second,
        ..database.watch_request(&[collection])
    };
    let mut clock = weir.watch(request("quiet")).await;
    let mut slow = WatchStream::narrow(weir.grpc_addr(), request(ORDERS)).await;
    let orders = database.collection(ORDERS);
    let mut ids: Vec<i32> = Vec::new();
    let mut progresses = Vec::new();
    for round in 0..3 {
        // More than one message, but a single batch for the hub.
        let many = (0..5).map(|number| {
            doc! {"_id": round * 5 + number, "text": "x".repeat(48_000)}
        });
        orders.insert_many(many).await.expect("inserts");
        let mut waits = 2;
        let mut read = true;
        while ids.last() != Some(&(round * 5 + 4)) {
            if std::mem::take(&mut read) && waits > 0 {
                waits -= 1;
                // Longer than the interval passes between two messages.
                clock.next_progress().await;
                clock.next_progress().await;
            }
            match slow.next().await.kind {
                Some(Kind::Changes(batch)) => {
                    ids.extend(batch.changes.iter().map(id));
                    read = true;
                }
                Some(Kind::Progress(_)) => progresses.push((slow.token(), ids.len())),
                _ => {}
            }
        }
    }
    assert_eq!(ids, (0..15).collect::<Vec<_>>());
    assert!(!progresses.is_empty(), "no progress was due");
    insert(&database, 15).await;
    let replica = Weir::start(&database).await;
    for (token, delivered) in progresses {
        let mut resumed = replica.watch(resume(&database, token)).await;
        let next = id(&resumed.next_change().await);
        assert_eq!(usize::try_from(next), Ok(delivered), "of {ids:?}");
    }
}
