//! Watches come and go, and so do servers: nothing is left behind, and no one is left without a
//! last token.

mod support;

use std::time::Duration;

use futures::future::join_all;
use support::orders::{ORDERS, Story, insert, resume};
use support::{
    Database, FailCommand, PATIENCE, ServeProcess, Watching, Weir, error_reason, eventually, within,
};
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::watch_response::Kind;

/// The gauges that count what is open now.
const GAUGES: [&str; 3] = ["weir_watches", "weir_feeds", "weir_ring_bytes"];

async fn nothing_is_left(database: &Database, weir: &Weir) {
    eventually("the cursors are closed", async || {
        database.open_cursors().await == 0
    })
    .await;
    eventually("the gauges are back at zero", async || {
        let metrics = weir.metrics().await;
        GAUGES.iter().all(|gauge| metrics.sum(gauge) == 0.0)
    })
    .await;
}

/// T35, T40, T47. Clients that leave at any moment (before the request is read, during MongoDB's
/// answer, between messages) leave no cursor, no count and no broken task.
#[tokio::test]
async fn cancelled_watches_leave_nothing_behind() {
    const CYCLES: usize = 240;
    const AT_ONCE: usize = 40;
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let client = weir.client().await;
    for _ in 0..CYCLES / AT_ONCE {
        let cancelled = (0..AT_ONCE).map(|_| {
            let request = database.watch_request(&[ORDERS]);
            let mut client = client.clone();
            async move {
                let patience = Duration::from_micros(fastrand::u64(..40_000));
                let watch = async {
                    let mut watching = Watching::open(&mut client, request).await?;
                    while watching.try_next().await?.is_some() {}
                    Ok::<_, tonic::Status>(())
                };
                timeout(patience, watch).await
            }
        });
        let (ended, ()) = tokio::join!(join_all(cancelled), insert_one(&database));
        for early in ended.into_iter().flatten() {
            panic!("a watch ended by itself: {early:?}");
        }
    }
    nothing_is_left(&database, &weir).await;
    let metrics = weir.metrics().await;
    let started = metrics.sum("weir_watches_started_total");
    assert!(started > 0.0);
    let by_client = [("code", "CANCELLED"), ("reason", "cancelled")];
    let ended = metrics.sum_where("weir_watches_ended_total", &by_client);
    assert_eq!(started, ended);
    assert_eq!(metrics.sum("weir_watch_duration_seconds_count"), ended);

    let mut watching = weir.watch(database.watch_request(&[ORDERS])).await;
    insert(&database, 1).await;
    assert_eq!(support::orders::id(&watching.next_change().await), 1);
}

async fn insert_one(database: &Database) {
    let orders = database.collection(ORDERS);
    orders
        .insert_one(mongodb::bson::doc! {})
        .await
        .expect("an insert");
}

/// T35, T47. The cursor that MongoDB makes for a client who is gone by then is closed as well: no
/// one else would, before MongoDB's own limit of ten minutes.
#[tokio::test]
async fn a_watch_that_is_cancelled_during_its_opening_leaves_no_cursor() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    drop(weir.watch(database.watch_request(&[ORDERS])).await);
    let late = FailCommand::on(&["aggregate"]).block(Duration::from_millis(400));
    database.fail(late.times(1).app_name("weir")).await;
    let before = weir.metrics().await.sum("weir_watches_started_total");
    let opening = weir.try_watch(database.watch_request(&[ORDERS]));
    let opened = timeout(Duration::from_millis(200), opening).await;
    assert!(opened.is_err(), "MongoDB was not slow");
    let started = weir.metrics().await.sum("weir_watches_started_total") - before;
    assert_eq!(started, 1.0);
    // The aggregate is through once a later one with the failpoint's lock is.
    let opened_and_closed = Instant::now() + Duration::from_millis(600);
    eventually("MongoDB has answered", async || {
        Instant::now() >= opened_and_closed
    })
    .await;
    nothing_is_left(&database, &weir).await;
}

/// What the kernel tells of a process: resident kilobytes, threads, open files.
fn footprint(pid: u32) -> [u64; 3] {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.and_then(|it| it.parse().ok()).expect("a number")
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    [number("VmRSS:"), number("Threads:"), files.count() as u64]
}

