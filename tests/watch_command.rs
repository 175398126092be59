//! The commands `weir watch` and `weir dev` against a real server.

mod support;

use std::time::Duration;

use mongodb::bson::doc;
use serde_json::Value;
use support::orders::{ORDERS, insert};
use support::{ChildProcess, Database, ServeProcess, WAIT_LIMIT, Weir, eventually, weir};

/// Starts `weir watch` on the collection of orders.
fn watch(database: &Database, server: &str, arguments: &[&str]) -> ChildProcess {
    let scope = format!("{}.{ORDERS}", database.name());
    let common = ["watch", &scope, "--server", server, "--output", "json"];
    let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
    weir(&[], &arguments)
}

/// The lines of this type.
fn lines(output: &str, kind: &str) -> Vec<Value> {
    let lines = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")));
    lines.filter(|line: &Value| line["type"] == kind).collect()
}

fn ids(output: &str) -> Vec<i64> {
    let changes = lines(output, "change");
    let id = |change: &Value| change["documentKey"]["_id"].as_i64().expect("a number");
    changes.iter().map(id).collect()
}

async fn opened(process: &mut ChildProcess) {
    let opened = |output: &str| output.contains(r#""type":"opened""#);
    process.wait_for_output("opened", WAIT_LIMIT, opened).await;
}

async fn until_id(process: &mut ChildProcess, id: i64) {
    let seen = |output: &str| ids(output).contains(&id);
    process
        .wait_for_output(&format!("document {id}"), WAIT_LIMIT, seen)
        .await;
}

#[tokio::test]
async fn changes_are_json_lines_that_match_the_conditions() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let limit = [
        "--where",
        "status=paid",
        "--where",
        "total>100",
        "--limit",
        "2",
    ];
    let mut process = watch(&database, &server, &limit);
    opened(&mut process).await;
    let orders = database.collection(ORDERS);
    for order in [
        doc! {"_id": 1, "status": "new", "total": 500},
        doc! {"_id": 2, "status": "paid", "total": 500},
        doc! {"_id": 3, "status": "paid", "total": 50},
        doc! {"_id": 4, "status": "paid", "total": 101},
    ] {
        orders.insert_one(order).await.expect("an insert");
    }
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{process}");
    let output = process.stdout();
    assert_eq!(ids(&output), [2, 4], "{process}");
    let first = &lines(&output, "change")[0];
    assert_eq!(first["operation"], "insert");
    assert_eq!(first["ns"]["coll"], ORDERS);
    assert_eq!(first["fullDocument"]["total"], 500);
    assert!(first["resumeToken"].is_string());
}

/// A crash may repeat what was printed after the last write of the file, and loses nothing.
#[tokio::test]
async fn a_killed_watch_resumes_from_its_file_without_loss() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("orders.token");
    let file = file.to_str().expect("a path of letters");
    let arguments = ["--resume-file", file];

    let mut process = watch(&database, &server, &arguments);
    opened(&mut process).await;
    for id in 0..10 {
        insert(&database, id).await;
    }
    until_id(&mut process, 9).await;
    eventually("the token is stored", async || {
        std::fs::metadata(file).is_ok()
    })
    .await;
    process.signal("KILL");
    process.wait_for_exit(WAIT_LIMIT).await;
    let mut seen = ids(&process.stdout());
    assert_eq!(seen, (0..10).collect::<Vec<_>>());

    for id in 10..15 {
        insert(&database, id).await;
    }
    let mut process = watch(&database, &server, &arguments);
    until_id(&mut process, 14).await;
    process.signal("INT");
    assert_eq!(
        process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(0),
        "{process}"
    );
    let again = ids(&process.stdout());
    let repeated = usize::try_from(10 - again[0]).expect("nothing is missing");
    assert_eq!(
        again,
        (again[0]..15).collect::<Vec<_>>(),
        "{repeated} repeated"
    );
    seen.extend(&again[repeated..]);
    assert_eq!(seen, (0..15).collect::<Vec<_>>());

    // The last run ended orderly, so that nothing is repeated.
    insert(&database, 15).await;
    let mut process = watch(&database, &server, &["--resume-file", file, "--limit", "1"]);
    assert_eq!(
        process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(0),
        "{process}"
    );
    assert_eq!(ids(&process.stdout()), [15]);
}

