//! Limits that hold while a stream is open, and requests that are refused with a reason.

use std::time::Duration;

use crate::support::orders::{ORDERS, Received, insert, resume};
use crate::support::{
    Database, RawCodec, WatchStream, Weir, error_info, error_reason, eventually, within,
};
use bytes::Bytes;
use mongodb::bson::doc;
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use weir::pb;

/// tonic's own deadline ends at the response headers.
#[tokio::test]
async fn a_deadline_ends_the_stream_with_a_usable_last_token() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let limit = Duration::from_millis(700);
    let mut request = Request::new(database.watch_request(&[ORDERS]));
    request.set_timeout(limit);
    let begin = Instant::now();
    let mut client = weir.client().await;
    let mut stream = client.watch(request).await.expect("it opens").into_inner();
    insert(&database, 1).await;
    let mut token = Bytes::new();
    let status = loop {
        match within("the deadline", stream.message()).await {
            Ok(Some(message)) => token = message.resume_token,
            Ok(None) => panic!("the watch ended with OK"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(error_reason(&status), "DEADLINE_EXCEEDED");
    assert!(begin.elapsed() >= limit, "{:?}", begin.elapsed());
    assert!(begin.elapsed() < limit * 3, "{:?}", begin.elapsed());

    insert(&database, 2).await;
    let mut resumed = weir.watch(resume(&database, token)).await;
    let mut received = Received::default();
    received.until_id(&mut resumed, 2).await;
    assert_eq!(received.ids, [2]);
    let ended = [
        ("code", "DEADLINE_EXCEEDED"),
        ("reason", "DEADLINE_EXCEEDED"),
    ];
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum_where("weir_watches_ended_total", &ended), 1.0);
}

/// Opens as many watches as allowed, and checks that the next one is refused until one ends.
async fn assert_limited(
    database: &Database,
    weir: &Weir,
    max: usize,
    limit: &str,
    collection: impl Fn(usize) -> String,
) {
    let request = |number| database.watch_request(&[&collection(number)]);
    let mut open = Vec::new();
    for number in 0..max {
        open.push(weir.watch(request(number)).await);
    }
    let status = weir
        .try_watch(request(max))
        .await
        .err()
        .expect("it exceeds the limit");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(error_reason(&status), "WATCH_LIMIT_EXCEEDED");
    let quota = status.get_details_quota_failure().expect("a QuotaFailure");
    assert_eq!(quota.violations[0].subject, limit);
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    let rejected = [("limit", limit)];
    let metrics = weir.metrics().await;
    assert_eq!(
        metrics.sum_where("weir_limit_rejections_total", &rejected),
        1.0
    );

    // The open ones continue.
    for (number, watch) in open.iter_mut().enumerate() {
        let orders = database.collection(&collection(number));
        let id = i32::try_from(number).expect("few");
        orders
            .insert_one(doc! { "_id": id })
            .await
            .expect("an insert");
        Received::default().until_id(watch, id).await;
    }
    open.pop();
    eventually("there is room again", async || {
        weir.try_watch(request(max)).await.is_ok()
    })
    .await;
}

/// A permit that ends with the headers would limit nothing.
#[tokio::test]
async fn the_limit_of_watches_holds_while_streams_are_open() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.max_watches = 2).await;
    // All of them share one feed.
    assert_limited(&database, &weir, 2, "watches", |_| ORDERS.to_owned()).await;
}

/// Equal watches share a feed; another collection needs another feed.
#[tokio::test]
async fn the_limit_of_feeds_holds_while_streams_are_open() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.max_feeds = 3).await;
    assert_limited(&database, &weir, 3, "feeds", |number| {
        format!("{ORDERS}_{number}")
    })
    .await;
}

/// Refused requests hold no permit.
#[tokio::test]
async fn refused_requests_use_up_no_limit() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        (config.max_watches, config.max_feeds) = (1, 1);
    })
    .await;
    for _ in 0..5 {
        let wrong = pb::WatchRequest {
            database: "admin".to_owned(),
            ..pb::WatchRequest::default()
        };
        let status = weir.try_watch(wrong).await.err().expect("it is refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let broken = resume(&database, Bytes::from_static(b"no token"));
        let status = weir.try_watch(broken).await.err().expect("it is refused");
        assert_eq!(error_reason(&status), "RESUME_TOKEN_MALFORMED");
    }
    weir.watch(database.watch_request(&[ORDERS])).await;
}

