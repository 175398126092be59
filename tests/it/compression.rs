//! Compressed messages: asked for by the client, allowed by the operator, the same as uncompressed ones,
//! and compressed once for all watches that share them.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::support::orders::ORDERS;
use crate::support::{Database, Weir, error_reason, eventually, within};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::future::join_all;
use http_body_util::{BodyExt as _, Full};
use mongodb::bson::{Document, doc};
use prost::Message as _;
use tonic::{Code, Status, body::Body, codec::CompressionEncoding, transport::Channel};
use tower::ServiceExt as _;
use weir::pb::{self, watch_response::Kind, watch_service_client::WatchServiceClient};
use weir::wire::Compression;

const WATCH: &str = "/weir.v1.WatchService/Watch";

async fn weir(database: &Database, allowed: &[Compression]) -> Weir {
    Weir::with(database, |config| config.compression = allowed.to_vec()).await
}

fn compressed_by(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(bytes).expect("it compresses");
            encoder.finish().expect("it compresses")
        }
        Compression::Zstd => zstd::encode_all(bytes, 3).expect("it compresses"),
    }
}

fn decompressed_by(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut plain = Vec::new();
            let mut decoder = flate2::bufread::GzDecoder::new(bytes);
            decoder.read_to_end(&mut plain).expect("gzip");
            assert!(decoder.into_inner().is_empty(), "more than one member");
            plain
        }
        Compression::Zstd => zstd::decode_all(bytes).expect("zstd"),
    }
}

fn framed(flag: u8, bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).expect("it is short");
    [&[flag], &length.to_be_bytes()[..], bytes].concat().into()
}

