//! The commands `weir watch` and `weir dev` against a real server.

use std::time::Duration;

use crate::support::orders::{ORDERS, insert};
use crate::support::{ChildProcess, Database, ServeProcess, WAIT_LIMIT, Weir, eventually, weir};
use ::weir::wire::Compression;
use mongodb::bson::doc;
use serde_json::{Value, json};

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

/// The server compresses only what it allows, and the output is the same either way.
#[tokio::test]
async fn a_watch_prints_compressed_changes_as_it_prints_others() {
    let database = Database::start().await;
    for (allowed, asked) in [(true, "zstd"), (true, "gzip"), (false, "gzip")] {
        let weir = Weir::with(&database, |config| {
            if allowed {
                config.compression = Compression::ALL.to_vec();
            }
        })
        .await;
        let server = weir.grpc_addr().to_string();
        let mut process = watch(&database, &server, &["--compression", asked]);
        opened(&mut process).await;
        let orders = database.collection(ORDERS);
        let many = (0..50).map(|id| doc! { "_id": id, "status": "paid" });
        orders.insert_many(many).await.expect("the inserts");
        until_id(&mut process, 49).await;
        assert_eq!(ids(&process.stdout()), (0..50).collect::<Vec<_>>());
        let by = [("encoding", asked)];
        let metrics = weir.metrics().await;
        let compressed = metrics.sum_where("weir_message_compressions_total", &by);
        assert_eq!(compressed > 0.0, allowed, "{asked}");
        drop(process);
        orders.delete_many(doc! {}).await.expect("the deletes");
    }
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
async fn only_the_fields_that_are_asked_for_are_printed() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let fields = ["--fields", "status,address.city", "--fields", "total"];
    let mut process = watch(&database, &server, &fields);
    opened(&mut process).await;
    let order = doc! {
        "_id": 1, "status": "new", "note": "long", "address": { "city": "Bonn", "zip": "53111" }, "total": 5,
    };
    let orders = database.collection(ORDERS);
    orders.insert_one(order).await.expect("an insert");
    let update = doc! { "$set": { "note": "longer", "total": 6 }, "$unset": { "address": 1 } };
    let updated = orders.update_one(doc! { "_id": 1 }, update).await;
    updated.expect("an update");
    let both = |output: &str| lines(output, "change").len() == 2;
    process
        .wait_for_output("both changes", WAIT_LIMIT, both)
        .await;
    let changes = lines(&process.stdout(), "change");
    let shown = json!({ "_id": 1, "status": "new", "address": { "city": "Bonn" }, "total": 5 });
    assert_eq!(changes[0]["fullDocument"], shown);
    let description = &changes[1]["updateDescription"];
    assert_eq!(description["updatedFields"], json!({ "total": 6 }));
    assert_eq!(description["removedFields"], json!(["address"]));
    // The server says what is wrong with a path, and the command by which flag it came.
    let mut process = watch(&database, &server, &["--fields", "a,a.b"]);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(1));
    let text = process.stderr();
    assert!(
        text.contains("--fields: is \"a.b\", which is below fields[0], \"a\""),
        "{text}"
    );
}

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
    let mut process = crate::support::weir(&[], &arguments);
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

/// Runs a script of a shell, which finds the binary, the scope of the orders and the server as `$weir`,
/// `$scope` and `$server`.
fn shell(database: &Database, server: &str, script: &str) -> ChildProcess {
    let line = [
        "-u",
        "WEIR_SERVER",
        &format!("weir={}", env!("CARGO_BIN_EXE_weir")),
        &format!("scope={}.{ORDERS}", database.name()),
        &format!("server={server}"),
        "sh",
        "-c",
        script,
    ]
    .map(str::to_owned);
    ChildProcess::start("a shell", "env", line)
}

