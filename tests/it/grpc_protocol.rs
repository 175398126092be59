//! The rules of gRPC that are not Weir's own: content types, metadata, and the health and reflection
//! protocols.

use std::time::Duration;

use crate::raw_http2::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, RawConnection, frame, literals,
};
use crate::support::orders::ORDERS;
use crate::support::{Database, Weir, error_reason, eventually, within};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, body::Body, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

const WATCH: &str = "/weir.v1.WatchService/Watch";

/// The paths of one method of each service.
const METHODS: [&str; 5] = [
    WATCH,
    "/weir.v1.WatchService/GetServerInfo",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// The HTTP status, the headers, and the first frame of the body of an answer.
async fn answer(channel: &Channel, request: http::Request<Body>) -> (u16, http::HeaderMap, String) {
    let response = within("an answer", channel.clone().oneshot(request)).await;
    let (head, mut body) = response.expect("the connection holds").into_parts();
    let first = within("a frame", body.frame()).await;
    let data = first.and_then(|it| it.ok()?.into_data().ok());
    let text = String::from_utf8_lossy(&data.unwrap_or_default()).into_owned();
    (head.status.as_u16(), head.headers, text)
}

fn message(request: &impl prost::Message) -> Body {
    let bytes = request.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("a message is short");
    let framed = [&[0], &length.to_be_bytes()[..], &bytes].concat();
    Body::new(Full::new(Bytes::from(framed)))
}

/// A client of another protocol on top of HTTP would not understand a gRPC status.
#[tokio::test]
async fn calls_in_another_encoding_than_protobuf_get_415_that_names_the_right_one() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    let request = database.watch_request(&[ORDERS]);
    for path in METHODS {
        for content_type in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpc+json",
            "application/grpc+thrift",
            "application/grpc+",
            "application/grpcweb",
            "application/json",
            "application/x-protobuf",
        ] {
            let head = http::Request::post(format!("http://weir{path}"))
                .header("content-type", content_type);
            let request = head.body(message(&request)).expect("a request");
            let (status, headers, text) = answer(&channel, request).await;
            assert_eq!(status, 415, "{path}, {content_type}");
            assert!(
                !headers.contains_key("grpc-status"),
                "{path}, {content_type}"
            );
            assert!(text.contains("application/grpc+proto"), "{path}: {text:?}");
        }
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"] {
            let head = http::Request::builder()
                .method(method)
                .uri(format!("http://weir{path}"))
                .header("content-type", "application/grpc");
            let request = head.body(Body::empty()).expect("a request");
            let (status, _, text) = answer(&channel, request).await;
            assert_eq!(status, 415, "{method} {path}");
            assert!(
                method == "HEAD" || text.contains("POST"),
                "{path}: {text:?}"
            );
        }
    }
    // Which of the two would hold?
    let head = http::Request::post(format!("http://weir{WATCH}"))
        .header("content-type", "application/grpc")
        .header("content-type", "application/json");
    let twice = head.body(message(&request)).expect("a request");
    let (status, _, text) = answer(&channel, twice).await;
    assert_eq!(status, 415);
    assert!(text.contains("twice"), "{text:?}");
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "application/grpc+proto; q=1",
        "Application/GRPC+Proto",
    ] {
        let head = http::Request::post(format!("http://weir{WATCH}"))
            .header("content-type", content_type)
            .header("te", "trailers");
        let request = head.body(message(&request)).expect("a request");
        let (status, headers, _) = answer(&channel, request).await;
        assert_eq!(status, 200, "{content_type}");
        assert!(
            !headers.contains_key("grpc-status"),
            "{content_type}: {headers:?}"
        );
    }
}

