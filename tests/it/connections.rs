//! Connections to MongoDB that died while nobody used them: behind a load balancer that closes idle
//! connections, and over a restart of MongoDB. MongoDB is well when the call comes, so that the call
//! succeeds.

use std::time::Duration;

use crate::support::orders::{ORDERS, id, insert};
use crate::support::{
    Database, FailCommand, Mode, Proxy, WAIT_LIMIT, Weir, error_reason, eventually, within,
};
use futures::future::join_all;
use mongodb::bson::doc;
use tokio::time::Instant;
use tonic::Status;
use weir::pb;

/// The default of `--upstream-reply-timeout`.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of calls at once.
const AT_ONCE: usize = 8;
/// The number of calls at once after which most need a new connection.
const MANY_AT_ONCE: usize = 50;

/// Options of a URI with which the driver learns of a broken connection only from its use: it monitors
/// the server on another connection, which stays.
fn uri(proxy: &Proxy) -> String {
    format!("mongodb://{}/?directConnection=true", proxy.address())
}

/// Opens this many watches at once, each on a collection of its own.
async fn open_at_once(weir: &Weir, database: &Database, count: usize) -> Vec<Result<(), Status>> {
    let opening = (0..count).map(|number| async move {
        let collection = format!("{ORDERS}{number}");
        let request = database.watch_request(&[&collection]);
        weir.try_watch(request).await.map(drop)
    });
    join_all(opening).await
}

/// Leaves idle connections in Weir's pool.
async fn leave_idle_connections(weir: &Weir, database: &Database, proxy: &Proxy) {
    // Slow, so that commands wait for each other and more connections are made.
    proxy.set(Mode::Delay(Duration::from_millis(30)));
    for opened in open_at_once(weir, database, AT_ONCE).await {
        opened.expect("the watch opens");
    }
    weir.wait_for_no_feeds().await;
    proxy.set(Mode::Pass);
    eventually("connections are idle", async || {
        proxy.idle() > 2 && proxy.busy() == 0
    })
    .await;
}

/// Again for those on which an answer was still awaited.
async fn close_idle_connections(proxy: &Proxy) {
    eventually("the idle connections are closed", async || {
        proxy.close_idle();
        proxy.idle() == 0
    })
    .await;
}

async fn server_info(weir: &Weir) -> Result<pb::GetServerInfoResponse, Status> {
    let mut client = weir.client().await;
    let info = client.get_server_info(pb::GetServerInfoRequest {});
    Ok(within("an answer", info).await?.into_inner())
}

/// A database and a server with a network between them that can be broken.
async fn behind_a_proxy() -> (Database, Proxy, Weir) {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::without_linger_at(&uri(&proxy)).await;
    (database, proxy, weir)
}

