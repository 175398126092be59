//! The server starts and stops: health reports it, and every client gets a last token.

use std::time::Duration;

use crate::support::orders::{ORDERS, Received, insert, resume};
use crate::support::{
    Database, ServeProcess, WAIT_LIMIT, WatchStream, Weir, error_reason, eventually, within,
};
use futures::future::join_all;
use mongodb::bson::doc;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

/// The default of `--shutdown-grace`. A shutdown that nothing holds up takes less.
const GRACE: Duration = Duration::from_secs(10);

/// Reads a watch to its end as a client should. Returns its states and the status.
async fn read_to_end(mut watch: WatchStream) -> (Received, tonic::Status, bytes::Bytes) {
    let mut received = Received::default();
    let status = loop {
        match watch.try_next().await {
            Ok(Some(message)) => match message.kind {
                Some(Kind::Changes(batch)) => {
                    received
                        .ids
                        .extend(batch.changes.iter().map(crate::support::orders::id));
                }
                Some(Kind::StateChange(change)) => received.states.push(change.state()),
                _ => {}
            },
            Ok(None) => panic!("the watch ended with OK"),
            Err(status) => break status,
        }
    };
    (received, status, watch.token())
}

fn assert_draining(status: &tonic::Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(error_reason(status), "SERVER_DRAINING");
    let retry = status
        .get_details_retry_info()
        .and_then(|it| it.retry_delay);
    // Not all at the same moment.
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(5));
    assert!(
        retry.is_some_and(|it| (least..=most).contains(&it)),
        "{status:?}"
    );
}

/// Every client learns of the shutdown, has its token, and resumes elsewhere.
#[tokio::test]
async fn sigterm_gives_every_client_its_last_token_and_ends_with_0() {
    const CLIENTS: usize = 4;
    const BEFORE: i32 = 5;
    let database = Database::options().start().await;
    let mut weir = ServeProcess::start(database.uri(), &[]).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let request = database.watch_request(&[ORDERS]);
        let watch = WatchStream::open(&mut weir.client().await, request).await;
        clients.push(tokio::spawn(read_to_end(watch.expect("it opens"))));
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
    let exit = weir.process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(exit.code(), Some(0), "{}", weir.process);
    assert!(begin.elapsed() < GRACE, "{:?}", begin.elapsed());

    insert(&database, BEFORE).await;
    let another = Weir::without_linger(&database).await;
    for ended in ended {
        let (received, status, token) = ended.expect("the client lives");
        assert_draining(&status);
        assert_eq!(received.states.last(), Some(&pb::WatchState::Draining));
        let mut resumed = another.watch(resume(&database, token)).await;
        let mut whole = Received {
            ids: received.ids,
            ..Received::default()
        };
        whole.until_id(&mut resumed, BEFORE).await;
        assert_eq!(whole.ids, (0..=BEFORE).collect::<Vec<_>>());
    }
    eventually("no cursor is left", async || {
        database.open_cursors().await == 0
    })
    .await;
}

/// Writes more than a client takes that does not read (2 MiB a stream, by hyper), so that later
/// messages wait in the server.
async fn fill_the_windows(database: &Database) {
    let orders = database.collection(ORDERS);
    for _ in 0..50 {
        let large = mongodb::bson::doc! { "text": "x".repeat(100_000) };
        orders.insert_one(large).await.expect("an insert");
    }
}

/// A client that does not read cannot receive its last token; it must not delay the server or other
/// clients for long.
#[tokio::test]
async fn a_client_that_never_reads_is_cut_off_after_the_grace_and_the_exit_code_is_1() {
    let database = Database::options().start().await;
    let grace = ["--shutdown-grace", "5s"];
    let mut weir = ServeProcess::start(database.uri(), &grace).await;
    let request = database.watch_request(&[ORDERS]);
    let unread = WatchStream::open(&mut weir.client().await, request.clone()).await;
    let unread = unread.expect("it opens");
    fill_the_windows(&database).await;
    let reading = WatchStream::open(&mut weir.client().await, request.clone()).await;
    let reading = tokio::spawn(read_to_end(reading.expect("it opens")));
    let mut known = weir.client().await;
    let mut opened = WatchStream::open(&mut known, request.clone())
        .await
        .expect("it opens");

    let begin = Instant::now();
    weir.process.signal("TERM");
    let (received, status, _) = within("the reader's stream ends", reading)
        .await
        .expect("it lives");
    assert_draining(&status);
    assert_eq!(received.states.last(), Some(&pb::WatchState::Draining));
    assert!(
        begin.elapsed() < Duration::from_secs(5),
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
        begin.elapsed() < Duration::from_secs(5),
        "that was not during the drain"
    );

    let exit = weir.process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(exit.code(), Some(1), "{}", weir.process);
    assert!(
        begin.elapsed() >= Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "{:?}",
        begin.elapsed()
    );
    drop(unread);
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

/// tonic-health starts with SERVING; a server without its database cannot serve.
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

    // Keeps the server in its drain.
    let request = database.watch_request(&[ORDERS]);
    let unread = WatchStream::open(&mut weir.client().await, request)
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
            .expect("it is reported")
    };
    let serving = next().await.expect("a first status");
    assert_eq!(serving.status(), ServingStatus::Serving);

    weir.process.signal("TERM");
    let gone = next().await.expect("a second status");
    assert_eq!(gone.status(), ServingStatus::NotServing);
    assert_eq!(weir.admin_status("/readyz").await, Some(503));
    assert_eq!(weir.admin_status("/livez").await, Some(200));
    assert!(next().await.is_none(), "the stream ends, to hold no one up");
    drop(unread);
    assert_eq!(
        weir.process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(0),
        "{}",
        weir.process
    );
}

/// Clients that only watch the health do not delay the shutdown.
#[tokio::test]
async fn a_health_stream_does_not_delay_the_shutdown() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut client = HealthClient::new(weir.channel().await);
    let watched = client.watch(HealthCheckRequest::default()).await;
    let _watched = watched.expect("health can be watched").into_inner();
    let begin = Instant::now();
    weir.shutdown().await;
    assert!(begin.elapsed() < GRACE, "{:?}", begin.elapsed());
}

/// With pieces of an event waiting for a slow reader, the last token must not cover pieces that
/// were never sent.
#[tokio::test]
async fn a_shutdown_in_the_middle_of_an_event_gives_the_token_before_it() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = pb::WatchRequest {
        max_message_bytes: 64 << 10,
        ..database.watch_request(&["orders"])
    };
    let mut watch = weir.watch(request.clone()).await;
    // More than HTTP/2 and its windows buffer, so that most pieces wait in the stream.
    let large = doc! {"_id": 1, "text": "x".repeat(12 << 20)};
    let orders = database.collection("orders");
    orders.insert_one(large).await.expect("an insert");
    while !matches!(watch.next().await.kind, Some(Kind::EventChunk(_))) {}

    let (status, ()) = tokio::join!(watch.end(), weir.shutdown());

    assert_eq!(error_reason(&status), "SERVER_DRAINING");
    let again = Weir::start(&database).await;
    let resumed = pb::WatchRequest {
        max_message_bytes: 0,
        start: Some(Start::ResumeToken(watch.token())),
        ..request
    };
    let mut resumed = again.watch(resumed).await;
    let change = within("the whole event", resumed.next_change()).await;
    assert_eq!(change.operation(), pb::OperationType::Insert);
}