/// T35. The same on the real binary, with a connection for each watch: the process does not grow.
#[tokio::test]
async fn coming_and_going_clients_do_not_grow_the_process() {
    const WARM_UP: usize = 60;
    const CYCLES: usize = 220;
    let database = Database::options().start().await;
    let weir = ServeProcess::start(database.uri(), &["--log-level", "warn,weir::app=info"]).await;
    let cycle = async || {
        let request = database.watch_request(&[ORDERS]);
        let watching = Watching::open(&mut weir.client().await, request).await;
        drop(watching.expect("the watch opens"));
    };
    let idle = async || {
        eventually("every watch has ended", async || {
            let metrics = weir.metrics().await;
            metrics.sum("weir_watches") == 0.0 && metrics.sum("weir_feeds") == 0.0
        })
        .await;
        eventually("every cursor is closed", async || {
            database.open_cursors().await == 0
        })
        .await;
    };
    for _ in 0..WARM_UP {
        cycle().await;
    }
    idle().await;
    let [memory, threads, files] = footprint(weir.process.id());
    for _ in 0..CYCLES {
        cycle().await;
    }
    idle().await;
    eventually("files are closed", async || {
        footprint(weir.process.id())[2] <= files + 10
    })
    .await;
    let [memory_now, threads_now, _] = footprint(weir.process.id());
    // 10 KB for each would be twice that.
    let grown = memory_now.saturating_sub(memory);
    assert!(grown < 8 << 10, "{memory} KB became {memory_now} KB");
    assert!(
        threads_now <= threads + 4,
        "{threads} threads became {threads_now}"
    );
    assert!(
        !weir.process.stderr().contains("panicked"),
        "{}",
        weir.process
    );
}

/// The clock ticks of the processor that a process has had; there are 100 in a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // The name in parentheses may hold spaces; user and system time are 12 and 13 fields on.
    let rest = stat.rsplit(") ").next().expect("a name in parentheses");
    let fields = rest.split_whitespace().skip(11).take(2);
    fields
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum()
}

/// T41. What a quiet watch costs: one round trip to MongoDB a second, and next to no processor.
#[tokio::test]
async fn a_quiet_watch_costs_one_round_trip_a_second() {
    const WATCHES: i64 = 5;
    let span = Duration::from_secs(3);
    let database = Database::options().start().await;
    let weir = ServeProcess::start(database.uri(), &[]).await;
    let mut client = weir.client().await;
    let mut open = Vec::new();
    for _ in 0..WATCHES {
        let request = database.watch_request(&[ORDERS]);
        let watching = Watching::open(&mut client, request).await;
        open.push(watching.expect("the watch opens"));
    }
    let (getmores, used) = (database.getmore_count().await, ticks(weir.process.id()));
    let begin = Instant::now();
    eventually("three seconds are over", async || begin.elapsed() >= span).await;
    let getmores = database.getmore_count().await - getmores;
    let used = ticks(weir.process.id()) - used;
    let expected = WATCHES * 3;
    assert!(
        (expected - WATCHES..=expected + WATCHES).contains(&getmores),
        "{getmores} getMores of {WATCHES} watches in {span:?}"
    );
    assert!(used <= 30, "{used} of 300 ticks");
}

/// Reads a watch to its end as a client should: the states it was told and the status.
async fn read_to_end(mut watching: Watching) -> (Story, tonic::Status, bytes::Bytes) {
    let mut story = Story::default();
    let status = loop {
        match watching.try_next().await {
            Ok(Some(message)) => match message.kind {
                Some(Kind::Changes(batch)) => {
                    story
                        .ids
                        .extend(batch.changes.iter().map(support::orders::id));
                }
                Some(Kind::StateChange(change)) => story.states.push(change.state()),
                _ => {}
            },
            Ok(None) => panic!("the watch ended with OK"),
            Err(status) => break status,
        }
    };
    (story, status, watching.token())
}

fn assert_draining(status: &tonic::Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(error_reason(status), "SERVER_DRAINING");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
}

/// T36, T55. Every client is told, has its place, and goes on elsewhere where it was.
#[tokio::test]
async fn sigterm_gives_every_client_its_last_token_and_ends_with_0() {
    const CLIENTS: usize = 4;
    const BEFORE: i32 = 5;
    let database = Database::options().start().await;
    let mut weir = ServeProcess::start(database.uri(), &[]).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let request = database.watch_request(&[ORDERS]);
        let watching = Watching::open(&mut weir.client().await, request).await;
        clients.push(tokio::spawn(read_to_end(watching.expect("it opens"))));
    }
    for id in 0..BEFORE {
        insert(&database, id).await;
    }
    let sent = CLIENTS as f64 * f64::from(BEFORE);
    eventually("every client has every event", async || {
        weir.metrics().await.sum("weir_events_sent_total") == sent
    })
    .await;

    let begin = Instant::now();
    weir.process.signal("TERM");
    let ended = within("every stream ends", join_all(clients)).await;
    let exit = weir.process.ends(PATIENCE).await;
    assert_eq!(exit.code(), Some(0), "{}", weir.process);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );

    insert(&database, BEFORE).await;
    let another = Weir::start(&database).await;
    for ended in ended {
        let (story, status, token) = ended.expect("the client lives");
        assert_draining(&status);
        assert_eq!(story.states.last(), Some(&pb::WatchState::Draining));
        let mut resumed = another.watch(resume(&database, token)).await;
        let mut whole = Story {
            ids: story.ids,
            ..Story::default()
        };
        whole.until_id(&mut resumed, BEFORE).await;
        assert_eq!(whole.ids, (0..=BEFORE).collect::<Vec<_>>());
    }
    eventually("no cursor is left", async || {
        database.open_cursors().await == 0
    })
    .await;
}

