//! The client against a server that follows a script.

mod scripted_server;

use std::sync::{Arc, Mutex};

use clap::Parser as _;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;
use scripted_server::{Script, ScriptedServer};

const NO_METADATA: [(String, String); 0] = [];

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    watch: WatchArgs,
}

/// Keeps what was written, or fails every write if `closed`.
#[derive(Clone, Default)]
struct Sink {
    written: Arc<Mutex<Vec<u8>>>,
    closed: bool,
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    /// Returns the tokens of the printed changes.
    fn changes(&self) -> Vec<String> {
        let text = String::from_utf8(self.written.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["type"] == "change")
            .map(|line| {
                let token = crate::cli::watch::token::decode(line["resumeToken"].as_str().unwrap());
                String::from_utf8(token.unwrap().to_vec()).unwrap()
            })
            .collect()
    }
}

fn watcher(server: &str, flags: &[&str], sink: &Sink) -> Watcher {
    let line = ["watch", "shop.orders", "--server", server];
    let args = Line::try_parse_from(line.iter().chain(flags))
        .unwrap()
        .watch;
    let request = crate::cli::watch::request::build(&args).unwrap();
    let file = args
        .resume_file
        .clone()
        .map(|path| ResumeFile::open(path, &args.scope()).unwrap());
    Watcher::new(
        args,
        request,
        file,
        Printer::json(false),
        Output::to(sink.clone()),
    )
}

fn opened(token: &str) -> pb::WatchResponse {
    pb::WatchResponse {
        resume_token: Bytes::copy_from_slice(token.as_bytes()),
        kind: Some(pb::watch_response::Kind::Opened(pb::Opened::default())),
    }
}

/// Returns a message with an insert for each token.
fn inserts(tokens: &[&str]) -> pb::WatchResponse {
    let changes: Vec<_> = tokens
        .iter()
        .map(|token| pb::ChangeEvent {
            resume_token: Bytes::copy_from_slice(token.as_bytes()),
            operation: pb::OperationType::Insert.into(),
            ..pb::ChangeEvent::default()
        })
        .collect();
    pb::WatchResponse {
        resume_token: changes.last().unwrap().resume_token.clone(),
        kind: Some(pb::watch_response::Kind::Changes(pb::ChangeBatch {
            changes,
        })),
    }
}

fn weir_status(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "weir", NO_METADATA);
    Status::with_error_details(code, "words", details)
}

fn started_after(request: &pb::WatchRequest) -> Option<&[u8]> {
    match &request.start {
        Some(Start::ResumeToken(token)) => Some(token),
        _ => None,
    }
}

/// Runs a watch that must end by itself.
async fn run(mut watcher: Watcher) -> Result<WatchEnd, String> {
    timeout(
        Duration::from_secs(30),
        watcher.run(&CancellationToken::new()),
    )
    .await
    .expect("the watch ends by itself")
}

#[tokio::test]
async fn a_lost_connection_is_resumed_from_the_last_token() {
    let server = ScriptedServer::start(vec![
        Script::new(
            [opened("t0"), inserts(&["t1", "t2"])],
            Status::unavailable("away"),
        ),
        Script::failing(Status::unavailable("still away")),
        Script::new([opened("t2"), inserts(&["t3"])], Status::unknown("cut")),
        Script::new([opened("t3"), inserts(&["t4"])], Status::unavailable("")),
    ])
    .await;
    let sink = Sink::default();
    let end = run(watcher(&server.url, &["--limit=4"], &sink)).await;
    assert_eq!(end, Ok(WatchEnd::Limit));
    assert_eq!(sink.changes(), ["t1", "t2", "t3", "t4"]);
    let requests = server.requests();
    let starts: Vec<_> = requests.iter().map(started_after).collect();
    assert_eq!(starts, [None, Some(&b"t2"[..]), Some(b"t2"), Some(b"t3")]);
}

#[tokio::test]
async fn a_watch_whose_access_changed_restarts_at_the_time_in_the_status() {
    let mut details = ErrorDetails::new();
    let metadata = [("after_time".to_owned(), "1738324800.7".to_owned())];
    details.set_error_info("ACCESS_CHANGED", "weir", metadata);
    let status = Status::with_error_details(Code::Unavailable, "words", details);
    let server = ScriptedServer::start(vec![
        Script::new([opened("t0"), inserts(&["t1"])], status),
        Script::new([opened("t2"), inserts(&["t3"])], Status::unavailable("")),
    ])
    .await;
    let sink = Sink::default();
    let end = run(watcher(&server.url, &["--limit=2"], &sink)).await;
    assert_eq!(end, Ok(WatchEnd::Limit));
    let requests = server.requests();
    let start = Start::StartTime(prost_types::Timestamp {
        seconds: 1_738_324_800,
        nanos: 0,
    });
    assert_eq!(requests[1].start, Some(start));
}

