//! The end of a watch's authorization: the policy and the keys are reloaded while it is open, and
//! it has a maximum age.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::orders::{ORDERS, Received, id, insert};
use crate::support::policy_server::by;
use crate::support::{Database, PolicyServer, WatchStream, Weir, error_info, eventually};
use futures::future::join_all;
use mongodb::bson::doc;
use serde_json::json;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

/// The time that a stream may continue after a change, on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(30);

fn is(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(error_info(status).reason, reason, "{status:?}");
}

/// The delay after which the client should come back, which differs between clients.
fn retry_delay(status: &Status) -> Duration {
    let retry = status
        .get_details_retry_info()
        .and_then(|it| it.retry_delay);
    let retry = retry.expect("a time to come back");
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(5));
    assert!((least..=most).contains(&retry), "{retry:?}");
    retry
}

/// The request with which the client continues when its tokens are no longer valid for it.
fn resume_at_reported_time(status: &Status, request: &pb::WatchRequest) -> pb::WatchRequest {
    is(status, Code::Unavailable, "ACCESS_CHANGED");
    from_time(&error_info(status).metadata["after_time"], request)
}

fn from_time(time: &str, request: &pb::WatchRequest) -> pb::WatchRequest {
    let (seconds, _) = time.split_once('.').expect("seconds and an increment");
    let start = prost_types::Timestamp {
        seconds: seconds.parse().expect("seconds"),
        nanos: 0,
    };
    pb::WatchRequest {
        start: Some(Start::StartTime(start)),
        ..request.clone()
    }
}

fn after(watch: &WatchStream, request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(watch.token())),
        ..request.clone()
    }
}