/// Every call that asks MongoDB something, by its name: a watch, or `None` for GetServerInfo.
async fn calls(weir: &Weir, database: &Database) -> [(&'static str, Option<pb::WatchRequest>); 4] {
    let from_now = database.watch_request(&[ORDERS]);
    let mut first = weir.watch(from_now.clone()).await;
    insert(database, 1).await;
    let token = first.next_change().await.resume_token;
    let info = server_info(weir).await.expect("MongoDB is there");
    let oldest = info.oldest_resumable_time.expect("it is known");
    let oldest = prost_types::Timestamp {
        seconds: oldest.seconds.into(),
        nanos: 0,
    };
    let starting = |start| pb::WatchRequest {
        start: Some(start),
        ..from_now.clone()
    };
    let resumed = starting(pb::watch_request::Start::ResumeToken(token));
    let from_time = starting(pb::watch_request::Start::StartTime(oldest));
    [
        ("from now", Some(from_now)),
        ("resumed", Some(resumed)),
        ("from a time", Some(from_time)),
        ("GetServerInfo", None),
    ]
}

async fn make(weir: &Weir, call: Option<pb::WatchRequest>) -> Result<(), Status> {
    match call {
        Some(request) => weir.try_watch(request).await.map(drop),
        None => server_info(weir).await.map(drop),
    }
}

#[tokio::test]
async fn a_call_succeeds_although_the_idle_connections_are_closed() {
    let (database, proxy, weir) = behind_a_proxy().await;
    for (name, call) in calls(&weir, &database).await {
        leave_idle_connections(&weir, &database, &proxy).await;
        close_idle_connections(&proxy).await;
        let result = make(&weir, call).await;
        assert!(result.is_ok(), "{name}: {result:?}");
    }

    // A feed that is open: the next watch only asks for the time.
    leave_idle_connections(&weir, &database, &proxy).await;
    let from_now = database.watch_request(&[ORDERS]);
    let _open = weir.watch(from_now.clone()).await;
    close_idle_connections(&proxy).await;
    let joined = weir.try_watch(from_now).await.map(drop);
    assert!(joined.is_ok(), "joined a feed: {joined:?}");
}

/// Each call may meet another dead connection, or the pool while the driver clears it.
#[tokio::test]
async fn calls_at_once_succeed_although_the_idle_connections_are_closed() {
    let (database, proxy, weir) = behind_a_proxy().await;
    for (round, count) in [AT_ONCE, AT_ONCE, AT_ONCE, AT_ONCE, MANY_AT_ONCE]
        .into_iter()
        .enumerate()
    {
        leave_idle_connections(&weir, &database, &proxy).await;
        close_idle_connections(&proxy).await;
        let opened = open_at_once(&weir, &database, count).await;
        let failed: Vec<_> = opened.into_iter().filter_map(Result::err).collect();
        assert!(failed.is_empty(), "round {round}: {failed:?}");
    }
}

/// A firewall that forgets an idle connection tells nobody: what Weir sends is lost, and no error comes.
#[tokio::test]
async fn a_call_succeeds_although_the_idle_connections_swallow_what_is_sent() {
    let (database, proxy, weir) = behind_a_proxy().await;
    for (name, call) in calls(&weir, &database).await {
        leave_idle_connections(&weir, &database, &proxy).await;
        proxy.lose_idle();
        let begin = Instant::now();
        let result = make(&weir, call).await;
        assert!(result.is_ok(), "{name}: {result:?}");
        assert!(
            begin.elapsed() < REPLY_TIMEOUT,
            "{name}: {:?}",
            begin.elapsed()
        );
    }
    leave_idle_connections(&weir, &database, &proxy).await;
    proxy.lose_idle();
    let begin = Instant::now();
    let opened = open_at_once(&weir, &database, AT_ONCE).await;
    let failed: Vec<_> = opened.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "at once: {failed:?}");
    assert!(
        begin.elapsed() < REPLY_TIMEOUT,
        "at once: {:?}",
        begin.elapsed()
    );
}

/// MongoDB is back, and the driver may still believe in what was before.
#[tokio::test]
async fn calls_at_once_succeed_right_after_a_restart_of_mongodb() {
    let mut database = Database::options().on_disk().start().await;
    let proxy = Proxy::to(database.address()).await;
    // In this mode the driver asks the server only every 10 s whether it is there.
    let polling = format!("{}&serverMonitoringMode=poll", uri(&proxy));
    let weir = Weir::without_linger_at(&polling).await;
    for (round, count) in [AT_ONCE, AT_ONCE, MANY_AT_ONCE].into_iter().enumerate() {
        leave_idle_connections(&weir, &database, &proxy).await;
        database.restart().await;
        let opened = open_at_once(&weir, &database, count).await;
        let failed: Vec<_> = opened.into_iter().filter_map(Result::err).collect();
        assert!(failed.is_empty(), "round {round}: {failed:?}");
        let info = server_info(&weir).await.map(drop);
        assert!(info.is_ok(), "round {round}: {info:?}");
    }
}

