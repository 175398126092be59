//! The values in `/metrics` after known traffic, and how lag and progress behave.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::certificates::Authority;
use crate::support::exposition::{self, Family};
use crate::support::orders::{ORDERS, Received, insert};
use crate::support::{Database, FailCommand, Mode, Proxy, WatchStream, Weir, eventually, within};
use mongodb::bson::doc;
use tokio::time::Instant;
use weir::metrics::CATALOGUE;
use weir::pb;
use weir::pb::watch_response::Kind;

type Page = std::collections::BTreeMap<String, Family>;

async fn scrape(weir: &Weir) -> Page {
    let (status, page) = weir.admin("/metrics").await;
    assert_eq!(status, 200, "{page}");
    exposition::read(&page)
}

/// Everything that may happen to a watch, so that every metric has a value.
async fn traffic(database: &Database, weir: &Weir) {
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    insert(database, 1).await;
    watch.next_change().await;
    let failure = FailCommand::on(&["getMore"]).code(43).times(1);
    database.fail(failure.app_name("weir")).await;
    insert(database, 2).await;
    let mut received = Received::default();
    received.until_reconnected(&mut watch, 1).await;
    received.until_id(&mut watch, 2).await;
    let refused = weir.try_watch(database.watch_request(&[ORDERS])).await;
    assert!(refused.is_err(), "the limit is one");
    eventually("the watch reports the refusal", async || {
        weir.metrics().await.sum("weir_limit_rejections_total") == 1.0
    })
    .await;
    drop(watch);
    eventually("both watches have ended", async || {
        weir.metrics().await.sum("weir_watches_ended_total") == 2.0
    })
    .await;
}

#[tokio::test]
async fn every_metric_of_the_catalogue_is_exposed_with_its_type_and_labels() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| config.max_watches = 1).await;
    // A series that is missing from the first scrape is missing from every rate.
    let first = scrape(&weir).await;
    traffic(&database, &weir).await;
    let _open = weir.watch(database.watch_request(&[ORDERS])).await;
    eventually("the oplog's start is known", async || {
        weir.metrics().await.has("weir_oplog_headroom_seconds")
    })
    .await;
    let page = scrape(&weir).await;
    // Without certificates the certificate metrics do not exist.
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = Authority::new("servers").local().write(folder.path());
    let authority = certificate.clone();
    let encrypting = Weir::with(&database, |config| {
        config.tls.tls_cert_file = Some(certificate);
        config.tls.tls_key_file = Some(key);
        config.tls.tls_client_ca_file = Some(authority);
        config.auth.auth_certificates = true;
    })
    .await;
    eventually("the files are followed", async || {
        encrypting.metrics().await.has("weir_reloads_total")
    })
    .await;
    let encrypting = scrape(&encrypting).await;
    for metric in CATALOGUE {
        let of_files = metric.name.starts_with("weir_tls_")
            || metric.name == "weir_authentications_total"
            || metric.labels.contains(&"what");
        let (first, page) = match of_files {
            true => (&encrypting, &encrypting),
            false => (&first, &page),
        };
        assert!(
            first.contains_key(metric.name) || !metric.labels.is_empty(),
            "{} comes late",
            metric.name
        );
        let family = page.get(metric.name);
        let family = family.unwrap_or_else(|| panic!("{} is missing", metric.name));
        assert_eq!(family.kind, metric.kind, "{}", metric.name);
        assert_eq!(family.help, metric.help, "{}", metric.name);
        assert!(!family.samples.is_empty(), "{} has no sample", metric.name);
        let expected: BTreeSet<&str> = metric.labels.iter().copied().collect();
        for sample in &family.samples {
            let labels = sample.labels.keys().map(String::as_str);
            let labels: BTreeSet<&str> = labels.filter(|&it| it != "le").collect();
            assert_eq!(labels, expected, "{sample:?}");
        }
    }
    let catalogued: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    for name in page.keys() {
        assert!(
            catalogued.contains(name.as_str()) || name.starts_with("process_"),
            "{name} is not in the catalogue"
        );
    }
}

