//! Clients that violate the rules of HTTP/2 and gRPC. After each of them a valid client is served
//! at once, gauges are back at zero, nothing has panicked, and memory has stayed bounded.

use std::time::Duration;

use crate::raw_http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
    PRIORITY, PUSH_PROMISE, RST_STREAM, RawConnection, SETTINGS, WATCH, WINDOW_UPDATE, call, frame,
    literals, message, opening, setting, streams,
};
use crate::support::orders::{ORDERS, id, insert};
use crate::support::{
    Database, Figure, Samples, ServeProcess, WatchStream, error_reason, eventually, tally, within,
};
use futures::future::join_all;
use mongodb::bson::doc;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tonic::Code;

/// The limit for the memory of all attacks of one test, at the peak. A debug build that serves one
/// watch takes about 30 MiB.
const MEMORY: u64 = 128 << 20;

/// Weir as a separate process, with low limits.
struct ServerUnderAttack {
    database: Database,
    weir: ServeProcess,
}

impl ServerUnderAttack {
    async fn start(arguments: &[&str]) -> Self {
        let database = Database::options().start().await;
        let common = [
            "--request-timeout=1s",
            "--http2-keepalive-interval=1s",
            "--http2-keepalive-timeout=1s",
            "--feed-linger=0s",
        ];
        let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
        let weir = ServeProcess::start(database.uri(), &arguments).await;
        Self { database, weir }
    }

    /// The request of a valid client, encoded.
    fn request(&self) -> Vec<u8> {
        self.database.watch_request(&[ORDERS]).encode_to_vec()
    }

    async fn valid_watch(&self) -> WatchStream {
        let request = self.database.watch_request(&[ORDERS]);
        let watch = WatchStream::open(&mut self.weir.client().await, request).await;
        watch.unwrap_or_else(|status| panic!("a valid client was refused: {status:?}"))
    }

    /// Checks that a valid client is served and that nothing is left of the attack.
    async fn assert_survives(&self, attack: &str) {
        let begin = Instant::now();
        let mut watch = self.valid_watch().await;
        let number = fastrand::i32(..);
        insert(&self.database, number).await;
        assert_eq!(id(&watch.next_change().await), number, "after {attack}");
        let served = begin.elapsed();
        drop(watch);
        self.wait_until_quiet(attack).await;
        let peak = self.weir.process.peak_resident();
        assert!(
            served < Duration::from_secs(5),
            "after {attack}: {served:?}"
        );
        println!(
            "{attack}: served in {served:?}, {} MiB at the peak",
            peak >> 20
        );
        assert!(peak < MEMORY, "{attack} took {} MiB", peak >> 20);
        tally(Figure::PeakBytes, peak);
    }

    async fn wait_until_quiet(&self, attack: &str) {
        eventually(&format!("nothing is left of {attack}"), async || {
            let metrics = self.weir.metrics().await;
            [
                "weir_watches",
                "weir_feeds",
                "weir_connections",
                "weir_catch_ups",
            ]
            .iter()
            .all(|gauge| metrics.sum(gauge) == 0.0)
        })
        .await;
        let log = self.weir.process.stderr();
        assert!(!log.contains("panicked"), "after {attack}: {log}");
    }

    async fn rejected(&self, limit: &str) -> f64 {
        let metrics: Samples = self.weir.metrics().await;
        metrics.sum_where("weir_limit_rejections_total", &[("limit", limit)])
    }
}