/// A primary that has stepped down or shuts down answers with an error that passes by itself.
#[tokio::test]
async fn a_call_succeeds_although_the_first_answer_tells_of_an_election() {
    const NOT_WRITABLE_PRIMARY: i32 = 10107;
    const INTERRUPTED_DUE_TO_REPL_STATE_CHANGE: i32 = 11602;
    const SHUTDOWN_IN_PROGRESS: i32 = 91;
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    // The first call asks for what is cached later.
    drop(weir.watch(database.watch_request(&[ORDERS])).await);
    for code in [
        NOT_WRITABLE_PRIMARY,
        INTERRUPTED_DUE_TO_REPL_STATE_CHANGE,
        SHUTDOWN_IN_PROGRESS,
    ] {
        for command in ["ping", "aggregate"] {
            weir.wait_for_no_feeds().await;
            let failure = FailCommand::on(&[command]).code(code).times(1);
            database.fail(failure.app_name("weir")).await;
            let opened = weir.try_watch(database.watch_request(&[ORDERS])).await;
            assert!(opened.is_ok(), "{command} {code}: {:?}", opened.err());
            drop(opened);
        }
    }
}

/// Attempts are few: a MongoDB that fails each time is reported as such, and soon.
#[tokio::test]
async fn a_mongodb_that_closes_every_connection_is_reported_after_few_attempts() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&uri(&proxy), |config| {
        config.feed_linger = Duration::ZERO;
        config.server_selection_timeout = Duration::from_millis(300);
    })
    .await;
    drop(weir.watch(database.watch_request(&[ORDERS])).await);
    weir.wait_for_no_feeds().await;
    let close = FailCommand::on(&["ping", "buildInfo"]).close_connection();
    database.fail(close.app_name("weir")).await;
    let begin = Instant::now();
    let accepted = proxy.accepted();
    let opened = weir.try_watch(database.watch_request(&[ORDERS])).await;
    let status = opened.err().expect("it can't open");
    assert_eq!(error_reason(&status), "UPSTREAM_UNAVAILABLE");
    assert!(begin.elapsed() < WAIT_LIMIT / 2, "{:?}", begin.elapsed());
    let connections = proxy.accepted() - accepted;
    assert!(connections <= 20, "{connections} connections");
    database.clear_failures().await;
}

/// The caller's deadline bounds all attempts together.
#[tokio::test]
async fn the_deadline_of_the_call_bounds_the_attempts() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&uri(&proxy), |config| config.feed_linger = Duration::ZERO).await;
    drop(weir.watch(database.watch_request(&[ORDERS])).await);
    weir.wait_for_no_feeds().await;
    proxy.set(Mode::Refuse);
    let mut request = tonic::Request::new(database.watch_request(&[ORDERS]));
    request.set_timeout(Duration::from_millis(700));
    let begin = Instant::now();
    let opened = crate::support::WatchStream::open(&mut weir.client().await, request).await;
    assert!(opened.is_err());
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
}

/// The driver takes one abandoned request for a connection at a time from its queue, at times one in half
/// a second (mongodb 3.9.1). The calls that follow would wait for all of them.
#[tokio::test]
async fn calls_that_are_given_up_hold_up_no_later_call() {
    let (database, proxy, weir) = behind_a_proxy().await;
    let mut kept = weir.watch(database.watch_request(&[ORDERS])).await;
    // Each call waits for a connection, and its client not for long.
    proxy.set(Mode::Blackhole);
    let mut client = weir.client().await;
    for _ in 0..100 {
        let mut request = tonic::Request::new(database.watch_request(&[ORDERS]));
        request.set_timeout(Duration::from_millis(20));
        let opened = crate::support::WatchStream::open(&mut client, request).await;
        assert!(opened.is_err(), "MongoDB gets no byte");
    }
    proxy.set(Mode::Pass);
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    insert(&database, 1).await;
    for watch in [&mut kept, &mut watch] {
        assert_eq!(id(&watch.next_change().await), 1);
    }
}