/// `head` has what it wants and ends. Nothing happens in the collection afterwards, so that no write can fail.
#[tokio::test]
async fn a_watch_ends_when_the_reader_of_its_output_has_gone_also_if_nothing_happens() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    // It prints "opened" and "live".
    let script =
        r#"{ "$weir" watch "$scope" --server "$server"; echo "exit code $?" >&2; } | head -n 2"#;
    let mut process = shell(&database, &server, script);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{process}");
    assert_eq!(process.stdout().lines().count(), 2, "{process}");
    assert_eq!(process.stderr(), "exit code 0\n", "{process}");

    // Also while it waits for a server that does not answer.
    let script = r#"{ "$weir" watch "$scope" --server 127.0.0.1:1 2>/dev/null; echo "exit code $?" >&2; } | true"#;
    let mut process = shell(&database, &server, script);
    process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(process.stderr(), "exit code 0\n", "{process}");
}

/// A file, a device and a full disk as stdout.
#[tokio::test]
async fn a_watch_writes_into_a_file_and_ends_at_a_full_disk() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("output");
    let script = format!(
        r#""$weir" watch "$scope" --server "$server" --limit 1 > {}"#,
        file.display()
    );
    let mut process = shell(&database, &server, &script);
    eventually("it is open", async || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains(r#""state":"live""#))
    })
    .await;
    insert(&database, 1).await;
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{process}");
    let text = std::fs::read_to_string(&file).expect("the output");
    assert_eq!(ids(&text), [1]);

    let script = r#""$weir" watch "$scope" --server "$server" > /dev/full"#;
    let mut process = shell(&database, &server, script);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(1), "{process}");
    let said = process.stderr();
    assert_eq!(said.lines().count(), 1, "{process}");
    assert!(said.contains("can't write stdout: No space left"), "{said}");
}

/// Neither a full disk under stderr nor a closed one changes what a command does.
#[tokio::test]
async fn an_exit_code_does_not_depend_on_stderr_and_a_key_never_goes_nowhere() {
    let database = Database::start().await;
    for (arguments, code) in [
        ("hash-key alice > /dev/full 2> /dev/full", 1),
        ("hash-key '' 2> /dev/full", 1),
        ("hash-key alice >&-", 1),
        ("hash-key alice > /dev/null", 1),
        ("hash-key alice 2> /dev/full", 0),
        ("hash-key alice 2>&-", 0),
        ("hash-key alice --stdin < /dev/null", 1),
        ("hash-key alice --stdin <&-", 1),
        // Longer than what it reads, which must not be hashed in part.
        ("hash-key alice --stdin < \"$long\"", 1),
        ("serve --mongodb-uri x --check-config 2> /dev/full", 64),
        (
            "serve --mongodb-uri mongodb://localhost --check-config > /dev/full",
            0,
        ),
        (
            "serve --mongodb-uri mongodb://localhost --check-config | true",
            0,
        ),
        (
            "watch shop --server 127.0.0.1:1 --no-reconnect 2> /dev/full",
            1,
        ),
        ("--help > /dev/full", 1),
        ("watch --help | true", 0),
    ] {
        let long = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(long.path(), "k".repeat(20_000)).expect("a long key");
        let long = long.path().display();
        // The exit code of the command and not that of `true`.
        let (command, reader) = arguments.split_once(" | ").unwrap_or((arguments, "cat"));
        let code_file = tempfile::NamedTempFile::new().expect("a temporary file");
        let script = format!(
            r#"long={long}; {{ "$weir" {command}; echo $? > {}; }} | {reader}"#,
            code_file.path().display()
        );
        let mut process = shell(&database, "", &script);
        process.wait_for_exit(WAIT_LIMIT).await;
        let seen = std::fs::read_to_string(code_file.path()).expect("an exit code");
        assert_eq!(seen.trim(), code.to_string(), "{arguments}{process}");
        assert!(!process.stderr().contains("panicked"), "{process}");
        if code == 1 && arguments.contains("hash-key") {
            assert_eq!(process.stdout(), "", "{arguments}");
        }
    }
}

