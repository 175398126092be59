//! Authentication over gRPC: without credentials a caller learns nothing, and every form of
//! credentials is accepted.

use std::path::PathBuf;
use std::time::Duration;

use crate::support::certificates::Authority;
use crate::support::issuer::{Answer, KeyServer};
use crate::support::orders::{ORDERS, id, insert};
use crate::support::tokens::{AUDIENCE, ISSUER, SigningKey, claims, key_set};
use crate::support::{
    ChildProcess, Database, RawCodec, ServeProcess, WAIT_LIMIT, WatchStream, Weir, error_info,
    eventually, python, weir, within,
};
use bytes::Bytes;
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use weir::auth::ApiKey;
use weir::config::{ClientAuth, ServeConfig};
use weir::pb;
use weir::pb::watch_service_client::WatchServiceClient;

/// The API key of Alice on the server of [`start_with_api_key`].
const KEY: &str = "weir_the-key-of-alice-in-these-tests";

/// The time that the Python client may take for each step on a busy machine.
const CLIENT_LIMIT: Duration = Duration::from_secs(90);

fn keys_file(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("keys.yaml");
    let hash = KEY.parse::<ApiKey>().expect("a key").sha256();
    std::fs::write(&path, format!("keys:\n- name: alice\n  sha256: {hash}\n")).expect("a file");
    path
}

/// A server that knows one key, Alice's.
async fn start_with_api_key(database: &Database) -> (Weir, TempDir) {
    let folder = TempDir::new().expect("a folder");
    let path = keys_file(&folder);
    let weir = Weir::with(database, |config| config.auth.api_keys_file = Some(path)).await;
    (weir, folder)
}

/// Accepts tokens that are signed by a key at this URL.
fn accept_tokens(config: &mut ServeConfig, url: String) {
    config.auth.jwks_url = Some(url);
    config.auth.jwt_issuer = Some(ISSUER.to_owned());
    config.auth.jwt_audience = vec![AUDIENCE.to_owned()];
}

fn with_header<T>(message: T, name: &'static str, value: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: AsciiMetadataValue = value.parse().expect("a value");
    request.metadata_mut().insert(name, value);
    request
}

/// Calls a method with a stream of messages and returns the first answer.
async fn call(
    channel: &Channel,
    path: &'static str,
    messages: impl futures::Stream<Item = Bytes> + Send + 'static,
    headers: &[(&'static str, &str)],
) -> Result<Option<Bytes>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    within("a connection", grpc.ready())
        .await
        .expect("a connection");
    let mut request = Request::new(messages);
    for (name, value) in headers {
        let value: AsciiMetadataValue = value.parse().expect("a value");
        request.metadata_mut().append(*name, value);
    }
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = within("an answer", grpc.streaming(request, path, RawCodec)).await?;
    within("a message", answer.into_inner().message()).await
}

fn once(message: Bytes) -> impl futures::Stream<Item = Bytes> + Send + 'static {
    futures::stream::once(std::future::ready(message))
}

fn encoded(request: &pb::WatchRequest) -> Bytes {
    request.encode_to_vec().into()
}

