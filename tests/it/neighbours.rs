//! One principal floods the server, each time with something else, while another one goes about its business: it gets
//! every event in order, all its watches open, and nothing is left of the flood afterwards. `make bench BENCH="--only
//! neighbours"` measures how long the events take.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::join_all;
use http::uri::PathAndQuery;
use mongodb::bson::doc;
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use weir::auth::ApiKey;
use weir::pb::{
    self, field_filter::Operator, filter::Kind, watch_request::Start,
    watch_service_client::WatchServiceClient,
};

use crate::conversions::{eq, field};
use crate::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, RawConnection, frame,
    literals, message, streams,
};
use crate::support::orders::{ORDERS, id};
use crate::support::tokens::{AUDIENCE, ISSUER, SigningKey};
use crate::support::{
    Database, Figure, RawCodec, ServeProcess, WatchStream, eventually, tally, within,
};

/// The most memory that a debug build takes beside any of the floods.
const MEMORY: u64 = 512 << 20;

/// The least number of documents that are written during a flood, and of watches that are opened.
const LEAST_WRITES: i32 = 30;
const LEAST_OPENINGS: usize = 5;

/// The collection with a past.
const HISTORY: &str = "history";

/// A server as it is by default, with the keys of two principals and of an issuer.
struct Neighbourhood {
    database: Database,
    weir: ServeProcess,
    issuer: [SigningKey; 2],
    _folder: TempDir,
}

fn key(name: &str) -> String {
    format!("weir_the-key-of-{name}-in-the-tests-of-neighbours")
}

/// A request with the API key of the principal that floods, or of the other one.
fn by<T>(name: &str, message: T) -> Request<T> {
    bearing(message, "x-api-key", &key(name))
}

fn bearing<T>(message: T, header: &'static str, value: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = value.parse().expect("a header's value");
    request.metadata_mut().insert(header, value);
    request
}

impl Neighbourhood {
    async fn start() -> Self {
        let database = Database::options().start().await;
        let folder = TempDir::new().expect("a folder");
        let entry = |name: &str| {
            let hash = key(name).parse::<ApiKey>().expect("a key").sha256();
            format!("- {{name: {name}, sha256: {hash}}}\n")
        };
        let keys = format!("keys:\n{}{}", entry("flood"), entry("bystander"));
        let issuer = [SigningKey::rsa("rsa"), SigningKey::p384("curve")];
        let set = json!({ "keys": issuer.each_ref().map(SigningKey::jwk) });
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let (keys, set) = (put("keys", &keys), put("jwks", &set.to_string()));
        let arguments = [
            "--feed-linger=0s",
            "--api-keys-file",
            &keys,
            "--jwks-file",
            &set,
            "--jwt-issuer",
            ISSUER,
            "--jwt-audience",
            AUDIENCE,
            "--jwt-algorithms",
            "RS256,ES384",
        ];
        let weir = ServeProcess::start(database.uri(), &arguments).await;
        Self {
            database,
            weir,
            issuer,
            _folder: folder,
        }
    }

    fn request(&self) -> pb::WatchRequest {
        self.database.watch_request(&[ORDERS])
    }

    async fn bystander(&self, request: pb::WatchRequest) -> WatchStream {
        let mut client = self.weir.client().await;
        let opened = WatchStream::open(&mut client, by("bystander", request)).await;
        opened.unwrap_or_else(|status| panic!("a bystander was refused: {status:?}"))
    }