/// What a browser, a probe or `curl` without options speaks. HTTP/2's frames would only puzzle its user.
#[tokio::test]
async fn calls_over_http_1_get_an_answer_for_people() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let post = |content_type: &str, more: &str, body: &str| {
        format!(
            "POST {WATCH} HTTP/1.1\r\nHost: weir\r\nContent-Type: {content_type}\r\n{more}\r\n{body}"
        )
    };
    let get = |more: &str| format!("GET / HTTP/1.1\r\nHost: weir\r\n{more}\r\n");
    let upgrade =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let expects = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    for (request, status, text) in [
        (get(""), 415, "use POST"),
        (get(upgrade), 415, "use POST"),
        (get("").replace("1.1", "1.0"), 415, "use POST"),
        (get("").replace("GET", "PUT"), 415, "use POST"),
        (
            post("application/grpc-web+proto", "Content-Length: 2\r\n", "ab"),
            415,
            "application/grpc-web+proto",
        ),
        (
            post("application/json", chunked, "2\r\n{}\r\n0\r\n\r\n"),
            415,
            "application/json",
        ),
        (
            post("application/grpc", "Content-Length: 0\r\n", ""),
            505,
            "HTTP/2",
        ),
        (post("application/grpc", expects, "12345"), 505, "HTTP/2"),
        ("GET nonsense\r\n\r\n".to_owned(), 400, ""),
    ] {
        let mut raw = RawConnection::connect(weir.grpc_addr()).await;
        // However the bytes come.
        let (first, rest) = request.split_at(1 + fastrand::usize(..request.len() - 1));
        raw.send(first.as_bytes()).await;
        raw.send(rest.as_bytes()).await;
        let answer = raw.rest().await;
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let last = answer.trim_start_matches("http/1.1 100 continue\r\n\r\n");
        let version = if request.contains("HTTP/1.0") {
            "http/1.0"
        } else {
            "http/1.1"
        };
        let head = format!("{version} {status} ");
        assert!(last.starts_with(&head), "{request:?}: {answer:?}");
        assert!(
            last.contains(&text.to_ascii_lowercase()),
            "{request:?}: {answer:?}"
        );
    }
    eventually("the connections are gone", async || {
        weir.metrics().await.sum("weir_connections") == 0.0
    })
    .await;
    // Some clients close their direction behind the request, as `nc -N` does.
    for _ in 0..50 {
        let client = TcpStream::connect(weir.grpc_addr()).await;
        let mut client = client.expect("a connection");
        let head = post("application/grpc", expects, "");
        client.write_all(head.as_bytes()).await.expect("a head");
        let mut go_on = [0; 25];
        let read = within("a reply", client.read_exact(&mut go_on)).await;
        read.expect("100 Continue");
        client.write_all(b"12345").await.expect("a body");
        client.shutdown().await.expect("an end");
        let mut answer = String::new();
        let read = within("an answer", client.read_to_string(&mut answer)).await;
        assert!(
            read.is_ok() && answer.starts_with("HTTP/1.1 505 "),
            "{answer:?}"
        );
    }
    // Letters alone are no request.
    let mut raw = RawConnection::connect(weir.grpc_addr()).await;
    raw.send(b"PRICE").await;
    raw.send(b"LESS\r\n\r\n").await;
    raw.rest().await;
}

/// `curl` fails where a stream is reset while it still sends, though the answer is there.
#[tokio::test]
async fn a_refusal_waits_for_the_end_of_the_request_that_is_on_its_way() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let path = (":path", WATCH);
    let grpc = ("content-type", "application/grpc");
    for (what, headers) in [
        (
            "another protocol",
            [path, ("content-type", "application/json"), ("x", "y")],
        ),
        (
            "a malformed timeout",
            [path, grpc, ("grpc-timeout", "soon")],
        ),
        ("an unknown encoding", [path, grpc, ("grpc-encoding", "br")]),
        (
            "an unknown method",
            [(":path", "/shop.Orders/Get"), grpc, ("x", "y")],
        ),
    ] {
        let common = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "weir"),
        ];
        let block = literals(common.into_iter().chain(headers));
        let mut attempts = 0;
        let mut raw = loop {
            attempts += 1;
            let mut raw = RawConnection::greeted(weir.grpc_addr()).await;
            let begin = Instant::now();
            raw.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
            assert!(raw.is_alive().await, "{what}");
            let body = crate::raw_http2::message(b"");
            raw.send(&frame(DATA, END_STREAM, 1, &body)).await;
            let mut is_reset = false;
            let ended = |it: &crate::raw_http2::Reply| {
                is_reset |= it.kind == RST_STREAM;
                it.stream == 1 && it.flags & END_STREAM != 0
            };
            assert!(raw.until(ended).await, "{what}: no answer");
            let took = begin.elapsed();
            raw.send(&frame(PING, 0, 0, b"the end?")).await;
            let answered = |it: &crate::raw_http2::Reply| {
                is_reset |= it.kind == RST_STREAM;
                it.kind == PING && it.flags & ACK != 0
            };
            assert!(raw.until(answered).await, "{what}");
            // The wait is short, and a busy machine may take longer than that.
            if !is_reset {
                break raw;
            }
            assert!(took >= Duration::from_millis(100), "{what}: it was reset");
            assert!(attempts < 50, "{what}: it was reset after {took:?}");
        };
        // Without the end there is an answer too.
        raw.send(&frame(HEADERS, END_HEADERS, 3, &block)).await;
        let answered = |it: &crate::raw_http2::Reply| it.stream == 3 && it.flags & END_STREAM != 0;
        assert!(raw.until(answered).await, "{what}: no answer");
    }
}