/// Whatever the request and the method, the only answer is that credentials are missing. The
/// answers are equal byte for byte, so that their differences reveal nothing.
#[tokio::test]
async fn without_credentials_a_caller_learns_nothing() {
    let database = Database::start().await;
    let (weir, _folder) = start_with_api_key(&database).await;
    let channel = weir.channel().await;
    let good = database.watch_request(&[ORDERS]);
    let token = {
        let request = with_header(good.clone(), "x-api-key", KEY);
        let watching = WatchStream::open(&mut weir.client().await, request).await;
        watching.expect("a watch of Alice's").token()
    };
    let with_token = |token: &[u8]| pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token.to_vec().into())),
        ..good.clone()
    };
    let mut broken = token.to_vec();
    broken[3] ^= 1;
    let watch = "/weir.v1.WatchService/Watch";
    let reflection = Bytes::from_static(b"\x3a\x00");
    let mut reported = Vec::new();
    for (what, path, message) in [
        ("a good request", watch, encoded(&good)),
        ("a good token", watch, encoded(&with_token(&token))),
        (
            "a malformed token",
            watch,
            encoded(&with_token(b"\x01garbage")),
        ),
        (
            "a token with a flipped bit",
            watch,
            encoded(&with_token(&broken)),
        ),
        (
            "a token cut short",
            watch,
            encoded(&with_token(&token[..token.len() / 2])),
        ),
        (
            "a token of another scope",
            watch,
            encoded(&pb::WatchRequest {
                collections: vec!["others".to_owned()],
                ..with_token(&token)
            }),
        ),
        ("no database", watch, encoded(&pb::WatchRequest::default())),
        (
            "a database of MongoDB's own",
            watch,
            encoded(&pb::WatchRequest {
                database: "admin".to_owned(),
                ..pb::WatchRequest::default()
            }),
        ),
        ("no protobuf", watch, Bytes::from_static(&[0xff; 64])),
        ("a huge request", watch, Bytes::from(vec![0; 2 << 20])),
        (
            "the server's info",
            "/weir.v1.WatchService/GetServerInfo",
            Bytes::new(),
        ),
        (
            "reflection",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            reflection.clone(),
        ),
        (
            "old reflection",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection,
        ),
        (
            "no such method",
            "/weir.v1.WatchService/Nothing",
            Bytes::new(),
        ),
        (
            "no such service",
            "/nothing.v1.Nothing/Nothing",
            Bytes::new(),
        ),
        (
            "almost health",
            "//grpc.health.v1.Health/Check",
            Bytes::new(),
        ),
        ("no path", "/", Bytes::new()),
    ] {
        let answer = call(&channel, path, once(message), &[]).await;
        let status = answer
            .err()
            .unwrap_or_else(|| panic!("{what} was answered"));
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status:?}");
        assert_eq!(error_info(&status).reason, "CREDENTIALS_MISSING", "{what}");
        reported.push((status.message().to_owned(), status.details().to_vec()));
    }
    reported.dedup();
    assert_eq!(reported.len(), 1, "{reported:?}");
    // None of the other calls became a watch.
    assert_eq!(weir.metrics().await.sum("weir_watches_started_total"), 1.0);
}

/// The refusal does not wait for a request that may never come.
#[tokio::test]
async fn a_call_without_credentials_is_refused_before_its_request_arrives() {
    let database = Database::start().await;
    let folder = TempDir::new().expect("a folder");
    let path = keys_file(&folder);
    let weir = Weir::with(&database, |config| {
        config.auth.api_keys_file = Some(path);
        config.request_timeout = Duration::from_secs(600);
    })
    .await;
    let channel = weir.channel().await;
    let path = "/weir.v1.WatchService/Watch";
    let never = futures::stream::pending();
    let status = call(&channel, path, never, &[])
        .await
        .expect_err("no credentials");
    assert_eq!(error_info(&status).reason, "CREDENTIALS_MISSING");
}

#[tokio::test]
async fn every_method_refuses_bad_credentials() {
    let database = Database::start().await;
    let (weir, _folder) = start_with_api_key(&database).await;
    let channel = weir.channel().await;
    let (bearer, long) = (format!("Bearer {KEY}"), "a".repeat(9 << 10));
    for path in [
        "/weir.v1.WatchService/Watch",
        "/weir.v1.WatchService/GetServerInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        for headers in [
            &[("x-api-key", &KEY[1..])][..],
            &[("authorization", "Basic YWxpY2U6cGFzc3dvcmQ=")],
            &[("authorization", &bearer), ("x-api-key", KEY)],
            &[("x-api-key", KEY), ("x-api-key", KEY)],
            &[("x-api-key", &long)],
        ] {
            let answer = call(&channel, path, once(Bytes::new()), headers).await;
            let status = answer.expect_err("bad credentials");
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
            assert_eq!(error_info(&status).reason, "CREDENTIALS_INVALID");
            assert!(!status.message().contains(&KEY[1..]), "{status:?}");
        }
    }
    let metrics = weir.metrics().await;
    let results = |result| metrics.sum_where("weir_authentications_total", &[("result", result)]);
    assert_eq!(results("invalid"), 15.0);
    assert_eq!(results("ok"), 0.0);
}

