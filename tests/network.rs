//! A network that breaks in every way a network has, between Weir and MongoDB and between Weir and its
//! clients, while there is writing: nobody misses anything, and everybody is told what there is to tell.

mod reading;
mod scene;
mod support;

use std::time::Duration;

use scene::{REPLY_TIMEOUT, Scene, every_kind, every_kind_impatient, hasty, writing};
use support::ledger::{Follower, Following, Writing};
use support::{Database, Direction, Mode, Side, eventually, within};
use tokio::time::Instant;

/// Long enough that a client hears nothing for twice its interval.
const TOO_LONG_FOR_CLIENTS: Duration = Duration::from_secs(3);

/// Latency that changes from one piece to the next, on both sides. Nothing is lost, and nothing is
/// taken for dead.
#[tokio::test]
async fn a_network_of_uneven_latency_ends_nothing() {
    let scene = Scene::start().await;
    for proxy in [&scene.upstream, &scene.clients] {
        proxy.set(Mode::Jitter(Duration::from_millis(40)));
    }
    scene.more_is_written(150).await;
    scene.everybody_gets_more().await;
    assert_eq!(scene.restarts().await, 0.0);
    let verdict = scene.verdict(2).await;
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
}

/// A stall that ends before any limit is nothing but a delay, whichever way it is.
#[tokio::test]
async fn a_short_stall_in_either_direction_ends_nothing() {
    let scene = Scene::start().await;
    let mut faults = 0;
    for proxy in [&scene.upstream, &scene.clients] {
        for direction in [Direction::Up, Direction::Down] {
            proxy.set_one_way(direction, Mode::Blackhole);
            scene.more_is_written(20).await;
            proxy.set_one_way(direction, Mode::Pass);
            scene.everybody_gets_more().await;
            faults += 1;
        }
    }
    assert_eq!(scene.restarts().await, 0.0);
    let verdict = scene.verdict(faults).await;
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
}

/// MongoDB hears nothing, or is not heard, for longer than a reply may be overdue: the stream is
/// lost, and gone on from on a connection that works.
#[tokio::test]
async fn a_stall_longer_than_a_reply_may_be_overdue_is_gone_on_from() {
    let scene = Scene::start().await;
    let mut faults = 0;
    for direction in [Direction::Up, Direction::Down] {
        let before = scene.restarts().await;
        scene.upstream.set_one_way(direction, Mode::Blackhole);
        let begin = Instant::now();
        eventually("Weir takes the stream for lost", async || {
            scene.restarts().await > before
        })
        .await;
        // By its own probe: the driver would notice after 10 s, and a connection in use not even then.
        assert!(begin.elapsed() < REPLY_TIMEOUT * 4, "{:?}", begin.elapsed());
        scene.upstream.set_one_way(direction, Mode::Pass);
        scene.everybody_gets_more().await;
        faults += 1;
    }
    let verdict = scene.verdict(faults).await;
    // Weir speaks to its clients all the while.
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
}

/// Resets in the midst of a reply of MongoDB, at places that move through it.
#[tokio::test]
async fn a_reset_in_the_midst_of_a_reply_of_mongodb_is_gone_on_from() {
    let scene = Scene::start().await;
    // In a header, in a small event, in the midst of a large one that comes in several reads.
    let places = [1, 15, 700, 40_000, 160_000];
    for place in places {
        let before = scene.restarts().await;
        let lost = async {
            // It may meet a connection that carries no stream.
            while scene.restarts().await <= before {
                let burnt = scene.upstream.burnt();
                scene.upstream.cut_after(Direction::Down, place);
                eventually("a connection breaks", async || {
                    scene.upstream.burnt() > burnt
                })
                .await;
                scene.more_is_written(5).await;
            }
        };
        within("a stream is lost", lost).await;
        scene.everybody_gets_more().await;
    }
    let verdict = scene.verdict(places.len() as u64).await;
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
}

