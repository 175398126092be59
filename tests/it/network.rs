//! Network faults of every kind, between Weir and MongoDB and between Weir and its clients, during
//! writes: no client misses anything, and each learns what it has to.

use std::time::Duration;

use crate::support::ledger::{ClientOptions, ResumingClient, WriteOptions};
use crate::support::{Database, Direction, Mode, Side, eventually, within};
use crate::testbed::{
    REPLY_TIMEOUT, Testbed, impatient_clients_of_each_kind, one_client_of_each_kind, short_limits,
    write_options,
};
use tokio::time::Instant;
use weir::wire::Compression;

/// Long enough for twice a client's interval.
const TOO_LONG_FOR_CLIENTS: Duration = Duration::from_secs(3);

/// Latency that varies from piece to piece, on both sides. Nothing is lost, and nothing is given
/// up.
#[tokio::test]
async fn uneven_latency_ends_nothing() {
    let testbed = Testbed::start().await;
    for proxy in [&testbed.upstream_proxy, &testbed.client_proxy] {
        proxy.set(Mode::Jitter(Duration::from_millis(40)));
    }
    testbed.wait_for_writes(150).await;
    testbed.wait_for_every_client().await;
    assert_eq!(testbed.feed_restarts().await, 0.0);
    let outcome = testbed.check_delivery(2).await;
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
}

/// A stall shorter than every limit only delays, in either direction.
#[tokio::test]
async fn a_short_stall_in_either_direction_ends_nothing() {
    let testbed = Testbed::start().await;
    let mut faults = 0;
    for proxy in [&testbed.upstream_proxy, &testbed.client_proxy] {
        for direction in [Direction::Up, Direction::Down] {
            proxy.set_one_way(direction, Mode::Blackhole);
            testbed.wait_for_writes(20).await;
            proxy.set_one_way(direction, Mode::Pass);
            testbed.wait_for_every_client().await;
            faults += 1;
        }
    }
    assert_eq!(testbed.feed_restarts().await, 0.0);
    let outcome = testbed.check_delivery(faults).await;
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
}

/// MongoDB hears or answers nothing for longer than the reply timeout: Weir gives the stream up and
/// resumes it on a working connection.
#[tokio::test]
async fn a_watch_survives_a_stall_longer_than_the_reply_timeout() {
    let testbed = Testbed::start().await;
    let mut faults = 0;
    for direction in [Direction::Up, Direction::Down] {
        let before = testbed.feed_restarts().await;
        testbed
            .upstream_proxy
            .set_one_way(direction, Mode::Blackhole);
        let begin = Instant::now();
        eventually("Weir gives the stream up", async || {
            testbed.feed_restarts().await > before
        })
        .await;
        // By Weir's own probe: the driver would notice after 10 s, and on a connection in use
        // never.
        assert!(begin.elapsed() < REPLY_TIMEOUT * 4, "{:?}", begin.elapsed());
        testbed.upstream_proxy.set_one_way(direction, Mode::Pass);
        testbed.wait_for_every_client().await;
        faults += 1;
    }
    let outcome = testbed.check_delivery(faults).await;
    // Weir keeps sending to its clients.
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
}

/// Resets in the middle of a reply of MongoDB, at different positions.
#[tokio::test]
async fn a_watch_survives_a_reset_in_the_middle_of_a_mongodb_reply() {
    let testbed = Testbed::start().await;
    // In a header, in a small event, in the middle of a large one that comes in several reads.
    let offsets = [1, 15, 700, 40_000, 160_000];
    for offset in offsets {
        let before = testbed.feed_restarts().await;
        let lost = async {
            // The reset may hit a connection without a stream.
            while testbed.feed_restarts().await <= before {
                let resets = testbed.upstream_proxy.resets();
                testbed.upstream_proxy.cut_after(Direction::Down, offset);
                eventually("a connection breaks", async || {
                    testbed.upstream_proxy.resets() > resets
                })
                .await;
                testbed.wait_for_writes(5).await;
            }
        };
        within("a stream is lost", lost).await;
        testbed.wait_for_every_client().await;
    }
    let outcome = testbed.check_delivery(offsets.len() as u64).await;
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
}

/// The same for compressed messages, which end with their segment, on both sides.
#[tokio::test]
async fn watches_whose_messages_are_compressed_survive_resets_on_both_sides() {
    let database = Database::options().start().await;
    let compressing = |config: &mut weir::config::ServeConfig| {
        short_limits(config);
        config.compression = vec![Compression::Zstd];
    };
    let testbed = Testbed::with(
        database,
        write_options(),
        compressing,
        one_client_of_each_kind,
    )
    .await;
    testbed.wait_for_every_client().await;
    let offsets = [1, 700, 40_000];
    for offset in offsets {
        let before = testbed.feed_restarts().await;
        let lost = async {
            // The reset may hit a connection without a stream.
            while testbed.feed_restarts().await <= before {
                let resets = testbed.upstream_proxy.resets();
                testbed.upstream_proxy.cut_after(Direction::Down, offset);
                eventually("a connection breaks", async || {
                    testbed.upstream_proxy.resets() > resets
                })
                .await;
                testbed.wait_for_writes(5).await;
            }
        };
        within("a stream is lost", lost).await;
        testbed.wait_for_every_client().await;
        let reconnects = || testbed.clients.iter().map(ResumingClient::reconnects).sum();
        let before: u64 = reconnects();
        testbed.client_proxy.cut_after(Direction::Down, offset);
        eventually("a client is cut off", async || reconnects() > before).await;
        testbed.wait_for_every_client().await;
    }
    let metrics = testbed.weir.metrics().await;
    assert!(metrics.sum("weir_message_compressions_total") > 0.0);
    testbed.check_delivery(2 * offsets.len() as u64).await;
}

