//! `weir serve`, the binary: settings, ports, logs, exit codes, and server information.

use std::net::TcpListener;

use crate::support::orders::{ORDERS, insert};
use crate::support::{
    ChildProcess, Database, ServeProcess, WAIT_LIMIT, WatchStream, error_reason, eventually, weir,
    within,
};
use tonic::Code;
use weir::pb;

const URI: &str = "mongodb://127.0.0.1:1/?directConnection=true";

/// Runs `weir serve` until it exits. Returns the exit code and stderr.
async fn run_to_exit(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let arguments: Vec<&str> = ["serve"].iter().chain(arguments).copied().collect();
    let mut process = weir(variables, &arguments);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    (status.code(), process.stderr())
}

#[tokio::test]
async fn an_unusable_setting_exits_with_64_and_names_its_flag() {
    let with_uri = ["--mongodb-uri", URI];
    for (flag, value) in [
        ("--max-watches", "0"),
        ("--max-feeds", "10001"),
        ("--ring-bytes", "1KiB"),
        ("--progress-interval", "100ms"),
        ("--upstream-grace", "25h"),
        ("--upstream-reply-timeout", "1s"),
        ("--server-selection-timeout", "1ms"),
        ("--shutdown-grace", "2h"),
        ("--compression", "brotli"),
        ("--idle-connection-timeout", "999ms"),
        ("--idle-connection-timeout", "25h"),
        ("--http2-keepalive-interval", "0s"),
        ("--http2-keepalive-timeout", "0s"),
        ("--listen", "0.0.0.0:0"),
        ("--log-level", "weir=loud"),
    ] {
        let arguments: Vec<&str> = with_uri.iter().copied().chain([flag, value]).collect();
        let (code, said) = run_to_exit(&[], &arguments).await;
        assert_eq!(code, Some(64), "{flag} {value}: {said}");
        assert!(said.contains(flag), "{flag} {value}: {said}");
    }
    let (code, said) = run_to_exit(&[], &["--mongodb-uri", "http://somewhere"]).await;
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("--mongodb-uri"), "{said}");
}

