//! The limits of one principal, and of all together: concurrent watches, openings per second, bytes
//! per second.

use std::time::Duration;

use crate::support::orders::{ORDERS, id, insert};
use crate::support::policy_server::by;
use crate::support::{Database, PolicyServer, WatchStream, error_info, eventually};
use mongodb::bson::doc;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::watch_response::Kind;

const POLICY: &str = "
version: 1
rules:
  - {name: many, principals: ['key:many'], namespaces: [$db.orders], limits: {watches: 5}}
  - {name: fast, principals: ['key:fast'], namespaces: [$db.orders], limits: {byte_rate: 0}}
  - {name: all, namespaces: ['$db.*']}
";

fn clients() -> [(&'static str, Value); 4] {
    ["a", "b", "many", "fast"].map(|name| (name, json!({})))
}

/// Checks a refusal and returns its retry delay.
fn refused(status: &Status, limit: &str) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(error_info(status).reason, "WATCH_LIMIT_EXCEEDED");
    let quota = status.get_details_quota_failure().expect("a QuotaFailure");
    assert_eq!(quota.violations[0].subject, limit, "{status:?}");
    let retry = status.get_details_retry_info().expect("a RetryInfo");
    retry.retry_delay.expect("a delay")
}

/// The permit lives exactly as long as the stream.
#[tokio::test]
async fn a_principal_has_at_most_its_limit_of_open_watches() {
    let database = Database::start().await;
    let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
        config.limits.max_watches_per_principal = Some(2);
    })
    .await;
    let request = || database.watch_request(&[ORDERS]);
    let mut first = server.watch("a", request()).await;
    let second = server.watch("a", request()).await;
    let status = server
        .open("a", request())
        .await
        .err()
        .expect("one too many");
    refused(&status, "principal_watches");
    // Watches of other principals, and under a rule with its own limit, are counted separately.
    let _b = server.watch("b", request()).await;
    let mut many = Vec::new();
    for _ in 0..5 {
        many.push(server.watch("many", request()).await);
    }
    let status = server
        .open("many", request())
        .await
        .err()
        .expect("one too many");
    refused(&status, "principal_watches");
    let _other = server
        .watch("many", database.watch_request(&["invoices"]))
        .await;
    // A watch that is refused for another reason takes no permit.
    for _ in 0..5 {
        let mut broken = request();
        broken.start = Some(pb::watch_request::Start::ResumeToken(
            b"no token"[..].into(),
        ));
        let status = server.open("b", broken).await.err().expect("it is refused");
        assert_eq!(error_info(&status).reason, "RESUME_TOKEN_MALFORMED");
    }
    insert(&database, 1).await;
    assert_eq!(id(&first.next_change().await), 1);
    drop(second);
    eventually("there is room again", async || {
        server.open("a", request()).await.is_ok()
    })
    .await;
    let rejected = [("limit", "principal_watches")];
    let metrics = server.weir.metrics().await;
    assert!(metrics.sum_where("weir_limit_rejections_total", &rejected) >= 2.0);
}

/// A client that returns after the retry delay is admitted.
#[tokio::test]
async fn a_principal_opens_watches_at_most_at_its_rate() {
    let database = Database::start().await;
    let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
        config.limits.watch_rate_per_principal = Some(1);
    })
    .await;
    let mut client = server.weir.client().await;
    let mut open = async |name: &str| {
        WatchStream::open(&mut client, by(name, database.watch_request(&[ORDERS]))).await
    };
    let mut held = Vec::new();
    let wait = loop {
        match open("a").await {
            Ok(watch) => held.push(watch),
            Err(status) => break refused(&status, "principal_watch_rate"),
        }
        assert!(held.len() < 30, "it is never refused");
    };
    assert!(
        held.len() >= 10,
        "ten seconds' worth come at once, not {}",
        held.len()
    );
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    open("b").await.expect("another principal");
    tokio::time::sleep(wait).await;
    open("a").await.expect("the retry delay has passed");
}