/// A call's request has a time limit. tonic alone would wait for ever.
#[tokio::test]
async fn a_call_that_never_sends_its_request_times_out() {
    let server = ServerUnderAttack::start(&[]).await;
    let whole = server.request();
    let head = |length: u32| [&[0], &length.to_be_bytes()[..]].concat();
    let parts: [(&str, Vec<u8>); 5] = [
        ("nothing", Vec::new()),
        ("half a head", head(20)[..3].to_vec()),
        // The buffer for a megabyte is not allocated before the megabyte comes.
        ("a head alone", head(1 << 20)),
        (
            "half a request",
            message(&whole)[..whole.len() / 2].to_vec(),
        ),
        ("a request that never ends", message(&whole)),
    ];
    let rounds = 200;
    let begin = Instant::now();
    for (what, part) in parts {
        let mut raw = RawConnection::greeted(server.weir.grpc).await;
        for stream in streams(rounds) {
            raw.send(&frame(HEADERS, END_HEADERS, stream, &opening(WATCH)))
                .await;
            if !part.is_empty() {
                raw.send(&frame(DATA, 0, stream, &part)).await;
            }
        }
        let mut ended = 0;
        let all = raw.until(|reply| {
            ended += u32::from(reply.kind == HEADERS && reply.flags & END_STREAM != 0);
            ended == rounds
        });
        let all = all.await;
        assert!(all, "{what}: {ended} calls were answered");
        assert!(
            begin.elapsed() < Duration::from_secs(15),
            "{what}: {:?}",
            begin.elapsed()
        );
    }
    tally(Figure::BadInputs, 5 * u64::from(rounds));
    assert_eq!(server.rejected("request_timeout").await, 1000.0);

    // The reason in machine-readable form.
    let mut grpc = tonic::client::Grpc::new(server.weir.channel().await);
    grpc.ready().await.expect("the connection is ready");
    let silence = futures::stream::pending::<weir::pb::WatchRequest>();
    let codec = tonic_prost::ProstCodec::<_, weir::pb::WatchResponse>::default();
    let path = http::uri::PathAndQuery::from_static(WATCH);
    let answer = grpc.streaming(tonic::Request::new(silence), path, codec);
    let status = within("an answer", answer)
        .await
        .expect_err("it is refused");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(error_reason(&status), "REQUEST_TIMEOUT");
    drop(grpc);
    server.assert_survives("calls without a request").await;
}