/// A command line that clap refuses counts as an invalid setting too.
#[tokio::test]
async fn an_invalid_command_line_exits_with_64() {
    for arguments in [
        &[][..],
        &["--mongodb-uri", URI, "--max-watches", "many"],
        &["--mongodb-uri", URI, "--no-such-flag"],
    ] {
        let (code, said) = run_to_exit(&[], arguments).await;
        assert_eq!(code, Some(64), "{arguments:?}: {said}");
        assert!(said.contains("--"), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_port_in_use_exits_with_1_and_names_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = taken.local_addr().map(|it| (taken, it.to_string()));
    let (_taken, address) = taken.expect("a bound socket has an address");
    for (flag, other) in [
        ("--listen", "--admin-listen"),
        ("--admin-listen", "--listen"),
    ] {
        let arguments = ["--mongodb-uri", URI, flag, &address, other, "127.0.0.1:0"];
        let (code, said) = run_to_exit(&[], &arguments).await;
        assert_eq!(code, Some(1), "{flag}: {said}");
        assert!(said.contains(&address), "{flag}: {said}");
    }
}

#[tokio::test]
async fn settings_can_be_checked_without_serving() {
    let checked = async |variables: &[(&str, &str)], arguments: &[&str]| {
        let arguments: Vec<&str> = ["--check-config"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        run_to_exit(variables, &arguments).await
    };
    let (code, said) = checked(&[], &["--mongodb-uri", URI]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = checked(&[], &["--mongodb-uri", URI, "--max-feeds", "0"]).await;
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("--max-feeds"), "{said}");
    let wide = ["--mongodb-uri", URI, "--listen", "[::]:0"];
    let (code, said) = checked(&[], &wide).await;
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("--allow-insecure"), "{said}");
    let allowed = [
        "--mongodb-uri",
        URI,
        "--listen",
        "[::]:0",
        "--allow-insecure",
    ];
    let (code, said) = checked(&[], &allowed).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn settings_can_come_from_the_environment() {
    let good = [("MONGODB_URI", URI), ("WEIR_MAX_WATCHES", "7")];
    assert_eq!(run_to_exit(&good, &["--check-config"]).await.0, Some(0));
    let bad = [("MONGODB_URI", URI), ("WEIR_RING_BYTES", "1B")];
    let (code, said) = run_to_exit(&bad, &["--check-config"]).await;
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("--ring-bytes"), "{said}");
    // The command line has priority.
    let flag = ["--check-config", "--ring-bytes", "1MiB"];
    assert_eq!(run_to_exit(&bad, &flag).await.0, Some(0));
    let insecure = [
        ("MONGODB_URI", URI),
        ("WEIR_LISTEN", "0.0.0.0:0"),
        ("WEIR_ALLOW_INSECURE", "true"),
    ];
    assert_eq!(run_to_exit(&insecure, &["--check-config"]).await.0, Some(0));
}

/// A URI contains a password, and many people read errors and logs.
#[tokio::test]
async fn the_password_in_the_uri_is_never_shown() {
    const SECRET: &str = "hunter2secret";
    let uris = [
        format!("mongodb://user:{SECRET}@127.0.0.1:1/?serverSelectionTimeoutMS=200"),
        format!("mongodb://user:{SECRET}@127.0.0.1:1/?authMechanism=NONSENSE"),
        format!("mongodb://user:{SECRET}@@127.0.0.1:1/"),
        format!("mongodb://user:{SECRET}@"),
        format!("mongodb://user:{SECRET}@127.0.0.1:notaport/"),
        format!("mongo://user:{SECRET}@127.0.0.1:1/"),
        format!("mongodb://user:{SECRET}/x@127.0.0.1:1/"),
    ];
    for uri in &uris[1..] {
        let (_, said) = run_to_exit(&[("MONGODB_URI", uri)], &["--check-config"]).await;
        assert!(!said.contains(SECRET), "{uri}: {said}");
    }
    let help = weir(&[("MONGODB_URI", &uris[0])], &["serve", "--help"]);
    eventually("help is shown", async || {
        help.stdout().contains("--mongodb-uri")
    })
    .await;
    assert!(!help.stdout().contains(SECRET), "{help}");

    let mut process = ServeProcess::start(&uris[0], &["--log-level", "debug"]).await;
    eventually("MongoDB is missed", async || {
        process.process.stderr().contains("does not answer")
    })
    .await;
    let request = pb::WatchRequest {
        database: "shop".to_owned(),
        ..pb::WatchRequest::default()
    };
    let status = WatchStream::open(&mut process.client().await, request).await;
    let status = status.err().expect("MongoDB is not there");
    assert_eq!(error_reason(&status), "UPSTREAM_UNAVAILABLE");
    assert!(!format!("{status:?}").contains(SECRET));
    process.process.signal("TERM");
    process.process.wait_for_exit(WAIT_LIMIT).await;
    assert!(
        !process.process.stderr().contains(SECRET),
        "{}",
        process.process
    );
}

/// Container runtimes and systemd start processes with a limit of 1,024, which `--max-connections`
/// exceeds.
#[tokio::test]
async fn the_limit_of_open_files_is_raised_at_the_start() {
    const MOST: &str = "4096";
    let arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let script = format!("ulimit -Sn 64; ulimit -Hn {MOST}; exec \"$0\" serve \"$@\"");
    let line = [
        "-c",
        &script,
        env!("CARGO_BIN_EXE_weir"),
        "--mongodb-uri",
        URI,
    ];
    let line = line.iter().chain(&arguments).copied().map(str::to_owned);
    let mut process = ChildProcess::start("weir", "sh", line);
    eventually("weir listens", async || {
        process.stderr().contains("\"listening\"")
    })
    .await;
    let limits = format!("/proc/{}/limits", process.id());
    let limits = std::fs::read_to_string(limits).expect("the process is there");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files.expect("a limit").split_whitespace().collect();
    assert_eq!(files[3..5], [MOST, MOST]);
    // The default of 10,000 connections is still more, and the operator should know.
    let said = process.stderr();
    assert!(said.contains("fewer open files"), "{said}");
    process.signal("TERM");
    assert_eq!(process.wait_for_exit(WAIT_LIMIT).await.code(), Some(0));
}

/// A line per event would cost more than the event, and reveal data.
#[tokio::test]
async fn logs_are_json_lines_without_a_line_per_event() {
    const EVENTS: i32 = 200;
    let database = Database::start().await;
    let mut weir = ServeProcess::start(database.uri(), &[]).await;
    let request = database.watch_request(&[ORDERS]);
    let watch = WatchStream::open(&mut weir.client().await, request).await;
    let mut watch = watch.expect("it opens");
    let id = watch.opened.watch_id.clone();
    for id in 0..EVENTS {
        insert(&database, id).await;
    }
    watch.changes(EVENTS as usize).await;
    drop(watch);
    eventually("the end is logged", async || {
        weir.process.stderr().contains("watch ended")
    })
    .await;
    weir.process.signal("INT");
    assert_eq!(weir.process.wait_for_exit(WAIT_LIMIT).await.code(), Some(0));
    let log = weir.process.stderr();
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
    }
    assert!(log.contains(&id), "the watch is named in the log: {log}");
    assert!(log.lines().count() < 20, "{log}");
}

#[tokio::test]
async fn the_server_describes_itself() {
    let database = Database::start().await;
    let settings = [
        "--max-watches",
        "12",
        "--max-feeds",
        "5",
        "--progress-interval",
        "7s",
        "--allow-deployment-watch",
        "--allow-pipeline",
    ];
    let weir = ServeProcess::start(database.uri(), &settings).await;
    insert(&database, 1).await;
    let mut client = weir.client().await;
    let info = within(
        "an answer",
        client.get_server_info(pb::GetServerInfoRequest {}),
    )
    .await;
    let info = info.expect("MongoDB is there").into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert!(
        info.mongodb_version
            .starts_with(|c: char| c.is_ascii_digit())
    );
    let oldest = info.oldest_resumable_time.expect("the oplog can be read");
    let now = info.upstream_time.expect("MongoDB reports the time");
    assert!(oldest.seconds > 1_500_000_000 && now.seconds >= oldest.seconds);
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let expected = pb::Limits {
        max_watches: 12,
        max_feeds: 5,
        feeds_per_scope: 4,
        max_catch_ups: 16,
        default_progress_interval: seconds(7),
        min_progress_interval: seconds(1),
        max_progress_interval: seconds(60),
        default_max_message_bytes: 3 << 20,
        max_max_message_bytes: 64 << 20,
        deployment_watch_allowed: true,
        pipeline_allowed: true,
    };
    assert_eq!(info.limits, Some(expected));
}

#[tokio::test]
async fn the_server_says_when_mongodb_does_not_answer() {
    let fast = ["--server-selection-timeout", "200ms"];
    let weir = ServeProcess::start(URI, &fast).await;
    let mut client = weir.client().await;
    let info = within(
        "an answer",
        client.get_server_info(pb::GetServerInfoRequest {}),
    )
    .await;
    let status = info.expect_err("MongoDB is not there");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(error_reason(&status), "UPSTREAM_UNAVAILABLE");
}
