//! The log of `weir serve`: the watch that a line is about, and the level while it runs.

use std::{fs, net::SocketAddr};

use crate::support::orders::{ORDERS, insert};
use crate::support::{
    Database, FailCommand, ServeProcess, WatchStream, eventually, request, within,
};
use serde_json::Value;

const TOKEN: &str = "correct-horse-battery-staple";

/// Sends a request to `/log-level` from this machine and returns the status and the body.
async fn request_log_level(
    admin: SocketAddr,
    method: &str,
    headers: &str,
    body: &str,
) -> (u16, String) {
    let length = body.len();
    let head = format!("{method} /log-level HTTP/1.1\r\nContent-Length: {length}\r\n{headers}\r\n");
    let answer = within("the admin port", request(admin, &format!("{head}{body}"))).await;
    answer.expect("the admin port answers")
}

const LOCAL: &str = "Host: localhost:9090\r\n";

/// The lines of a JSON log.
fn lines(log: &str) -> Vec<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[tokio::test]
async fn the_log_level_changes_while_the_server_runs() {
    let database = Database::start().await;
    let weir = ServeProcess::start(database.uri(), &[]).await;
    let opening = |log: &str| log.contains("\"message\":\"opening the watch\"");
    let watch = async || {
        let request = database.watch_request(&[ORDERS]);
        let opened = WatchStream::open(&mut weir.client().await, request).await;
        opened.expect("the watch opens")
    };
    assert_eq!(
        request_log_level(weir.admin, "GET", LOCAL, "").await,
        (200, "info\n".to_owned())
    );
    drop(watch().await);
    assert!(!opening(&weir.process.stderr()), "{}", weir.process);

    let (status, said) =
        request_log_level(weir.admin, "PUT", LOCAL, "info,weir::rpc=debug\n").await;
    assert_eq!((status, said.as_str()), (200, "info,weir::rpc=debug\n"));
    drop(watch().await);
    eventually("a line of the new level", async || {
        opening(&weir.process.stderr())
    })
    .await;

    for (bad, status) in [("", 400), ("degub", 400), ("weir=loud", 400)] {
        let (got, said) = request_log_level(weir.admin, "PUT", LOCAL, bad).await;
        assert_eq!(got, status, "{bad}: {said}");
        assert!(said.len() > 5, "{bad}: {said}");
    }
    let long = "weir=debug,".repeat(1_000);
    assert_eq!(
        request_log_level(weir.admin, "PUT", LOCAL, &long).await.0,
        413
    );
    let in_force = request_log_level(weir.admin, "GET", LOCAL, "").await;
    assert_eq!(in_force, (200, "info,weir::rpc=debug\n".to_owned()));
}

/// Neither a browser page on this machine nor a proxied request counts as a direct local caller.
#[tokio::test]
async fn without_a_token_only_direct_local_callers_may_change_the_log_level() {
    let database = Database::start().await;
    let weir = ServeProcess::start(database.uri(), &[]).await;
    for headers in [
        "Host: rebound.example:9090\r\n",
        "Host: localhost:9090\r\nOrigin: http://localhost:3000\r\n",
        "Host: localhost:9090\r\nX-Forwarded-For: 10.0.0.7\r\n",
    ] {
        for method in ["GET", "PUT"] {
            let (status, said) = request_log_level(weir.admin, method, headers, "debug").await;
            assert_eq!(status, 403, "{method} {headers}: {said}");
        }
    }
    assert_eq!(
        request_log_level(weir.admin, "GET", LOCAL, "").await.1,
        "info\n"
    );
}

