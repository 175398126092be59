//! Log lines that callers can cause as often as they like.

use futures::stream::{self, StreamExt as _};
use serde_json::Value;
use weir::{auth::ApiKey, pb};

use crate::support::{ServeProcess, eventually};

/// Nothing listens there.
const NO_DATABASE: &str = "mongodb://127.0.0.1:1/?directConnection=true";

const POLICY: &str = "version: 1\nrules:\n  - {name: one, namespaces: [shop.orders]}\n";

/// The calls of the flood.
const CALLS: usize = 500;

fn by(key: &ApiKey) -> tonic::Request<pb::WatchRequest> {
    let mut request = tonic::Request::new(pb::WatchRequest {
        database: "crm".to_owned(),
        collections: vec!["customers".to_owned()],
        ..pb::WatchRequest::default()
    });
    let secret = key.secret().parse().expect("a header");
    request.metadata_mut().insert("x-api-key", secret);
    request
}

/// Returns how many lines of this message a principal has in a log, and how many are summed up.
fn count(log: &str, message: &str, principal: &str) -> (usize, usize) {
    let (mut written, mut suppressed) = (0, 0);
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        if line["message"] == message {
            let by = &line["principal"];
            let by = if by.is_null() {
                &line["span"]["principal"]
            } else {
                by
            };
            written += usize::from(by == principal);
        }
        if line["line"] == message && line["principal"] == principal {
            assert_eq!(line["code"], "PERMISSION_DENIED", "{line}");
            assert_eq!(line["reason"], "NAMESPACE_ACCESS_DENIED", "{line}");
            assert_eq!(line["level"], "INFO", "{line}");
            let sum = line["suppressed"].as_u64().expect("a number");
            suppressed += usize::try_from(sum).expect("few");
        }
    }
    (written, suppressed)
}

#[tokio::test]
async fn a_flood_of_refused_calls_is_summed_up_and_the_lines_of_others_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let (alice, bob) = (
        ApiKey::random().expect("a key"),
        ApiKey::random().expect("a key"),
    );
    let keys = format!(
        "keys:\n  - {{name: alice, sha256: \"{}\"}}\n  - {{name: bob, sha256: \"{}\"}}\n",
        alice.sha256(),
        bob.sha256()
    );
    let (keys, policy) = (put("keys", keys), put("policy", POLICY.to_owned()));
    let arguments = ["--api-keys-file", &*keys, "--policy-file", &policy];
    let weir = ServeProcess::start(NO_DATABASE, &arguments).await;
    let client = weir.client().await;
    let call = async |key: &ApiKey| {
        let refused = client
            .clone()
            .watch(by(key))
            .await
            .expect_err("it is denied");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    };
    let flood = stream::iter(0..CALLS).map(|_| call(&alice));
    flood.buffer_unordered(50).collect::<Vec<()>>().await;
    call(&bob).await;
    for message in ["watch ended", "denied by the policy"] {
        eventually("each line is written or counted", async || {
            let (written, suppressed) = count(&weir.process.stderr(), message, "key:alice");
            written + suppressed == CALLS
        })
        .await;
        let log = weir.process.stderr();
        let (written, _) = count(&log, message, "key:alice");
        assert!(
            (1..CALLS / 2).contains(&written),
            "{written} lines: {message}"
        );
        assert_eq!(count(&log, message, "key:bob"), (1, 0), "{message}");
    }
    let labels = [
        ("code", "PERMISSION_DENIED"),
        ("reason", "NAMESPACE_ACCESS_DENIED"),
    ];
    let ended = weir
        .metrics()
        .await
        .sum_where("weir_watches_ended_total", &labels);
    assert!(
        (ended - (CALLS + 1) as f64).abs() < 0.5,
        "every call is counted: {ended}"
    );
}
