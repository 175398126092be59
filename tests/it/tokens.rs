//! The resume tokens that are refused, with their errors, and those that are accepted.

use std::time::Duration;

use crate::support::{Database, Weir, error_reason, eventually, within};
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::watch_request::Start;

fn after(token: &Bytes, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request
    }
}

async fn insert(database: &Database, id: i32) {
    let orders = database.collection("orders");
    orders
        .insert_one(doc! {"_id": id})
        .await
        .expect("an insert");
}

/// The token of a new change.
async fn token_of_a_change(weir: &Weir, database: &Database) -> Bytes {
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    insert(database, fastrand::i32(..0)).await;
    watch.next_change().await.resume_token
}

/// The status with which a request is refused, before the response headers.
async fn refusal(weir: &Weir, request: pb::WatchRequest) -> Status {
    let mut client = weir.client().await;
    within("an answer to Watch", client.watch(request))
        .await
        .expect_err("the answer to Watch itself is the refusal")
}

fn assert_refused(status: &Status, reason: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(error_reason(status), reason, "{status:?}");
    let details = status.get_error_details();
    let bad_request = details.bad_request().expect("a BadRequest");
    let fields: Vec<&str> = bad_request
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["resume_token"]);
}

/// The envelope with a changed body and a matching checksum.
fn resealed(token: &Bytes, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = token[..token.len() - 4].to_vec();
    change(&mut body);
    let checksum = crc32fast::hash(&body);
    body.extend(checksum.to_be_bytes());
    body
}

/// The envelope's own tests show that every flipped byte and every truncation is detected.
#[tokio::test]
async fn a_malformed_token_is_refused_before_the_stream_begins() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let good = token_of_a_change(&weir, &database).await;
    let flipped = |index: usize| {
        let mut bytes = good.to_vec();
        bytes[index] ^= 0x20;
        bytes
    };
    let mongodb_own = doc! {"_data": "8265AB000000012B022C0100296E5A1004"};
    let cases = [
        ("empty", Vec::new()),
        ("short", b"x".to_vec()),
        ("its first byte flipped", flipped(0)),
        ("a byte in its middle flipped", flipped(good.len() / 2)),
        ("its last byte flipped", flipped(good.len() - 1)),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("longer", [&good[..], b"x"].concat()),
        ("twice over", [&good[..], &good[..]].concat()),
        ("of a later version", resealed(&good, |body| body[0] = 200)),
        ("of an unknown kind", resealed(&good, |body| body[1] = 200)),
        ("MongoDB's own", mongodb_own.to_vec().expect("BSON")),
        ("text", b"eyJ0b2tlbiI6ICI4MjY1QUIwMDAwMDAwMTJCIn0=".to_vec()),
        ("over 16 KiB", vec![1; (16 << 10) + 1]),
    ];
    for (what, bytes) in cases {
        let request = after(&bytes.into(), database.watch_request(&["orders"]));
        let status = refusal(&weir, request).await;
        println!("{what}: {}", status.message());
        assert_refused(&status, "RESUME_TOKEN_MALFORMED");
    }
    weir.watch(after(&good, database.watch_request(&["orders"])))
        .await;
}

#[tokio::test]
async fn a_token_of_another_scope_is_refused_before_the_stream_begins() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.allow_deployment_watch = true).await;
    let elsewhere = pb::WatchRequest {
        database: format!("{}_x", &database.name()[..40]),
        ..database.watch_request(&["orders"])
    };
    let scopes = [
        ("a collection", database.watch_request(&["orders"])),
        ("another collection", database.watch_request(&["items"])),
        ("collections", database.watch_request(&["orders", "items"])),
        (
            "other collections",
            database.watch_request(&["orders", "users"]),
        ),
        ("a database", database.watch_request(&[])),
        ("another database's collection", elsewhere),
        ("the deployment", pb::WatchRequest::default()),
    ];
    for (made_by, request) in &scopes {
        let watch = weir.watch(request.clone()).await;
        let token = watch.token();
        for (asked, other) in &scopes {
            let resumed = after(&token, other.clone());
            if made_by == asked {
                weir.watch(resumed).await;
            } else {
                println!("a token of {made_by} for {asked}");
                assert_refused(&refusal(&weir, resumed).await, "RESUME_TOKEN_MISMATCH");
            }
        }
    }
}

#[tokio::test]
async fn a_token_of_another_deployment_is_refused() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let token = token_of_a_change(&weir, &database).await;
    let request = after(&token, database.watch_request(&["orders"]));
    let elsewhere = Weir::with(&database, |config| {
        config.deployment_name = Some("another".to_owned());
    })
    .await;
    let status = refusal(&elsewhere, request.clone()).await;
    assert_refused(&status, "RESUME_TOKEN_MISMATCH");

    let there = token_of_a_change(&elsewhere, &database).await;
    elsewhere
        .watch(after(&there, database.watch_request(&["orders"])))
        .await;
    let status = refusal(&weir, after(&there, request)).await;
    assert_refused(&status, "RESUME_TOKEN_MISMATCH");
}

