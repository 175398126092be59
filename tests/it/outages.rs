//! MongoDB away and back: killed, cut off, silent, slow. Watches resume where they were, and end
//! only when it stays away.

use std::time::Duration;

use crate::support::orders::{ORDERS, Received, aggregates, insert};
use crate::support::{
    Database, FailCommand, Mode, Proxy, WAIT_LIMIT, Weir, error_reason, eventually, within,
};
use mongodb::bson::doc;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weir::config::ServeConfig;
use weir::pb;
use weir::pb::WatchState;

/// Short, so that a test sees its end.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
const SELECTION_TIMEOUT: Duration = Duration::from_millis(300);

fn short_timeouts(config: &mut ServeConfig) {
    config.upstream_reply_timeout = REPLY_TIMEOUT;
    config.server_selection_timeout = SELECTION_TIMEOUT;
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

fn assert_unavailable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(error_reason(status), "UPSTREAM_UNAVAILABLE");
    let retry = status.get_details_retry_info();
    assert!(
        retry.is_some_and(|it| it.retry_delay.is_some()),
        "{status:?}"
    );
}

/// A crash during writes: the watch gets every document that was written, in order and once.
#[tokio::test]
async fn a_watch_survives_a_killed_database_during_writes() {
    const WRITES: i32 = 300;
    let mut database = Database::options().on_disk().start().await;
    let weir = Weir::with(&database, short_timeouts).await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;

    let orders = database.collection(ORDERS);
    let writer = tokio::spawn(async move {
        for id in 0..WRITES {
            // Until the write is acknowledged, or turns out to be done.
            while let Err(error) = orders.insert_one(doc! { "_id": id }).await {
                if error.to_string().contains("11000") {
                    break;
                }
            }
        }
    });
    let mut received = Received::default();
    received.until_id(&mut watch, 50).await;
    database.restart().await;
    received.until_id(&mut watch, WRITES - 1).await;

    within("the writer ends", writer).await.expect("it wrote");
    assert_eq!(received.ids, (0..WRITES).collect::<Vec<_>>());
    let lost = WatchState::UpstreamReconnecting;
    assert!(received.states.contains(&lost), "{:?}", received.states);
    assert_eq!(received.states.last(), Some(&WatchState::Live));
    let restarts = weir.metrics().await.sum("weir_feed_restarts_total");
    assert!((1.0..=20.0).contains(&restarts), "{restarts} restarts");
}

/// The network between Weir and MongoDB breaks in several ways.
#[tokio::test]
async fn a_watch_survives_resets_refusals_and_closed_connections() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), short_timeouts).await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut received = Received::default();
    insert(&database, 0).await;
    received.until_id(&mut watch, 0).await;

    proxy.cut();
    insert(&database, 1).await;
    received.until_reconnected(&mut watch, 1).await;

    proxy.set(Mode::Refuse);
    insert(&database, 2).await;
    let lost = WatchState::UpstreamReconnecting;
    let refused = "UPSTREAM_RECONNECTING again";
    let is_lost = |received: &Received| received.states.last() == Some(&lost);
    received.until(refused, &mut watch, is_lost).await;
    proxy.set(Mode::Pass);
    received.until_reconnected(&mut watch, 2).await;

    let close = FailCommand::on(&["getMore"]).close_connection().times(1);
    database.fail(close.app_name("weir")).await;
    insert(&database, 3).await;
    received.until_reconnected(&mut watch, 3).await;
    insert(&database, 4).await;
    received.until_id(&mut watch, 4).await;
    assert_eq!(received.ids, [0, 1, 2, 3, 4]);
    let network = weir.metrics().await;
    let network = network.sum_where("weir_feed_restarts_total", &[("reason", "network")]);
    assert!(network >= 3.0, "{network} restarts");
}

/// A connection that dies silently: no error ever comes, and the driver would wait for ever.
#[tokio::test]
async fn a_watch_survives_a_network_that_drops_everything() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), short_timeouts).await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut received = Received::default();
    insert(&database, 0).await;
    received.until_id(&mut watch, 0).await;

    proxy.set(Mode::Blackhole);
    let begin = Instant::now();
    insert(&database, 1).await;
    let lost = WatchState::UpstreamReconnecting;
    let swallowed = "UPSTREAM_RECONNECTING";
    let is_lost = |received: &Received| received.states.last() == Some(&lost);
    received.until(swallowed, &mut watch, is_lost).await;
    // A getMore of a quiet stream, the reply timeout, and half of that for the probe.
    let limit = 3 + seconds(REPLY_TIMEOUT) + seconds(REPLY_TIMEOUT) / 2;
    assert!(begin.elapsed() < Duration::from_secs(limit));
    // Dead connections stay dead, as after a router's restart.
    proxy.cut();
    proxy.set(Mode::Pass);
    received.until_reconnected(&mut watch, 1).await;
    insert(&database, 2).await;
    received.until_id(&mut watch, 2).await;
    assert_eq!(received.ids, [0, 1, 2]);
}