/// Slow and silent connections, at every stage of a connection.
#[tokio::test]
async fn an_idle_connection_times_out_at_every_stage() {
    let server = ServerUnderAttack::start(&[]).await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let begun = |more: &[u8]| [PREFACE, &settings, more].concat();
    let open = frame(HEADERS, END_HEADERS, 1, &opening(WATCH));
    let steps: [(&str, Vec<u8>, Vec<u8>); 7] = [
        ("silence", Vec::new(), Vec::new()),
        ("half a preface", PREFACE[..12].to_vec(), Vec::new()),
        ("a preface alone", PREFACE.to_vec(), Vec::new()),
        ("a preface, slowly", Vec::new(), PREFACE.to_vec()),
        ("half a frame's head", begun(&[0, 0]), Vec::new()),
        ("headers, slowly", begun(&[]), open.repeat(10)),
        (
            "continuations, slowly",
            begun(&frame(HEADERS, 0, 1, b"")),
            frame(CONTINUATION, 0, 1, b"").repeat(50),
        ),
    ];
    let attacks = steps.into_iter().map(|(what, at_once, slowly)| {
        let address = server.weir.grpc;
        async move {
            let begin = Instant::now();
            let mut raw = RawConnection::connect(address).await;
            raw.send(&at_once).await;
            for byte in slowly {
                if !raw.send(&[byte]).await || begin.elapsed() > Duration::from_secs(5) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            raw.rest().await;
            println!("{what}: closed after {:?}", begin.elapsed());
            assert!(
                begin.elapsed() < Duration::from_secs(12),
                "{what}: {:?}",
                begin.elapsed()
            );
        }
    });
    tally(Figure::BadInputs, 7);
    join_all(attacks).await;
    server.assert_survives("slow connections").await;
}

#[tokio::test]
async fn other_protocols_on_the_grpc_port_are_refused() {
    let server = ServerUnderAttack::start(&[]).await;
    // The start of a TLS 1.2 record with a ClientHello.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 501]].concat();
    let inputs = [
        b"GET /metrics HTTP/1.1\r\nHost: weir\r\n\r\n".to_vec(),
        b"POST /weir.v1.WatchService/Watch HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n".to_vec(),
        hello,
        vec![0; 64 << 10],
        vec![0xff; 64 << 10],
        b"\r\n".repeat(1000),
        [PREFACE, PREFACE].concat(),
        // A WebSocket frame, a MongoDB message, an SSH greeting.
        vec![0x81, 0x05, b'h', b'e', b'l', b'l', b'o'],
        [
            &[0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0][..],
            &[0; 64],
        ]
        .concat(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
    ];
    for input in &inputs {
        let mut raw = RawConnection::connect(server.weir.grpc).await;
        raw.send(input).await;
        raw.rest().await;
    }
    tally(Figure::BadInputs, inputs.len() as u64);
    server.assert_survives("other protocols").await;
}

/// Frames that no client may send. Their connection ends, and no other is affected.
#[tokio::test]
async fn frames_that_violate_the_protocol_end_only_their_connection() {
    let server = ServerUnderAttack::start(&[]).await;
    let mut other_watch = server.valid_watch().await;
    let open = call(1, &server.request());
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let wide = frame(WINDOW_UPDATE, 0, 0, &most);
    let cases: [(&str, Vec<u8>); 21] = [
        ("a window beyond all bounds", wide.repeat(2)),
        ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a short window update", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        (
            "a frame of 16 MiB",
            vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1],
        ),
        ("data on an idle stream", frame(DATA, 0, 9, b"x")),
        ("data on no stream", frame(DATA, 0, 0, b"x")),
        (
            "headers on no stream",
            frame(HEADERS, END_HEADERS, 0, &opening(WATCH)),
        ),
        (
            "headers on the server's stream",
            frame(HEADERS, END_HEADERS, 2, &opening(WATCH)),
        ),
        (
            "a promise",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        (
            "a reset of an idle stream",
            frame(RST_STREAM, 0, 9, &[0; 4]),
        ),
        ("a reset of no stream", frame(RST_STREAM, 0, 0, &[0; 4])),
        (
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, b""),
        ),
        (
            "an interrupted header",
            [frame(HEADERS, 0, 1, b""), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "padding beyond the frame",
            frame(HEADERS, PADDED | END_HEADERS, 1, &[200, 1]),
        ),
        (
            "broken HPACK",
            frame(
                HEADERS,
                END_HEADERS,
                1,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ),
        ),
        (
            "an index into an empty table",
            frame(HEADERS, END_HEADERS, 1, &[0x80 | 70]),
        ),
        ("a short ping", frame(PING, 0, 0, &[0; 7])),
        ("settings of a wrong length", frame(SETTINGS, 0, 0, &[0; 5])),
        (
            "settings with an acknowledgement and more",
            frame(SETTINGS, ACK, 0, &setting(3, 1)),
        ),
        (
            "a setting beyond its bounds",
            frame(SETTINGS, 0, 0, &setting(4, u32::MAX)),
        ),
        (
            "a stream that depends on itself",
            frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 0]),
        ),
    ];
    for (what, bytes) in &cases {
        let mut raw = RawConnection::greeted(server.weir.grpc).await;
        raw.send(&open).await;
        assert!(
            raw.until(|it| it.kind == DATA && it.stream == 1).await,
            "{what}: no watch"
        );
        raw.send(bytes).await;
        let is_over =
            raw.until(|it| it.kind == GOAWAY || (it.kind == RST_STREAM && it.stream == 1));
        is_over.await;
        drop(raw);
    }
    // A stream id that is reused, and one below the last, each after a watch.
    for stream in [1, 3] {
        let mut raw = RawConnection::greeted(server.weir.grpc).await;
        raw.send(&call(5, &server.request())).await;
        assert!(raw.until(|it| it.kind == DATA && it.stream == 5).await);
        raw.send(&call(stream, &server.request())).await;
        assert!(
            raw.until(|it| it.kind == GOAWAY || it.kind == RST_STREAM)
                .await
        );
    }
    tally(Figure::BadInputs, cases.len() as u64 + 2);
    insert(&server.database, 1).await;
    assert_eq!(id(&other_watch.next_change().await), 1);
    drop(other_watch);
    server.assert_survives("broken frames").await;
}

