//! Weir's queries to MongoDB besides its streams: the time, its properties, the start of the oplog.
//! Whatever the answer, or without one, an open watch continues, and a new one is answered in time.

use std::time::Duration;

use crate::support::orders::{ORDERS, Received, insert, resume};
use crate::support::stand_in::{Answer, FIRST_SECOND, Request, Rule, StandIn, Version, time};
use crate::support::{
    Database, FailCommand, Figure, WAIT_LIMIT, WatchStream, Weir, error_reason, eventually, tally,
    within,
};
use tokio::time::Instant;
use tonic::Code;
use weir::config::ServeConfig;
use weir::pb;

const QUERIES: [&str; 5] = ["find", "ping", "hello", "buildInfo", "serverStatus"];
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

fn short_timeouts(config: &mut ServeConfig) {
    config.upstream_reply_timeout = REPLY_TIMEOUT;
    config.server_selection_timeout = Duration::from_millis(300);
}

/// The driver itself sends a `hello` on a connection of its own, whose failure means that the server is gone. Here it
/// does so at the start, and is late with the next one.
fn rarely_checked(config: &mut ServeConfig) {
    short_timeouts(config);
    let often = "heartbeatFrequencyMS=500";
    assert!(config.mongodb_uri.contains(often));
    config.mongodb_uri = config
        .mongodb_uri
        .replace(often, "heartbeatFrequencyMS=600000");
}

/// Ways in which every query fails.
fn failures() -> Vec<FailCommand> {
    let fail = || FailCommand::on(&QUERIES).app_name("weir");
    let mut failures: Vec<FailCommand> = [13, 20, 43, 91, 4242]
        .into_iter()
        .map(|code| fail().code(code))
        .collect();
    failures.push(fail().close_connection());
    // Longer than the reply timeout.
    failures.push(fail().block(REPLY_TIMEOUT * 2));
    failures
}

async fn assert_continues(
    received: &mut Received,
    watch: &mut WatchStream,
    database: &Database,
    id: i32,
) {
    insert(database, id).await;
    received.until_id(watch, id).await;
}

/// A failing query does not affect an open watch.
#[tokio::test]
async fn an_open_watch_continues_whatever_its_queries_return() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, rarely_checked).await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut received = Received::default();
    for (id, failure) in (0..).step_by(2).zip(failures()) {
        database.fail(failure).await;
        assert_continues(&mut received, &mut watch, &database, id).await;
        // A watch that opens meanwhile queries, and may fail by itself.
        let begin = Instant::now();
        let another = weir.try_watch(database.watch_request(&[ORDERS])).await;
        assert!(begin.elapsed() < WAIT_LIMIT / 2, "{:?}", begin.elapsed());
        drop(another);
        assert_continues(&mut received, &mut watch, &database, id + 1).await;
        database.clear_failures().await;
        tally(Figure::Faults, 1);
    }
    let ids: Vec<i32> = (0..2 * failures().len()).map(|id| id as i32).collect();
    assert_eq!(received.ids, ids);
}