/// Resets in the midst of a message to a client, a piece of an event among them.
#[tokio::test]
async fn a_reset_in_the_midst_of_a_message_to_a_client_is_gone_on_from() {
    let scene = Scene::start().await;
    let places = [1, 15, 700, 40_000, 160_000];
    for place in places {
        let reconnects = || scene.followers.iter().map(Follower::reconnects).sum();
        let before: u64 = reconnects();
        scene.clients.cut_after(Direction::Down, place);
        eventually("a client is cut off", async || reconnects() > before).await;
        scene.everybody_gets_more().await;
    }
    // And every client at once.
    scene.clients.cut();
    scene.everybody_gets_more().await;
    let verdict = scene.verdict(places.len() as u64 + 1).await;
    assert!(verdict.figures.reconnects >= 12, "{:?}", verdict.figures);
    verdict.nothing_is_left().await;
}

/// Weir's connections to MongoDB are dead, all of them, and no one has told Weir.
#[tokio::test]
async fn connections_to_mongodb_that_died_without_a_word_are_given_up() {
    let scene = Scene::start().await;
    scene.everybody_gets_more().await;
    let begin = Instant::now();
    scene.upstream.half_open(Side::Client);
    eventually("a stream is lost", async || scene.restarts().await >= 1.0).await;
    scene.everybody_gets_more().await;
    // Whatever is tried meanwhile may be tried on another of them. The driver gives all of them up once
    // it has noticed, which is after its connectTimeoutMS.
    let limit = Duration::from_secs(10) + REPLY_TIMEOUT * 3;
    assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
    let verdict = scene.verdict(1).await;
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
}

/// The other way round: MongoDB believes in connections that Weir has lost.
#[tokio::test]
async fn connections_that_only_mongodb_believes_in_hold_up_nobody() {
    let scene = Scene::start().await;
    scene.everybody_gets_more().await;
    scene.upstream.half_open(Side::Server);
    eventually("a stream is lost", async || scene.restarts().await >= 1.0).await;
    scene.everybody_gets_more().await;
    let verdict = scene.verdict(1).await;
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
}

/// Contract 9. The client believes in a connection that is dead, and knows better after twice its
/// interval without a word.
#[tokio::test]
async fn a_client_tells_a_dead_server_by_its_silence() {
    let database = Database::options().start().await;
    let scene = Scene::with(database, writing(), hasty, every_kind_impatient).await;
    scene.everybody_gets_more().await;
    scene.clients.half_open(Side::Client);
    scene.everybody_gets_more().await;
    let clients = scene.followers.len();
    let verdict = scene.verdict(1).await;
    let told = verdict.ends_with("nothing for 2s");
    assert!(told >= clients, "{:?}", verdict.ends);
}

/// A client that cannot be reached any more, though nobody said so, is noticed by HTTP/2's pings, and
/// all that was held for it goes: the watch, the feed, the cursor.
#[tokio::test]
async fn the_server_lets_go_of_a_client_that_is_gone_without_a_word() {
    let scene = Scene::start().await;
    scene.everybody_gets_more().await;
    let clients = scene.followers.len();
    scene.clients.half_open(Side::Server);
    eventually("everybody has come back", async || {
        scene.followers.iter().all(|it| it.reconnects() > 0)
    })
    .await;
    // Each is there twice for a while.
    eventually("Weir has noticed", async || {
        scene.weir.metrics().await.sum("weir_watches") as usize == clients
    })
    .await;
    scene.everybody_gets_more().await;
    scene.clients.half_open(Side::Server);
    scene.clients.set(Mode::Refuse);
    eventually("Weir has noticed", async || {
        scene.weir.metrics().await.sum("weir_watches") == 0.0
    })
    .await;
    scene.clients.set(Mode::Pass);
    scene.verdict(2).await.nothing_is_left().await;
}

/// A client that is there and takes nothing for long: it says so to pings, and keeps its watch.
#[tokio::test]
async fn a_client_that_reads_nothing_but_is_there_keeps_its_watch() {
    let patient = |database: &Database| {
        let patient = |following| Following {
            silent_intervals: 60,
            ..following
        };
        every_kind(database).into_iter().map(patient).collect()
    };
    let database = Database::options().start().await;
    let scene = Scene::with(database, writing(), hasty, patient).await;
    scene.everybody_gets_more().await;
    scene.followers.iter().for_each(|it| it.stall(true));
    let begin = Instant::now();
    while begin.elapsed() < TOO_LONG_FOR_CLIENTS {
        scene.more_is_written(10).await;
    }
    scene.followers.iter().for_each(|it| it.stall(false));
    scene.everybody_gets_more().await;
    let verdict = scene.verdict(1).await;
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
}

