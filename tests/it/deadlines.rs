//! The client's deadline: every kind of call ends with DEADLINE_EXCEEDED and its reason, whenever the
//! deadline passes.

use std::time::Duration;

use crate::support::orders::ORDERS;
use crate::support::{Database, FailCommand, Weir, error_reason, eventually, within};
use futures::{StreamExt as _, future::join_all};
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use mongodb::bson::doc;
use tokio::time::Instant;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use weir::pb;

const WATCH: &str = "/weir.v1.WatchService/Watch";
const INFO: &str = "/weir.v1.WatchService/GetServerInfo";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

fn message(request: &impl prost::Message) -> Vec<u8> {
    let bytes = request.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("a message is short");
    [&[0], &length.to_be_bytes()[..], &bytes].concat()
}

/// Calls a method over HTTP/2 with a `grpc-timeout` and no clock of the client's own. Returns the status of
/// the response, from its headers or its trailers, and whether it had a body of its own before.
async fn status_by_server(
    weir: &Weir,
    path: &str,
    timeout: &str,
    body: tonic::body::Body,
) -> Status {
    let stream = tokio::net::TcpStream::connect(weir.grpc_addr())
        .await
        .expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::post(format!("http://weir{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(body)
        .expect("a request");
    let response = within("a response", sender.send_request(request))
        .await
        .expect("a response");
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let collected = within("the end of the response", response.into_body().collect()).await;
    let trailers: HeaderMap = collected
        .expect("a whole response")
        .trailers()
        .cloned()
        .unwrap_or_default();
    Status::from_header_map(&trailers).expect("a status in the trailers")
}

fn full(bytes: Vec<u8>) -> tonic::body::Body {
    tonic::body::Body::new(http_body_util::Full::new(bytes.into()))
}

/// A body that begins with these bytes and does not end.
fn unfinished(bytes: Vec<u8>) -> tonic::body::Body {
    let first = Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes.into()));
    let frames = futures::stream::iter([first]).chain(futures::stream::pending());
    tonic::body::Body::new(http_body_util::StreamBody::new(frames))
}

fn assert_deadline(status: &Status, what: &str) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{what}: {status:?}");
    assert_eq!(error_reason(status), "DEADLINE_EXCEEDED", "{what}");
}

/// A client with a clock of its own would give some of the calls up before the answer comes, on a busy
/// machine: tonic's with CANCELLED.
#[tokio::test]
async fn a_deadline_that_passes_while_mongodb_is_slow_to_open_is_told_with_its_reason() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let slow = FailCommand::on(&["aggregate"]).block(Duration::from_secs(3));
    database.fail(slow.app_name("weir")).await;
    let begin = Instant::now();
    let calls = (0..40).map(|number| {
        let request = database.watch_request(&[&format!("c{number}")]);
        status_by_server(&weir, WATCH, "150m", full(message(&request)))
    });
    let statuses = join_all(calls).await;
    let took = begin.elapsed();
    for status in statuses {
        assert_deadline(&status, "a slow opening");
    }
    assert!(took < Duration::from_secs(3), "{took:?}");
    database.clear_failures().await;
    let ended = [
        ("code", "DEADLINE_EXCEEDED"),
        ("reason", "DEADLINE_EXCEEDED"),
    ];
    eventually("the watches are counted by how they ended", async || {
        weir.metrics()
            .await
            .sum_where("weir_watches_ended_total", &ended)
            == 40.0
    })
    .await;
}

/// A deadline in the wait for the request, for MongoDB, and in the middle of a stream that has no end.
#[tokio::test]
async fn every_kind_of_call_ends_at_its_deadline_with_the_reason() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let watch = message(&database.watch_request(&[ORDERS]));
    let health = message(&HealthCheckRequest::default());
    let list = message(&tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            ),
        ),
    });
    let calls = [
        ("a watch", WATCH, full(watch.clone())),
        (
            "a watch whose request does not end",
            WATCH,
            unfinished(Vec::new()),
        ),
        (
            "server information whose request does not come",
            INFO,
            unfinished(Vec::new()),
        ),
        ("a health stream", HEALTH_WATCH, full(health)),
        ("a reflection stream", REFLECTION, unfinished(list)),
    ];
    for (what, path, body) in calls {
        let begin = Instant::now();
        let status = status_by_server(&weir, path, "400m", body).await;
        assert_deadline(&status, what);
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(300), "{what}: {took:?}");
        assert!(took < Duration::from_secs(3), "{what}: {took:?}");
    }
    let slow = FailCommand::on(&[
        "hello",
        "find",
        "aggregate",
        "buildInfo",
        "replSetGetStatus",
    ])
    .block(Duration::from_secs(3));
    database.fail(slow.app_name("weir")).await;
    for timeout in ["100m", "50000u", "1n", "0S"] {
        let body = full(message(&database.watch_request(&["slow"])));
        let status = status_by_server(&weir, WATCH, timeout, body).await;
        assert_deadline(&status, timeout);
    }
    database.clear_failures().await;
}

/// A deadline that is far away changes nothing.
#[tokio::test]
async fn a_call_that_is_over_before_its_deadline_is_not_touched_by_it() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel: Channel = weir.channel().await;
    let mut info = tonic::Request::new(pb::GetServerInfoRequest {});
    info.set_timeout(Duration::from_secs(60));
    let mut client = weir.client().await;
    client.get_server_info(info).await.expect("an answer");
    let mut check = tonic::Request::new(HealthCheckRequest::default());
    check.set_timeout(Duration::from_secs(60));
    HealthClient::new(channel)
        .check(check)
        .await
        .expect("an answer");
    let mut watch = tonic::Request::new(database.watch_request(&[ORDERS]));
    // The largest that gRPC can say: eight digits of hours.
    watch
        .metadata_mut()
        .insert("grpc-timeout", "99999999H".parse().expect("a value"));
    let mut watch = client.watch(watch).await.expect("it opens").into_inner();
    database
        .collection(ORDERS)
        .insert_one(doc! { "_id": 1 })
        .await
        .expect("an insert");
    let first = within("a message", watch.message()).await;
    first.expect("the watch is open").expect("a message");
}