/// Header lists are bounded in every form: large, many, in endless pieces, or small on the wire and
/// large when decoded.
#[tokio::test]
async fn header_lists_are_bounded() {
    let server = ServerUnderAttack::start(&[]).await;
    let long = "x".repeat(20_000);
    let huge = "x".repeat(1 << 20);
    let many: Vec<String> = (0..5_000).map(|number| format!("x-{number}")).collect();
    let with = |more: Vec<u8>| [opening(WATCH), more].concat();
    let blocks = [
        with(literals([("x", &*long)])),
        with(literals([("x", &*huge)])),
        with(literals(many.iter().map(|name| (&**name, "1")))),
        literals([(":path", &*huge)]),
        // One table entry of 4,000 bytes, then 4,000 one-byte references to it.
        with(
            [
                &[0x40, 1, b'x', 127, 0xa1, 0x1e][..],
                &[b'y'; 4000],
                &[0xbe; 4000],
            ]
            .concat(),
        ),
    ];
    for block in &blocks {
        let mut raw = RawConnection::greeted(server.weir.grpc).await;
        let mut pieces = block.chunks(16 << 10).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            if !raw.send(&frame(kind, flags, 1, piece)).await {
                break;
            }
            kind = CONTINUATION;
        }
        // 431, or the end of the stream or of the connection; never a watch.
        let refused =
            |it: &crate::raw_http2::Reply| matches!(it.kind, HEADERS | RST_STREAM | GOAWAY);
        raw.until(refused).await;
    }
    // Endless pieces, empty and full.
    for piece in [
        frame(CONTINUATION, 0, 1, b""),
        frame(CONTINUATION, 0, 1, &literals([("x", "y")]).repeat(2000)),
    ] {
        let mut raw = RawConnection::greeted(server.weir.grpc).await;
        raw.send(&frame(HEADERS, 0, 1, &opening(WATCH))).await;
        let mut sent = 0_u32;
        while sent < 20_000 && raw.send(&piece).await {
            sent += 1;
        }
        println!("{sent} continuations were taken");
        assert!(sent < 20_000, "continuations are accepted without end");
    }
    tally(Figure::BadInputs, blocks.len() as u64 + 2);
    server.assert_survives("giant headers").await;
}

/// CVE-2023-44487, with requests that are being opened and with open watches.
#[tokio::test]
async fn rapidly_reset_streams_cost_little() {
    let server = ServerUnderAttack::start(&["--max-watches=200"]).await;
    let mut other_watch = server.valid_watch().await;
    let before = server.database.getmore_count().await;
    let request = server.request();
    let mut resets = 0_u64;
    for _ in 0..5 {
        let mut raw = RawConnection::greeted(server.weir.grpc).await;
        for stream in streams(2_000) {
            let at_once = [
                call(stream, &request),
                frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            ];
            if !raw.send(&at_once.concat()).await {
                break;
            }
            resets += 1;
        }
    }
    // While the server is busy with a flood, its keepalive would give up a client that answers no
    // pings.
    eventually("the flood is over", async || {
        server.weir.metrics().await.sum("weir_watches") == 1.0
    })
    .await;
    // Open watches: each is answered before it is reset.
    let mut raw = RawConnection::greeted(server.weir.grpc).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()))
        .await;
    for stream in streams(100) {
        raw.send(&call(stream, &request)).await;
        let answered = |it: &crate::raw_http2::Reply| {
            it.stream == stream && (it.kind == DATA || it.flags & END_STREAM != 0)
        };
        assert!(raw.until(answered).await, "stream {stream}");
        raw.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await;
    }
    drop(raw);
    println!("{resets} streams were reset at once");
    tally(Figure::BadInputs, resets + 100);
    insert(&server.database, 1).await;
    assert_eq!(id(&other_watch.next_change().await), 1);
    let getmores = server.database.getmore_count().await - before;
    assert!(getmores < 500, "MongoDB got {getmores} getMore commands");
    drop(other_watch);
    server.assert_survives("rapid resets").await;
}

/// More streams and calls than allowed: the surplus is refused, and all others continue.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_rest_are_served() {
    let server = ServerUnderAttack::start(&["--max-watches=50"]).await;
    let mut raw = RawConnection::greeted(server.weir.grpc).await;
    for stream in streams(500) {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &opening(WATCH)))
            .await;
    }
    let mut refused = 0;
    let all = raw.until(|it| {
        refused += u32::from(it.kind == RST_STREAM && it.payload == [0, 0, 0, 7]);
        refused == 450
    });
    assert!(all.await, "{refused} were refused");
    drop(raw);

    // Calls that never send anything, over many connections: 1,050 are accepted.
    let mut connections = Vec::new();
    for _ in 0..30 {
        let mut raw = RawConnection::greeted(server.weir.grpc).await;
        for stream in streams(50) {
            raw.send(&frame(HEADERS, END_HEADERS, stream, &opening(WATCH)))
                .await;
        }
        connections.push(raw);
    }
    eventually("calls are refused", async || {
        server.rejected("calls").await >= 400.0
    })
    .await;
    tally(Figure::BadInputs, 450 + 1500);
    drop(connections);
    // Until they end, a valid call is refused too.
    server.wait_until_quiet("calls that never speak").await;
    server.assert_survives("too many streams").await;
}