/// One connection dies silently while MongoDB answers on others: a stream with almost nothing to
/// read does not wait as it would for a long scan.
#[tokio::test]
async fn a_watch_survives_a_half_open_connection_while_mongodb_is_reachable() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), short_timeouts).await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut received = Received::default();
    insert(&database, 0).await;
    received.until_id(&mut watch, 0).await;

    eventually("a reply is awaited", async || proxy.awaited() > 0).await;
    proxy.lose_answers();
    insert(&database, 1).await;
    received.until_reconnected(&mut watch, 1).await;
    received.until_id(&mut watch, 1).await;
    assert_eq!(received.ids, [0, 1]);
}

/// The same for an opening, for which all watches of its feed wait.
#[tokio::test]
async fn an_opening_survives_a_half_open_connection_while_mongodb_is_reachable() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), |config| {
        short_timeouts(config);
        config.feed_linger = Duration::ZERO;
    })
    .await;
    // Afterwards the queries of a first watch are answered, and there are other connections.
    drop(weir.watch(database.watch_request(&["others"])).await);
    weir.wait_for_no_feeds().await;
    let slow = FailCommand::on(&["aggregate"]).block(REPLY_TIMEOUT / 2);
    database.fail(slow.times(1).app_name("weir")).await;

    let opening = weir.try_watch(database.watch_request(&[ORDERS]));
    let losing = async {
        // Other queries are answered at once.
        let mut looks = 0;
        eventually("the opening waits for its answer", async || {
            looks = if proxy.awaited() > 0 { looks + 1 } else { 0 };
            looks > 5
        })
        .await;
        proxy.lose_answers();
    };
    let (opened, ()) = tokio::join!(opening, losing);
    let status = opened.err().expect("its answer was lost");
    assert_unavailable(&status);
    weir.watch(database.watch_request(&[ORDERS])).await;
}

/// A long scan of the oplog looks like a dead connection, and must not be treated as one.
#[tokio::test]
async fn a_slow_answer_is_awaited_while_mongodb_is_reachable() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, short_timeouts).await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let delay = REPLY_TIMEOUT * 2;
    let slow = FailCommand::on(&["getMore"]).block(delay).times(1);
    let begin = Instant::now();
    database.fail(slow.app_name("weir")).await;
    let mut received = Received::default();
    insert(&database, 0).await;
    received.until_id(&mut watch, 0).await;
    insert(&database, 1).await;
    received.until_id(&mut watch, 1).await;
    assert!(begin.elapsed() >= delay, "the answer was not slow");
    assert_eq!(received.ids, [0, 1]);
    assert!(!received.states.contains(&WatchState::UpstreamReconnecting));
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum("weir_feed_restarts_total"), 0.0);
}

/// MongoDB may have to scan much of the oplog for the first event after a position. A client must
/// be able to tell that from a dead connection, so that it does not start over.
#[tokio::test]
async fn a_watch_opens_although_mongodb_takes_long_to_find_its_position() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let token = weir.watch(database.watch_request(&[ORDERS])).await.token();
    insert(&database, 0).await;
    let replica = Weir::start(&database).await;
    let _open = replica.watch(database.watch_request(&[ORDERS])).await;

    let delay = Duration::from_secs(6);
    let slow = FailCommand::on(&["aggregate"]).block(delay).times(1);
    database.fail(slow.app_name("weir")).await;
    let begin = Instant::now();
    let mut request = crate::support::orders::resume(&database, token.clone());
    request.progress_interval = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let mut watch = replica.watch(request).await;
    assert!(begin.elapsed() < delay / 2, "{:?}", begin.elapsed());
    assert_eq!(watch.token(), token);
    watch.next_state(WatchState::CatchingUp).await;
    for _ in 0..3 {
        watch.next_progress().await;
        assert_eq!(watch.token(), token);
    }
    assert!(begin.elapsed() < delay, "{:?}", begin.elapsed());
    let mut received = Received::default();
    received.until_id(&mut watch, 0).await;
    assert!(begin.elapsed() >= delay, "the answer was not slow");
    insert(&database, 1).await;
    received.until_id(&mut watch, 1).await;
    assert_eq!(received.ids, [0, 1]);
    let metrics = replica.metrics().await;
    assert_eq!(metrics.sum("weir_feed_restarts_total"), 0.0);
}