#[tokio::test]
async fn a_resume_file_that_cannot_be_written_ends_the_command_before_the_watch_opens() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let missing = folder.path().join("missing").join("token");
    let missing = missing.to_str().expect("a path of letters");
    for (file, word) in [
        (missing, "there is no folder"),
        ("/dev/full", "is a device"),
    ] {
        let mut process = watch(&database, &server, &["--resume-file", file]);
        let status = process.wait_for_exit(WAIT_LIMIT).await;
        assert_eq!(status.code(), Some(2), "{process}");
        assert_eq!(process.stdout(), "", "{process}");
        let said = process.stderr();
        assert_eq!(said.matches("--resume-file").count(), 1, "{process}");
        assert!(said.contains(word), "{process}");
    }
}

/// A file that is mounted by itself can't be replaced. Where this machine does not let a test mount anything,
/// a file with a second name stands for it; the unit tests stand for the errors of a mount.
#[tokio::test]
async fn a_resume_file_that_is_mounted_by_itself_is_written_in_place() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (outside, inside) = (path("outside"), path("inside"));
    let may_mount = std::process::Command::new("unshare")
        .args(["-rm", "true"])
        .output()
        .is_ok_and(|output| output.status.success());

    let mut seen = Vec::new();
    for round in 0..3 {
        let watching = r#"exec "$weir" watch "$scope" --server "$server" --limit 1"#;
        let script = if may_mount {
            // Both are made before, as for a container: the file begins empty.
            format!(
                "touch {outside} {inside}; exec unshare -rm sh -c 'mount --bind {outside} {inside}; \
                 {watching} --resume-file {inside}'"
            )
        } else {
            format!("test {round} = 1 && ln {outside} {inside}; {watching} --resume-file {outside}")
        };
        let mut process = shell(&database, &server, &script);
        if round == 0 {
            opened(&mut process).await;
        }
        insert(&database, round).await;
        let status = process.wait_for_exit(WAIT_LIMIT).await;
        assert_eq!(status.code(), Some(0), "{process}");
        seen.extend(ids(&process.stdout()));
        let said = process.stderr().matches("is written in place").count();
        assert_eq!(said, usize::from(may_mount || round > 0), "{process}");
        let stored = std::fs::read_to_string(&outside).expect("the file of the mount");
        assert_eq!(stored.lines().count(), 1, "{stored}");
    }
    assert_eq!(seen, [0, 1, 2], "each once");
}

#[tokio::test]
async fn a_resume_file_may_be_a_symbolic_link() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let link = folder.path().join("token");
    std::os::unix::fs::symlink("data/token", &link).expect("a link");
    let file = link.to_str().expect("a path of letters");
    let arguments = ["--resume-file", file, "--limit", "1"];
    let mut process = watch(&database, &server, &arguments);
    opened(&mut process).await;
    for id in 0..2 {
        insert(&database, id).await;
    }
    process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(ids(&process.stdout()), [0], "{process}");
    let mut process = watch(&database, &server, &arguments);
    process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(ids(&process.stdout()), [1], "{process}");
    assert!(link.symlink_metadata().expect("it is there").is_symlink());
    assert!(data.join("token").is_file());
}