/// Windows that are closed or tiny, while there is much to deliver.
#[tokio::test]
async fn clients_with_closed_windows_do_not_affect_others() {
    let server = ServerUnderAttack::start(&[]).await;
    let mut other_watch = server.valid_watch().await;
    let request = server.request();
    let mut shut = Vec::new();
    for window in [0, 1, 100] {
        let mut raw = RawConnection::greeted_with(server.weir.grpc, &setting(4, window)).await;
        for stream in streams(100) {
            raw.send(&call(stream, &request)).await;
        }
        shut.push(raw);
    }
    eventually("all are open", async || {
        server.weir.metrics().await.sum("weir_watches") == 301.0
    })
    .await;
    let orders = server.database.collection(ORDERS);
    for number in 0..100 {
        let large = doc! { "_id": number, "text": "x".repeat(100_000) };
        orders.insert_one(large).await.expect("an insert");
        assert_eq!(id(&other_watch.next_change().await), number);
    }
    tally(Figure::BadInputs, 300);
    tally(Figure::WatchesHeld, 301);
    drop(shut);
    drop(other_watch);
    server.assert_survives("shut windows").await;
}

/// The text of a refusal waits for its client's window, and no limit on calls counts it.
#[tokio::test]
async fn refusals_that_no_client_reads_are_bounded() {
    let server = ServerUnderAttack::start(&[]).await;
    let mut raw = RawConnection::greeted_with(server.weir.grpc, &setting(4, 0)).await;
    let long = "x".repeat(1_000);
    let block = literals([
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "weir"),
        (":path", WATCH),
        ("content-type", &long),
    ]);
    for stream in streams(1_300) {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block))
            .await;
    }
    let mut ended = 0;
    let all = raw.until(|it| {
        ended += u32::from(it.kind == HEADERS && it.flags & END_STREAM != 0);
        ended == 300
    });
    assert!(all.await, "{ended} ended");
    tally(Figure::BadInputs, 1_300);
    drop(raw);
    server.assert_survives("refusals without a reader").await;
}

/// Floods that request an answer each, from clients that read none; and a client that sends GOAWAY
/// and stays.
#[tokio::test]
async fn floods_of_small_frames_are_survived() {
    let server = ServerUnderAttack::start(&[]).await;
    let mut other_watch = server.valid_watch().await;
    let floods = [
        frame(PING, 0, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &setting(3, 100)),
        frame(SETTINGS, 0, 0, &setting(1, 4096).repeat(100)),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
        frame(77, 0, 0, b"of unknown type"),
        frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        frame(DATA, 0, 1, b""),
        frame(GOAWAY, 0, 0, &[0; 8]),
    ];
    let limit = Duration::from_secs(1);
    let attacks = floods.iter().map(|flood| {
        let request = server.request();
        let address = server.weir.grpc;
        async move {
            let mut raw = RawConnection::greeted(address).await;
            // Opened and not half-closed.
            raw.send(&frame(HEADERS, END_HEADERS, 1, &opening(WATCH)))
                .await;
            raw.send(&frame(DATA, 0, 1, &message(&request))).await;
            raw.push(&flood.repeat(50_000), limit).await;
            raw
        }
    });
    let mut connections = join_all(attacks).await;
    insert(&server.database, 1).await;
    assert_eq!(id(&other_watch.next_change().await), 1);
    connections.clear();

    // A client that sent GOAWAY and answers no pings is treated as gone.
    let mut leaving = RawConnection::greeted(server.weir.grpc).await;
    leaving.send(&call(1, &server.request())).await;
    assert!(leaving.until(|it| it.kind == DATA).await);
    leaving.send(&frame(GOAWAY, 0, 0, &[0; 8])).await;
    leaving.rest().await;
    tally(Figure::BadInputs, floods.len() as u64 * 50_000);
    drop(other_watch);
    server.assert_survives("floods").await;
}