    /// Runs the flood beside the bystanders, and checks that nothing is left of it.
    async fn withstands(self, what: &str, flood: impl AsyncFnOnce(&Self)) {
        let half = pb::WatchRequest {
            filters: vec![eq("half", json!(1))],
            ..self.request()
        };
        let mut all = self.bystander(self.request()).await;
        let mut half = self.bystander(half).await;
        let is_over = AtomicBool::new(false);
        let written = AtomicUsize::new(0);
        let flooding = async {
            flood(&self).await;
            is_over.store(true, Ordering::SeqCst);
        };
        let reading = async {
            let orders = self.database.collection(ORDERS);
            let mut number = 0;
            while number < LEAST_WRITES || !is_over.load(Ordering::SeqCst) {
                let order = doc! { "_id": number, "half": number % 2, "text": noise(300) };
                within("an insert", orders.insert_one(order).into_future())
                    .await
                    .expect("an insert");
                written.fetch_add(1, Ordering::SeqCst);
                assert_eq!(id(&all.next_change().await), number, "beside {what}");
                if number % 2 == 1 {
                    assert_eq!(id(&half.next_change().await), number, "beside {what}");
                }
                number += 1;
            }
        };
        let opening = async {
            let mut opened = 0;
            while opened < LEAST_OPENINGS || !is_over.load(Ordering::SeqCst) {
                let before = written.load(Ordering::SeqCst);
                let watch = self.bystander(self.request()).await;
                opened += 1;
                drop(watch);
                // At most one for each event, so that they do not become a flood themselves.
                let is_next = async || {
                    let done = is_over.load(Ordering::SeqCst);
                    done || written.load(Ordering::SeqCst) > before
                };
                eventually("the next event", is_next).await;
            }
            opened
        };
        let ((), (), opened) = tokio::join!(flooding, reading, opening);
        let peak = self.weir.process.peak_resident();
        println!(
            "{what}: {} events and {opened} openings beside it, {} MiB at the peak",
            written.load(Ordering::SeqCst),
            peak >> 20
        );
        assert!(peak < MEMORY, "{what} took {} MiB", peak >> 20);
        tally(Figure::PeakBytes, peak);
        drop((all, half));
        self.wait_until_quiet(what).await;
    }

    async fn wait_until_quiet(&self, what: &str) {
        eventually(&format!("nothing is left of {what}"), async || {
            let metrics = self.weir.metrics().await;
            [
                "weir_watches",
                "weir_feeds",
                "weir_connections",
                "weir_low_priority_connections",
                "weir_catch_ups",
                "weir_memory_used_bytes",
            ]
            .iter()
            .all(|gauge| metrics.sum(gauge) == 0.0)
        })
        .await;
        eventually(&format!("no cursor is left of {what}"), async || {
            self.database.open_cursors().await == 0
        })
        .await;
        let log = self.weir.process.stderr();
        assert!(!log.contains("panicked"), "after {what}: {log}");
    }
}

/// Text of two letters, on which no automaton reaches the same state twice.
fn noise(bytes: usize) -> String {
    (0..bytes)
        .map(|_| if fastrand::bool() { 'a' } else { 'b' })
        .collect()
}

#[tokio::test]
async fn watches_opened_and_cancelled_at_once() {
    let street = Neighbourhood::start().await;
    street
        .withstands("openings that are cancelled", async |street| {
            let workers = (0..12_usize).map(|worker| async move {
                let mut client = street.weir.client().await;
                for round in 0..40 {
                    let mut request = street.request();
                    if round % 3 > 0 {
                        request.filters = vec![eq("half", json!(worker * 40 + round))];
                    }
                    if round % 3 == 2 {
                        request.feed_mode = pb::FeedMode::Dedicated.into();
                    }
                    // Some are cancelled before they are answered; some are refused for their number.
                    let patience = Duration::from_micros(fastrand::u64(100..3_000));
                    let _ = timeout(patience, client.watch(by("flood", request))).await;
                }
            });
            join_all(workers).await;
            tally(Figure::BadInputs, 12 * 40);
        })
        .await;
}

#[tokio::test]
async fn catch_ups_that_are_not_read() {
    let street = Neighbourhood::start().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs()).cast_signed();
    let documents = (0..2_000).map(|number| doc! { "_id": number, "text": "x".repeat(1_000) });
    let history = street.database.collection(HISTORY);
    history.insert_many(documents).await.expect("an insert");
    street
        .withstands("catch-ups that are not read", async |street| {
            let opening = (0..40).map(|_| async {
                let request = pb::WatchRequest {
                    collections: vec![HISTORY.to_owned()],
                    start: Some(Start::StartTime(prost_types::Timestamp {
                        seconds,
                        nanos: 0,
                    })),
                    ..street.request()
                };
                let channel =
                    tonic::transport::Endpoint::from_shared(format!("http://{}", street.weir.grpc))
                        .expect("an address makes a URI")
                        .initial_stream_window_size(65_535)
                        .initial_connection_window_size(65_535)
                        .connect_lazy();
                let mut client = WatchServiceClient::new(channel);
                let opened = within("an answer", client.watch(by("flood", request))).await;
                opened.ok()
            });
            let held = join_all(opening).await;
            // Beside them a bystander has its turn too.
            let past = pb::WatchRequest {
                start: Some(Start::StartTime(prost_types::Timestamp {
                    seconds,
                    nanos: 0,
                })),
                ..street.request()
            };
            let mut watch = street.bystander(past).await;
            for number in 0..10 {
                assert_eq!(id(&watch.next_change().await), number);
            }
            tally(Figure::WatchesHeld, held.len() as u64);
        })
        .await;
}