/// A new watch that cannot be opened is refused with a reason, in time; and a later one is served.
#[tokio::test]
async fn a_new_watch_is_answered_in_time_whatever_its_queries_return() {
    let database = Database::options().start().await;
    for failure in failures() {
        // A server that knows nothing about MongoDB yet.
        let weir = Weir::with(&database, short_timeouts).await;
        database.fail(failure.clone()).await;
        let begin = Instant::now();
        let refused = weir.try_watch(database.watch_request(&[ORDERS])).await;
        assert!(
            begin.elapsed() < WAIT_LIMIT / 2,
            "{failure:?}: {:?}",
            begin.elapsed()
        );
        if let Err(status) = refused {
            let expected = [
                (Code::Unavailable, "UPSTREAM_UNAVAILABLE"),
                (Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
                (Code::FailedPrecondition, "UPSTREAM_REFUSED"),
                (Code::Internal, "INTERNAL"),
            ];
            let reported = (status.code(), &*error_reason(&status));
            assert!(expected.contains(&reported), "{failure:?}: {status:?}");
        }
        let mut client = weir.client().await;
        let info = client.get_server_info(pb::GetServerInfoRequest {});
        if let Err(status) = within("an answer about the server", info).await {
            error_reason(&status);
        }
        database.clear_failures().await;
        eventually("a watch is served again", async || {
            weir.try_watch(database.watch_request(&[ORDERS]))
                .await
                .is_ok()
        })
        .await;
    }
}

/// The start of the oplog is queried before a stream is opened by time. Where Weir may not read it,
/// the server's own check decides; where the query fails temporarily, the watch waits.
#[tokio::test]
async fn a_catch_up_survives_failing_queries() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, short_timeouts).await;
    let mut first = weir.watch(database.watch_request(&[ORDERS])).await;
    insert(&database, 0).await;
    let token = first.next_change().await.resume_token;
    for id in 1..20 {
        insert(&database, id).await;
    }
    for (more, failure) in (20..).zip(failures()) {
        // A server without a ring: every query is needed.
        let replica = Weir::with(&database, short_timeouts).await;
        let mut live = replica.watch(database.watch_request(&[ORDERS])).await;
        database.fail(failure.times(3)).await;
        // It is refused three times at most.
        let mut resumed = loop {
            match replica.try_watch(resume(&database, token.clone())).await {
                Ok(resumed) => break resumed,
                Err(status) => {
                    let reason = error_reason(&status);
                    assert!(
                        [
                            "UPSTREAM_UNAVAILABLE",
                            "UPSTREAM_ACCESS_DENIED",
                            "UPSTREAM_REFUSED",
                            "INTERNAL"
                        ]
                        .contains(&&*reason),
                        "{status:?}"
                    );
                }
            }
        };
        let mut received = Received::default();
        received.until_id(&mut resumed, more - 1).await;
        assert_eq!(received.ids, (1..more).collect::<Vec<_>>());
        database.clear_failures().await;
        // It joins the others, whatever its queries returned.
        eventually("it has joined", async || {
            replica.metrics().await.sum("weir_catch_ups") == 0.0
        })
        .await;
        insert(&database, more).await;
        live.next_change().await;
        resumed.next_change().await;
    }
}

/// Before it joins a feed, a catch-up has MongoDB look for events in between, which may take long.
#[tokio::test]
async fn slow_looks_for_events_hold_up_no_other_query() {
    let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
    stand_in.set_clock(time(FIRST_SECOND + 60, 1));
    let weir = Weir::at(stand_in.uri(), |config| {
        config.upstream_reply_timeout = 30 * WAIT_LIMIT;
        // Of which one caller has three quarters.
        config.max_catch_ups = 48;
    })
    .await;
    let looks_for_events = |request: &Request| {
        let concern = request.command().get_document("readConcern");
        concern.is_ok_and(|it| it.contains_key("afterClusterTime"))
    };
    let rule = Rule::on("aggregate").when(looks_for_events);
    let looks = stand_in.play(rule.answer(Answer::Hang));
    let from_now = stand_in.watch_request(&[ORDERS]);
    let mut watches = vec![weir.watch(from_now.clone()).await];
    let start = prost_types::Timestamp {
        seconds: FIRST_SECOND.into(),
        nanos: 0,
    };
    for _ in 0..36 {
        let request = pb::WatchRequest {
            start: Some(pb::watch_request::Start::StartTime(start)),
            ..from_now.clone()
        };
        watches.push(weir.watch(request).await);
    }
    // As many as look at once.
    eventually("many look for events", async || looks.count() >= 4).await;
    let other = weir.watch(stand_in.watch_request(&["customers"]));
    watches.push(within("another watch opens", other).await);
    let mut client = weir.client().await;
    let info = client.get_server_info(pb::GetServerInfoRequest {});
    let info = within("an answer about the server", info).await;
    assert!(info.is_ok(), "{info:?}");
}
