//! Connections without an open call are closed after a time, and no other connection is.

use std::time::Duration;

use crate::raw_http2::{
    DATA, END_STREAM, GOAWAY, HEADERS, RST_STREAM, RawConnection, WINDOW_UPDATE, call, frame,
    setting,
};
use crate::support::orders::{ORDERS, id, insert};
use crate::support::{Database, ServeProcess, WAIT_LIMIT, Weir, eventually, within};
use prost::Message as _;
use tokio::time::Instant;
use weir::pb::GetServerInfoRequest;

const IDLE: Duration = Duration::from_secs(1);

async fn weir(database: &Database) -> Weir {
    weir_with(database, IDLE).await
}

async fn weir_with(database: &Database, idle: Duration) -> Weir {
    Weir::with(database, |config| config.idle_connection_timeout = idle).await
}

/// Waits for a GOAWAY without an error and the end of the connection. Returns when the GOAWAY came.
async fn closed(raw: &mut RawConnection) -> Instant {
    let graceful = raw.until(|it| {
        assert!(it.kind != GOAWAY || it.payload[4..8] == [0; 4], "{it:?}");
        it.kind == GOAWAY
    });
    assert!(graceful.await, "the connection was cut");
    let at = Instant::now();
    assert!(!raw.until(|_| false).await);
    at
}

/// Such a client answers every ping, so that nothing else closes its connection.
#[tokio::test]
async fn a_connection_without_a_call_is_closed_after_the_idle_time() {
    let database = Database::options().start().await;
    let weir = weir(&database).await;
    let begin = Instant::now();
    let mut raw = RawConnection::greeted(weir.grpc_addr()).await;
    let took = closed(&mut raw).await - begin;
    assert!(took >= IDLE, "{took:?}");
    assert!(took < WAIT_LIMIT / 2, "{took:?}");
    eventually("the connection is gone", async || {
        weir.metrics().await.sum("weir_connections") == 0.0
    })
    .await;
}

/// However long a call is open, and however little it says.
#[tokio::test]
async fn a_connection_with_an_open_call_stays_open_and_its_idle_time_begins_when_the_call_ends() {
    let database = Database::options().start().await;
    let weir = weir(&database).await;
    let request = database.watch_request(&[ORDERS]).encode_to_vec();
    // Windows that all messages fit in.
    let wide = setting(4, 1 << 30);
    let mut raw = RawConnection::greeted_with(weir.grpc_addr(), &wide).await;
    let wide = (1_u32 << 30).to_be_bytes();
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &wide)).await;
    let begin = Instant::now();
    for stream in [1, 3] {
        raw.send(&call(stream, &request)).await;
        let opened = |it: &crate::raw_http2::Reply| it.kind == DATA && it.stream == stream;
        assert!(raw.until(opened).await, "no watch");
    }
    // One of two calls ends.
    raw.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).await;
    let mut number = 0;
    while begin.elapsed() < IDLE * 3 {
        insert(&database, number).await;
        number += 1;
        let delivered = raw.until(|it| {
            assert_ne!(it.kind, GOAWAY, "a connection with an open call was closed");
            it.kind == DATA && it.stream == 3
        });
        assert!(delivered.await, "the connection was cut");
    }
    raw.send(&frame(RST_STREAM, 0, 3, &[0, 0, 0, 8])).await;
    let ended = Instant::now();
    let took = closed(&mut raw).await - ended;
    assert!(took >= IDLE * 9 / 10, "{took:?}");
    assert!(took < WAIT_LIMIT / 2, "{took:?}");
}

/// Each short call begins the idle time anew.
#[tokio::test]
async fn a_connection_in_use_now_and_then_stays_open() {
    let database = Database::options().start().await;
    // Longer than anything between two calls takes on a busy machine.
    let idle = IDLE * 4;
    let weir = weir_with(&database, idle).await;
    let mut raw = RawConnection::greeted(weir.grpc_addr()).await;
    let begin = Instant::now();
    let mut streams = crate::raw_http2::streams(1_000_000);
    while begin.elapsed() < idle * 2 {
        let stream = streams.next().expect("a stream");
        let health = crate::raw_http2::opening("/grpc.health.v1.Health/Check");
        raw.send(&frame(
            HEADERS,
            crate::raw_http2::END_HEADERS,
            stream,
            &health,
        ))
        .await;
        raw.send(&frame(
            DATA,
            END_STREAM,
            stream,
            &crate::raw_http2::message(b""),
        ))
        .await;
        let answered = raw.until(|it| {
            assert_ne!(it.kind, GOAWAY, "a connection in use was closed");
            it.stream == stream && it.flags & END_STREAM != 0
        });
        assert!(answered.await, "the connection was cut");
        // An event through another connection takes some time and is no call on this one.
        let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
        let number = fastrand::i32(..);
        insert(&database, number).await;
        assert_eq!(id(&watch.next_change().await), number);
    }
}

/// gRPC's clients open a new connection for the next call by themselves.
#[tokio::test]
async fn the_next_call_of_a_client_whose_connection_was_idle_succeeds() {
    let database = Database::options().start().await;
    let weir = weir(&database).await;
    let mut client = weir.client().await;
    for _ in 0..3 {
        let answer = client.get_server_info(GetServerInfoRequest {});
        within("an answer", answer).await.expect("an answer");
        eventually("the connection is closed", async || {
            weir.metrics().await.sum("weir_connections") == 0.0
        })
        .await;
    }
}

/// Such a client is frozen, or its machine is gone. It has no call whose end it would have to read.
#[tokio::test]
async fn a_silent_client_without_a_call_does_not_hold_up_the_shutdown() {
    let database = Database::options().start().await;
    let flags = ["--idle-connection-timeout=1s", "--shutdown-grace=60s"];
    let mut weir = ServeProcess::start(database.uri(), &flags).await;
    // A call long ago: its connection was told to close, and the client says nothing to it.
    let mut used = RawConnection::greeted(weir.grpc).await;
    let health = crate::raw_http2::opening("/grpc.health.v1.Health/Check");
    used.send(&frame(HEADERS, crate::raw_http2::END_HEADERS, 1, &health))
        .await;
    used.send(&frame(DATA, END_STREAM, 1, &crate::raw_http2::message(b"")))
        .await;
    while used.reply().await.expect("it is told to close").kind != GOAWAY {}
    let unused = RawConnection::connect(weir.grpc).await;
    let mut greeted = RawConnection::greeted(weir.grpc).await;
    assert!(greeted.reply().await.is_some(), "the server greets");

    weir.process.signal("TERM");
    // Long before the grace is over.
    let exit = weir.process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(exit.code(), Some(0), "{}", weir.process);
    drop((used, unused, greeted));
}