/// Resets in the middle of a message to a client, among them a piece of an event.
#[tokio::test]
async fn clients_resume_after_a_reset_in_the_middle_of_a_message() {
    let testbed = Testbed::start().await;
    let offsets = [1, 15, 700, 40_000, 160_000];
    for offset in offsets {
        let reconnects = || testbed.clients.iter().map(ResumingClient::reconnects).sum();
        let before: u64 = reconnects();
        testbed.client_proxy.cut_after(Direction::Down, offset);
        eventually("a client is cut off", async || reconnects() > before).await;
        testbed.wait_for_every_client().await;
    }
    // Then every client at once.
    testbed.client_proxy.cut();
    testbed.wait_for_every_client().await;
    let outcome = testbed.check_delivery(offsets.len() as u64 + 1).await;
    assert!(outcome.totals.reconnects >= 12, "{:?}", outcome.totals);
    outcome.wait_for_release().await;
}

/// All of Weir's connections to MongoDB are dead, and Weir is not told.
#[tokio::test]
async fn silently_dead_connections_to_mongodb_are_given_up() {
    let testbed = Testbed::start().await;
    testbed.wait_for_every_client().await;
    let begin = Instant::now();
    testbed.upstream_proxy.half_open(Side::Client);
    eventually("a stream is lost", async || {
        testbed.feed_restarts().await >= 1.0
    })
    .await;
    testbed.wait_for_every_client().await;
    // Retries may meet another dead connection. The driver drops all of them once it has noticed,
    // which is after its connectTimeoutMS.
    let limit = Duration::from_secs(10) + REPLY_TIMEOUT * 3;
    assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
    let outcome = testbed.check_delivery(1).await;
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
}

/// The reverse: MongoDB keeps connections that Weir has lost.
#[tokio::test]
async fn connections_that_only_mongodb_keeps_hold_up_nobody() {
    let testbed = Testbed::start().await;
    testbed.wait_for_every_client().await;
    testbed.upstream_proxy.half_open(Side::Server);
    eventually("a stream is lost", async || {
        testbed.feed_restarts().await >= 1.0
    })
    .await;
    testbed.wait_for_every_client().await;
    let outcome = testbed.check_delivery(1).await;
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
}

/// The client's connection is dead without a sign; after twice its interval in silence the client
/// gives up.
#[tokio::test]
async fn a_client_detects_a_dead_server_by_its_silence() {
    let database = Database::options().start().await;
    let testbed = Testbed::with(
        database,
        write_options(),
        short_limits,
        impatient_clients_of_each_kind,
    )
    .await;
    testbed.wait_for_every_client().await;
    testbed.client_proxy.half_open(Side::Client);
    testbed.wait_for_every_client().await;
    let clients = testbed.clients.len();
    let outcome = testbed.check_delivery(1).await;
    let reported = outcome.count_ends("nothing for 2s");
    assert!(reported >= clients, "{:?}", outcome.ends);
}

/// HTTP/2 pings detect a client that has become unreachable, and everything held for it is
/// released: the watch, the feed, the cursor.
#[tokio::test]
async fn the_server_releases_a_client_that_vanished_silently() {
    let testbed = Testbed::start().await;
    testbed.wait_for_every_client().await;
    let clients = testbed.clients.len();
    testbed.client_proxy.half_open(Side::Server);
    eventually("everybody has come back", async || {
        testbed.clients.iter().all(|it| it.reconnects() > 0)
    })
    .await;
    // Each exists twice for a while.
    eventually("Weir has noticed", async || {
        testbed.weir.metrics().await.sum("weir_watches") as usize == clients
    })
    .await;
    testbed.wait_for_every_client().await;
    testbed.client_proxy.half_open(Side::Server);
    testbed.client_proxy.set(Mode::Refuse);
    eventually("Weir has noticed", async || {
        testbed.weir.metrics().await.sum("weir_watches") == 0.0
    })
    .await;
    testbed.client_proxy.set(Mode::Pass);
    testbed.check_delivery(2).await.wait_for_release().await;
}