/// The driver's own resume has neither pause nor limit: a stream that opens and then fails would be
/// opened hundreds of times a second.
#[tokio::test]
async fn a_stream_that_opens_and_fails_is_reopened_with_growing_pauses() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut received = Received::default();
    insert(&database, 0).await;
    received.until_id(&mut watch, 0).await;
    let before = aggregates(&database).await;
    let begin = Instant::now();
    let broken = FailCommand::on(&["getMore"]).code(43).app_name("weir");
    database.fail(broken).await;
    // At least half of the pauses of 100, 200, 400, 800 and 1600 ms.
    let restarts = async || weir.metrics().await.sum("weir_feed_restarts_total");
    eventually("five restarts", async || restarts().await >= 5.0).await;
    assert!(
        begin.elapsed() >= Duration::from_millis(1550),
        "{:?}",
        begin.elapsed()
    );
    let opened = aggregates(&database).await - before;
    assert!((4..=6).contains(&opened), "{opened} aggregates");
    let by_reason = [("reason", "cursor_not_found")];
    let metrics = weir.metrics().await;
    assert!(metrics.sum_where("weir_feed_restarts_total", &by_reason) >= 5.0);

    database.clear_failures().await;
    insert(&database, 1).await;
    received.until_id(&mut watch, 1).await;
    assert_eq!(received.ids, [0, 1]);
}

/// MongoDB is away for longer than `upstream_grace`; the last token works when it is back.
#[tokio::test]
async fn a_watch_ends_when_mongodb_stays_away_and_can_be_resumed_later() {
    let mut database = Database::options().on_disk().start().await;
    let grace = Duration::from_secs(1);
    let weir = Weir::with(&database, |config| {
        short_timeouts(config);
        config.upstream_grace = grace;
    })
    .await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut received = Received::default();
    insert(&database, 0).await;
    received.until_id(&mut watch, 0).await;

    database.kill();
    let begin = Instant::now();
    let lost = watch.next_state(WatchState::UpstreamReconnecting).await;
    assert!(!lost.reason.is_empty());
    let status = watch.end().await;
    assert_unavailable(&status);
    assert!(begin.elapsed() >= grace, "{:?}", begin.elapsed());
    let limit = grace + 4 * SELECTION_TIMEOUT + Duration::from_secs(2);
    assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
    let token = watch.token();

    database.restart().await;
    insert(&database, 1).await;
    let mut resumed = weir
        .watch(crate::support::orders::resume(&database, token))
        .await;
    let mut received = Received::default();
    received.until_id(&mut resumed, 1).await;
    assert_eq!(received.ids, [1]);
}

/// Checks that a watch is refused in time when MongoDB does not open it, so that the client can go
/// elsewhere.
async fn assert_refused_in_time(database: &Database, weir: &Weir) {
    let begin = Instant::now();
    let refused = weir.try_watch(database.watch_request(&[ORDERS])).await;
    assert_unavailable(&refused.err().expect("MongoDB does not answer"));
    assert!(begin.elapsed() < WAIT_LIMIT / 2, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_watch_is_refused_in_time_before_mongodb_ever_answered() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    for mode in [Mode::Blackhole, Mode::Refuse] {
        proxy.set(mode);
        let weir = Weir::at(&proxy.mongodb_uri(), short_timeouts).await;
        assert_refused_in_time(&database, &weir).await;
    }
}

/// The first watch queries MongoDB's properties, on connections that may be dead by then.
#[tokio::test]
async fn a_watch_is_refused_in_time_when_mongodb_stops_answering() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), short_timeouts).await;
    let ready = async || weir.admin("/readyz").await.0 == 200;
    eventually("Weir is ready", ready).await;
    proxy.set(Mode::Blackhole);
    let mut client = weir.client().await;
    let info = client.get_server_info(pb::GetServerInfoRequest {});
    let info = within("an answer about the server", info);
    let ((), info) = tokio::join!(assert_refused_in_time(&database, &weir), info);
    assert_unavailable(&info.expect_err("MongoDB does not answer"));
}

/// Later watches know them, and meet the silence in the opening itself.
#[tokio::test]
async fn a_later_watch_is_refused_in_time_while_mongodb_is_away() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), short_timeouts).await;
    drop(weir.watch(database.watch_request(&[ORDERS])).await);
    for mode in [Mode::Blackhole, Mode::Refuse] {
        proxy.set(mode);
        assert_refused_in_time(&database, &weir).await;
    }
}
