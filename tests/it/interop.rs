//! Clients in other languages, and common tools, work with Weir.
//!
//! Each is a separate process that knows only the proto, or not even that.

use std::time::Duration;

use crate::support::certificates::Authority;
use crate::support::{ChildProcess, Database, Weir, node, python, virtual_environment_tool};
use mongodb::bson::doc;
use serde_json::{Value, json};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use weir::wire::Compression;

/// The time that a foreign client may take for each step: it starts an interpreter, and the Python
/// client generates code, on a machine that may be busy.
const CLIENT_LIMIT: Duration = Duration::from_secs(90);

const COLLECTION: &str = "orders";

/// MongoDB's change-stream tutorial: insert, update, replace, delete, drop.
async fn play_the_tutorial(database: &Database) {
    let orders = database.collection(COLLECTION);
    let order = doc! {"_id": 1};
    orders
        .insert_one(doc! {"_id": 1, "status": "new"})
        .await
        .expect("an insert");
    orders
        .update_one(order.clone(), doc! {"$set": {"status": "paid"}})
        .await
        .expect("an update");
    orders
        .replace_one(order.clone(), doc! {"_id": 1, "total": 5})
        .await
        .expect("a replacement");
    orders.delete_one(order).await.expect("a deletion");
    orders.drop().await.expect("a drop");
}

/// Runs a client that prints READY, reads the tutorial, resumes, and prints DONE.
async fn reads_the_tutorial(mut client: ChildProcess, database: &Database) {
    client
        .wait_for_output("READY", CLIENT_LIMIT, |output| output.contains("READY\n"))
        .await;
    play_the_tutorial(database).await;
    let status = client.wait_for_exit(CLIENT_LIMIT).await;
    let output = client.stdout();
    assert!(status.success(), "the client ended with {status}{client}");
    assert!(output.ends_with("DONE\n"), "the client gave up{client}");
    // Five events, and three of them again after the resume.
    assert_eq!(output.matches("EVENT ").count(), 8, "{client}");
}

/// The arguments that both clients take after their script.
fn client_arguments(script: &str, weir: &Weir, database: &Database) -> [String; 5] {
    [
        script.to_owned(),
        "proto".to_owned(),
        weir.grpc_addr().to_string(),
        database.name().to_owned(),
        COLLECTION.to_owned(),
    ]
}

#[tokio::test]
async fn a_python_client_reads_the_tutorial_and_resumes() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let arguments = client_arguments("tests/interop/python/client.py", &weir, &database);
    let client = ChildProcess::start("the Python client", python(), arguments);
    reads_the_tutorial(client, &database).await;
}

#[tokio::test]
async fn a_node_client_reads_the_tutorial_and_resumes() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let arguments = client_arguments("tests/interop/node/client.mjs", &weir, &database);
    let client = ChildProcess::start("the Node client", node(), arguments);
    reads_the_tutorial(client, &database).await;
}

/// Weir that compresses, and how many messages it has compressed.
async fn compressing(database: &Database) -> Weir {
    Weir::with(database, |config| {
        config.compression = vec![Compression::Zstd, Compression::Gzip];
    })
    .await
}

async fn assert_compressed(weir: &Weir) {
    let by_gzip = [("encoding", "gzip")];
    let metrics = weir.metrics().await;
    let compressed = metrics.sum_where("weir_message_compressions_total", &by_gzip);
    assert!(compressed > 0.0, "nothing was compressed");
}

/// The client compresses its requests, and decodes what gRPC's core takes for a message in gzip.
#[tokio::test]
async fn a_python_client_reads_and_sends_compressed_messages() {
    let database = Database::start().await;
    let weir = compressing(&database).await;
    let arguments = client_arguments("tests/interop/python/client.py", &weir, &database);
    let arguments = arguments.into_iter().chain(["--gzip".to_owned()]);
    let client = ChildProcess::start("the Python client", python(), arguments);
    reads_the_tutorial(client, &database).await;
    assert_compressed(&weir).await;
}

#[tokio::test]
async fn a_node_client_reads_compressed_messages() {
    let database = Database::start().await;
    let weir = compressing(&database).await;
    let arguments = client_arguments("tests/interop/node/client.mjs", &weir, &database);
    let client = ChildProcess::start("the Node client", node(), arguments);
    reads_the_tutorial(client, &database).await;
    assert_compressed(&weir).await;
}

/// Weir with mutual TLS, and the files that a client needs: authority, certificate and key.
struct Mutual {
    weir: Weir,
    files: [String; 3],
    _folder: tempfile::TempDir,
}

impl Mutual {
    async fn start(database: &Database) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new("everyone");
        let (cert_file, key_file) = authority.local().write(folder.path());
        let client = authority.client("orders-reader");
        let files = [
            ("ca.pem", &authority.pem),
            ("client.pem", &client.certificate),
            ("client.key", &client.key),
        ];
        let files = files.map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("it is written");
            path.display().to_string()
        });
        let weir = Weir::with(database, |config| {
            config.tls.tls_cert_file = Some(cert_file);
            config.tls.tls_key_file = Some(key_file);
            config.tls.tls_client_ca_file = Some((&files[0]).into());
        })
        .await;
        Self {
            weir,
            files,
            _folder: folder,
        }
    }

    /// Runs a client with its script's arguments and the three files.
    async fn reads_the_tutorial(&self, name: &str, script: &str, database: &Database) {
        let program = if script.ends_with("py") {
            python()
        } else {
            node()
        };
        let arguments = client_arguments(script, &self.weir, database);
        let arguments = arguments.iter().chain(&self.files);
        reads_the_tutorial(ChildProcess::start(name, program, arguments), database).await;
    }
}