/// A client that answers pings but reads nothing for long keeps its watch.
#[tokio::test]
async fn a_client_that_reads_nothing_but_answers_pings_keeps_its_watch() {
    let with_patience = |database: &Database| {
        let with_patience = |options| ClientOptions {
            silent_intervals: 60,
            ..options
        };
        one_client_of_each_kind(database)
            .into_iter()
            .map(with_patience)
            .collect()
    };
    let database = Database::options().start().await;
    let testbed = Testbed::with(database, write_options(), short_limits, with_patience).await;
    testbed.wait_for_every_client().await;
    testbed.clients.iter().for_each(|it| it.stall(true));
    let begin = Instant::now();
    while begin.elapsed() < TOO_LONG_FOR_CLIENTS {
        testbed.wait_for_writes(10).await;
    }
    testbed.clients.iter().for_each(|it| it.stall(false));
    testbed.wait_for_every_client().await;
    let outcome = testbed.check_delivery(1).await;
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
}

/// A stall toward the clients for longer than they wait: they reconnect, on connections that stall
/// too, until it is over.
#[tokio::test]
async fn clients_resume_after_a_long_stall() {
    let database = Database::options().start().await;
    let testbed = Testbed::with(
        database,
        write_options(),
        short_limits,
        impatient_clients_of_each_kind,
    )
    .await;
    for direction in [Direction::Down, Direction::Up] {
        testbed.wait_for_every_client().await;
        testbed.client_proxy.set_one_way(direction, Mode::Blackhole);
        let begin = Instant::now();
        while begin.elapsed() < TOO_LONG_FOR_CLIENTS {
            testbed.wait_for_writes(10).await;
        }
        testbed.client_proxy.set_one_way(direction, Mode::Pass);
        testbed.wait_for_every_client().await;
    }
    testbed.check_delivery(2).await.wait_for_release().await;
}

/// Bytes that come a few at a time, on both sides: headers and lengths are split.
#[tokio::test]
async fn messages_that_trickle_in_are_reassembled() {
    let database = Database::options().start().await;
    let small = WriteOptions {
        pause: Duration::from_millis(300),
        ..WriteOptions::default()
    };
    let testbed = Testbed::with(database, small, short_limits, |database| {
        one_client_of_each_kind(database)
            .into_iter()
            .take(3)
            .collect()
    })
    .await;
    testbed.wait_for_every_client().await;
    let trickle = Mode::Trickle {
        bytes: 40,
        pause: Duration::from_millis(1),
    };
    testbed.upstream_proxy.set_one_way(Direction::Down, trickle);
    testbed.wait_for_every_client().await;
    testbed.upstream_proxy.set(Mode::Pass);
    testbed.client_proxy.set(trickle);
    testbed.wait_for_every_client().await;
    testbed.client_proxy.set(Mode::Pass);
    assert_eq!(testbed.feed_restarts().await, 0.0);
    testbed.check_delivery(2).await;
}

/// A network too slow for what is written: clients fall behind, and catch up when it is fast again.
#[tokio::test]
async fn a_network_too_slow_for_the_writes_loses_nothing() {
    let database = Database::options().start().await;
    let large = WriteOptions {
        large: Some((2, 50_000)),
        ..WriteOptions::default()
    };
    let testbed = Testbed::with(database, large, short_limits, one_client_of_each_kind).await;
    let narrow = Mode::Trickle {
        bytes: 16 << 10,
        pause: Duration::from_millis(60),
    };
    testbed.client_proxy.set_one_way(Direction::Down, narrow);
    testbed.wait_for_writes(150).await;
    testbed.client_proxy.set(Mode::Pass);
    testbed.upstream_proxy.set_one_way(Direction::Down, narrow);
    testbed.wait_for_writes(60).await;
    testbed.upstream_proxy.set(Mode::Pass);
    let weir = testbed.weir.metrics().await;
    assert!(
        weir.sum("weir_watches_fell_behind_total") > 0.0,
        "nobody fell behind"
    );
    testbed.check_delivery(2).await;
}

/// MongoDB is unreachable for longer than `upstream_grace`: every client gets the reason, retries,
/// and resumes from its token when MongoDB is back.
#[tokio::test]
async fn clients_learn_of_a_cut_longer_than_the_grace_and_resume_after_it() {
    let database = Database::options().start().await;
    let impatient = |config: &mut weir::config::ServeConfig| {
        short_limits(config);
        config.upstream_grace = Duration::from_millis(500);
    };
    let testbed = Testbed::with(
        database,
        write_options(),
        impatient,
        one_client_of_each_kind,
    )
    .await;
    testbed.wait_for_every_client().await;
    testbed.upstream_proxy.set(Mode::Refuse);
    let reported = |it: &ResumingClient| {
        it.end_reasons()
            .iter()
            .any(|end| end == "UPSTREAM_UNAVAILABLE")
    };
    eventually("every client gets the reason", async || {
        testbed.clients.iter().all(reported)
    })
    .await;
    testbed.upstream_proxy.set(Mode::Pass);
    testbed.wait_for_every_client().await;
    // MongoDB keeps cursors that could not be killed for ten minutes.
    testbed.check_delivery(1).await;
}