#[tokio::test]
async fn text_that_looks_like_another_type_is_said_once_and_the_typed_form_matches() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let mut process = watch(
        &database,
        &server,
        &["--where", "by=507f1f77bcf86cd799439011"],
    );
    opened(&mut process).await;
    let said = process.stderr();
    assert_eq!(said.matches("compares with text").count(), 1, "{process}");
    process.signal("INT");
    process.wait_for_exit(WAIT_LIMIT).await;

    // The condition that it shows finds the document, and is not warned of.
    let typed = said
        .lines()
        .find_map(|line| line.strip_prefix("  --where "));
    let typed = typed.expect("the typed form").trim_matches('\'');
    let dated = r#"when>{"$date":"2024-01-01T00:00:00Z"}"#;
    let arguments = ["--where", typed, "--where", dated, "--limit", "1"];
    let mut process = watch(&database, &server, &arguments);
    opened(&mut process).await;
    let id = bson::oid::ObjectId::parse_str("507f1f77bcf86cd799439011").expect("an id");
    let orders = database.collection(ORDERS);
    let time = |text| bson::DateTime::parse_rfc3339_str(text).expect("a time");
    let (before, after) = (time("2023-12-31T00:00:00Z"), time("2024-01-02T00:00:00Z"));
    for document in [
        doc! { "_id": 1, "by": id, "when": before },
        doc! { "_id": 2, "by": id.to_hex(), "when": after },
        doc! { "_id": 3, "by": id, "when": after },
    ] {
        orders.insert_one(document).await.expect("an insert");
    }
    process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(ids(&process.stdout()), [3], "{process}");
    assert_eq!(process.stderr(), "", "{process}");
}

#[tokio::test]
async fn changed_selects_updates_by_what_they_touch() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let server = weir.grpc_addr().to_string();
    let orders = database.collection(ORDERS);
    for id in 1..=3 {
        let order = doc! { "_id": id, "status": "new", "total": 1 };
        orders.insert_one(order).await.expect("an insert");
    }
    let touching = ["--where", "changed(status)", "--limit", "1"];
    let mut touching = watch(&database, &server, &touching);
    let arguments = [
        "--op",
        "update",
        "--where",
        "not changed(status)",
        "--limit",
        "1",
    ];
    let mut others = watch(&database, &server, &arguments);
    opened(&mut touching).await;
    opened(&mut others).await;
    for (id, change) in [
        (1, doc! { "$set": { "total": 2 } }),
        (2, doc! { "$set": { "status": "paid" } }),
        (3, doc! { "$set": { "total": 3 } }),
    ] {
        let updated = orders.update_one(doc! { "_id": id }, change).await;
        updated.expect("an update");
    }
    for (process, expected) in [(&mut touching, 2), (&mut others, 1)] {
        let status = process.wait_for_exit(WAIT_LIMIT).await;
        assert_eq!(status.code(), Some(0), "{process}");
        assert_eq!(ids(&process.stdout()), [expected], "{process}");
    }

    let mut process = watch(&database, &server, &["--where", "status changed"]);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(2), "{process}");
    assert!(process.stderr().contains("changed(status)"), "{process}");
}

/// Runs a program on a terminal of 40 columns, and makes it wider once it has printed an insert.
const TERMINAL: &str = r#"
import fcntl, os, pty, struct, sys, termios
def resize(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
process, terminal = pty.fork()
if process == 0:
    resize(1, 40)
    os.execvp(sys.argv[1], sys.argv[1:])
output, resized = b"", False
while True:
    try:
        read = os.read(terminal, 4096)
    except OSError:
        break
    output += read
    sys.stdout.write(read.decode().replace("\r", ""))
    if b"insert" in output and not resized:
        resize(terminal, 200)
        resized = True
        print("resized")
    sys.stdout.flush()
"#;

#[tokio::test]
async fn lines_are_cut_to_the_terminal_also_after_it_has_been_resized() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let scope = format!("{}.{ORDERS}", database.name());
    let server = weir.grpc_addr().to_string();
    let line = ["-c", TERMINAL, env!("CARGO_BIN_EXE_weir"), "watch"];
    let flags = [&scope, "--server", &server, "--limit", "2", "--color=never"];
    let arguments = line.iter().chain(&flags).copied();
    let mut process = ChildProcess::start("a terminal", crate::support::python(), arguments);
    let live = |output: &str| output.contains("-- live");
    process.wait_for_output("live", WAIT_LIMIT, live).await;
    let orders = database.collection(ORDERS);
    let note = "x".repeat(60);
    for (id, until) in [(1, "resized"), (2, &note)] {
        let inserted = orders.insert_one(doc! { "_id": id, "note": &note }).await;
        inserted.expect("an insert");
        let printed = |output: &str| output.contains(until);
        process.wait_for_output(until, WAIT_LIMIT, printed).await;
    }
    process.wait_for_exit(WAIT_LIMIT).await;
    let output = process.stdout();
    let inserts: Vec<&str> = output
        .lines()
        .filter(|it| it.contains(" insert "))
        .collect();
    assert_eq!(inserts.len(), 2, "{process}");
    assert_eq!(inserts[0].chars().count(), 40, "{process}");
    assert!(inserts[1].ends_with("\"}"), "{process}");
}