fn call(path: &str, headers: &[(&str, &str)], body: Bytes) -> http::Request<Body> {
    let mut head = http::Request::post(format!("http://weir{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        head = head.header(*name, *value);
    }
    head.body(Body::new(Full::new(body))).expect("a request")
}

/// A watch over HTTP, whose messages the test takes apart itself.
struct RawWatch {
    headers: http::HeaderMap,
    body: Body,
    buffer: BytesMut,
}

impl RawWatch {
    async fn open(channel: &Channel, accept: &str, request: &pb::WatchRequest) -> Self {
        let request = call(
            WATCH,
            &[("grpc-accept-encoding", accept)],
            framed(0, &request.encode_to_vec()),
        );
        let response = within("an answer", channel.clone().oneshot(request)).await;
        let (parts, body) = response.expect("the connection holds").into_parts();
        assert!(
            !parts.headers.contains_key("grpc-status"),
            "{:?}",
            parts.headers
        );
        Self {
            headers: parts.headers,
            body,
            buffer: BytesMut::new(),
        }
    }

    /// The next message: its flag and its bytes.
    async fn next(&mut self) -> (u8, Bytes) {
        loop {
            if self.buffer.len() >= 5 {
                let length = u32::from_be_bytes(self.buffer[1..5].try_into().expect("four"));
                let length = usize::try_from(length).expect("it is short");
                if self.buffer.len() >= 5 + length {
                    let flag = self.buffer[0];
                    self.buffer.advance(5);
                    return (flag, self.buffer.split_to(length).freeze());
                }
            }
            let frame = within("a frame", self.body.frame()).await;
            let data = frame
                .expect("the watch is open")
                .expect("the connection holds");
            self.buffer
                .extend_from_slice(&data.into_data().expect("data"));
        }
    }
}

/// A document as shops have them: identifiers, names and amounts that differ from one to the next, in fields
/// that all have.
fn order(number: i32) -> Document {
    let mut random = fastrand::Rng::with_seed(u64::try_from(number).expect("it is positive"));
    let mut word =
        |letters: usize| -> String { (0..letters).map(|_| random.lowercase()).collect() };
    let (name, street, city, note) = (word(9), word(12), word(8), word(40));
    let items: Vec<Document> = (0..random.i32(1..4))
        .map(|_| {
            doc! {
                "sku": format!("{:08x}", random.u32(..)), "quantity": random.i32(1..9),
                "price": f64::from(random.i32(100..90_000)) / 100.0,
            }
        })
        .collect();
    doc! {
        "_id": number, "status": *random.choice(["new", "paid", "packed", "sent"].iter()).expect("one"),
        "customer": { "id": format!("{:016x}", random.u64(..)), "name": &name, "mail": format!("{name}@shop.example") },
        "address": { "street": street, "city": city, "zip": format!("{:05}", random.u32(..100_000)) },
        "total": f64::from(random.i32(100..900_000)) / 100.0, "currency": "EUR", "items": items,
        "note": note,
    }
}

async fn insert_many(database: &Database, numbers: std::ops::Range<i32>) {
    let orders = numbers.map(order);
    let inserted = database.collection(ORDERS).insert_many(orders).await;
    inserted.expect("the inserts");
}

/// A client that accepts these encodings.
async fn client(weir: &Weir, accepted: &[CompressionEncoding]) -> WatchServiceClient<Channel> {
    let mut client = WatchServiceClient::new(weir.channel().await);
    for encoding in accepted {
        client = client.accept_compressed(*encoding);
    }
    client
}

async fn compressions(weir: &Weir, encoding: &str) -> f64 {
    let labels = [("encoding", encoding)];
    let metrics = weir.metrics().await;
    metrics.sum_where("weir_message_compressions_total", &labels)
}

/// The messages with changes until this many changes were read.
async fn read_changes(mut watch: RawWatch, compression: Compression, count: usize) -> Vec<Bytes> {
    let mut messages = Vec::new();
    let mut changes = 0;
    while changes < count {
        let (flag, bytes) = watch.next().await;
        let plain = match flag {
            0 => bytes.to_vec(),
            _ => decompressed_by(compression, &bytes),
        };
        let message = pb::WatchResponse::decode(&plain[..]).expect("a message");
        if let Some(Kind::Changes(batch)) = message.kind {
            assert_eq!(flag, 1, "changes were not compressed");
            changes += batch.changes.len();
            messages.push(bytes);
        }
    }
    assert_eq!(changes, count);
    messages
}

/// However many watches of however many connections: their messages are the same bytes, and were made once.
#[tokio::test]
async fn a_message_that_many_watches_share_is_compressed_once() {
    const WATCHES: usize = 12;
    const ORDERS_WRITTEN: i32 = 600;
    const SINGLE: usize = 10;
    let single = i32::try_from(SINGLE).expect("it is small");
    let database = Database::start().await;
    let weir = weir(&database, &[Compression::Gzip, Compression::Zstd]).await;
    for (compression, name) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let collection = format!("{ORDERS}_{name}");
        let request = database.watch_request(&[&collection]);
        let mut watches = Vec::new();
        for _ in 0..WATCHES {
            let channel = weir.channel().await;
            let mut watch = RawWatch::open(&channel, name, &request).await;
            assert_eq!(watch.headers["grpc-encoding"], name);
            assert_eq!(watch.headers["grpc-accept-encoding"], "gzip,zstd,identity");
            // Opened concerns this watch alone, and is small.
            assert_eq!(watch.next().await.0, 0);
            watches.push(watch);
        }
        let count = usize::try_from(ORDERS_WRITTEN).expect("it is positive");
        let reading = watches
            .into_iter()
            .map(|watch| read_changes(watch, compression, count));
        let writing = async {
            let orders = database.collection(&collection);
            for number in 0..single {
                let sent = weir.metrics().await.sum("weir_events_sent_total");
                orders.insert_one(order(number)).await.expect("an insert");
                // Else the next one would come in the same message.
                eventually("every watch has the order", async || {
                    let now = weir.metrics().await.sum("weir_events_sent_total");
                    now == sent + WATCHES as f64
                })
                .await;
            }
            // In replies of several sizes.
            for (from, to) in [(single, 100), (100, 101), (101, ORDERS_WRITTEN)] {
                let orders = orders.insert_many((from..to).map(order)).await;
                orders.expect("the inserts");
            }
        };
        let (all, ()) = tokio::join!(join_all(reading), writing);
        let made = compressions(&weir, name).await;
        for messages in &all {
            assert_eq!(messages, &all[0], "the messages of two watches differ");
        }
        // Of a message of one order, and of a message of many.
        for (what, messages) in [
            ("an order", &all[0][..SINGLE]),
            ("many orders", &all[0][SINGLE..]),
        ] {
            let sent: usize = messages.iter().map(Bytes::len).sum();
            let plain = messages
                .iter()
                .map(|it| decompressed_by(compression, it).len());
            let share = sent as f64 / plain.sum::<usize>() as f64;
            println!(
                "{name} leaves {:.0} % of a message of {what}",
                100.0 * share
            );
            assert!(share < 0.7, "{name} leaves {share} of {what}");
        }
        assert_eq!(
            made,
            all[0].len() as f64,
            "{name}: some message was compressed again"
        );
    }
}