/// Writes more than a client that does not read takes in (2 MiB a stream, by hyper), so that what
/// follows waits in the server.
async fn fill_the_windows(database: &Database) {
    let orders = database.collection(ORDERS);
    for _ in 0..50 {
        let large = mongodb::bson::doc! { "text": "x".repeat(100_000) };
        orders.insert_one(large).await.expect("an insert");
    }
}

/// T36, T55. A client that does not read cannot take its last token; it must not keep the server
/// either, nor those who do read.
#[tokio::test]
async fn a_client_that_never_reads_is_cut_after_the_grace_and_the_exit_code_is_1() {
    let database = Database::options().start().await;
    let grace = ["--shutdown-grace", "2s"];
    let mut weir = ServeProcess::start(database.uri(), &grace).await;
    let request = database.watch_request(&[ORDERS]);
    let deaf = Watching::open(&mut weir.client().await, request.clone()).await;
    let deaf = deaf.expect("it opens");
    fill_the_windows(&database).await;
    let reading = Watching::open(&mut weir.client().await, request.clone()).await;
    let reading = tokio::spawn(read_to_end(reading.expect("it opens")));
    let mut known = weir.client().await;
    let mut opened = Watching::open(&mut known, request.clone())
        .await
        .expect("it opens");

    let begin = Instant::now();
    weir.process.signal("TERM");
    let (story, status, _) = within("the reader's stream ends", reading)
        .await
        .expect("it lives");
    assert_draining(&status);
    assert_eq!(story.states.last(), Some(&pb::WatchState::Draining));
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert_draining(&opened.end().await);
    let refused = within("an answer during the drain", known.watch(request)).await;
    assert_eq!(
        refused.err().map(|status| status.code()),
        Some(Code::Unavailable)
    );
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "that was not during the drain"
    );

    let exit = weir.process.ends(PATIENCE).await;
    assert_eq!(exit.code(), Some(1), "{}", weir.process);
    assert!(
        begin.elapsed() >= Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        begin.elapsed() < Duration::from_secs(6),
        "{:?}",
        begin.elapsed()
    );
    drop(deaf);
}

async fn health(
    client: &mut HealthClient<tonic::transport::Channel>,
    service: &str,
) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = within("an answer about health", client.check(request)).await;
    answer.expect("the service is known").into_inner().status()
}

/// T54. tonic-health begins with SERVING; a server without its database serves nothing.
#[tokio::test]
async fn health_and_readiness_follow_mongodbs_first_answer_and_the_shutdown() {
    let mut database = Database::options().on_disk().start().await;
    database.kill();
    let mut weir = ServeProcess::start(database.uri(), &["--shutdown-grace", "2s"]).await;
    let mut client = HealthClient::new(weir.channel().await);
    for service in ["", "weir.v1.WatchService"] {
        assert_eq!(
            health(&mut client, service).await,
            ServingStatus::NotServing
        );
    }
    assert_eq!(weir.admin_status("/readyz").await, Some(503));
    assert_eq!(weir.admin_status("/livez").await, Some(200));

    database.restart().await;
    eventually("the server is ready", async || {
        weir.admin_status("/readyz").await == Some(200)
    })
    .await;
    for service in ["", "weir.v1.WatchService"] {
        eventually("the service is SERVING", async || {
            health(&mut client, service).await == ServingStatus::Serving
        })
        .await;
    }

    // Holds the server up in its drain.
    let request = database.watch_request(&[ORDERS]);
    let deaf = Watching::open(&mut weir.client().await, request)
        .await
        .expect("it opens");
    fill_the_windows(&database).await;
    let request = HealthCheckRequest::default();
    let mut watched = client
        .watch(request)
        .await
        .expect("health can be watched")
        .into_inner();
    let mut next = async || {
        within("the health", watched.message())
            .await
            .expect("it is told")
    };
    let serving = next().await.expect("a first status");
    assert_eq!(serving.status(), ServingStatus::Serving);

    weir.process.signal("TERM");
    let gone = next().await.expect("a second status");
    assert_eq!(gone.status(), ServingStatus::NotServing);
    assert_eq!(weir.admin_status("/readyz").await, Some(503));
    assert_eq!(weir.admin_status("/livez").await, Some(200));
    assert!(next().await.is_none(), "the stream ends, to hold no one up");
    drop(deaf);
    assert_eq!(
        weir.process.ends(PATIENCE).await.code(),
        Some(0),
        "{}",
        weir.process
    );
}

/// T55. Those who only watch the health do not hold up the shutdown.
#[tokio::test]
async fn a_watcher_of_the_health_does_not_hold_up_the_shutdown() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut client = HealthClient::new(weir.channel().await);
    let watched = client.watch(HealthCheckRequest::default()).await;
    let _watched = watched.expect("health can be watched").into_inner();
    let begin = Instant::now();
    weir.shutdown().await;
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}