#[tokio::test]
async fn counters_match_the_traffic() {
    let database = Database::start().await;
    let weir = Weir::without_linger(&database).await;
    let request = database.watch_request(&[ORDERS]);
    let json = pb::WatchRequest {
        document_format: pb::DocumentFormat::Json.into(),
        operations: vec![pb::OperationType::Insert.into()],
        ..request.clone()
    };
    let bounded = pb::WatchRequest {
        end_time: Some(prost_types::Timestamp {
            seconds: 1,
            nanos: 0,
        }),
        ..request.clone()
    };
    let mut bson = weir.watch(request).await;
    let mut json = weir.watch(json).await;
    for id in 0..3 {
        insert(&database, id).await;
    }
    let orders = database.collection(ORDERS);
    let change = doc! { "$set": { "status": "paid" } };
    orders
        .update_one(doc! { "_id": 0 }, change)
        .await
        .expect("an update");
    orders
        .delete_one(doc! { "_id": 1 })
        .await
        .expect("a deletion");
    insert(&database, 3).await;
    bson.changes(6).await;
    json.changes(4).await;
    assert_eq!(
        weir.watch(bounded).await.end().await.code(),
        tonic::Code::Ok
    );
    // A stream is released a moment after its client has seen the end.
    let ok = [("code", "OK"), ("reason", "end_time")];
    eventually("the bounded read is over", async || {
        weir.metrics()
            .await
            .sum_where("weir_watches_ended_total", &ok)
            == 1.0
    })
    .await;

    let metrics = weir.metrics().await;
    let operation =
        |name: &str, operation: &str| metrics.sum_where(name, &[("operation", operation)]);
    for (name, expected) in [("insert", 8.0), ("update", 1.0), ("delete", 1.0)] {
        assert_eq!(
            operation("weir_events_sent_total", name),
            expected,
            "{name}"
        );
        assert_eq!(
            operation("weir_events_received_total", name),
            expected,
            "{name}"
        );
    }
    assert_eq!(metrics.sum("weir_events_sent_total"), 10.0);
    let format =
        |format: &str| metrics.sum_where("weir_event_encodings_total", &[("format", format)]);
    assert_eq!(
        (format("bson"), format("json"), format("struct")),
        (6.0, 4.0, 0.0)
    );
    // One sample per message; events that come together share one.
    let samples = metrics.sum("weir_delivery_lag_seconds_count");
    assert!((2.0..=10.0).contains(&samples), "{samples}");
    assert!(metrics.sum("weir_delivery_lag_seconds_sum") < 60.0);
    assert!(metrics.sum("weir_bytes_sent_total") > 1000.0);
    assert_eq!(metrics.sum("weir_watches_started_total"), 3.0);
    eventually("two watches are live", async || {
        let metrics = weir.metrics().await;
        let feeds = |mode| metrics.sum_where("weir_feeds", &[("state", "live"), ("mode", mode)]);
        metrics.sum_where("weir_watches", &[("state", "live")]) == 2.0
            && (feeds("dedicated"), feeds("shared")) == (1.0, 1.0)
    })
    .await;
    assert_eq!(metrics.sum("weir_watch_duration_seconds_count"), 1.0);
    // Each feed keeps its ring for later watches while it exists.
    assert!(metrics.sum("weir_ring_bytes") > 0.0);
    assert!(metrics.sum("weir_memory_used_bytes") > 0.0);
    drop((bson, json));
    eventually("nothing is kept", async || {
        let metrics = weir.metrics().await;
        ["weir_feeds", "weir_ring_bytes", "weir_memory_used_bytes"]
            .iter()
            .all(|gauge| metrics.sum(gauge) == 0.0)
    })
    .await;
}

/// The byte counter equals the size of the messages that the client got.
#[tokio::test]
async fn bytes_sent_match_the_messages() {
    use prost::Message as _;

    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut client = weir.client().await;
    let request = database.watch_request(&[ORDERS]);
    let mut stream = client.watch(request).await.expect("it opens").into_inner();
    insert(&database, 1).await;
    let mut bytes = 0;
    loop {
        let message = within("a change", stream.message())
            .await
            .expect("it continues");
        let message = message.expect("it continues");
        bytes += message.encoded_len();
        if matches!(message.kind, Some(Kind::Changes(_))) {
            break;
        }
    }
    let sent = weir.metrics().await.sum("weir_bytes_sent_total");
    // A state change may be on its way.
    assert!(
        (bytes..bytes + 300).contains(&(sent as usize)),
        "{sent} of {bytes}"
    );
}

const LAG: &str = "weir_feed_lag_seconds";

#[tokio::test]
async fn a_feeds_lag_is_0_when_idle_grows_while_mongodb_is_away_and_disappears_with_the_feed() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::without_linger_at(&proxy.mongodb_uri()).await;
    assert!(!weir.metrics().await.has(LAG));
    let watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let idle = async || {
        let metrics = weir.metrics().await;
        metrics.has(LAG) && metrics.sum(LAG) == 0.0
    };
    eventually("nothing is left to read", idle).await;
    insert(&database, 1).await;
    eventually("nothing is left to read although no one reads", idle).await;

    proxy.set(Mode::Refuse);
    eventually("the lag grows", async || {
        weir.metrics().await.sum(LAG) >= 1.5
    })
    .await;
    let reconnecting = [("state", "reconnecting")];
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum_where("weir_feeds", &reconnecting), 1.0);
    eventually("the watch knows", async || {
        weir.metrics()
            .await
            .sum_where("weir_watches", &reconnecting)
            == 1.0
    })
    .await;
    proxy.set(Mode::Pass);
    eventually("the lag is gone", idle).await;

    drop(watch);
    eventually("the lag disappears with the feed", async || {
        !weir.metrics().await.has(LAG)
    })
    .await;
}