/// The number of connections is bounded; surplus ones are reset and counted.
#[tokio::test]
async fn connections_beyond_the_limit_are_reset_and_the_rest_continue() {
    let server = ServerUnderAttack::start(&["--max-connections=20"]).await;
    let mut other_watch = server.valid_watch().await;
    let mut connections = Vec::new();
    for _ in 0..19 {
        let mut raw = RawConnection::greeted(server.weir.grpc).await;
        assert!(raw.is_alive().await, "there is room");
        connections.push(raw);
    }
    for _ in 0..100 {
        if let Ok(mut raw) = RawConnection::try_connect(server.weir.grpc).await {
            raw.greet(&[]).await;
            assert!(!raw.is_alive().await, "there was no room");
        }
    }
    assert_eq!(server.rejected("connections").await, 100.0);
    assert_eq!(server.weir.metrics().await.sum("weir_connections"), 20.0);
    insert(&server.database, 1).await;
    assert_eq!(id(&other_watch.next_change().await), 1);
    tally(Figure::BadInputs, 100);
    drop(connections);
    drop(other_watch);
    server.wait_until_quiet("many connections").await;
    server.assert_survives("too many connections").await;
}

/// The admin port serves everyone who reaches it, in bounded time and memory.
#[tokio::test]
async fn the_admin_port_survives_hostile_clients() {
    let server = ServerUnderAttack::start(&[]).await;
    let address = server.weir.admin;
    let long = "x".repeat(4 << 20);
    let inputs = [
        ("silence", Vec::new()),
        (
            "half a request",
            b"GET /metrics HTTP/1.1\r\nHost: w".to_vec(),
        ),
        (
            "a head that never ends",
            b"GET / HTTP/1.1\r\n"
                .iter()
                .chain(&b"x: y\r\n".repeat(20))
                .copied()
                .collect(),
        ),
        (
            "a giant path",
            format!("GET /{long} HTTP/1.1\r\n\r\n").into_bytes(),
        ),
        (
            "a giant header",
            format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n").into_bytes(),
        ),
        (
            "many headers",
            [b"GET / HTTP/1.1\r\n".to_vec(), b"x: y\r\n".repeat(100_000)].concat(),
        ),
        (
            "a body that does not come",
            b"POST /metrics HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n".to_vec(),
        ),
        (
            "chunks of nothing",
            b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"
                .to_vec(),
        ),
        ("noise", vec![0xff; 100_000]),
        ("HTTP/2", [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()),
        (
            "a thousand requests at once",
            b"GET /metrics HTTP/1.1\r\nHost: w\r\n\r\n".repeat(1000),
        ),
    ];
    let attacks = inputs.iter().map(|(what, input)| async move {
        let begin = Instant::now();
        let mut raw = RawConnection::connect(address).await;
        raw.push(input, Duration::from_secs(2)).await;
        raw.rest().await;
        println!("{what}: closed after {:?}", begin.elapsed());
    });
    join_all(attacks).await;
    // A client that sends byte by byte has the same time limit.
    let begin = Instant::now();
    let mut raw = RawConnection::connect(address).await;
    while raw.send(b"G").await {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "a slow client is waited for"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // More silent connections than allowed.
    let mut connections = Vec::new();
    for _ in 0..300 {
        // Most are reset, some of them before connect returns.
        connections.push(within("a connection", TcpStream::connect(address)).await);
    }
    // They all come from one address, and a probe from another.
    let socket = TcpSocket::new_v4().expect("a socket");
    let elsewhere = "127.0.0.2:0".parse().expect("an address");
    socket.bind(elsewhere).expect("another address");
    let mut probe = within("a connection", socket.connect(address))
        .await
        .expect("a connection");
    let request = b"GET /livez HTTP/1.1\r\nHost: weir\r\n\r\n";
    probe.write_all(request).await.expect("a request");
    let mut answer = [0; 12];
    let answered = within("an answer", probe.read_exact(&mut answer)).await;
    answered.expect("an answer to a probe");
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(connections);
    eventually("the admin port answers", async || {
        server.weir.admin_status("/livez").await == Some(200)
    })
    .await;
    tally(Figure::BadInputs, inputs.len() as u64 + 301);
    server
        .assert_survives("bad clients of the admin port")
        .await;
}