/// Reads until the watch ends. Returns its ids, whether it announced draining, and its status.
async fn read_to_the_end(watch: &mut WatchStream) -> (Vec<i32>, bool, Status) {
    let (mut numbers, mut drains) = (Vec::new(), false);
    let whole = async {
        loop {
            match watch.try_next().await {
                Ok(Some(message)) => match message.kind {
                    Some(Kind::Changes(batch)) => numbers.extend(batch.changes.iter().map(id)),
                    Some(Kind::StateChange(it)) => {
                        drains = it.state() == pb::WatchState::Draining;
                    }
                    _ => {}
                },
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(END_LIMIT, whole)
        .await
        .expect("it ends in time");
    (numbers, drains, status)
}

/// A policy reload ends the watches that are no longer allowed and no others, while all of them
/// receive events; nothing is delivered after the end.
#[tokio::test]
async fn a_new_policy_ends_only_the_watches_that_it_no_longer_allows() {
    const EACH: usize = 50;
    let database = Database::start().await;
    let clients = [("kept", json!({})), ("lost", json!({}))];
    let both = "
version: 1
rules:
  - {name: kept, principals: ['key:kept'], namespaces: [$db.orders]}
  - {name: lost, principals: ['key:lost'], namespaces: [$db.orders]}
";
    let server = PolicyServer::start(&database, &clients, both).await;
    let request = database.watch_request(&[ORDERS]);
    let open = async |name: &str| {
        let mut client = server.weir.client().await;
        let mut open = Vec::new();
        for _ in 0..EACH {
            let opened = WatchStream::open(&mut client, by(name, request.clone())).await;
            open.push(opened.expect("the watch opens"));
        }
        open
    };
    let (mut kept, mut lost) = (open("kept").await, open("lost").await);
    insert(&database, 1).await;
    for watch in kept.iter_mut().chain(&mut lost) {
        assert_eq!(id(&watch.next_change().await), 1);
    }
    let begin = Instant::now();
    server.put_policy(
        "
version: 1
rules:
  - {name: kept, principals: ['key:kept'], namespaces: [$db.orders]}
  - {name: lost, principals: ['key:lost'], namespaces: [$db.invoices]}
",
    );
    eventually("it is read", async || server.reloads("ok").await == 1.0).await;
    // None of them sees what is written from here on.
    insert(&database, 2).await;
    let ends = join_all(lost.iter_mut().map(read_to_the_end)).await;
    assert!(begin.elapsed() < END_LIMIT, "{:?}", begin.elapsed());
    for (numbers, _, status) in ends {
        assert!(numbers.is_empty(), "{numbers:?} came after the end");
        is(&status, Code::PermissionDenied, "NAMESPACE_ACCESS_DENIED");
        assert!(!status.message().contains(ORDERS), "{status:?}");
    }
    insert(&database, 3).await;
    for watch in &mut kept {
        assert_eq!(id(&watch.next_change().await), 2);
        assert_eq!(id(&watch.next_change().await), 3);
    }
    let again = server
        .open("lost", request)
        .await
        .err()
        .expect("it is refused");
    is(&again, Code::PermissionDenied, "NAMESPACE_ACCESS_DENIED");
    let ended = [("reason", "NAMESPACE_ACCESS_DENIED")];
    eventually("all that were lost are counted", async || {
        let metrics = server.weir.metrics().await;
        metrics.sum_where("weir_watches_ended_total", &ended) as usize == EACH + 1
    })
    .await;
}

/// An unusable policy changes nothing, and is reported.
#[tokio::test]
async fn an_unusable_policy_leaves_the_old_one_in_force() {
    let database = Database::start().await;
    let good = "version: 1\nrules: [{name: a, namespaces: [$db.orders]}]";
    let server = PolicyServer::start(&database, &[("a", json!({}))], good).await;
    let mut watch = server.watch("a", database.watch_request(&[ORDERS])).await;
    for (number, bad) in [
        "version: 1\nrules: [{name: a, namespace: [x]}]",
        "",
        "version: 2\nrules: []",
    ]
    .into_iter()
    .enumerate()
    {
        server.put_policy(bad);
        let expected = (number + 1) as f64;
        eventually("it is refused", async || {
            server.reloads("failed").await == expected
        })
        .await;
    }
    insert(&database, 1).await;
    assert_eq!(id(&watch.next_change().await), 1);
    server.watch("a", database.watch_request(&[ORDERS])).await;
    let other = database.watch_request(&["invoices"]);
    assert!(server.open("a", other.clone()).await.is_err());
    server.put_policy("version: 1\nrules: [{name: a, namespaces: ['$db.*']}]");
    eventually("a good policy is loaded again", async || {
        server.reloads("ok").await == 1.0
    })
    .await;
    server.watch("a", other).await;
    insert(&database, 2).await;
    assert_eq!(id(&watch.next_change().await), 2);
}

/// A client whose view changes continues with the new view from the same position.
#[tokio::test]
async fn a_watch_whose_view_changes_ends_and_resumes_with_the_new_view() {
    let database = Database::start().await;
    let policy =
        |more: &str| format!("version: 1\nrules: [{{name: a, namespaces: [$db.orders], {more}}}]");
    let clients = [("a", json!({"tenant": "x"}))];
    let all = policy("filter: {tenant: {$claim: tenant}}");
    let server = PolicyServer::start(&database, &clients, &all).await;
    let orders = database.collection(ORDERS);
    let put = async |id: i32, draft: bool| {
        let order = doc! { "_id": id, "tenant": "x", "draft": draft, "note": "secret" };
        orders.insert_one(order).await.expect("an insert");
    };
    let request = database.watch_request(&[ORDERS]);
    let mut watch = server.watch("a", request.clone()).await;
    put(1, false).await;
    assert_eq!(id(&watch.next_change().await), 1);
    for (round, more) in [
        (1, "filter: {tenant: {$claim: tenant}, draft: false}"),
        (
            2,
            "filter: {tenant: {$claim: tenant}, draft: false}, hide: [note]",
        ),
        (
            3,
            "filter: {tenant: {$claim: tenant}, draft: false}, hide: [note], operations: [insert]",
        ),
    ] {
        server.put_policy(&policy(more));
        let (numbers, _, status) = read_to_the_end(&mut watch).await;
        assert!(numbers.is_empty(), "{numbers:?}");
        is(&status, Code::Unavailable, "ACCESS_CHANGED");
        // Its token stays valid, and the status contains nothing else.
        assert_eq!(error_info(&status).metadata.len(), 0, "{status:?}");
        retry_delay(&status);
        put(round * 10, true).await;
        put(round * 10 + 1, false).await;
        watch = server.watch("a", after(&watch, &request)).await;
        let change = watch.next_change().await;
        assert_eq!(id(&change), round * 10 + 1, "the draft is not for it");
        let leaks = format!("{change:?}").contains("secret");
        assert_eq!(leaks, round == 1, "{change:?}");
    }
    // A change of the policy that means the same for this client.
    let same = "filter: {draft: {$eq: false}, tenant: {$eq: {$claim: tenant}}}, hide: [note], operations: [insert], limits: {watches: 7}";
    let before = server.reloads("ok").await;
    server.put_policy(&policy(same));
    eventually("it is read", async || server.reloads("ok").await > before).await;
    put(100, false).await;
    assert_eq!(id(&watch.next_change().await), 100);
}

/// The former tokens are valid for nobody any more, and yet nothing is missed: the status names the
/// time from which to continue, and so does the refusal of an older token.
#[tokio::test]
async fn a_watch_whose_tokens_become_invalid_gets_the_time_from_which_to_continue() {
    let database = Database::start().await;
    let policy =
        |more: &str| format!("version: 1\nrules: [{{name: a, namespaces: [$db.orders]{more}}}]");
    let filtered = policy(", filter: {tenant: x}");
    let server = PolicyServer::start(&database, &[("a", json!({}))], &policy("")).await;
    let orders = database.collection(ORDERS);
    let put = async |id: i32, tenant: &str| {
        let order = doc! { "_id": id, "tenant": tenant };
        orders.insert_one(order).await.expect("an insert");
    };
    let request = database.watch_request(&[ORDERS]);
    let mut watch = server.watch("a", request.clone()).await;
    put(1, "x").await;
    assert_eq!(id(&watch.next_change().await), 1);
    for (round, rules, theirs) in [(1, filtered.clone(), false), (2, policy(""), true)] {
        let (read, mine, other) = (10 * round, 10 * round + 1, 10 * round + 2);
        put(read, "x").await;
        while id(&watch.next_change().await) != read {}
        let stored = after(&watch, &request);
        server.put_policy(&rules);
        let (_, _, status) = read_to_the_end(&mut watch).await;
        retry_delay(&status);
        put(other, "y").await;
        put(mine, "x").await;
        let refused = server.open("a", stored).await.err();
        let refused = refused.expect("it is refused");
        is(&refused, Code::InvalidArgument, "RESUME_TOKEN_MISMATCH");
        let reported = &error_info(&refused).metadata["token_time"];
        for start in [
            from_time(reported, &request),
            resume_at_reported_time(&status, &request),
        ] {
            watch = server.watch("a", start).await;
            let mut seen = Vec::new();
            while !seen.contains(&mine) {
                seen.push(id(&watch.next_change().await));
            }
            assert_eq!(seen.contains(&other), theirs, "{seen:?}");
        }
    }
}

/// Claims are evaluated anew, too.
#[tokio::test]
async fn a_client_whose_claims_change_sees_what_its_new_claims_allow() {
    let database = Database::start().await;
    let policy = "version: 1\nrules: [{name: a, namespaces: [$db.orders], filter: {tenant: {$claim: tenant}}}]";
    let x = [("a", json!({"tenant": "x"})), ("b", json!({"tenant": "x"}))];
    let server = PolicyServer::start(&database, &x, policy).await;
    let request = database.watch_request(&[ORDERS]);
    let mut changed = server.watch("a", request.clone()).await;
    let mut same = server.watch("b", request.clone()).await;
    server.put_clients(&[
        ("a", json!({"tenant": "y"})),
        ("b", json!({"tenant": "x", "more": 1})),
    ]);
    let (_, _, status) = read_to_the_end(&mut changed).await;
    let onward = resume_at_reported_time(&status, &request);
    // The token was for tenant x.
    let refused = server.open("a", after(&changed, &request)).await.err();
    is(
        &refused.expect("it is refused"),
        Code::InvalidArgument,
        "RESUME_TOKEN_MISMATCH",
    );
    let orders = database.collection(ORDERS);
    for (number, tenant) in [(1, "x"), (2, "y")] {
        let order = doc! { "_id": number, "tenant": tenant };
        orders.insert_one(order).await.expect("an insert");
    }
    let mut restarted = server.watch("a", onward).await;
    assert_eq!(id(&restarted.next_change().await), 2);
    assert_eq!(id(&same.next_change().await), 1);
}

/// Many watches that began together do not end together. Each is warned before, and each resumes
/// from its token without loss.
#[tokio::test]
async fn a_watch_at_its_maximum_age_resumes_elsewhere_without_loss() {
    const WATCHES: usize = 20;
    const AGE: Duration = Duration::from_secs(4);
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.limits.watch_max_age = AGE).await;
    let request = database.watch_request(&[ORDERS]);
    let mut client = weir.client().await;
    let begin = Instant::now();
    let mut open = Vec::new();
    for _ in 0..WATCHES {
        let opened = WatchStream::open(&mut client, request.clone()).await;
        open.push(opened.expect("the watch opens"));
    }
    let opened = begin.elapsed();
    let writing = async {
        for number in 0..40 {
            insert(&database, number).await;
            tokio::time::sleep(AGE / 40).await;
        }
    };
    let follow = async |mut watch: WatchStream| {
        let mut all = Vec::new();
        let (mut ends, mut retries) = (Vec::new(), Vec::new());
        while !all.contains(&39) {
            let mut watched = Received::default();
            let (numbers, drains, status) = loop {
                match watch.try_next().await {
                    Ok(Some(message)) => match message.kind {
                        Some(Kind::Changes(batch)) => {
                            watched.ids.extend(batch.changes.iter().map(id));
                            if watched.ids.contains(&39) {
                                break (watched.ids, true, None);
                            }
                        }
                        Some(Kind::StateChange(it)) => watched.states.push(it.state()),
                        _ => {}
                    },
                    Ok(None) => panic!("it ended with OK"),
                    Err(status) => {
                        let drains = watched.states.last() == Some(&pb::WatchState::Draining);
                        break (watched.ids, drains, Some(status));
                    }
                }
            };
            all.extend(numbers);
            if let Some(status) = status {
                ends.push(begin.elapsed());
                assert!(drains, "it was not warned: {status:?}");
                is(&status, Code::Unavailable, "WATCH_MAX_AGE");
                retries.push(retry_delay(&status));
                watch = weir.watch(after(&watch, &request)).await;
            }
        }
        (all, ends, retries)
    };
    let (_, followed) = tokio::join!(writing, join_all(open.into_iter().map(follow)));
    let (mut first_ends, mut retries) = (Vec::new(), Vec::new());
    for (numbers, ends, reported) in followed {
        retries.extend(reported);
        assert_eq!(numbers, (0..40).collect::<Vec<_>>());
        first_ends.extend(ends.first().copied());
    }
    first_ends.sort();
    assert_eq!(first_ends.len(), WATCHES, "some did not end");
    let (first, last) = (first_ends[0], first_ends[WATCHES - 1]);
    assert!(first >= AGE.mul_f64(0.8), "one ended after {first:?}");
    assert!(
        last >= first + AGE / 20,
        "all ended at once: {first_ends:?}"
    );
    retries.sort();
    let apart = retries[retries.len() - 1] - retries[0];
    assert!(
        apart > Duration::from_secs(1),
        "all are to come back at once: {retries:?}"
    );
    let late = AGE + opened + Duration::from_secs(5);
    assert!(last < late, "one ended after {last:?}");
    let reason = [("reason", "WATCH_MAX_AGE")];
    let ended = weir
        .metrics()
        .await
        .sum_where("weir_watches_ended_total", &reason);
    assert!(ended as usize >= WATCHES, "{ended}");
}

/// The end comes before events that are ready to be sent: a client that reads late gets no event
/// from after it.
#[tokio::test]
async fn buffered_events_are_not_sent_once_a_client_may_no_longer_watch() {
    let database = Database::start().await;
    let policy = "version: 1\nrules: [{name: a, namespaces: [$db.orders]}]";
    let server = PolicyServer::start(&database, &[("a", json!({}))], policy).await;
    let request = database.watch_request(&[ORDERS]);
    let orders = database.collection(ORDERS);
    let address = server.weir.grpc_addr();
    let mut watch = WatchStream::narrow(address, by("a", request)).await;
    // More than the buffers between the server and a client that does not read.
    let filler = "x".repeat(200_000);
    for number in 0..30 {
        let order = doc! { "_id": number, "filler": &filler };
        orders.insert_one(order).await.expect("an insert");
    }
    server.put_policy("version: 1\nrules: []");
    eventually("it is read", async || server.reloads("ok").await == 1.0).await;
    let (numbers, _, status) = read_to_the_end(&mut watch).await;
    is(&status, Code::PermissionDenied, "NAMESPACE_ACCESS_DENIED");
    let order: BTreeSet<i32> = numbers.iter().copied().collect();
    assert!(order.len() < 20, "{} of 30 were sent", order.len());
}