#[tokio::test]
async fn all_principals_together_open_watches_at_most_at_the_common_rate() {
    let database = Database::start().await;
    let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
        config.limits.watch_rate = 1;
    })
    .await;
    let mut client = server.weir.client().await;
    let mut opened = 0;
    let status = loop {
        let name = ["a", "b", "many"][opened % 3];
        let request = by(name, database.watch_request(&[ORDERS]));
        match WatchStream::open(&mut client, request).await {
            Ok(_) => opened += 1,
            Err(status) => break status,
        }
        assert!(opened < 30, "they are never refused");
    };
    let wait = refused(&status, "watch_rate");
    assert!(
        opened >= 10 && wait <= Duration::from_secs(1),
        "{opened}, {wait:?}"
    );
}

fn by_pattern(pattern: String) -> pb::Filter {
    let options = String::new();
    let regex = pb::RegexFilter { pattern, options };
    pb::Filter {
        kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
            path: "text".to_owned(),
            operator: Some(pb::field_filter::Operator::Regex(regex)),
        })),
    }
}

/// The caller's own limits are checked before anything that costs other callers.
#[tokio::test]
async fn a_principals_limits_are_checked_before_its_filter() {
    let database = Database::start().await;
    let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
        config.limits.max_watches_per_principal = Some(1);
        config.limits.watch_rate_per_principal = Some(1);
    })
    .await;
    let request = || database.watch_request(&[ORDERS]);
    let bad = || pb::WatchRequest {
        filters: vec![by_pattern("(".to_owned())],
        ..request()
    };
    let refusal = async |name: &str, request: pb::WatchRequest| {
        let opened = server.open(name, request).await;
        opened.err().expect("it is refused")
    };
    // All bad fields are reported at once, those of filters among them.
    let status = refusal(
        "a",
        pb::WatchRequest {
            max_message_bytes: 1,
            ..bad()
        },
    )
    .await;
    let fields = status.get_details_bad_request().expect("a BadRequest");
    let fields: Vec<_> = fields
        .field_violations
        .iter()
        .map(|it| &*it.field)
        .collect();
    assert_eq!(fields.len(), 2, "{fields:?}");
    let _held = server.watch("a", request()).await;
    refused(&refusal("a", bad()).await, "principal_watches");
    // A filter is not compiled where the namespace may not be watched.
    let elsewhere = pb::WatchRequest {
        database: "elsewhere".to_owned(),
        ..bad()
    };
    let status = refusal("b", elsewhere).await;
    assert_eq!(error_info(&status).reason, "NAMESPACE_ACCESS_DENIED");
    // A watch that is refused for its filter counts as an opening.
    let mut named = 0;
    loop {
        let status = refusal("b", bad()).await;
        if error_info(&status).reason == "WATCH_LIMIT_EXCEEDED" {
            refused(&status, "principal_watch_rate");
            break;
        }
        assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
        named += 1;
        assert!(named < 100, "it is never refused");
    }
}

/// Costly filters of one principal block neither the compile queue nor the limits of others.
#[tokio::test]
async fn a_flood_of_costly_filters_delays_only_its_sender() {
    const FLOOD: usize = 40;
    let database = Database::start().await;
    let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
        config.max_watches = FLOOD / 2;
        // What a principal may open by default would end the flood.
        config.limits.max_watches_per_principal = Some(0);
        config.limits.watch_rate_per_principal = Some(0);
    })
    .await;
    let costly = |number: usize| pb::WatchRequest {
        filters: (0..16)
            .map(|part| by_pattern(format!("(?:a{{200}}){{60}}{number}_{part}")))
            .collect(),
        // So that none of them ever opens.
        max_message_bytes: 1,
        ..database.watch_request(&[ORDERS])
    };
    let (mut first, mut second) = (server.weir.client().await, server.weir.client().await);
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..FLOOD {
        let client = if number % 2 == 0 {
            &mut first
        } else {
            &mut second
        };
        let (mut client, request) = (client.clone(), by("a", costly(number)));
        flood.spawn(async move { WatchStream::open(&mut client, request).await.err() });
    }
    let opening = [("state", "opening")];
    eventually("many of them wait", async || {
        let metrics = server.weir.metrics().await;
        metrics.sum_where("weir_watches", &opening) >= FLOOD as f64 / 4.0
    })
    .await;
    let modest = pb::WatchRequest {
        filters: vec![by_pattern("^a".to_owned())],
        ..database.watch_request(&[ORDERS])
    };
    let _plain = server.watch("b", database.watch_request(&[ORDERS])).await;
    let _modest = server.watch("b", modest).await;
    let mut done = 0;
    while let Some(status) = flood.try_join_next() {
        let status = status.expect("no panic").expect("it is refused");
        assert_eq!(error_info(&status).reason, "INVALID_REQUEST", "{status:?}");
        done += 1;
    }
    println!("{done} of {FLOOD} were checked meanwhile");
    assert!(done < FLOOD * 3 / 4, "{done} of {FLOOD} came first");
}

