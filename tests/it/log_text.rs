//! Text of clients in the log, in labels and in spans: it can neither forge a line nor control a terminal.

use crate::support::{Database, ServeProcess, WatchStream, eventually, get, request, within};
use mongodb::bson::doc;
use weir::{auth::ApiKey, pb};

/// The name of a collection that MongoDB accepts, with a line of its own, sequences for a terminal in seven and
/// eight bits, and a mark of the text direction.
const HOSTILE: &str =
    "a\n{\"level\":\"ERROR\"}\r\u{1b}[2J\u{1b}]0;t\u{7}\u{85}\u{9b}31m\u{7f}\u{202e}z";

/// Whether a page or a log has a character that it should not have besides the ends of its lines.
fn is_bad(character: char) -> bool {
    let marks = ['\u{202e}', '\u{2028}'];
    character != '\n' && (character.is_control() || marks.contains(&character))
}

#[tokio::test]
async fn a_hostile_name_leaves_no_control_character_in_logs_and_labels() {
    let database = Database::start().await;
    let collection = database.database().collection(HOSTILE);
    collection
        .insert_one(doc! { "_id": 0 })
        .await
        .expect("mongodb accepts the name");
    for format in ["text", "json", "auto"] {
        let arguments = ["--log-format", format, "--log-level", "trace"];
        let weir = ServeProcess::start(database.uri(), &arguments).await;
        let request = database.watch_request(&[HOSTILE]);
        let opened = WatchStream::open(&mut weir.client().await, request).await;
        let mut watch = opened.expect("the watch opens");
        collection
            .insert_one(doc! { "a": format })
            .await
            .expect("it is inserted");
        watch.next_change().await;
        let (_, page) = within("the metrics", get(weir.admin, "/metrics"))
            .await
            .expect("metrics");
        let label = page
            .lines()
            .find(|line| line.starts_with("weir_feed_lag_seconds{"));
        let label = label.expect("the feed has a lag");
        assert!(label.contains(r"\\u{1b}[2J"), "{label}");
        assert!(!page.contains(is_bad), "{label:?}");
        drop(watch);
        eventually("the end of the watch is logged", async || {
            weir.process.stderr().contains("watch ended")
        })
        .await;
        let log = weir.process.stderr();
        assert!(log.contains("opening the watch"), "{format}");
        let bad = log.lines().find(|line| line.contains(is_bad));
        assert_eq!(bad, None, "{format}");
        let forged = log
            .lines()
            .find(|line| line.starts_with("{\"level\":\"ERROR\"}"));
        assert_eq!(forged, None, "{format}");
        assert!(!weir.process.stdout().contains(is_bad), "{format}");
        if format == "json" {
            let lines = log.lines().map(serde_json::from_str::<serde_json::Value>);
            assert!(
                lines.into_iter().all(|line| line.is_ok()),
                "each line is JSON"
            );
        }
    }
}

/// What docs/security.md says of the log, at the level that tells the most.
#[tokio::test]
async fn a_trace_log_has_no_document_no_filter_value_and_no_credential() {
    let database = Database::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (key, admin) = (
        ApiKey::random().expect("randomness"),
        "an-admin-token-of-this-test",
    );
    let put = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let keys = format!("keys:\n  - {{name: alice, sha256: \"{}\"}}\n", key.sha256());
    let (keys, admin_file) = (put("keys", keys), put("admin", format!("{admin}\n")));
    let arguments = [
        "--api-keys-file",
        &keys,
        "--admin-token-file",
        &admin_file,
        "--log-level",
        "trace",
    ];
    let weir = ServeProcess::start(database.uri(), &arguments).await;
    let condition = pb::FieldFilter {
        path: "status".to_owned(),
        operator: Some(pb::field_filter::Operator::Prefix("filtervalue".to_owned())),
    };
    let filter = pb::Filter {
        kind: Some(pb::filter::Kind::Field(condition)),
    };
    for mode in [pb::FeedMode::Shared, pb::FeedMode::Dedicated] {
        let mut request = tonic::Request::new(pb::WatchRequest {
            feed_mode: mode.into(),
            filters: vec![filter.clone()],
            ..database.watch_request(&["orders"])
        });
        request
            .metadata_mut()
            .insert("x-api-key", key.secret().parse().expect("a header"));
        let opened = weir.client().await.watch(request).await.expect("it opens");
        let mut messages = opened.into_inner();
        let id = format!("documentkey{mode:?}");
        let document = doc! { "_id": id, "status": "filtervalue", "note": "documentsecret" };
        database
            .collection("orders")
            .insert_one(document)
            .await
            .expect("it is inserted");
        loop {
            let message = within("a message", messages.message())
                .await
                .expect("no error");
            let message = message.expect("the watch goes on");
            if matches!(message.kind, Some(pb::watch_response::Kind::Changes(_))) {
                break;
            }
        }
    }
    let head = format!("GET /metrics HTTP/1.0\r\nAuthorization: Bearer {admin}\r\n\r\n");
    let (status, _) = within("the metrics", request(weir.admin, &head))
        .await
        .expect("metrics");
    assert_eq!(status, 200);
    eventually("both ends are logged", async || {
        weir.process.stderr().matches("watch ended").count() == 2
    })
    .await;
    let log = weir.process.stderr();
    assert!(
        log.contains("\"TRACE\""),
        "it is the level that tells the most"
    );
    let hash = key.sha256();
    for secret in [
        "filtervalue",
        "documentkey",
        "documentsecret",
        key.secret(),
        &hash,
        admin,
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