/// Every kind of message in every format, with filters that Weir evaluates: what arrives does not depend on
/// whether it was compressed.
#[tokio::test]
async fn compressed_watches_deliver_what_uncompressed_ones_do() {
    let database = Database::start().await;
    let images = doc! { "enabled": true };
    let create = doc! { "create": ORDERS, "changeStreamPreAndPostImages": images };
    database
        .database()
        .run_command(create)
        .await
        .expect("a collection");
    let weir = weir(&database, &[Compression::Gzip, Compression::Zstd]).await;
    let paid = pb::Filter {
        kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
            path: "status".to_owned(),
            operator: Some(pb::field_filter::Operator::Eq(prost_types::Value {
                kind: Some(prost_types::value::Kind::StringValue("paid".to_owned())),
            })),
        })),
    };
    let mut requests = Vec::new();
    for format in [
        pb::DocumentFormat::Bson,
        pb::DocumentFormat::Json,
        pb::DocumentFormat::CanonicalJson,
        pb::DocumentFormat::Struct,
    ] {
        for filters in [vec![], vec![paid.clone()]] {
            requests.push(pb::WatchRequest {
                filters,
                document_format: format.into(),
                full_document: pb::FullDocument::WhenAvailable.into(),
                feed_mode: pb::FeedMode::Shared.into(),
                max_message_bytes: 64 << 10,
                oversize_policy: pb::OversizePolicy::Chunk.into(),
                ..database.watch_request(&[ORDERS])
            });
        }
    }
    let mut watches = Vec::new();
    for request in &requests {
        for accepted in [
            &[][..],
            &[CompressionEncoding::Gzip],
            &[CompressionEncoding::Zstd],
        ] {
            let mut client = client(&weir, accepted).await;
            let watch = crate::support::WatchStream::open(&mut client, request.clone()).await;
            watches.push(watch.expect("it opens"));
        }
    }
    let orders = database.collection(ORDERS);
    insert_many(&database, 0..300).await;
    let pay = doc! { "$set": { "status": "paid" } };
    orders
        .update_many(doc! { "_id": { "$lt": 20 } }, pay)
        .await
        .expect("updates");
    let ship = doc! { "$set": { "status": "sent" } };
    orders
        .update_many(doc! { "_id": { "$lt": 9 } }, ship)
        .await
        .expect("updates");
    // One in pieces.
    let mut large = order(1_000);
    large.insert("status", "paid");
    large.insert("text", "y".repeat(200 << 10));
    orders.insert_one(large).await.expect("an insert");
    let mut last = order(1_001);
    last.insert("status", "paid");
    orders.insert_one(last).await.expect("an insert");
    let mut read = Vec::new();
    for watch in &mut watches {
        let mut changes = Vec::new();
        loop {
            let change = watch.next_change().await;
            let is_last = changes
                .last()
                .is_some_and(|it: &pb::ChangeEvent| it.encoded_len() > 100_000);
            changes.push(change);
            if is_last {
                break;
            }
        }
        read.push((changes, watch.token()));
    }
    for (of_request, request) in read.chunks(3).zip(&requests) {
        let (plain, token) = &of_request[0];
        let expected = if request.filters.is_empty() { 331 } else { 97 };
        assert!(plain.len() >= expected / 2, "{} changes", plain.len());
        for (compressed, other) in &of_request[1..] {
            assert_eq!(compressed.len(), plain.len());
            assert!(compressed == plain, "{request:?}");
            assert_eq!(other, token);
        }
    }
    for name in ["gzip", "zstd"] {
        assert!(
            compressions(&weir, name).await > 0.0,
            "nothing was compressed by {name}"
        );
    }
    // The places of compressed messages are those of all.
    let (_, token) = &read[1];
    orders.insert_one(order(2_000)).await.expect("an insert");
    let resumed = pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token.clone())),
        ..database.watch_request(&[ORDERS])
    };
    let mut watch = weir.watch(resumed).await;
    assert_eq!(
        crate::support::orders::id(&watch.next_change().await),
        2_000
    );
}

/// Most clients accept gzip whether they were told to or not.
#[tokio::test]
async fn nothing_is_compressed_unless_both_sides_want_it() {
    let database = Database::start().await;
    let (gzip, zstd) = (Compression::Gzip, Compression::Zstd);
    for (allowed, accept, expected) in [
        (&[][..], "gzip,zstd", None),
        (&[gzip], "identity,deflate", None),
        (&[gzip], "zstd", None),
        (&[gzip], "", None),
        (&[gzip], "identity, deflate, gzip", Some("gzip")),
        (&[zstd, gzip], "gzip,zstd", Some("zstd")),
    ] {
        let weir = weir(&database, allowed).await;
        let request = database.watch_request(&[ORDERS]);
        let mut watch = RawWatch::open(&weir.channel().await, accept, &request).await;
        let encoding = watch.headers.get("grpc-encoding");
        assert_eq!(
            encoding.and_then(|it| it.to_str().ok()),
            expected,
            "{allowed:?}, {accept}"
        );
        insert_many(&database, 0..50).await;
        loop {
            let (flag, bytes) = watch.next().await;
            if bytes.len() > 1_000 || flag == 1 {
                assert_eq!(flag == 1, expected.is_some(), "{allowed:?}, {accept}");
                break;
            }
        }
        database
            .collection(ORDERS)
            .delete_many(doc! {})
            .await
            .expect("deletes");
    }
}

