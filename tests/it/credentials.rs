//! Credentials that expire while a watch is open: the watch ends soon after, at a position from
//! which to resume.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::support::certificates::Authority;
use crate::support::issuer::{Answer, KeyServer};
use crate::support::orders::{ORDERS, id, insert};
use crate::support::tokens::{AUDIENCE, ISSUER, SigningKey, claims, key_set, seconds_from_now};
use crate::support::{
    Database, WAIT_LIMIT, WatchStream, Weir, error_info, eventually, weir, within,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::transport::{ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use weir::auth::ApiKey;
use weir::config::ServeConfig;
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_service_client::WatchServiceClient;

/// Two API keys.
const ALICE: &str = "weir_the-key-of-alice-in-these-tests";
const BOB: &str = "weir_the-key-of-bob-in-these-tests-x";

/// The time that an open watch may continue without valid credentials.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A file that a server reloads when it changes.
struct TestFile {
    path: PathBuf,
    _folder: TempDir,
}

impl TestFile {
    fn new(contents: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let file = Self {
            path: folder.path().join("file"),
            _folder: folder,
        };
        file.put(contents);
        file
    }

    /// Replaces the file atomically, so that nobody reads half of it.
    fn put(&self, contents: &str) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, contents).expect("a file");
        std::fs::rename(beside, &self.path).expect("a file in its place");
    }
}

fn entry(name: &str, key: &str, more: &str) -> String {
    let hash = key.parse::<ApiKey>().expect("a key").sha256();
    format!("- name: {name}\n  sha256: {hash}\n{more}")
}

fn file_of_keys(entries: &[String]) -> String {
    format!("keys:\n{}", entries.concat())
}

fn reload_often(config: &mut ServeConfig) {
    config.reload_interval = Duration::from_millis(100);
}

/// For servers with a key set.
fn configure(config: &mut ServeConfig) {
    reload_often(config);
    config.auth.jwt_issuer = Some(ISSUER.to_owned());
    config.auth.jwt_audience = vec![AUDIENCE.to_owned()];
    config.auth.jwt_leeway = Duration::from_secs(1);
}

async fn open(
    weir: &Weir,
    request: pb::WatchRequest,
    (name, value): (&'static str, &str),
) -> WatchStream {
    let mut request = Request::new(request);
    let value = value.parse().expect("a value");
    request.metadata_mut().insert(name, value);
    let opened = WatchStream::open(&mut weir.client().await, request).await;
    opened.unwrap_or_else(|status| panic!("the watch was refused: {status:?}"))
}

fn has_expired(status: &Status) {
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert_eq!(error_info(status).reason, "CREDENTIALS_EXPIRED");
}

fn after(watch: &WatchStream, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(watch.token())),
        ..request
    }
}

/// Reads until the watch ends. Returns the ids of its orders, and its status.
async fn read_to_the_end(watch: &mut WatchStream) -> (Vec<i32>, Status) {
    use pb::watch_response::Kind;
    let mut numbers = Vec::new();
    let end = within("the watch's end", async {
        loop {
            match watch.try_next().await {
                Ok(Some(message)) => {
                    if let Some(Kind::Changes(batch)) = message.kind {
                        numbers.extend(batch.changes.iter().map(id));
                    }
                }
                Ok(None) => panic!("the watch ended with OK"),
                Err(status) => return status,
            }
        }
    });
    let end = end.await;
    (numbers, end)
}