#[tokio::test]
async fn a_limit_inside_a_batch_stores_the_token_of_the_last_printed_event() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let flag = format!("--resume-file={}", path.display());
    let server = ScriptedServer::start(vec![
        Script::new([opened("t0"), inserts(&["t1", "t2", "t3"])], Status::ok("")),
        Script::new([opened("t2"), inserts(&["t3"])], Status::ok("")),
    ])
    .await;
    let sink = Sink::default();
    let end = run(watcher(&server.url, &["--limit=2", &flag], &sink)).await;
    assert_eq!(end, Ok(WatchEnd::Limit));
    assert_eq!(sink.changes(), ["t1", "t2"]);

    let sink = Sink::default();
    let end = run(watcher(&server.url, &["--limit=1", &flag], &sink)).await;
    assert_eq!(end, Ok(WatchEnd::Limit));
    assert_eq!(sink.changes(), ["t3"]);
    assert_eq!(started_after(&server.requests()[1]), Some(&b"t2"[..]));
}

#[tokio::test]
async fn a_closed_stdout_ends_the_watch_successfully_without_storing_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let flag = format!("--resume-file={}", path.display());
    let server = ScriptedServer::start(vec![Script::new(
        [opened("t0"), inserts(&["t1"])],
        Status::unavailable(""),
    )])
    .await;
    let sink = Sink {
        closed: true,
        ..Sink::default()
    };
    let end = run(watcher(&server.url, &[&flag], &sink)).await;
    assert_eq!(end, Ok(WatchEnd::OutputClosed));
    assert!(!path.exists());
}

/// The reader may have left without reading what was printed last, so that the next watch repeats it.
#[tokio::test]
async fn once_the_reader_has_gone_no_token_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let flag = format!("--resume-file={}", path.display());
    let server = ScriptedServer::start(vec![Script::open([opened("t0")])]).await;
    let mut watcher = watcher(&server.url, &[&flag], &Sink::default());
    let file = watcher.resume_file.as_mut().unwrap();
    file.set_token(Bytes::from_static(b"printed and not read"));
    watcher.output.reader_gone().cancel();
    assert_eq!(run(watcher).await, Ok(WatchEnd::OutputClosed));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_resume_file_that_can_no_longer_be_written_ends_the_watch_and_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("folder");
    std::fs::create_dir(&inner).unwrap();
    let flag = format!("--resume-file={}", inner.join("token").display());
    let server = ScriptedServer::start(vec![Script::open([opened("t0"), inserts(&["t1"])])]).await;
    let watcher = watcher(&server.url, &[&flag], &Sink::default());
    std::fs::remove_dir(&inner).unwrap();
    let why = run(watcher).await.unwrap_err();
    assert_eq!(why.matches("--resume-file").count(), 1, "{why}");
    assert!(why.contains("there is no folder"), "{why}");
}

#[tokio::test]
async fn a_permanent_error_ends_the_watch_with_advice() {
    let server = ScriptedServer::start(vec![Script::failing(weir_status(
        Code::OutOfRange,
        "RESUME_TOKEN_EXPIRED",
    ))])
    .await;
    let why = run(watcher(&server.url, &[], &Sink::default())).await;
    let why = why.unwrap_err();
    assert!(why.contains("RESUME_TOKEN_EXPIRED: words"), "{why}");
    assert!(why.contains("--since"), "{why}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn with_no_reconnect_the_first_lost_connection_ends_the_watch() {
    let server = ScriptedServer::start(vec![Script::new(
        [opened("t0")],
        Status::unavailable("away"),
    )])
    .await;
    let why = run(watcher(&server.url, &["--no-reconnect"], &Sink::default())).await;
    assert_eq!(why, Err("connection lost: UNAVAILABLE: away".to_owned()));

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let why = run(watcher(&url, &["--no-reconnect"], &Sink::default())).await;
    let why = why.unwrap_err();
    assert!(why.starts_with(&format!("can't reach {url} (")), "{why}");
    assert!(why.contains("refused"), "{why}");
}

#[tokio::test]
async fn an_ok_status_ends_the_watch_only_with_an_end_time() {
    let script = || Script::new([opened("t0"), inserts(&["t1"])], Status::ok(""));
    let server = ScriptedServer::start(vec![script()]).await;
    let end = run(watcher(&server.url, &["--until=now"], &Sink::default())).await;
    assert_eq!(end, Ok(WatchEnd::TimeReached));

    let server = ScriptedServer::start(vec![script()]).await;
    let end = run(watcher(&server.url, &["--no-reconnect"], &Sink::default())).await;
    assert!(end.unwrap_err().starts_with("connection lost"));
}

#[tokio::test]
async fn an_interrupted_watch_stores_its_last_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let flag = format!("--resume-file={}", path.display());
    let server = ScriptedServer::start(vec![Script::open([
        opened("t0"),
        inserts(&["t1"]),
        inserts(&["t2"]),
    ])])
    .await;
    let sink = Sink::default();
    let mut watcher = watcher(&server.url, &[&flag], &sink);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let running = tokio::spawn(async move { watcher.run(&stop).await });
    timeout(Duration::from_secs(30), async {
        while sink.changes().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    shutdown.cancel();
    assert_eq!(running.await.unwrap(), Ok(WatchEnd::Interrupted));
    let scope = "shop.orders".parse().unwrap();
    let file = ResumeFile::open(path, &scope).unwrap();
    // This test may see t2 in the sink before the watcher knows that the write has finished.
    assert!([&b"t1"[..], b"t2"].contains(&file.stored().unwrap().as_ref()));
}