/// A principal that exceeds its byte rate is slowed down, gets signs of life meanwhile, loses
/// nothing, and holds up nobody.
#[tokio::test]
async fn a_principal_over_its_byte_rate_is_slowed_down_and_loses_nothing() {
    const RATE: u64 = 256 << 10;
    const EVENTS: i32 = 60;
    const BYTES: usize = 32 << 10;
    let database = Database::start().await;
    let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
        config.limits.byte_rate_per_principal = bytesize::ByteSize::b(RATE);
    })
    .await;
    let request = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        // So that each message holds one event, and the waits are short.
        max_message_bytes: 64 << 10,
        ..database.watch_request(&[ORDERS])
    };
    let mut slow = server.watch("a", request.clone()).await;
    let mut fast = server.watch("fast", request.clone()).await;
    let orders = database.collection(ORDERS);
    let filler = "x".repeat(BYTES);
    // Before the inserts: the first events are sent while they take their time.
    let begin = Instant::now();
    for number in 0..EVENTS {
        let order = doc! { "_id": number, "filler": &filler };
        orders.insert_one(order).await.expect("an insert");
    }
    for number in 0..EVENTS {
        assert_eq!(id(&fast.next_change().await), number);
    }
    let (mut numbers, mut longest, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    let mut third = None;
    while numbers.len() < EVENTS as usize {
        let message = slow.next().await;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if let Some(Kind::Changes(batch)) = message.kind {
            numbers.extend(batch.changes.iter().map(id));
        }
        // A client that lost its connection may return while others wait: it waits for its turn.
        if numbers.len() > 20 && third.is_none() {
            third = Some(server.watch("a", request.clone()).await);
        }
    }
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
    // The first second's worth was available at once.
    let sent = EVENTS as u64 * BYTES as u64;
    let least = Duration::from_secs_f64((sent - RATE - 2 * (64 << 10)) as f64 / RATE as f64);
    assert!(
        begin.elapsed() >= least,
        "{:?} for {sent} bytes",
        begin.elapsed()
    );
    assert!(
        longest < Duration::from_secs(5),
        "nothing came for {longest:?}"
    );
    let order = doc! { "_id": EVENTS };
    orders.insert_one(order).await.expect("an insert");
    let mut third = third.expect("it was opened");
    while id(&third.next_change().await) != EVENTS {}
}

/// However long a watch has to wait, it stays alive, and ends at once when the server drains.
#[tokio::test]
async fn a_watch_slowed_by_its_byte_rate_stays_alive_and_drains() {
    let database = Database::start().await;
    let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
        config.limits.byte_rate = bytesize::ByteSize::kib(64);
    })
    .await;
    let request = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..database.watch_request(&[ORDERS])
    };
    let mut watch = server.watch("a", request).await;
    let orders = database.collection(ORDERS);
    // About half a minute's worth.
    let order = doc! { "_id": 1, "filler": "x".repeat(2 << 20) };
    orders.insert_one(order).await.expect("an insert");
    insert(&database, 2).await;
    assert_eq!(id(&watch.next_change().await), 1);
    let token = watch.token();
    for _ in 0..3 {
        let progress = watch.next().await;
        assert!(
            matches!(progress.kind, Some(Kind::Progress(_))),
            "{progress:?}"
        );
        assert_eq!(
            progress.resume_token, token,
            "its token is not beyond what it was sent"
        );
    }
    let (_, ()) = tokio::join!(
        async {
            let drains = watch.next_state(pb::WatchState::Draining).await;
            assert!(!drains.reason.is_empty());
            assert_eq!(watch.token(), token);
            let status = watch.end().await;
            assert_eq!(error_info(&status).reason, "SERVER_DRAINING");
        },
        server.weir.shutdown()
    );
}