#[tokio::test]
async fn with_a_token_metrics_and_log_level_require_it_and_probes_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    fs::write(&path, format!("{TOKEN}\n")).expect("a token");
    let file = path.to_str().expect("a path");
    let database = Database::start().await;
    let arguments = ["--admin-token-file", file, "--reload-interval", "100ms"];
    let weir = ServeProcess::start(database.uri(), &arguments).await;
    let shown = |token: &str| format!("{LOCAL}Authorization: Bearer {token}\r\n");
    assert_eq!(
        request_log_level(weir.admin, "PUT", LOCAL, "debug").await.0,
        401
    );
    assert_eq!(
        request_log_level(weir.admin, "PUT", &shown("wrong"), "debug")
            .await
            .0,
        401
    );
    assert_eq!(
        request_log_level(weir.admin, "PUT", &shown(TOKEN), "warn")
            .await
            .0,
        200
    );
    assert_eq!(weir.admin_status("/metrics").await, Some(401));
    assert_eq!(weir.admin_status("/livez").await, Some(200));
    let ready = async || weir.admin_status("/readyz").await == Some(200);
    eventually("it is ready, and says so to anyone", ready).await;

    let other = "another-token-that-is-long";
    fs::write(&path, other).expect("a token");
    eventually("the new token is valid", async || {
        request_log_level(weir.admin, "GET", &shown(other), "")
            .await
            .0
            == 200
    })
    .await;
    assert_eq!(
        request_log_level(weir.admin, "GET", &shown(TOKEN), "")
            .await
            .0,
        401
    );
    assert!(!weir.process.stderr().contains(other), "{}", weir.process);
}

/// Openings, catch-ups and ends, at a level that disables info spans.
#[tokio::test]
async fn every_line_about_a_watch_has_its_id_its_peer_and_its_principal() {
    let database = Database::start().await;
    let weir = ServeProcess::start(database.uri(), &["--log-level", "warn,weir=debug"]).await;
    let request = database.watch_request(&[ORDERS]);
    let mut client = weir.client().await;
    let mut first = WatchStream::open(&mut client, request.clone())
        .await
        .expect("the watch opens");
    let id = first.opened.watch_id.clone();
    for order in 0..3 {
        insert(&database, order).await;
        first.next_change().await;
    }
    let failure = FailCommand::on(&["getMore"]).code(43).times(1);
    database.fail(failure.app_name("weir")).await;
    insert(&database, 4).await;
    drop(first);
    let ended = |log: &str| {
        let all = lines(log);
        all.into_iter().find(|it| it["message"] == "watch ended")
    };
    eventually("the end is logged", async || {
        ended(&weir.process.stderr()).is_some()
    })
    .await;
    let log = weir.process.stderr();
    let end = ended(&log).expect("the end");
    assert_eq!(end["span"]["id"], id.as_str(), "{end}");
    assert_eq!(end["reason"], "cancelled", "{end}");
    let of_watches = ["opening the watch", "watch ended", "watch failed"];
    let mut seen = 0;
    for line in lines(&log) {
        let message = line["message"].as_str().unwrap_or_default();
        if of_watches.contains(&message) {
            seen += 1;
            let watch = &line["span"];
            assert_eq!(watch["name"], "watch", "{line}");
            assert_eq!(watch["id"].as_str().map(str::len), Some(16), "{line}");
            assert_eq!(watch["principal"], "anonymous", "{line}");
            let peer = watch["peer"].as_str().unwrap_or_default();
            assert!(peer.starts_with("127.0.0.1:"), "{line}");
        }
    }
    assert!(seen >= 2, "{log}");
}

/// With only warnings enabled, they still name their watch.
#[tokio::test]
async fn a_warning_names_its_watch_at_any_level() {
    let database = Database::start().await;
    let weir = ServeProcess::start(database.uri(), &["--log-level", "warn,weir::app=info"]).await;
    let failure = FailCommand::on(&["aggregate"]).code(13).times(1);
    database.fail(failure.app_name("weir")).await;
    let request = database.watch_request(&[ORDERS]);
    let refused = WatchStream::open(&mut weir.client().await, request).await;
    assert!(refused.is_err());
    eventually("the end is logged", async || {
        let all = lines(&weir.process.stderr());
        all.iter().any(|line| {
            line["message"] == "watch ended"
                && line["span"]["id"].as_str().map(str::len) == Some(16)
        })
    })
    .await;
}