/// A quiet watch ends like a busy one, and a client that resumes with a new token misses nothing
/// and gets nothing twice.
#[tokio::test]
async fn a_watch_ends_soon_after_its_token_expires_and_resumes_with_a_new_token() {
    let database = Database::start().await;
    let signing = SigningKey::p256("a");
    let issuer = KeyServer::start(Answer::Keys(key_set(&[&signing]))).await;
    let weir = Weir::with(&database, |config| {
        configure(config);
        config.auth.jwks_url = Some(issuer.url());
    })
    .await;
    let bearer = |seconds: i64| {
        let mut claims = claims("alice");
        claims["exp"] = json!(seconds_from_now(seconds));
        format!("Bearer {}", signing.token(&claims))
    };
    let (short, long) = (bearer(2), bearer(600));
    let request = database.watch_request(&[ORDERS]);
    let quiet = database.watch_request(&["quiet"]);
    let begin = Instant::now();
    let mut busy = open(&weir, request.clone(), ("authorization", &short)).await;
    let mut idle = open(&weir, quiet, ("authorization", &short)).await;
    let mut kept = open(&weir, request.clone(), ("authorization", &long)).await;
    let writing = async {
        for number in 1.. {
            insert(&database, number).await;
            tokio::task::yield_now().await;
            if begin.elapsed() > Duration::from_secs(4) {
                return number;
            }
        }
        0
    };
    let ending = async {
        let (numbers, status) = read_to_the_end(&mut busy).await;
        has_expired(&status);
        has_expired(&idle.end().await);
        (numbers, begin.elapsed())
    };
    let (last, (numbers, lasted)) = tokio::join!(writing, ending);
    assert!(
        lasted >= Duration::from_secs(2) && lasted < END_LIMIT,
        "{lasted:?}"
    );
    assert!(!numbers.is_empty(), "nothing came before the end");
    let seen = i32::try_from(numbers.len()).expect("a number");
    assert_eq!(numbers, (1..=seen).collect::<Vec<_>>());

    // The same token no longer opens a watch, and a new one resumes.
    let mut again = Request::new(after(&busy, request.clone()));
    again
        .metadata_mut()
        .insert("authorization", short.parse().expect("a value"));
    let refused = WatchStream::open(&mut weir.client().await, again).await;
    has_expired(&refused.err().expect("it has expired"));
    let mut resumed = open(&weir, after(&busy, request), ("authorization", &long)).await;
    for number in seen + 1..=last {
        assert_eq!(id(&resumed.next_change().await), number);
    }
    // A client whose token is still valid notices nothing.
    for number in 1..=last {
        assert_eq!(id(&kept.next_change().await), number);
    }
    let metrics = weir.metrics().await;
    let labels = [("reason", "CREDENTIALS_EXPIRED")];
    assert_eq!(metrics.sum_where("weir_watches_ended_total", &labels), 2.0);
}

/// The watch of a client that does not read ends all the same.
#[tokio::test]
async fn a_client_that_does_not_read_gets_nothing_after_its_token_expires() {
    let database = Database::start().await;
    let signing = SigningKey::p256("a");
    let keys = TestFile::new(&key_set(&[&signing]).to_string());
    let weir = Weir::with(&database, |config| {
        configure(config);
        config.auth.jwks_file = Some(keys.path.clone());
    })
    .await;
    let mut claims = claims("alice");
    claims["exp"] = json!(seconds_from_now(2));
    let bearer = format!("Bearer {}", signing.token(&claims));
    let request = database.watch_request(&[ORDERS]);
    let mut watch = open(&weir, request, ("authorization", &bearer)).await;
    let text = "x".repeat(100 << 10);
    for number in 0..60 {
        let order = mongodb::bson::doc! {"_id": number, "text": &text};
        database
            .collection(ORDERS)
            .insert_one(order)
            .await
            .expect("an insert");
    }
    let ends = SystemTime::now() + Duration::from_secs(3);
    eventually("the token has expired", async || SystemTime::now() > ends).await;
    let (numbers, status) = read_to_the_end(&mut watch).await;
    has_expired(&status);
    // Only buffered events come; there was much more to read.
    assert!(numbers.len() < 60, "everything came");
}

#[tokio::test]
async fn removing_a_key_ends_only_the_watches_of_its_tokens() {
    let database = Database::start().await;
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let keys = TestFile::new(&key_set(&[&old]).to_string());
    let weir = Weir::with(&database, |config| {
        configure(config);
        config.auth.jwks_file = Some(keys.path.clone());
    })
    .await;
    let bearer = |key: &SigningKey| format!("Bearer {}", key.token(&claims("alice")));
    let request = || database.watch_request(&[ORDERS]);
    let mut by_old = open(&weir, request(), ("authorization", &bearer(&old))).await;

    keys.put(&key_set(&[&old, &new]).to_string());
    let mut by_new = None;
    eventually("the new key is known", async || {
        let mut request = Request::new(request());
        let value = bearer(&new).parse().expect("a value");
        request.metadata_mut().insert("authorization", value);
        by_new = WatchStream::open(&mut weir.client().await, request)
            .await
            .ok();
        by_new.is_some()
    })
    .await;
    let mut by_new = by_new.expect("a watch");
    insert(&database, 1).await;
    assert_eq!(id(&by_old.next_change().await), 1);
    assert_eq!(id(&by_new.next_change().await), 1);

    let begin = Instant::now();
    keys.put(&key_set(&[&new]).to_string());
    has_expired(&by_old.end().await);
    assert!(begin.elapsed() < END_LIMIT);
    insert(&database, 2).await;
    assert_eq!(id(&by_new.next_change().await), 2);
}