/// The status and the first message of an answer.
async fn answer(
    channel: &Channel,
    request: http::Request<Body>,
) -> (Option<Status>, http::HeaderMap) {
    let response = within("an answer", channel.clone().oneshot(request)).await;
    let (parts, mut body) = response.expect("the connection holds").into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return (Some(status), parts.headers);
    }
    let first = within("a frame", body.frame()).await;
    let trailers = first.and_then(|it| it.ok()?.into_trailers().ok());
    (
        trailers.and_then(|it| Status::from_header_map(&it)),
        parts.headers,
    )
}

/// A client that compresses does so for every call.
#[tokio::test]
async fn requests_are_decompressed_where_that_is_allowed_and_within_the_bound_of_a_request() {
    let database = Database::start().await;
    let allowing = weir(&database, &[Compression::Gzip, Compression::Zstd]).await;
    let channel = allowing.channel().await;
    let watch = database.watch_request(&[ORDERS]).encode_to_vec();
    let check = tonic_health::pb::HealthCheckRequest {
        service: "weir.v1.WatchService".to_owned(),
    };
    let check = check.encode_to_vec();
    let list = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            ),
        ),
    };
    let list = list.encode_to_vec();
    let good: [(&str, &[u8]); 5] = [
        (WATCH, &watch),
        ("/weir.v1.WatchService/GetServerInfo", &[]),
        ("/grpc.health.v1.Health/Check", &check),
        ("/grpc.health.v1.Health/Watch", &check),
        (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            &list,
        ),
    ];
    for compression in Compression::ALL {
        let headers = [("grpc-encoding", compression.name())];
        for (path, message) in good {
            let body = framed(1, &compressed_by(compression, message));
            let (status, _) = answer(&channel, call(path, &headers, body)).await;
            assert!(
                status.is_none_or(|it| it.code() == Code::Ok),
                "{path}, {compression:?}"
            );
            // The flag decides for each message.
            let (status, _) = answer(&channel, call(path, &headers, framed(0, message))).await;
            assert!(
                status.is_none_or(|it| it.code() == Code::Ok),
                "{path}, {compression:?}"
            );
        }
        // A bomb: 64 MiB of zeros in some KiB. And what is no compressed message at all.
        let bomb = compressed_by(compression, &vec![0; 64 << 20]);
        assert!(bomb.len() < 100 << 10, "{} bytes", bomb.len());
        let whole = compressed_by(compression, &watch);
        for (what, body) in [
            ("a bomb", &bomb[..]),
            ("noise", b"not compressed at all"),
            ("half a message", &whole[..whole.len() / 2]),
        ] {
            for path in [WATCH, "/weir.v1.WatchService/GetServerInfo"] {
                let (status, _) = answer(&channel, call(path, &headers, framed(1, body))).await;
                let status = status.unwrap_or_else(|| panic!("{what}: it was served"));
                assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
                assert_eq!(error_reason(&status), "INVALID_REQUEST", "{what}");
            }
        }
    }
    let only_gzip = weir(&database, &[Compression::Gzip]).await;
    let none = weir(&database, &[]).await;
    for (weir, accepted) in [(&only_gzip, "gzip,identity"), (&none, "identity")] {
        for (path, message) in good {
            let body = framed(1, &compressed_by(Compression::Zstd, message));
            let request = call(path, &[("grpc-encoding", "zstd")], body);
            let (status, headers) = answer(&weir.channel().await, request).await;
            let status = status.expect("it is not allowed");
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
            assert_eq!(error_reason(&status), "NOT_IMPLEMENTED", "{path}");
            assert_eq!(headers["grpc-accept-encoding"], accepted, "{path}");
            let hint = format!("use {}", accepted.replace(',', " or "));
            assert!(status.message().contains(&hint), "{path}: {status:?}");
        }
    }
}

/// Compressed messages count against the memory limit while they are held, and not afterwards.
#[tokio::test]
async fn compressed_messages_are_given_back_with_their_events() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.compression = vec![Compression::Zstd];
        config.feed_linger = Duration::ZERO;
    })
    .await;
    let request = database.watch_request(&[ORDERS]);
    let mut accepting = client(&weir, &[CompressionEncoding::Zstd]).await;
    let mut watch = crate::support::WatchStream::open(&mut accepting, request)
        .await
        .expect("it opens");
    insert_many(&database, 0..500).await;
    watch.changes(500).await;
    assert!(weir.metrics().await.sum("weir_memory_used_bytes") > 0.0);
    drop(watch);
    eventually("all memory is given back", async || {
        weir.metrics().await.sum("weir_memory_used_bytes") == 0.0
    })
    .await;
}