#[tokio::test]
async fn a_watch_continues_when_the_server_restarts() {
    let database = Database::start().await;
    let mut server = ServeProcess::start(database.uri(), &[]).await;
    let address = server.grpc.to_string();
    let mut process = watch(&database, &address, &[]);
    opened(&mut process).await;
    insert(&database, 0).await;
    until_id(&mut process, 0).await;

    server.process.signal("TERM");
    assert_eq!(
        server.process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(0),
        "{}",
        server.process
    );
    insert(&database, 1).await;
    let mut server = ServeProcess::on(&address, database.uri(), &[]).await;
    until_id(&mut process, 1).await;

    // A crash, this time.
    server.process.signal("KILL");
    server.process.wait_for_exit(WAIT_LIMIT).await;
    insert(&database, 2).await;
    let _server = ServeProcess::on(&address, database.uri(), &[]).await;
    until_id(&mut process, 2).await;

    process.signal("INT");
    assert_eq!(
        process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(0),
        "{process}"
    );
    assert_eq!(ids(&process.stdout()), [0, 1, 2], "{process}");
    assert!(process.stderr().contains("trying again"), "{process}");
}

#[tokio::test]
async fn errors_give_advice() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();

    // A server that does not exist.
    let mut process = watch(&database, "127.0.0.1:1", &["--no-reconnect"]);
    assert_eq!(
        process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(1),
        "{process}"
    );
    assert!(process.stderr().contains("127.0.0.1:1"), "{process}");

    // A token of another collection.
    let mut other = watch(&database, &server, &[]);
    opened(&mut other).await;
    let token = lines(&other.stdout(), "opened")[0]["resumeToken"].clone();
    let token = token.as_str().expect("a token is text").to_owned();
    drop(other);
    let scope = format!("{}.customers", database.name());
    let arguments = [
        "watch",
        &scope,
        "--server",
        &server,
        "--resume-token",
        &token,
    ];
    let mut process = support::weir(&[], &arguments);
    assert_eq!(
        process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(1),
        "{process}"
    );
    let said = process.stderr();
    assert!(said.contains("other collections"), "{process}");

    // A collection that is dropped.
    insert(&database, 1).await;
    let mut process = watch(&database, &server, &[]);
    opened(&mut process).await;
    database.collection(ORDERS).drop().await.expect("a drop");
    assert_eq!(
        process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(1),
        "{process}"
    );
    assert_eq!(
        lines(&process.stdout(), "invalidated").len(),
        1,
        "{process}"
    );
    assert!(process.stderr().contains("--on-invalidate"), "{process}");
    for words in [said, process.stderr()] {
        assert!(!words.contains("Status {"), "that is for programs: {words}");
    }

    // An invalid condition.
    let mut process = watch(&database, &server, &["--where", "=5"]);
    assert_eq!(
        process.wait_for_exit(WAIT_LIMIT).await.code(),
        Some(2),
        "{process}"
    );
}

/// The processes whose command line contains this text.
fn processes_naming(text: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let commands = entries
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    commands.filter(|command| command.contains(text)).collect()
}

#[tokio::test]
async fn the_demo_plays_once_and_leaves_no_process_behind() {
    let folder = tempfile::TempDir::with_prefix("weir-demo-").expect("a temporary folder");
    let temporary = folder.path().to_str().expect("a path of letters");
    let variables = [("TMPDIR", temporary)];
    let any_port = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let arguments: Vec<&str> = ["dev", "--once"].iter().chain(&any_port).copied().collect();
    let mut process = weir(&variables, &arguments);
    // It starts a database.
    let status = process.wait_for_exit(Duration::from_secs(60)).await;
    assert_eq!(status.code(), Some(0), "{process}");
    assert!(process.stdout().contains("insert"), "{process}");
    // Its data and log are in that folder, which its command line names.
    eventually("the database is gone", async || {
        processes_naming(temporary).is_empty()
    })
    .await;
    let left: Vec<_> = folder.path().read_dir().expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_demo_plays_on_the_database_given() {
    let database = Database::start().await;
    let variables = [("MONGODB_URI", database.uri())];
    let any_port = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let arguments: Vec<&str> = ["dev", "--once"].iter().chain(&any_port).copied().collect();
    for _ in 0..2 {
        let mut process = weir(&variables, &arguments);
        let status = process.wait_for_exit(Duration::from_secs(60)).await;
        assert_eq!(status.code(), Some(0), "{process}");
        assert!(!process.stderr().contains("starting"), "{process}");
    }
    let ping = database.admin(doc! { "ping": 1 }).await;
    assert_eq!(ping.get("ok").and_then(bson::Bson::as_f64), Some(1.0));
}