/// The order and repetition of collection names do not matter, so they make no other token.
#[tokio::test]
async fn the_order_of_collections_does_not_change_the_scope() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watch = weir
        .watch(database.watch_request(&["orders", "items"]))
        .await;
    insert(&database, 1).await;
    let token = watch.next_change().await.resume_token;
    insert(&database, 2).await;
    let again = database.watch_request(&["items", "orders", "items"]);
    let mut resumed = weir.watch(after(&token, again)).await;
    assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
    assert_eq!(id(&resumed.next_change().await), 2);
}

/// A rolling restart with changed clients: another replica, another format, another filter.
#[tokio::test]
async fn a_token_works_on_another_replica_and_in_another_format() {
    let database = Database::start().await;
    let one = Weir::start(&database).await;
    let token = token_of_a_change(&one, &database).await;
    one.shutdown().await;
    insert(&database, 1).await;
    insert(&database, 2).await;

    let other = Weir::start(&database).await;
    let request = || after(&token, database.watch_request(&["orders"]));
    let mut identities = Vec::new();
    for format in [
        pb::DocumentFormat::Bson,
        pb::DocumentFormat::Json,
        pb::DocumentFormat::CanonicalJson,
        pb::DocumentFormat::Struct,
    ] {
        let mut resumed = other
            .watch(pb::WatchRequest {
                document_format: format.into(),
                max_message_bytes: 64 << 10,
                progress_interval: Some(prost_types::Duration {
                    seconds: 3,
                    nanos: 0,
                }),
                ..request()
            })
            .await;
        // What Weir does with events in process does not change MongoDB's stream.
        assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
        let changes = resumed.changes(2).await;
        let tokens: Vec<Bytes> = changes.into_iter().map(|it| it.resume_token).collect();
        identities.push(tokens);
    }
    assert!(
        identities.windows(2).all(|pair| pair[0] == pair[1]),
        "an event has one token in every format"
    );
}

fn document(change: &pb::ChangeEvent) -> Option<Document> {
    let Some(pb::change_event::Change::Insert(insert)) = &change.change else {
        return None;
    };
    match insert.full_document.as_ref()?.value.as_ref()? {
        pb::document::Value::Bson(bytes) => Document::from_reader(&bytes[..]).ok(),
        other => panic!("expected BSON, got {other:?}"),
    }
}

fn id(change: &pb::ChangeEvent) -> i32 {
    let document = document(change).expect("an insert");
    document.get_i32("_id").expect("a number")
}

/// Two token keys, for tests only.
const OLD_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const NEW_KEY: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

/// Keys change while watches are open. Tokens of the old key are accepted until it is removed, and
/// an unusable file changes nothing.
#[tokio::test]
async fn token_keys_change_without_a_restart() {
    let database = Database::start().await;
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("keys");
    // Atomically, so that nobody reads half of the file.
    let put = |lines: &[&str]| {
        std::fs::write(folder.path().join("new"), lines.join("\n")).expect("a file");
        std::fs::rename(folder.path().join("new"), &file).expect("a file in its place");
    };
    put(&[OLD_KEY]);
    let weir = Weir::with(&database, |config| {
        config.reload_interval = Duration::from_millis(100);
        config.auth.token_key_file = Some(file.clone());
    })
    .await;
    let reloads = async |result: &str| {
        let labels = [("what", "token_keys"), ("result", result)];
        let metrics = weir.metrics().await;
        metrics.sum_where("weir_reloads_total", &labels)
    };
    // The version and the key number.
    let key_of = |token: &Bytes| token[..5].to_vec();
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    insert(&database, 1).await;
    let old = watch.next_change().await.resume_token;

    put(&[OLD_KEY, NEW_KEY]);
    eventually("a second key is known", async || reloads("ok").await == 1.0).await;
    insert(&database, 2).await;
    let second = watch.next_change().await;
    assert_eq!(key_of(&second.resume_token), key_of(&old));

    put(&[NEW_KEY, OLD_KEY]);
    eventually("the keys changed places", async || {
        reloads("ok").await == 2.0
    })
    .await;
    insert(&database, 3).await;
    let new = watch.next_change().await.resume_token;
    assert_ne!(key_of(&new), key_of(&old));
    let resume = |token| after(token, database.watch_request(&["orders"]));
    let again = weir.watch(resume(&old)).await.next_change().await;
    assert_eq!(again.cluster_time, second.cluster_time);

    put(&["not a key"]);
    eventually("a bad file is noticed", async || {
        reloads("failed").await == 1.0
    })
    .await;
    weir.watch(resume(&old)).await;

    put(&[NEW_KEY]);
    eventually("the old key is gone", async || reloads("ok").await == 3.0).await;
    let status = refusal(&weir, resume(&old)).await;
    assert_refused(&status, "RESUME_TOKEN_MALFORMED");
    weir.watch(resume(&new)).await;
    insert(&database, 4).await;
    watch.next_change().await;
}