#[tokio::test]
async fn a_python_client_reads_the_tutorial_over_mutual_tls() {
    let database = Database::start().await;
    let mutual = Mutual::start(&database).await;
    let script = "tests/interop/python/client.py";
    mutual
        .reads_the_tutorial("the Python client", script, &database)
        .await;
}

#[tokio::test]
async fn a_node_client_reads_the_tutorial_over_mutual_tls() {
    let database = Database::start().await;
    let mutual = Mutual::start(&database).await;
    let script = "tests/interop/node/client.mjs";
    mutual
        .reads_the_tutorial("the Node client", script, &database)
        .await;
}

#[tokio::test]
async fn buf_curl_works_over_mutual_tls_and_reports_a_missing_certificate() {
    let database = Database::start().await;
    let mutual = Mutual::start(&database).await;
    let [authority, certificate, key] = &mutual.files;
    let port = mutual.weir.grpc_addr().port();
    let method = format!("https://localhost:{port}/weir.v1.WatchService/GetServerInfo");
    let trusting = ["--cacert", authority];
    let showing = ["--cert", certificate, "--key", key];
    let mut buf = buf_curl_over_tls(&[&trusting[..], &showing, &[&method]].concat());
    let status = buf.wait_for_exit(CLIENT_LIMIT).await;
    assert!(status.success(), "{status}{buf}");
    assert!(values(&buf.stdout())[0].get("mongodbVersion").is_some());

    // When the schema comes by reflection, buf says only that it did not come.
    let known = ["--reflect=false", "--schema", "proto"];
    let mut seen = Vec::new();
    // Where the connection closes before Go has read the alert, buf names no cause.
    while seen.len() < 10 {
        let mut buf = buf_curl_over_tls(&[&trusting[..], &known, &[&method]].concat());
        assert!(!buf.wait_for_exit(CLIENT_LIMIT).await.success(), "{buf}");
        if buf.stderr().contains("certificate required") {
            return;
        }
        seen.push(buf.stderr());
    }
    panic!("no certificate was asked for: {seen:?}");
}

/// `buf curl`, which knows only the schema from reflection.
fn buf_curl(arguments: &[&str]) -> ChildProcess {
    buf_curl_over_tls(&[&["--http2-prior-knowledge"], arguments].concat())
}

fn buf_curl_over_tls(arguments: &[&str]) -> ChildProcess {
    let common = ["curl", "--protocol", "grpc", "--reflect"];
    ChildProcess::start(
        "buf curl",
        virtual_environment_tool("buf"),
        common.iter().chain(arguments),
    )
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for protocol in ["grpc-v1", "grpc-v1alpha"] {
        let address = format!("http://{}", weir.grpc_addr());
        let mut buf = buf_curl(&[
            "--reflect-protocol",
            protocol,
            "--list-services",
            address.as_str(),
        ]);
        let status = buf.wait_for_exit(CLIENT_LIMIT).await;
        assert!(status.success(), "{protocol}: {status}{buf}");
        let services = buf.stdout();
        assert!(
            services.lines().any(|line| line == "weir.v1.WatchService"),
            "{protocol}{buf}"
        );
    }
}

/// The complete JSON values at the start of a text that is still growing.
fn values(text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter();
    values.map_while(Result::ok).collect()
}

#[tokio::test]
async fn an_event_in_struct_format_is_plain_json_through_reflection() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = json!({
        "database": database.name(),
        "collections": [COLLECTION],
        "documentFormat": "DOCUMENT_FORMAT_STRUCT",
    });
    let method = format!("http://{}/weir.v1.WatchService/Watch", weir.grpc_addr());
    let mut buf = buf_curl(&["--data", &request.to_string(), &method]);
    buf.wait_for_output("Opened", CLIENT_LIMIT, |output| {
        values(output)
            .iter()
            .any(|value| value.get("opened").is_some())
    })
    .await;

    play_the_tutorial(&database).await;

    // The drop ends the watch, and with it buf.
    let status = buf.wait_for_exit(CLIENT_LIMIT).await;
    assert!(!status.success(), "buf reports ABORTED as a failure{buf}");
    assert!(buf.stderr().contains("aborted"), "{buf}");
    let values = values(&buf.stdout());
    let insert = values
        .iter()
        .filter_map(|value| value.pointer("/changes/changes")?.as_array())
        .flatten()
        .next()
        .unwrap_or_else(|| panic!("no change came{buf}"));
    assert_eq!(insert["operation"], "OPERATION_TYPE_INSERT");
    assert_eq!(insert["documentKey"], json!({"struct": {"_id": 1}}));
    assert_eq!(
        insert["insert"]["fullDocument"],
        json!({"struct": {"_id": 1, "status": "new"}})
    );
}

#[tokio::test]
async fn the_standard_health_check_says_serving() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut health = HealthClient::new(weir.channel().await);
    for service in ["", "weir.v1.WatchService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        crate::support::eventually("the service is healthy", async || {
            let answer = health.check(request.clone()).await;
            let answer = answer.expect("the health service answers").into_inner();
            answer.status() == ServingStatus::Serving
        })
        .await;
    }
}