/// Probes have no credentials, and learn only whether Weir serves.
#[tokio::test]
async fn the_health_service_alone_needs_no_credentials() {
    let database = Database::start().await;
    let (weir, _folder) = start_with_api_key(&database).await;
    let channel = weir.channel().await;
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest {
        service: "weir.v1.WatchService".to_owned(),
    };
    eventually("Weir serves", async || {
        let answer = health.check(request.clone()).await.expect("an answer");
        answer.into_inner().status() == ServingStatus::Serving
    })
    .await;
    let mut watch = health
        .watch(request.clone())
        .await
        .expect("an answer")
        .into_inner();
    let first = within("the first state", watch.message())
        .await
        .expect("a state");
    let serving = HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    };
    assert_eq!(first, Some(serving));
    // Bad credentials are treated like none.
    let answer = health.check(with_header(request, "x-api-key", "bad")).await;
    answer.expect("an answer");
    for path in [
        "/grpc.health.v1.Health/../weir.v1.WatchService/GetServerInfo",
        "/grpc.health.v1.Health/%2e%2e/weir.v1.WatchService/GetServerInfo",
        "/grpc.health.v1.Health/weir.v1.WatchService/GetServerInfo",
    ] {
        let answer = call(&channel, path, once(Bytes::new()), &[]).await;
        let status = answer.expect_err("no such method");
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
}