#[tokio::test]
async fn removing_or_expiring_an_api_key_ends_only_its_watches() {
    let database = Database::start().await;
    let file = TestFile::new(&file_of_keys(&[
        entry("alice", ALICE, ""),
        entry("bob", BOB, ""),
    ]));
    let weir = Weir::with(&database, |config| {
        reload_often(config);
        config.auth.api_keys_file = Some(file.path.clone());
    })
    .await;
    let request = || database.watch_request(&[ORDERS]);
    let mut alice = open(&weir, request(), ("x-api-key", ALICE)).await;
    // Silent for a minute, unless something happens.
    let silent = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..request()
    };
    let mut bob = open(&weir, silent, ("x-api-key", BOB)).await;

    // An unreadable file changes nothing.
    file.put("keys: [");
    eventually("the bad file is noticed", async || {
        let labels = [("what", "api_keys"), ("result", "failed")];
        weir.metrics()
            .await
            .sum_where("weir_reloads_total", &labels)
            == 1.0
    })
    .await;
    insert(&database, 1).await;
    assert_eq!(id(&alice.next_change().await), 1);
    assert_eq!(id(&bob.next_change().await), 1);

    let begin = Instant::now();
    file.put(&file_of_keys(&[entry("bob", BOB, "")]));
    has_expired(&alice.end().await);
    assert!(begin.elapsed() < END_LIMIT);
    insert(&database, 2).await;
    assert_eq!(id(&bob.next_change().await), 2);

    // An expiry that is added later applies to open watches.
    let end = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(2));
    file.put(&file_of_keys(&[entry(
        "bob",
        BOB,
        &format!("  expires: {end}\n"),
    )]));
    has_expired(&bob.end().await);
    assert!(begin.elapsed() < END_LIMIT);
}

#[tokio::test]
async fn a_watch_ends_when_its_certificate_expires() {
    let database = Database::start().await;
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let folder = TempDir::new().expect("a folder");
    let (certificate, key) = servers.local().write(folder.path());
    let bundle = TestFile::new(&clients.pem);
    let weir = Weir::with(&database, |config| {
        reload_often(config);
        config.tls.tls_cert_file = Some(certificate);
        config.tls.tls_key_file = Some(key);
        config.tls.tls_client_ca_file = Some(bundle.path.clone());
        config.auth.auth_certificates = true;
    })
    .await;
    let begin = Instant::now();
    let client = clients.issue(&["orders.example"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = (SystemTime::now() + Duration::from_secs(4)).into();
    });
    let tls: ClientTlsConfig = servers.trusted().identity(client.identity());
    let url = format!("https://localhost:{}", weir.grpc_addr().port());
    let endpoint = Endpoint::from_shared(url)
        .expect("a URI")
        .tls_config(tls)
        .expect("TLS");
    let channel = within("a connection", endpoint.connect())
        .await
        .expect("a connection");
    let mut client = WatchServiceClient::new(channel);
    let mut watch = WatchStream::open(&mut client, database.watch_request(&[ORDERS]))
        .await
        .expect("a watch");
    insert(&database, 1).await;
    assert_eq!(id(&watch.next_change().await), 1);
    has_expired(&watch.end().await);
    assert!(begin.elapsed() < END_LIMIT, "{:?}", begin.elapsed());
    // The connection is still open, but its certificate is no longer valid.
    let again = WatchStream::open(&mut client, database.watch_request(&[ORDERS])).await;
    has_expired(&again.err().expect("it has expired"));
}

/// As with a sidecar that rotates tokens.
#[tokio::test]
async fn the_command_resumes_with_the_current_token_in_its_file() {
    let database = Database::start().await;
    let signing = SigningKey::p256("a");
    let keys = TestFile::new(&key_set(&[&signing]).to_string());
    let server = Weir::with(&database, |config| {
        configure(config);
        config.auth.jwks_file = Some(keys.path.clone());
    })
    .await;
    let token = |seconds: i64| {
        let mut claims = claims("alice");
        claims["exp"] = json!(seconds_from_now(seconds));
        signing.token(&claims)
    };
    let file = TestFile::new(&token(2));
    let scope = format!("{}.{ORDERS}", database.name());
    let address = server.grpc_addr().to_string();
    let path = file.path.to_str().expect("a path");
    let arguments = [
        "watch",
        &scope,
        "--server",
        &address,
        "--output",
        "json",
        "--token-file",
        path,
    ];
    let mut watch = weir(&[], &arguments);
    let opened =
        |times: usize| move |output: &str| output.matches(r#""type":"opened""#).count() >= times;
    watch.wait_for_output("opened", WAIT_LIMIT, opened(1)).await;
    insert(&database, 1).await;
    watch
        .wait_for_output("the order", WAIT_LIMIT, |it| it.contains(r#""_id":1"#))
        .await;
    file.put(&token(600));
    watch
        .wait_for_output("opened again", WAIT_LIMIT, opened(2))
        .await;
    insert(&database, 2).await;
    watch
        .wait_for_output("the next", WAIT_LIMIT, |it| it.contains(r#""_id":2"#))
        .await;
    assert!(watch.stderr().contains("expired"), "{watch}");
    watch.signal("INT");
    assert_eq!(
        watch.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(0),
        "{watch}"
    );
    assert_eq!(
        watch.stdout().matches(r#""operation":"insert""#).count(),
        2,
        "{watch}"
    );
}