#[tokio::test]
async fn a_malformed_timeout_is_refused_with_the_right_form() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    for path in METHODS {
        for timeout in [
            "",
            "S",
            "-1S",
            "1",
            "1.5S",
            "100000000S",
            "1s",
            "1 S",
            "\u{fc}",
        ] {
            let head = http::Request::post(format!("http://weir{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("grpc-timeout", timeout);
            let request = head.body(message(&database.watch_request(&[ORDERS])));
            let (status, headers, _) = answer(&channel, request.expect("a request")).await;
            assert_eq!(status, 200);
            let status = Status::from_header_map(&headers);
            let status = status.unwrap_or_else(|| panic!("{path}, {timeout:?}: it was served"));
            assert_eq!(
                status.code(),
                Code::InvalidArgument,
                "{timeout:?}: {status:?}"
            );
            assert_eq!(error_reason(&status), "INVALID_REQUEST");
            let bad = status.get_details_bad_request().expect("the bad field");
            assert_eq!(bad.field_violations[0].field, "grpc-timeout");
            assert!(
                bad.field_violations[0].description.contains("250m"),
                "{bad:?}"
            );
        }
    }
}

/// HTTP/2 alone would answer with 431 and no reason, which gRPC's clients call UNKNOWN.
#[tokio::test]
async fn metadata_beyond_its_limit_is_refused_with_a_reason() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    let call = |path: &str, name: &str, bytes: usize| {
        http::Request::post(format!("http://weir{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header(name, "x".repeat(bytes))
            .body(message(&database.watch_request(&[ORDERS])))
            .expect("a request")
    };
    for path in METHODS {
        for bytes in [17 << 10, 64 << 10, 100 << 10] {
            let (http, headers, _) = answer(&channel, call(path, "x-baggage", bytes)).await;
            let status = Status::from_header_map(&headers);
            let status = status.unwrap_or_else(|| panic!("{path}: HTTP {http} without a status"));
            assert_eq!(status.code(), Code::InvalidArgument, "{path}: {status:?}");
            assert_eq!(error_reason(&status), "INVALID_REQUEST");
            let bad = status.get_details_bad_request().expect("the bad field");
            assert_eq!(bad.field_violations[0].field, "metadata");
            let description = &bad.field_violations[0].description;
            assert!(description.contains("16384"), "{description}");
            assert!(description.contains("x-baggage"), "{description}");
        }
    }
    let (_, headers, _) = answer(&channel, call(WATCH, "x-baggage", 15 << 10)).await;
    assert!(!headers.contains_key("grpc-status"), "{headers:?}");
}

/// As the health protocol has it: `Watch` of a service that does not exist is told so and stays open, as
/// it may come to exist; `Check` fails.
#[tokio::test]
async fn the_health_of_an_unknown_service_is_service_unknown() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    let mut health = HealthClient::new(channel);
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let refused = health.check(request("shop.Orders")).await;
    let status = refused.expect_err("there is no such service");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(error_reason(&status), "SERVICE_UNKNOWN");

    let opened = health.watch(request("shop.Orders")).await;
    let mut unknown = opened.expect("it opens").into_inner();
    let first = within("a status", unknown.message()).await;
    let first = first.expect("the stream is open").expect("a status");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let mut known = health
        .watch(request("weir.v1.WatchService"))
        .await
        .expect("it opens")
        .into_inner();
    loop {
        let status = within("a status", known.message()).await;
        let status = status.expect("the stream is open").expect("a status");
        if status.status() == ServingStatus::Serving {
            break;
        }
    }
    let open = tokio::time::timeout(Duration::from_millis(300), unknown.message());
    assert!(
        open.await.is_err(),
        "the stream of an unknown service ended"
    );

    // A shutdown ends both, the known one after NOT_SERVING.
    let begin = Instant::now();
    let (last, end, ()) = tokio::join!(
        known.message(),
        within("the end", unknown.message()),
        weir.shutdown()
    );
    let last = last.expect("the stream is open").expect("a status");
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert_eq!(known.message().await.expect("it ends with OK"), None);
    assert_eq!(end.expect("it ends with OK"), None);
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
}

macro_rules! reflection_goes_on {
    ($channel:expr, $version:ident) => {{
        use tonic_reflection::pb::$version::{
            ExtensionRequest, ServerReflectionRequest,
            server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let mut client = ServerReflectionClient::new($channel);
        let (requests, receiver) = tokio::sync::mpsc::channel(1);
        let opened = client.server_reflection_info(Request::new(ReceiverStream::new(receiver)));
        let mut answers = within("it opens", opened)
            .await
            .expect("it opens")
            .into_inner();
        let mut ask = async |asked: Option<MessageRequest>| {
            let request = ServerReflectionRequest {
                host: "weir".to_owned(),
                message_request: asked,
            };
            requests
                .send(request.clone())
                .await
                .expect("the stream is open");
            let answer = within("an answer", answers.message()).await;
            let answer = answer.expect("the stream is open").expect("an answer");
            assert_eq!(answer.original_request, Some(request));
            assert_eq!(answer.valid_host, "weir");
            answer.message_response.expect("a response")
        };
        let name = |name: &str| name.to_owned();
        let extension = ExtensionRequest {
            containing_type: name("weir.v1.ChangeEvent"),
            extension_number: 100,
        };
        let unknown = [
            Some(MessageRequest::FileContainingSymbol(name("shop.Orders"))),
            Some(MessageRequest::FileContainingSymbol(String::new())),
            Some(MessageRequest::FileByFilename(name("shop.proto"))),
            Some(MessageRequest::FileContainingExtension(extension)),
            Some(MessageRequest::AllExtensionNumbersOfType(name(
                "shop.Order",
            ))),
            None,
        ];
        for asked in unknown {
            let shown = format!("{asked:?}");
            let expected = if asked.is_none() {
                Code::InvalidArgument
            } else {
                Code::NotFound
            };
            match ask(asked).await {
                MessageResponse::ErrorResponse(error) => {
                    assert_eq!(error.error_code, i32::from(expected), "{shown}: {error:?}");
                    assert!(!error.error_message.is_empty(), "{shown}");
                }
                other => panic!("{shown}: {other:?}"),
            }
        }
        // Everything that is there is found afterwards, on the same stream.
        for symbol in [
            "weir.v1.WatchService",
            "weir.v1.WatchService.Watch",
            "weir.v1.ChangeEvent",
            "weir.v1.ChangeEvent.operation",
            "weir.v1.OperationType",
            "weir.v1.OPERATION_TYPE_INSERT",
            "grpc.health.v1.Health",
            "grpc.health.v1.HealthCheckResponse.ServingStatus",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "google.protobuf.Timestamp",
        ] {
            match ask(Some(MessageRequest::FileContainingSymbol(name(symbol)))).await {
                MessageResponse::FileDescriptorResponse(files) => {
                    let file = &files.file_descriptor_proto[0];
                    let file = prost_types::FileDescriptorProto::decode(&file[..]);
                    let file = file.expect("a descriptor");
                    assert!(
                        symbol.starts_with(file.package()),
                        "{symbol}: {}",
                        file.name()
                    );
                    let asked = MessageRequest::FileByFilename(file.name().to_owned());
                    match ask(Some(asked)).await {
                        MessageResponse::FileDescriptorResponse(_) => {}
                        other => panic!("{}: {other:?}", file.name()),
                    }
                }
                other => panic!("{symbol}: {other:?}"),
            }
        }
        let asked = MessageRequest::AllExtensionNumbersOfType(name("weir.v1.ChangeEvent"));
        match ask(Some(asked)).await {
            MessageResponse::AllExtensionNumbersResponse(none) => {
                assert_eq!(none.base_type_name, "weir.v1.ChangeEvent");
                assert_eq!(none.extension_number, Vec::<i32>::new());
            }
            other => panic!("{other:?}"),
        }
        match ask(Some(MessageRequest::ListServices(String::new()))).await {
            MessageResponse::ListServicesResponse(list) => {
                let names: Vec<_> = list.service.into_iter().map(|it| it.name).collect();
                assert_eq!(
                    names,
                    [
                        "grpc.health.v1.Health",
                        "grpc.reflection.v1.ServerReflection",
                        "grpc.reflection.v1alpha.ServerReflection",
                        "weir.v1.WatchService",
                    ]
                );
            }
            other => panic!("{other:?}"),
        }
    }};
}

/// A tool asks for one thing after the other on one stream, and some of it is not there.
#[tokio::test]
async fn reflection_of_something_unknown_keeps_the_stream_open() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    reflection_goes_on!(weir.channel().await, v1);
    reflection_goes_on!(weir.channel().await, v1alpha);
}

/// Its stream is open by then, so that the status comes as trailers.
#[tokio::test]
async fn a_reflection_request_that_cannot_be_read_is_the_clients_error() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        for (what, body) in [
            ("noise", &b"\0\0\0\0\x02\xff\xff"[..]),
            ("a flag without an encoding", b"\x01\0\0\0\0"),
            ("an unknown flag", b"\x02\0\0\0\0"),
            ("half a message", b"\0\0\0\0\x05ab"),
            ("too large", b"\0\xff\xff\xff\xffab"),
        ] {
            let request = http::Request::post(format!("http://weir{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::new(Full::new(Bytes::from_static(body))));
            let request = request.expect("a request");
            let response = within("an answer", channel.clone().oneshot(request)).await;
            let (head, body) = response.expect("the connection holds").into_parts();
            let collected = within("the end", body.collect()).await;
            let trailers = collected.expect("a whole response").trailers().cloned();
            let status = Status::from_header_map(&trailers.unwrap_or(head.headers));
            let status = status.expect("a status");
            assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
            assert_eq!(error_reason(&status), "INVALID_REQUEST", "{what}");
        }
    }
}