/// The feed of a client that does not read stops. Its lag must show that, even if nothing was left
/// to read when it stopped.
#[tokio::test]
async fn a_feeds_lag_grows_while_its_client_does_not_read() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.ring_bytes = bytesize::ByteSize::kib(64);
    })
    .await;
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let orders = database.collection(ORDERS);
    let mut written = 0;
    let mut write = async || {
        let large = doc! { "_id": written, "text": "x".repeat(500_000) };
        written += 1;
        orders.insert_one(large).await.expect("an insert");
        written
    };
    // Fills the client's window, so that few single writes remain.
    for _ in 0..4 {
        write().await;
    }
    let mut lagging = false;
    while !lagging {
        let written = write().await;
        assert!(
            written < 12,
            "the feed stops and reports that it is up to date"
        );
        let received = async || weir.metrics().await.sum("weir_events_received_total");
        let begin = Instant::now();
        eventually("the write was read, or must wait", async || {
            let lag = weir.metrics().await.sum(LAG);
            lagging = lag >= 2.0;
            let up_to_date = lag == 0.0 && received().await >= f64::from(written);
            // It was read and followed by an empty reply; or there is no such reply.
            lagging || (up_to_date && begin.elapsed() > Duration::from_millis(1100))
        })
        .await;
    }
    let mut received = Received::default();
    let last = weir.metrics().await.sum("weir_events_received_total") as i32 - 1;
    received.until_id(&mut watch, last).await;
    eventually("the lag is gone", async || {
        weir.metrics().await.sum(LAG) == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_namespace_with_quotes_and_backslashes_is_escaped() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let name = "a\"b\\c\nd{e}, f=\"";
    let _watching = weir.watch(database.watch_request(&[name])).await;
    let page = scrape(&weir).await;
    let namespaces: Vec<_> = page[LAG]
        .samples
        .iter()
        .map(|it| it.labels["scope"].clone())
        .collect();
    // A name that breaks the line, which MongoDB allows, breaks none where the label is shown.
    let shown = name.replace('\n', "\\n");
    assert_eq!(namespaces, [format!("{}.{shown}", database.name())]);
}

fn each_second(request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..request
    }
}

/// Waits for two progress messages, each in time.
async fn read_two_progresses(watch: &mut WatchStream) {
    for _ in 0..2 {
        let begin = Instant::now();
        watch.next_progress().await;
        let silence = begin.elapsed();
        assert!(
            silence < Duration::from_millis(1800),
            "{silence:?} of silence"
        );
    }
}

#[tokio::test]
async fn progress_comes_when_nothing_happens_or_nothing_matches() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut quiet = weir
        .watch(each_second(database.watch_request(&["quiet"])))
        .await;
    let filter = pb::FieldFilter {
        path: "status".to_owned(),
        operator: Some(pb::field_filter::Operator::Exists(true)),
    };
    let mut filtered = weir
        .watch(pb::WatchRequest {
            filters: vec![pb::Filter {
                kind: Some(pb::filter::Kind::Field(filter)),
            }],
            ..each_second(database.watch_request(&[ORDERS]))
        })
        .await;
    let token = filtered.token();
    let writing = async {
        for id in 0.. {
            insert(&database, id).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = futures::future::join(read_two_progresses(&mut quiet), read_two_progresses(&mut filtered)) => {}
        () = writing => {}
    }
    assert_ne!(
        filtered.token(),
        token,
        "the position moves although nothing matches"
    );
    assert!(weir.metrics().await.sum("weir_progress_sent_total") >= 4.0);
}

#[tokio::test]
async fn progress_comes_while_mongodb_is_away() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), |_| {}).await;
    let mut watch = weir
        .watch(each_second(database.watch_request(&[ORDERS])))
        .await;
    proxy.set(Mode::Refuse);
    watch.next_state(pb::WatchState::UpstreamReconnecting).await;
    read_two_progresses(&mut watch).await;
    // A progress beyond what was read would be a lie.
    let token = watch.token();
    insert(&database, 1).await;
    proxy.set(Mode::Pass);
    let mut resumed = Received::default();
    resumed.until_id(&mut watch, 1).await;
    let mut again = weir
        .watch(crate::support::orders::resume(&database, token))
        .await;
    assert_eq!(crate::support::orders::id(&again.next_change().await), 1);
}

#[tokio::test]
async fn the_progress_interval_is_clamped_and_reported_to_the_client() {
    let database = Database::start().await;
    let default = Duration::from_secs(7);
    let weir = Weir::with(&database, |config| config.progress_interval = default).await;
    let in_force = async |asked: Option<prost_types::Duration>| {
        let request = pb::WatchRequest {
            progress_interval: asked,
            ..database.watch_request(&[ORDERS])
        };
        let opened = weir.watch(request).await.opened;
        let interval = opened.progress_interval.expect("the interval is reported");
        Duration::try_from(interval).expect("it is positive")
    };
    let asked = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    assert_eq!(in_force(None).await, default);
    assert_eq!(in_force(asked(0, 1)).await, Duration::from_secs(1));
    assert_eq!(
        in_force(asked(2, 500_000_000)).await,
        Duration::from_millis(2500)
    );
    assert_eq!(in_force(asked(3600, 0)).await, Duration::from_secs(60));
}