#[tokio::test]
async fn filters_that_are_costly_to_match() {
    let street = Neighbourhood::start().await;
    street
        .withstands("costly filters", async |street| {
            let workers = (0..4).map(|worker| async move {
                let mut client = street.weir.client().await;
                for round in 0..4 {
                    let unique = worker * 4 + round;
                    let filters = if worker == 3 {
                        deep(unique)
                    } else {
                        patterns(unique)
                    };
                    let request = pb::WatchRequest {
                        filters,
                        feed_mode: pb::FeedMode::Shared.into(),
                        ..street.request()
                    };
                    if let Ok(mut watch) =
                        WatchStream::open(&mut client, by("flood", request)).await
                    {
                        let _ = timeout(Duration::from_millis(500), watch.next_change()).await;
                    }
                }
            });
            join_all(workers).await;
            tally(Figure::BadInputs, 16);
        })
        .await;
}

/// Patterns that keep hundreds of states active at once.
fn patterns(unique: i32) -> Vec<pb::Filter> {
    let patterns = ["[ab]*a[ab]{400}c", "a[ab]{200}c", "([ab ]{0,300}a){2}9"];
    let regex = |pattern: &str| {
        let (pattern, options) = (format!("{pattern}|{unique}"), String::new());
        field(
            "text",
            Operator::Regex(pb::RegexFilter { pattern, options }),
        )
    };
    let filters = patterns.map(regex).into();
    vec![pb::Filter {
        kind: Some(Kind::AnyOf(pb::FilterGroup { filters })),
    }]
}

/// Groups within groups, with many conditions.
fn deep(unique: i32) -> Vec<pb::Filter> {
    let filters = (0..180).map(|number| {
        let path = format!("a.b.c.d{number}.0.1.2");
        eq(&path, json!(unique))
    });
    let mut filter = pb::Filter {
        kind: Some(Kind::NoneOf(pb::FilterGroup {
            filters: filters.collect(),
        })),
    };
    for _ in 0..7 {
        let filters = vec![filter];
        filter = pb::Filter {
            kind: Some(Kind::NoneOf(pb::FilterGroup { filters })),
        };
    }
    vec![filter]
}

#[tokio::test]
async fn filters_with_long_lists() {
    let street = Neighbourhood::start().await;
    street
        .withstands("long lists", async |street| {
            let workers = (0..4_usize).map(|worker| async move {
                let mut client = street.weir.client().await;
                let mut held = Vec::new();
                for round in 0..6 {
                    let lists = (0..22).map(|list| {
                        let first = ((worker * 6 + round) * 22 + list) * 1_000;
                        let values = (first..first + 1_000).map(|number| prost_types::Value {
                            kind: Some(prost_types::value::Kind::NumberValue(number as f64)),
                        });
                        let values = values.collect();
                        let list = format!("list{list}");
                        field(&list, Operator::In(prost_types::ListValue { values }))
                    });
                    let request = pb::WatchRequest {
                        filters: lists.collect(),
                        feed_mode: pb::FeedMode::Shared.into(),
                        ..street.request()
                    };
                    // Its own turns may come late.
                    let opened = client.watch(by("flood", request));
                    let opened = timeout(Duration::from_secs(2), opened).await;
                    held.extend(opened.ok().and_then(Result::ok));
                }
                held.len()
            });
            let held: usize = join_all(workers).await.into_iter().sum();
            tally(Figure::WatchesHeld, held as u64);
        })
        .await;
}