/// An event over the limit has its own reason, whatever a gRPC library calls it.
#[tokio::test]
async fn an_event_over_the_limit_ends_the_watch_with_its_own_reason() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = pb::WatchRequest {
        max_message_bytes: 64 << 10,
        oversize_policy: pb::OversizePolicy::Fail.into(),
        ..database.watch_request(&[ORDERS])
    };
    let mut watch = weir.watch(request).await;
    let large = doc! { "_id": 1, "text": "x".repeat(100_000) };
    let orders = database.collection(ORDERS);
    orders.insert_one(large).await.expect("an insert");
    let status = watch.end().await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let info = error_info(&status);
    assert_eq!(info.reason, "EVENT_TOO_LARGE");
    assert_eq!(info.metadata["max_message_bytes"], "65536");
    let bytes: u64 = info.metadata["event_bytes"].parse().expect("a number");
    assert!((100_000..110_000).contains(&bytes), "{bytes}");

    // The token lies before the event: with a higher limit the event comes.
    let mut resumed = weir.watch(resume(&database, watch.token())).await;
    assert_eq!(crate::support::orders::id(&resumed.next_change().await), 1);
}

/// A client stops reading for a while: 20 MB, more than all windows and buffers, wait for it in the
/// oplog.
#[tokio::test]
async fn a_slow_reader_gets_everything_in_order() {
    const WRITES: i32 = 200;
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.ring_bytes = bytesize::ByteSize::mib(1);
    })
    .await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let orders = database.collection(ORDERS);
    for id in 0..WRITES {
        let large = doc! { "_id": id, "text": "x".repeat(100_000) };
        orders.insert_one(large).await.expect("an insert");
    }
    let held = weir.metrics().await.sum("weir_ring_bytes");
    // The ring and one reply of MongoDB.
    assert!(held <= f64::from((1 << 20) + (16 << 20)), "{held} bytes");
    let mut received = Received::default();
    received.until_id(&mut watch, WRITES - 1).await;
    assert_eq!(received.ids, (0..WRITES).collect::<Vec<_>>());
    insert(&database, WRITES).await;
    received.until_id(&mut watch, WRITES).await;
}

/// The refusal of a request with these bytes.
async fn refused(weir: &Weir, bytes: impl Into<Bytes>) -> Status {
    let mut grpc = tonic::client::Grpc::new(weir.channel().await);
    grpc.ready().await.expect("the connection is ready");
    let path = http::uri::PathAndQuery::from_static("/weir.v1.WatchService/Watch");
    let request = Request::new(bytes.into());
    let answer = within("an answer", grpc.server_streaming(request, path, RawCodec)).await;
    answer.map(|_| ()).expect_err("the request is refused")
}

/// A later version's projection must not be ignored silently, as protobuf's rules would have it.
#[tokio::test]
async fn a_field_of_a_later_version_is_refused_with_its_number() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for number in [7, 300] {
        let mut bytes = database.watch_request(&[ORDERS]).encode_to_vec();
        prost::encoding::string::encode(number, &"status".to_owned(), &mut bytes);
        let status = refused(&weir, bytes).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
        let info = error_info(&status);
        assert_eq!(info.reason, "NOT_IMPLEMENTED");
        assert_eq!(info.metadata["field"], number.to_string());
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_refused_with_a_reason() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for bytes in [&b"\x0a\x7fshop"[..], b"\xff\xff\xff", b"\x0a\x02\xc3\x28"] {
        let status = refused(&weir, Bytes::from_static(bytes)).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(error_reason(&status), "INVALID_REQUEST");
        assert!(status.get_details_bad_request().is_some(), "{status:?}");
    }
}

/// A request over the limit is not even read, and the refusal has a reason all the same.
#[tokio::test]
async fn a_request_over_1_mib_is_refused() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = |bytes: usize| pb::WatchRequest {
        database: "x".repeat(bytes),
        ..pb::WatchRequest::default()
    };
    let status = refused(&weir, request(1 << 20).encode_to_vec()).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(error_reason(&status), "INVALID_REQUEST");
    let status = refused(&weir, request(5 << 20).encode_to_vec()).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(error_reason(&status), "INVALID_REQUEST");
    let mut watch: WatchStream = weir.watch(database.watch_request(&[ORDERS])).await;
    insert(&database, 1).await;
    watch.next_change().await;
}