#[tokio::test]
async fn a_password_in_the_url_is_refused_and_not_printed() {
    for url in [
        "http://alice:hunter2@127.0.0.1:1",
        "alice:hunter2@127.0.0.1:1",
    ] {
        for (variables, flags) in [
            (vec![], vec!["--server", url]),
            (vec![("WEIR_SERVER", url)], vec![]),
            (vec![("WEIR_SERVER", url)], vec!["--help"]),
        ] {
            let help = flags.contains(&"--help");
            let arguments: Vec<&str> = ["watch", "shop"].iter().chain(&flags).copied().collect();
            let mut process = weir(&variables, &arguments);
            let status = process.wait_for_exit(WAIT_LIMIT).await;
            let code = if help { 0 } else { 2 };
            assert_eq!(status.code(), Some(code), "{process}");
            let said = process.stderr() + &process.stdout();
            assert!(!said.contains("hunter2"), "{process}");
            assert!(said.contains("--token-file"), "{process}");
            assert!(said.contains("weir watch [OPTIONS]"), "{process}");
        }
    }
}

/// Nobody listens on a port that was just free.
fn unused_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

#[tokio::test]
async fn the_demo_says_what_it_waits_for_and_ends_at_a_signal() {
    let address = unused_address();
    let uri = format!("mongodb://alice:hunter2@{address}/?directConnection=true");
    let any_port = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    for (signal, once, code) in [("INT", false, 0), ("TERM", true, 1)] {
        let mut arguments = vec!["dev"];
        arguments.extend(any_port);
        arguments.extend(once.then_some("--once"));
        let mut process = weir(&[("MONGODB_URI", &uri)], &arguments);
        let waiting = format!("waiting for MongoDB at mongodb://{address} since ");
        eventually("it says so", async || process.stderr().contains(&waiting)).await;
        process.signal(signal);
        let status = process.wait_for_exit(WAIT_LIMIT).await;
        assert_eq!(status.code(), Some(code), "{process}");
        let said = process.stderr();
        assert!(!said.contains("hunter2"), "{process}");
        for words in ["MONGODB_URI", "30 s", "refused", "Ctrl-C", "Start it"] {
            assert!(said.contains(words), "{words}{process}");
        }
    }
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

/// A client that does not read its end delays the first Ctrl-C, and must not delay the second one. Two
/// signals of one kind may arrive as one.
#[tokio::test]
async fn a_second_signal_ends_the_demo_without_waiting_for_clients() {
    let folder = tempfile::TempDir::with_prefix("weir-demo-").expect("a temporary folder");
    let temporary = folder.path().to_str().expect("a path of letters");
    let address = unused_address();
    let arguments = ["dev", "--listen", &address, "--admin-listen", "127.0.0.1:0"];
    let mut process = weir(&[("TMPDIR", temporary)], &arguments);
    let serves = |output: &str| output.contains("every event came as expected");
    let limit = Duration::from_secs(60);
    process.wait_for_output("its end", limit, serves).await;
    let mut client = weir(&[], &["watch", "weir_dev", "--server", &address]);
    opened(&mut client).await;
    client.signal("STOP");
    process.signal("INT");
    process.signal("TERM");
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(130), "{process}");
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