#[tokio::test]
async fn streams_that_are_reset() {
    let street = Neighbourhood::start().await;
    street
        .withstands("resets", async |street| {
            let request = street.request().encode_to_vec();
            let flood = key("flood");
            let opening = head(&[("x-api-key", &flood)]);
            for _ in 0..4 {
                let mut raw = RawConnection::greeted(street.weir.grpc).await;
                for stream in streams(500) {
                    let call = [
                        frame(HEADERS, END_HEADERS, stream, &opening),
                        frame(DATA, END_STREAM, stream, &message(&request)),
                        frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                    ];
                    if !raw.send(&call.concat()).await {
                        break;
                    }
                }
            }
            tally(Figure::BadInputs, 2_000);
        })
        .await;
}

fn head(more: &[(&str, &str)]) -> Vec<u8> {
    let common = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "weir"),
        (":path", crate::raw_http2::WATCH),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    literals(common.iter().chain(more).copied())
}

#[tokio::test]
async fn health_checks() {
    let street = Neighbourhood::start().await;
    street
        .withstands("health checks", async |street| {
            let channel = street.weir.channel().await;
            let workers = (0..16).map(|_| async {
                let mut grpc = Grpc::new(channel.clone());
                let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
                for _ in 0..60 {
                    grpc.ready().await.expect("the connection is ready");
                    let asked = grpc.unary(Request::new(Bytes::new()), path.clone(), RawCodec);
                    within("a health check", asked).await.expect("it serves");
                }
            });
            join_all(workers).await;
        })
        .await;
}

/// A connection goes to the threads of a low priority and back, while a watch on it and one beside it get everything.
#[tokio::test]
async fn a_connection_that_asks_for_much_has_a_low_priority_until_it_asks_for_less() {
    let street = Neighbourhood::start().await;
    let mut beside = street.bystander(street.request()).await;
    let channel = street.weir.channel().await;
    let mut client = WatchServiceClient::new(channel.clone());
    let mut own = WatchStream::open(&mut client, by("flood", street.request()))
        .await
        .expect("a watch");
    let orders = street.database.collection(ORDERS);
    let (mut number, mut seen) = (0, [Vec::new(), Vec::new()]);
    for is_flooding in [true, false].repeat(3) {
        let mut is_reached = false;
        while !is_reached {
            if is_flooding {
                let checks = (0..100).map(|_| async {
                    let mut grpc = Grpc::new(channel.clone());
                    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
                    grpc.ready().await.expect("the connection is ready");
                    let asked = grpc.unary(Request::new(Bytes::new()), path, RawCodec);
                    within("a health check", asked).await.expect("it serves");
                });
                join_all(checks).await;
            }
            let order = doc! { "_id": number };
            within("an insert", orders.insert_one(order).into_future())
                .await
                .expect("an insert");
            seen[0].push(id(&own.next_change().await));
            seen[1].push(id(&beside.next_change().await));
            number += 1;
            let low = street
                .weir
                .metrics()
                .await
                .sum("weir_low_priority_connections");
            assert!(low <= 1.0, "{low} connections, and one floods");
            is_reached = (low == 1.0) == is_flooding;
        }
    }
    let all: Vec<i32> = (0..number).collect();
    assert_eq!(seen, [all.clone(), all]);
    drop((own, client, channel, beside));
    street.wait_until_quiet("the flood").await;
}

#[tokio::test]
async fn questions_to_reflection() {
    let street = Neighbourhood::start().await;
    street
        .withstands("reflection", async |street| {
            // `file_containing_symbol`.
            let symbol = b"weir.v1.WatchService";
            let length = u8::try_from(symbol.len()).expect("it is short");
            let question = Bytes::from([&[4 << 3 | 2, length], &symbol[..]].concat());
            let channel = street.weir.channel().await;
            let workers = (0..8).map(|_| async {
                let mut grpc = Grpc::new(channel.clone());
                grpc.ready().await.expect("the connection is ready");
                let questions = vec![question.clone(); 50];
                let asked = by("flood", futures::stream::iter(questions));
                let path = PathAndQuery::from_static(
                    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                );
                let answers = within("answers", grpc.streaming(asked, path, RawCodec)).await;
                let mut answers = answers.expect("it answers").into_inner();
                let mut count = 0;
                while let Some(answer) = within("an answer", answers.message())
                    .await
                    .expect("it goes on")
                {
                    assert!(answer.len() > 10_000, "{} bytes", answer.len());
                    count += 1;
                }
                assert_eq!(count, 50);
            });
            join_all(workers).await;
        })
        .await;
}