/// Contract 9. A stall toward the clients, longer than they wait: they come back, on connections that
/// hear as little, until it is over.
#[tokio::test]
async fn a_long_stall_between_clients_and_weir_is_gone_on_from() {
    let database = Database::options().start().await;
    let scene = Scene::with(database, writing(), hasty, every_kind_impatient).await;
    for direction in [Direction::Down, Direction::Up] {
        scene.everybody_gets_more().await;
        scene.clients.set_one_way(direction, Mode::Blackhole);
        let begin = Instant::now();
        while begin.elapsed() < TOO_LONG_FOR_CLIENTS {
            scene.more_is_written(10).await;
        }
        scene.clients.set_one_way(direction, Mode::Pass);
        scene.everybody_gets_more().await;
    }
    scene.verdict(2).await.nothing_is_left().await;
}

/// Bytes that come a few at a time, on both sides: headers and lengths come in pieces.
#[tokio::test]
async fn a_trickle_of_a_few_bytes_at_a_time_is_put_together() {
    let database = Database::options().start().await;
    let small = Writing {
        pause: Duration::from_millis(300),
        ..Writing::default()
    };
    let scene = Scene::with(database, small, hasty, |database| {
        every_kind(database).into_iter().take(3).collect()
    })
    .await;
    scene.everybody_gets_more().await;
    let trickle = Mode::Trickle {
        bytes: 40,
        pause: Duration::from_millis(1),
    };
    scene.upstream.set_one_way(Direction::Down, trickle);
    scene.everybody_gets_more().await;
    scene.upstream.set(Mode::Pass);
    scene.clients.set(trickle);
    scene.everybody_gets_more().await;
    scene.clients.set(Mode::Pass);
    assert_eq!(scene.restarts().await, 0.0);
    scene.verdict(2).await;
}

/// A line too narrow for what is written: clients fall behind, and catch up when it is wide again.
#[tokio::test]
async fn a_line_too_narrow_for_what_is_written_loses_nothing() {
    let database = Database::options().start().await;
    let large = Writing {
        large: Some((2, 50_000)),
        ..Writing::default()
    };
    let scene = Scene::with(database, large, hasty, every_kind).await;
    let narrow = Mode::Trickle {
        bytes: 16 << 10,
        pause: Duration::from_millis(60),
    };
    scene.clients.set_one_way(Direction::Down, narrow);
    scene.more_is_written(150).await;
    scene.clients.set(Mode::Pass);
    scene.upstream.set_one_way(Direction::Down, narrow);
    scene.more_is_written(60).await;
    scene.upstream.set(Mode::Pass);
    let weir = scene.weir.metrics().await;
    assert!(weir.sum("weir_watches_fell_behind_total") > 0.0, "nobody fell behind");
    scene.verdict(2).await;
}

/// MongoDB out of reach for longer than `upstream_grace`: every client is told so, tries again,
/// and goes on from its token when MongoDB is back.
#[tokio::test]
async fn a_cut_longer_than_the_grace_is_told_and_gone_on_from() {
    let database = Database::options().start().await;
    let impatient = |config: &mut weir::config::ServeConfig| {
        hasty(config);
        config.upstream_grace = Duration::from_millis(500);
    };
    let scene = Scene::with(database, writing(), impatient, every_kind).await;
    scene.everybody_gets_more().await;
    scene.upstream.set(Mode::Refuse);
    let told = |it: &Follower| it.ends().iter().any(|end| end == "UPSTREAM_UNAVAILABLE");
    eventually("everybody is told", async || {
        scene.followers.iter().all(told)
    })
    .await;
    scene.upstream.set(Mode::Pass);
    scene.everybody_gets_more().await;
    // MongoDB keeps the cursors that nobody could reach it to kill, for ten minutes.
    scene.verdict(1).await;
}