/// Callers without credentials may ask for the health, and a health stream never ends. However many
/// such streams and unfinished checks there are, authenticated callers are served.
#[tokio::test]
async fn health_streams_without_credentials_do_not_use_up_the_limit_of_calls() {
    const ROOM: usize = 500;
    let database = Database::start().await;
    let (weir, _folder) = start_with_api_key(&database).await;
    let mut health = HealthClient::new(weir.channel().await);
    let mut streams = Vec::new();
    for _ in 0..ROOM {
        let stream = health.watch(HealthCheckRequest::default()).await;
        streams.push(stream.expect("there is room"));
    }
    let refused = health.watch(HealthCheckRequest::default()).await;
    let refused = refused.expect_err("the limit is reached");
    assert_eq!(
        crate::support::error_reason(&refused),
        "WATCH_LIMIT_EXCEEDED"
    );

    let checked = health.check(HealthCheckRequest::default()).await;
    checked.expect("a check is answered");
    let mut client = weir.client().await;
    let request = with_header(database.watch_request(&["orders"]), "x-api-key", KEY);
    drop(client.watch(request).await.expect("the watch opens"));
    drop(streams);
    eventually("the limit is free again", async || {
        health.watch(HealthCheckRequest::default()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_without_authentication_ignores_credentials() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = with_header(
        database.watch_request(&[ORDERS]),
        "authorization",
        "nonsense",
    );
    let watching = WatchStream::open(&mut weir.client().await, request).await;
    let mut watching = watching.expect("a watch");
    insert(&database, 1).await;
    assert_eq!(id(&watching.next_change().await), 1);
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum("weir_authentications_total"), 0.0);
}

#[tokio::test]
async fn a_key_or_a_token_gives_access_to_every_method() {
    let database = Database::start().await;
    let folder = TempDir::new().expect("a folder");
    let path = keys_file(&folder);
    let signing = SigningKey::p256("a");
    let issuer = KeyServer::start(Answer::Keys(key_set(&[&signing]))).await;
    let weir = Weir::with(&database, |config| {
        config.auth.api_keys_file = Some(path);
        accept_tokens(config, issuer.url());
    })
    .await;
    let token = format!("Bearer {}", signing.token(&claims("bob")));
    let bearer = format!("Bearer {KEY}");
    for (name, value) in [
        ("authorization", &token),
        ("authorization", &bearer),
        ("x-api-key", &KEY.to_owned()),
    ] {
        let mut client = weir.client().await;
        let request = with_header(database.watch_request(&[ORDERS]), name, value);
        let mut watching = WatchStream::open(&mut client, request)
            .await
            .expect("a watch");
        insert(&database, 1).await;
        assert_eq!(id(&watching.next_change().await), 1);
        database.collection(ORDERS).drop().await.expect("a drop");
        let info = client.get_server_info(with_header(pb::GetServerInfoRequest {}, name, value));
        within("the server's info", info)
            .await
            .expect("the server's info");
        let channel = weir.channel().await;
        for path in [
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            let list = Bytes::from_static(b"\x3a\x00");
            let answer = call(&channel, path, once(list), &[(name, value)]).await;
            let answer = answer.expect("an answer").expect("a message");
            let text = String::from_utf8_lossy(&answer);
            assert!(text.contains("weir.v1.WatchService"), "{text}");
        }
    }
    let metrics = weir.metrics().await;
    let ok = |method| {
        let labels = [("method", method), ("result", "ok")];
        metrics.sum_where("weir_authentications_total", &labels)
    };
    assert_eq!((ok("jwt"), ok("key")), (4.0, 8.0));
}

/// Refused calls are cheap and hold up nobody.
#[tokio::test]
async fn a_flood_of_bad_credentials_does_not_delay_other_callers() {
    let database = Database::start().await;
    let (weir, _folder) = start_with_api_key(&database).await;
    let request = with_header(database.watch_request(&[ORDERS]), "x-api-key", KEY);
    let watching = WatchStream::open(&mut weir.client().await, request).await;
    let mut watching = watching.expect("a watch");
    let channel = weir.channel().await;
    let storm = async {
        for _ in 0..20 {
            let calls = (0..100).map(|_| {
                let mut client = WatchServiceClient::new(channel.clone());
                let request = with_header(database.watch_request(&[ORDERS]), "x-api-key", "guess");
                async move { client.watch(request).await.expect_err("a guess").code() }
            });
            let codes = futures::future::join_all(calls).await;
            assert!(
                codes.iter().all(|code| *code == Code::Unauthenticated),
                "{codes:?}"
            );
        }
    };
    let work = async {
        for number in 1..=20 {
            insert(&database, number).await;
            assert_eq!(id(&watching.next_change().await), number);
        }
    };
    within("both", async { tokio::join!(storm, work) }).await;
    let metrics = weir.metrics().await;
    let labels = [("method", "key"), ("result", "invalid")];
    assert_eq!(
        metrics.sum_where("weir_authentications_total", &labels),
        2_000.0
    );
    assert_eq!(metrics.sum("weir_watches"), 1.0);
}

/// The log contains names, so that one can tell who watched what, and no secrets.
#[tokio::test]
async fn the_log_names_the_caller_and_contains_no_credentials() {
    let database = Database::start().await;
    let folder = TempDir::new().expect("a folder");
    let path = keys_file(&folder);
    let keys = folder.path().join("keys.json");
    let signing = SigningKey::p256("a");
    std::fs::write(&keys, key_set(&[&signing]).to_string()).expect("a file");
    let arguments = [
        "--api-keys-file",
        path.to_str().expect("a path"),
        "--jwks-file",
        keys.to_str().expect("a path"),
        "--jwt-issuer",
        ISSUER,
        "--jwt-audience",
        AUDIENCE,
        "--log-format",
        "json",
        "--log-level",
        "trace",
    ];
    let mut serving = ServeProcess::start(database.uri(), &arguments).await;
    let token = signing.token(&claims("bob \u{202e}evil\u{1b}"));
    let refused = signing.token(&claims("\u{1b}[2J"));
    let good = signing.token(&claims("bob \u{202e}evil"));
    let mut client = serving.client().await;
    let bearers = [token, refused.clone(), good.clone()].map(|it| format!("Bearer {it}"));
    let mut opened = 0;
    for (name, value) in [
        ("x-api-key", KEY),
        ("x-api-key", "a-bad-key-that-somebody-tries"),
        ("authorization", &bearers[0]),
        ("authorization", &bearers[1]),
        ("authorization", &bearers[2]),
    ] {
        let request = with_header(database.watch_request(&[ORDERS]), name, value);
        opened += usize::from(WatchStream::open(&mut client, request).await.is_ok());
    }
    assert_eq!(opened, 2);
    eventually("both watches have ended", async || {
        serving.process.stderr().matches("\"watch ended\"").count() == 2
    })
    .await;
    serving.process.signal("TERM");
    serving.process.wait_for_exit(WAIT_LIMIT).await;
    let log = serving.process.stderr();
    let ended: Vec<Value> = log
        .lines()
        .filter(|line| line.contains("\"watch ended\""))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut callers: Vec<&str> = ended
        .iter()
        .map(|line| line["span"]["principal"].as_str().expect("a principal"))
        .collect();
    callers.sort_unstable();
    assert_eq!(callers, ["jwt:bob \\u{202e}evil", "key:alice"], "{log}");
    // Only Weir's own lines; the libraries' lines at this level are not for production, and contain
    // no header values.
    for secret in [KEY, "a-bad-key", &good, &refused, &good[good.len() - 20..]] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

/// Serves over TLS with optional client certificates.
async fn with_certificates(
    database: &Database,
    clients: &Authority,
    change: impl FnOnce(&mut ServeConfig),
) -> (Weir, Authority, TempDir) {
    let folder = TempDir::new().expect("a folder");
    let servers = Authority::new("servers");
    let (certificate, key) = servers.local().write(folder.path());
    let bundle = folder.path().join("clients.crt");
    std::fs::write(&bundle, &clients.pem).expect("a file");
    let weir = Weir::with(database, |config| {
        config.tls.tls_cert_file = Some(certificate);
        config.tls.tls_key_file = Some(key);
        config.tls.tls_client_ca_file = Some(bundle);
        config.tls.tls_client_auth = Some(ClientAuth::Optional);
        config.auth.auth_certificates = true;
        change(config);
    })
    .await;
    (weir, servers, folder)
}

async fn over_tls(weir: &Weir, tls: ClientTlsConfig) -> WatchServiceClient<Channel> {
    let url = format!("https://localhost:{}", weir.grpc_addr().port());
    let endpoint = Endpoint::from_shared(url).expect("a URI").tls_config(tls);
    let connecting = endpoint.expect("TLS");
    let channel = within("a connection", connecting.connect()).await;
    WatchServiceClient::new(channel.expect("a connection"))
}

#[tokio::test]
async fn a_certificate_identifies_a_client_that_sends_no_other_credentials() {
    let database = Database::start().await;
    let clients = Authority::new("clients");
    let folder = TempDir::new().expect("a folder");
    let path = keys_file(&folder);
    let (weir, servers, _folder) = with_certificates(&database, &clients, |config| {
        config.auth.api_keys_file = Some(path);
    })
    .await;
    let watch = async |tls: ClientTlsConfig, header: Option<&str>| {
        let mut request = Request::new(database.watch_request(&[ORDERS]));
        if let Some(key) = header {
            request = with_header(request.into_inner(), "x-api-key", key);
        }
        let opened = WatchStream::open(&mut over_tls(&weir, tls).await, request).await;
        opened
            .map(|_| ())
            .map_err(|status| error_info(&status).reason)
    };
    let known = || {
        servers
            .trusted()
            .identity(clients.client("orders.example").identity())
    };
    let nameless = clients.issue(&[], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let nameless = || servers.trusted().identity(nameless.identity());
    assert_eq!(watch(known(), None).await, Ok(()));
    assert_eq!(watch(known(), Some(KEY)).await, Ok(()));
    assert_eq!(
        watch(known(), Some("bad")).await,
        Err("CREDENTIALS_INVALID".to_owned())
    );
    assert_eq!(
        watch(nameless(), None).await,
        Err("CREDENTIALS_INVALID".to_owned())
    );
    assert_eq!(watch(nameless(), Some(KEY)).await, Ok(()));
    assert_eq!(
        watch(servers.trusted(), None).await,
        Err("CREDENTIALS_MISSING".to_owned())
    );
    assert_eq!(watch(servers.trusted(), Some(KEY)).await, Ok(()));
    let metrics = weir.metrics().await;
    let counted = |method, result| {
        let labels = [("method", method), ("result", result)];
        metrics.sum_where("weir_authentications_total", &labels)
    };
    assert_eq!(
        (counted("cert", "ok"), counted("cert", "invalid")),
        (1.0, 1.0)
    );
    assert_eq!(
        (counted("key", "ok"), counted("key", "invalid")),
        (3.0, 1.0)
    );
    assert_eq!(counted("none", "missing"), 1.0);
}

/// gRPC's own mechanism for credentials, in the language with the oldest client.
#[tokio::test]
async fn a_python_client_authenticates_with_call_credentials() {
    let database = Database::start().await;
    let folder = TempDir::new().expect("a folder");
    let path = keys_file(&folder);
    let signing = SigningKey::ed25519("a");
    let issuer = KeyServer::start(Answer::Keys(key_set(&[&signing]))).await;
    let clients = Authority::new("clients");
    let (weir, servers, _folder) = with_certificates(&database, &clients, |config| {
        config.auth.api_keys_file = Some(path);
        accept_tokens(config, issuer.url());
    })
    .await;
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &servers.pem).expect("a file");
    let arguments = [
        "tests/interop/python/call_credentials.py".to_owned(),
        "proto".to_owned(),
        format!("localhost:{}", weir.grpc_addr().port()),
        database.name().to_owned(),
        ORDERS.to_owned(),
        ca_file.to_str().expect("a path").to_owned(),
        signing.token(&claims("bob")),
        KEY.to_owned(),
    ];
    let mut client = ChildProcess::start("the Python client", python(), arguments);
    let ready = |output: &str| output.contains("READY\n");
    client.wait_for_output("READY", CLIENT_LIMIT, ready).await;
    insert(&database, 1).await;
    let status = client.wait_for_exit(CLIENT_LIMIT).await;
    assert!(status.success(), "the client ended with {status}{client}");
    assert!(client.stdout().ends_with("DONE\n"), "{client}");
}

/// From creating a key to a watch with it, with the commands alone.
#[tokio::test]
async fn a_key_made_by_hash_key_opens_a_watch() {
    let database = Database::start().await;
    let folder = TempDir::new().expect("a folder");
    let mut making = weir(&[], &["hash-key", "alice: \"the\" 1st"]);
    assert!(making.wait_for_exit(WAIT_LIMIT).await.success(), "{making}");
    let output = making.stdout();
    let (key, entry) = output.split_once('\n').expect("two parts");
    assert!(key.starts_with("weir_") && key.len() == 48, "{making}");
    assert!(!making.stderr().contains(key), "{making}");
    // A second run makes another key; a key that is passed in gets the same entry.
    let mut again = weir(&[], &["hash-key", "alice"]);
    again.wait_for_exit(WAIT_LIMIT).await;
    assert_ne!(again.stdout().lines().next(), Some(key));
    let hash = weir::digest::sha256(key.as_bytes());
    let hash = hash.map(|byte| format!("{byte:02x}")).concat();
    assert!(entry.contains(&hash), "{making}");

    let command = format!(
        "echo {key} | {} hash-key 'alice: \"the\" 1st' --stdin",
        env!("CARGO_BIN_EXE_weir")
    );
    let mut given = ChildProcess::start("weir", "sh", ["-c", &command]);
    assert!(given.wait_for_exit(WAIT_LIMIT).await.success(), "{given}");
    assert_eq!(given.stdout(), entry, "{given}");
    for bad in [
        "weak-key",
        "a.jwt-like.key-of-more-than-32-characters",
        "two words of more than 32 characters",
    ] {
        let command = format!(
            "echo '{bad}' | {} hash-key alice --stdin",
            env!("CARGO_BIN_EXE_weir")
        );
        let mut refused = ChildProcess::start("weir", "sh", ["-c", &command]);
        assert_eq!(
            refused.wait_for_exit(WAIT_LIMIT).await.code(),
            Some(1),
            "{refused}"
        );
        assert_eq!(refused.stdout(), "", "{refused}");
        assert!(!refused.stderr().contains(bad), "{refused}");
    }

    let keys = folder.path().join("keys.yaml");
    std::fs::write(&keys, format!("keys:\n{entry}")).expect("a file");
    let server = Weir::with(&database, |config| config.auth.api_keys_file = Some(keys)).await;
    let key_file = folder.path().join("key");
    std::fs::write(&key_file, format!("{key}\n")).expect("a file");
    let scope = format!("{}.{ORDERS}", database.name());
    let address = server.grpc_addr().to_string();
    let watch = |arguments: &[&str]| {
        let common = [
            "watch", &scope, "--server", &address, "--output", "json", "--limit", "1",
        ];
        let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
        weir(&[], &arguments)
    };
    let mut watching = watch(&["--api-key-file", key_file.to_str().expect("a path")]);
    let opened = |output: &str| output.contains(r#""type":"opened""#);
    watching.wait_for_output("opened", WAIT_LIMIT, opened).await;
    insert(&database, 1).await;
    assert_eq!(
        watching.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(0),
        "{watching}"
    );

    // Without a key, the command says how to authenticate and does not retry.
    let mut refused = watch(&[]);
    assert_eq!(
        refused.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(1),
        "{refused}"
    );
    let words = refused.stderr();
    assert!(
        words.contains("CREDENTIALS_MISSING") && words.contains("--token-file"),
        "{refused}"
    );
    std::fs::write(&key_file, "weir_another").expect("a file");
    let mut refused = watch(&["--token-file", key_file.to_str().expect("a path")]);
    assert_eq!(
        refused.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(1),
        "{refused}"
    );
    let words = refused.stderr();
    assert!(words.contains("CREDENTIALS_INVALID"), "{refused}");
    assert!(!words.contains("weir_another"), "{refused}");
}

#[tokio::test]
async fn authentication_settings_are_checked_at_the_start() {
    let folder = TempDir::new().expect("a folder");
    let bad = folder.path().join("bad");
    std::fs::write(&bad, "{").expect("a file");
    let bad = bad.to_str().expect("a path");
    let keys = keys_file(&folder);
    let jwks = folder.path().join("keys.json");
    std::fs::write(&jwks, key_set(&[&SigningKey::p256("a")]).to_string()).expect("a file");
    let jwks = jwks.to_str().expect("a path");
    let check = async |arguments: &[&str]| {
        let common = [
            "serve",
            "--mongodb-uri",
            "mongodb://127.0.0.1:1",
            "--check-config",
        ];
        let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
        let mut process = weir(&[], &arguments);
        let code = process.wait_for_exit(WAIT_LIMIT).await.code();
        (code, process.stderr())
    };
    let named = ["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE];
    let with_names = |arguments: &[&'static str]| [arguments, &named[..]].concat();
    for good in [
        vec!["--api-keys-file", keys.to_str().expect("a path")],
        [&["--jwks-file", jwks][..], &named].concat(),
        with_names(&["--jwks-url", "https://issuer.example/keys"]),
        with_names(&["--jwks-url", "http://127.0.0.1:1/keys"]),
        with_names(&["--jwks-url", "http://[::1]:1/keys"]),
    ] {
        let (code, words) = check(&good).await;
        assert_eq!(code, Some(0), "{good:?}: {words}");
    }
    for (flag, settings) in [
        ("--api-keys-file", vec!["--api-keys-file", bad]),
        ("--api-keys-file", vec!["--api-keys-file", "/nowhere"]),
        ("--jwks-file", [&["--jwks-file", bad][..], &named].concat()),
        (
            "--jwt-issuer",
            vec!["--jwks-file", jwks, "--jwt-audience", AUDIENCE],
        ),
        (
            "--jwt-audience",
            vec!["--jwks-file", jwks, "--jwt-issuer", ISSUER],
        ),
        (
            "--jwt-audience",
            vec![
                "--jwks-file",
                jwks,
                "--jwt-issuer",
                ISSUER,
                "--jwt-audience",
                "",
            ],
        ),
        (
            "--jwks-url",
            with_names(&["--jwks-url", "http://issuer.example/keys"]),
        ),
        (
            "--jwks-url",
            with_names(&["--jwks-url", "http://127.0.0.1.example/keys"]),
        ),
        (
            "--jwks-url",
            with_names(&["--jwks-url", "https://user:secret@issuer.example/keys"]),
        ),
        (
            "--jwks-url",
            with_names(&["--jwks-url", "issuer.example/keys"]),
        ),
        (
            "--jwks-url",
            with_names(&["--jwks-url", "file:///etc/keys"]),
        ),
        (
            "--jwks-ca-file",
            with_names(&[
                "--jwks-url",
                "https://issuer.example",
                "--jwks-ca-file",
                "/nowhere",
            ]),
        ),
        (
            "--jwt-leeway",
            [&["--jwks-file", jwks, "--jwt-leeway", "26s"][..], &named].concat(),
        ),
        (
            "--jwks-refresh-interval",
            with_names(&[
                "--jwks-url",
                "https://issuer.example",
                "--jwks-refresh-interval",
                "10ms",
            ]),
        ),
    ] {
        let (code, words) = check(&settings).await;
        assert_eq!(code, Some(64), "{settings:?}: {words}");
        assert!(words.contains(flag), "{settings:?}: {words}");
        assert!(!words.contains("secret"), "{words}");
    }
    // Refused by clap itself.
    for settings in [
        with_names(&["--jwks-file", "/a", "--jwt-algorithms", "HS256"]),
        with_names(&["--jwks-file", "/a", "--jwt-algorithms", "none"]),
        with_names(&["--jwks-file", "/a", "--jwks-url", "https://issuer.example"]),
        vec!["--auth-certificates"],
    ] {
        let (code, words) = check(&settings).await;
        assert_eq!(code, Some(64), "{settings:?}: {words}");
    }
}

/// Without `--jwks-ca-file`. Missing system authorities matter only where they are needed.
#[tokio::test]
async fn a_key_server_is_verified_with_the_systems_authorities() {
    let folder = TempDir::new().expect("a folder");
    let authority = Authority::new("the system's");
    let bundle = folder.path().join("ca.pem");
    std::fs::write(&bundle, &authority.pem).expect("a file");
    let bundle = bundle.to_str().expect("a path");
    let keys = key_set(&[&SigningKey::p256("a")]);
    let encrypted = KeyServer::with_tls(Answer::Keys(keys.clone()), &authority.local()).await;
    let plain = KeyServer::start(Answer::Keys(keys)).await;
    let serve = |certificates: &str, url: &str| {
        let arguments = [
            "serve",
            "--mongodb-uri",
            "mongodb://127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--jwt-issuer",
            ISSUER,
            "--jwt-audience",
            AUDIENCE,
            "--jwks-url",
            url,
        ];
        let nowhere = folder.path().join("nowhere");
        let nowhere = nowhere.to_str().expect("a path");
        // A proxy applies to outgoing requests, not to this one.
        let variables = [
            ("SSL_CERT_FILE", certificates),
            ("SSL_CERT_DIR", nowhere),
            ("HTTP_PROXY", "http://127.0.0.1:1"),
            ("NO_PROXY", "localhost"),
        ];
        weir(&variables, &arguments)
    };
    let by_name = encrypted.url().replace("127.0.0.1", "localhost");
    for (certificates, url) in [(bundle, by_name), ("/nowhere", plain.url())] {
        let serving = serve(certificates, &url);
        eventually("the keys are fetched", async || {
            serving.stderr().contains(r#""message":"keys fetched""#)
        })
        .await;
    }
}