#[tokio::test]
async fn tokens_that_are_not_valid() {
    let street = Neighbourhood::start().await;
    street
        .withstands("bad tokens", async |street| {
            let claims =
                json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "nobody", "exp": 4_000_000_000_u64});
            let forged: Vec<String> = street
                .issuer
                .iter()
                .map(|key| forged(key, &claims))
                .collect();
            let forged = &forged;
            let workers = (0..8_usize).map(|worker| async move {
                let mut client = street.weir.client().await;
                for round in 0..40 {
                    let request = street.request();
                    let request = match (worker + round) % 4 {
                        0 => bearing(request, "x-api-key", &key("nobody")),
                        kind @ (1 | 2) => {
                            let token = format!("Bearer {}", forged[kind - 1]);
                            bearing(request, "authorization", &token)
                        }
                        _ => by(
                            "flood",
                            pb::WatchRequest {
                                start: Some(Start::ResumeToken(vec![7; 16 << 10].into())),
                                ..request
                            },
                        ),
                    };
                    let answer = within("an answer", client.watch(request)).await;
                    answer.expect_err("it is not valid");
                }
            });
            join_all(workers).await;
            tally(Figure::BadInputs, 8 * 40);
        })
        .await;
}

/// A token whose signature belongs to other claims.
fn forged(key: &SigningKey, claims: &Value) -> String {
    let other = key.token(&json!({"iss": ISSUER}));
    let (_, signature) = other.rsplit_once('.').expect("a signature");
    let token = key.token(claims);
    let (signed, _) = token.rsplit_once('.').expect("a signature");
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn requests_that_are_large() {
    let street = Neighbourhood::start().await;
    street
        .withstands("large requests", async |street| {
            let workers = (0..4_usize).map(|worker| async move {
                let mut client = street.weir.client().await;
                let mut grpc = Grpc::new(street.weir.channel().await);
                for round in 0..6 {
                    let long = |bytes: usize| pb::WatchRequest {
                        collections: vec!["x".repeat(bytes)],
                        ..street.request()
                    };
                    let refused = match (worker + round) % 6 {
                        0 => client
                            .watch(by("flood", long((1 << 20) - 1_000)))
                            .await
                            .is_err(),
                        // Empty filters, or empty names: two bytes each, and much more once they are decoded.
                        kind @ (1 | 2) => {
                            let field = if kind == 1 { 0x22 } else { 0x12 };
                            let empty = Bytes::from([field, 0].repeat((1 << 19) - 500));
                            grpc.ready().await.expect("the connection is ready");
                            let path = PathAndQuery::from_static(crate::raw_http2::WATCH);
                            let asked = grpc.server_streaming(by("flood", empty), path, RawCodec);
                            within("an answer", asked).await.is_err()
                        }
                        3 => client.watch(by("flood", long(4 << 20))).await.is_err(),
                        4 => {
                            let mut compressing =
                                client.clone().send_compressed(CompressionEncoding::Gzip);
                            compressing.watch(by("flood", long(4 << 20))).await.is_err()
                        }
                        _ => long_headers_are_refused(street).await,
                    };
                    assert!(refused, "round {round} of {worker}");
                }
            });
            join_all(workers).await;
            tally(Figure::BadInputs, 4 * 6);
        })
        .await;
}

async fn long_headers_are_refused(street: &Neighbourhood) -> bool {
    let long = "x".repeat(7_000);
    let opening = head(&[("x-long", long.as_str()); 16]);
    let mut raw = RawConnection::greeted(street.weir.grpc).await;
    let mut pieces = opening.chunks(16 << 10).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        raw.send(&frame(kind, flags, 1, piece)).await;
        kind = CONTINUATION;
    }
    raw.until(|reply| reply.stream == 1 && reply.flags & END_STREAM != 0)
        .await
}
