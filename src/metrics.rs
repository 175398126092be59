//! The catalogue of metrics: the single definition of every name, unit, label and bucket.
//!
//! Handles on the hot path are created at start for all their label values, so that an update costs one
//! atomic operation and no look-up. Gauges are changed through guards, whose `Drop` undoes the change.

mod guards;
mod handles;
mod label_values;
mod labels;
mod scrape;

use std::{collections::HashMap, sync::Mutex, time::Duration};

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::{
    model::{Format, Operation},
    wire::Compression,
};

use handles::{Handles, describe};

pub use guards::{GaugeGuard, StageGuard};
pub use label_values::WATCH_ENDS;
pub use labels::{HandshakeResult, Mode, Stage};
pub use scrape::ScrapedGauges;

/// One entry of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct MetricDescription {
    /// The metric's name.
    pub name: &'static str,
    /// The Prometheus type: counter, gauge or histogram.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The help text.
    pub help: &'static str,
}

macro_rules! catalogue {
    ($($constant:ident: $kind:literal, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(const $constant: &str = $name;)*
        /// Every metric except those of the process (`process_*`).
        pub const CATALOGUE: &[MetricDescription] = &[
            $(MetricDescription { name: $name, kind: $kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

catalogue! {
    BUILD_INFO: "gauge", "weir_build_info", ["version"],
        "1, with Weir's version.";
    READY: "gauge", "weir_ready", [],
        "1 if the instance is ready for clients, as /readyz reports; 0 otherwise.";
    WATCHES: "gauge", "weir_watches", ["state"],
        "Open watches, by state: opening, catching_up, live, reconnecting.";
    WATCHES_STARTED: "counter", "weir_watches_started_total", [],
        "Watch calls received, including refused ones.";
    WATCHES_ENDED: "counter", "weir_watches_ended_total", ["code", "reason"],
        "Ended watches, by gRPC code and reason.";
    WATCH_DURATION: "histogram", "weir_watch_duration_seconds", [],
        "Duration of watches, from the call to the end of the stream.";
    FEEDS: "gauge", "weir_feeds", ["state", "mode"],
        "Open feeds, each one change stream on MongoDB that watches share, by state (opening, live, catching_up, reconnecting) and mode (shared, dedicated).";
    CONNECTIONS: "gauge", "weir_connections", [],
        "Open connections of gRPC clients.";
    CATCH_UPS: "gauge", "weir_catch_ups", [],
        "Watches that read events which their feed no longer holds, each on its own change stream.";
    WATCHES_FELL_BEHIND: "counter", "weir_watches_fell_behind_total", [],
        "Times that a watch fell behind the events that its feed holds, or left a chunked event unread while memory was short, and had to catch up.";
    PARKS: "counter", "weir_parks_total", [],
        "Deprecated: use weir_watches_fell_behind_total, which has the same value. The next version, 0.3.0, removes this name.";
    OPLOG_HEADROOM: "gauge", "weir_oplog_headroom_seconds", [],
        "Time from the oldest entry of MongoDB's oplog to the position of the slowest watch; absent while either is unknown.";
    FEED_RESTARTS: "counter", "weir_feed_restarts_total", ["reason"],
        "Change streams reopened after a failure, by reason.";
    FEED_LAG: "gauge", "weir_feed_lag_seconds", ["scope"],
        "MongoDB's operation time minus the position that the feed has reached, by scope; 0 when nothing is left to read.";
    DELIVERY_LAG: "histogram", "weir_delivery_lag_seconds", [],
        "Time from the wall time of a message's oldest event, set by the database server, to handing the message to the client's connection.";
    EVENTS_RECEIVED: "counter", "weir_events_received_total", ["operation"],
        "Events read from MongoDB, by operation.";
    EVENTS_SENT: "counter", "weir_events_sent_total", ["operation"],
        "Events handed to clients' connections, by operation.";
    EVENTS_FILTERED: "counter", "weir_events_filtered_total", [],
        "Events read from MongoDB that matched no watch of their feed.";
    EVENT_ENCODINGS: "counter", "weir_event_encodings_total", ["format"],
        "Events encoded, by document format.";
    COMPRESSIONS: "counter", "weir_message_compressions_total", ["encoding"],
        "Messages compressed, once for all watches that send them, by encoding: gzip, zstd.";
    BYTES_SENT: "counter", "weir_bytes_sent_total", [],
        "Bytes of messages handed to clients' connections, before HTTP/2 framing.";
    PROGRESS_SENT: "counter", "weir_progress_sent_total", [],
        "Progress messages handed to clients' connections.";
    RING_BYTES: "gauge", "weir_ring_bytes", [],
        "Bytes of events that feeds keep for their watches.";
    MEMORY_USED: "gauge", "weir_memory_used_bytes", [],
        "Bytes in use of --memory-limit: events read from MongoDB and their encodings.";
    MEMORY_LIMIT: "gauge", "weir_memory_limit_bytes", [],
        "The value of --memory-limit.";
    TASKS: "gauge", "weir_tasks", [],
        "Running tasks of the process: a few for each connection, feed and catch-up, and one for each watch.";
    LIMIT: "gauge", "weir_limit", ["limit"],
        "Maximum number that may be open at once, by limit: watches, connections, feeds, catch_ups.";
    LIMIT_REJECTIONS: "counter", "weir_limit_rejections_total", ["limit"],
        "Watches, calls and connections refused because a limit was reached: watches, feeds, calls, connections, checks, patterns, request_timeout, principal_watches, principal_watch_rate, watch_rate, principals.";
    TLS_HANDSHAKES: "counter", "weir_tls_handshakes_total", ["result"],
        "Finished TLS handshakes, by result: ok, timeout, refused_by_client, certificate_missing, certificate_refused, protocol, closed.";
    TLS_CERTIFICATE_EXPIRY: "gauge", "weir_tls_certificate_expiry_timestamp_seconds", [],
        "Expiry of the server certificate in use, in seconds since 1970; absent without TLS.";
    AUTHENTICATIONS: "counter", "weir_authentications_total", ["method", "result"],
        "Authenticated and rejected calls, by method (jwt, key, cert, none) and result (ok, missing, invalid, expired, unavailable).";
    AUTHORIZATIONS: "counter", "weir_authorizations_total", ["result"],
        "Calls of authenticated callers, by whether any rule of the policy applies to the caller: ok, no_rule.";
    RELOADS: "counter", "weir_reloads_total", ["what", "result"],
        "Reloads of changed files, by content (tls, api_keys, jwks, policy, token_keys, admin_token) and result (ok, failed).";
    LAST_RELOAD: "gauge", "weir_last_reload_successful", ["what"],
        "1 if the last version of the files is in force, 0 if it could not be used, by content (see weir_reloads_total).";
}

/// In seconds, from 0.1 ms, which loopback reaches, to 5 minutes.
const LAG_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0,
];

/// In seconds, from 1 second to 1 week.
const DURATION_BUCKETS: &[f64] = &[
    1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0, 604_800.0,
];

/// The handles of every metric, and the page that Prometheus scrapes.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    watches: [Gauge; Stage::ALL.len()],
    feeds: [[Gauge; Stage::ALL.len()]; Mode::ALL.len()],
    events_received: [Counter; Operation::ALL.len()],
    events_sent: [Counter; Operation::ALL.len()],
    encodings: [Counter; FORMATS.len()],
    compressions: [Counter; Compression::ALL.len()],
    restarts: Mutex<HashMap<&'static str, Counter>>,
    ended: Mutex<HashMap<(&'static str, &'static str), Counter>>,
    rejections: Mutex<HashMap<&'static str, Counter>>,
    reloads: Mutex<HashMap<(&'static str, &'static str), Counter>>,
    authentications: Mutex<HashMap<(&'static str, &'static str), Counter>>,
    authorizations: Mutex<HashMap<&'static str, Counter>>,
    handshakes: Mutex<HashMap<&'static str, Counter>>,
    /// `weir_watches_started_total`
    pub watches_started: Counter,
    /// `weir_watch_duration_seconds`
    pub watch_duration: Histogram,
    /// `weir_delivery_lag_seconds`
    pub delivery_lag: Histogram,
    /// `weir_bytes_sent_total`
    pub bytes_sent: Counter,
    /// `weir_progress_sent_total`
    pub progress_sent: Counter,
    /// `weir_ring_bytes`
    pub ring_bytes: Gauge,
    /// `weir_events_filtered_total`
    pub events_filtered: Counter,
    /// `weir_connections`
    pub connections: Gauge,
    /// `weir_catch_ups`
    pub catch_ups: Gauge,
    watches_fell_behind: Counter,
    /// The deprecated name of `watches_fell_behind`.
    parks: Counter,
    process: metrics_process::Collector,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

const FORMATS: [(Format, &str); 4] = [
    (Format::Bson, "bson"),
    (Format::Json, "json"),
    (Format::CanonicalJson, "canonical_json"),
    (Format::Struct, "struct"),
];

impl Metrics {
    /// Creates the recorder, the descriptions and the handles. Touches nothing global, so that several
    /// servers can run in one process.
    #[must_use]
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(WATCH_DURATION.to_owned()), DURATION_BUCKETS)
            .and_then(|it| {
                it.set_buckets_for_metric(Matcher::Full(DELIVERY_LAG.to_owned()), LAG_BUCKETS)
            })
            .expect("the buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        let built = metrics::with_local_recorder(&recorder, || {
            describe();
            Handles::register()
        });
        let metrics = Self {
            handle,
            recorder,
            watches: built.watches,
            feeds: built.feeds,
            events_received: built.events_received,
            events_sent: built.events_sent,
            encodings: built.encodings,
            compressions: built.compressions,
            restarts: Mutex::default(),
            ended: Mutex::default(),
            rejections: Mutex::default(),
            reloads: Mutex::default(),
            authentications: Mutex::default(),
            authorizations: Mutex::default(),
            handshakes: Mutex::default(),
            watches_started: built.watches_started,
            watch_duration: built.watch_duration,
            delivery_lag: built.delivery_lag,
            bytes_sent: built.bytes_sent,
            progress_sent: built.progress_sent,
            ring_bytes: built.ring_bytes,
            events_filtered: built.events_filtered,
            connections: built.connections,
            catch_ups: built.catch_ups,
            watches_fell_behind: built.watches_fell_behind,
            parks: built.parks,
            process: metrics_process::Collector::default(),
        };
        metrics::with_local_recorder(&metrics.recorder, || {
            metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
        });
        metrics.register_known_label_values();
        metrics
    }

    /// Drains the histograms' buffers, which grow until then. Call this every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Returns the page that Prometheus scrapes, with `gauges` measured now.
    #[must_use]
    pub fn render(&self, gauges: &ScrapedGauges) -> String {
        metrics::with_local_recorder(&self.recorder, || self.process.collect());
        let mut page = self.handle.render();
        gauges.write(&mut page);
        page
    }

    /// `weir_events_received_total`
    pub fn events_received(&self, operation: Operation) -> &Counter {
        &self.events_received[index_of(operation)]
    }

    /// `weir_events_sent_total`
    pub fn events_sent(&self, operation: Operation) -> &Counter {
        &self.events_sent[index_of(operation)]
    }

    /// `weir_event_encodings_total`
    pub fn encodings(&self, format: Format) -> &Counter {
        let index = FORMATS.iter().position(|(other, _)| *other == format);
        &self.encodings[index.expect("every format is in the table")]
    }

    /// `weir_message_compressions_total`
    pub fn compressions(&self, compression: Compression) -> &Counter {
        let index = Compression::ALL.iter().position(|it| *it == compression);
        &self.compressions[index.expect("every way to compress is in the table")]
    }

    /// Counts in `weir_feed_restarts_total`; `reason` is from a closed set.
    pub fn count_feed_restart(&self, reason: &'static str) {
        self.feed_restart_counter(reason).increment(1);
    }

    fn feed_restart_counter(&self, reason: &'static str) -> Counter {
        self.counter(
            &self.restarts,
            reason,
            || metrics::counter!(FEED_RESTARTS, "reason" => reason),
        )
    }

    /// Counts in `weir_watches_ended_total`; both labels are from [`WATCH_ENDS`].
    pub fn count_watch_end(&self, code: &'static str, reason: &'static str) {
        self.watch_end_counter(code, reason).increment(1);
    }

    fn watch_end_counter(&self, code: &'static str, reason: &'static str) -> Counter {
        self.counter(
            &self.ended,
            (code, reason),
            || metrics::counter!(WATCHES_ENDED, "code" => code, "reason" => reason),
        )
    }

    /// Counts in `weir_watches_fell_behind_total` and its deprecated name `weir_parks_total`.
    pub fn count_fell_behind(&self) {
        self.watches_fell_behind.increment(1);
        self.parks.increment(1);
    }

    /// Counts in `weir_limit_rejections_total`; `limit` is from a closed set.
    pub fn count_limit_rejection(&self, limit: &'static str) {
        self.limit_rejection_counter(limit).increment(1);
    }

    fn limit_rejection_counter(&self, limit: &'static str) -> Counter {
        self.counter(
            &self.rejections,
            limit,
            || metrics::counter!(LIMIT_REJECTIONS, "limit" => limit),
        )
    }

    /// `weir_tls_handshakes_total`
    pub fn handshakes(&self, result: HandshakeResult) -> Counter {
        let result = result.name();
        self.counter(
            &self.handshakes,
            result,
            || metrics::counter!(TLS_HANDSHAKES, "result" => result),
        )
    }

    /// Sets `weir_tls_certificate_expiry_timestamp_seconds`, which is absent before the first call.
    pub fn set_certificate_expiry(&self, seconds: i64) {
        let gauge = || metrics::gauge!(TLS_CERTIFICATE_EXPIRY);
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
        metrics::with_local_recorder(&self.recorder, gauge).set(seconds as f64);
    }

    /// Counts in `weir_reloads_total` and sets `weir_last_reload_successful`; `what` is from a closed set.
    pub fn count_reload(&self, what: &'static str, ok: bool) {
        self.reload_counter(what, ok).increment(1);
        self.set_last_reload(what, ok);
    }

    /// Returns the counter of `weir_reloads_total`. Increment it by 0 to create it: a counter that is missing
    /// from the first scrape is missing from rates.
    pub fn reload_counter(&self, what: &'static str, ok: bool) -> Counter {
        let result = if ok { "ok" } else { "failed" };
        self.counter(
            &self.reloads,
            (what, result),
            || metrics::counter!(RELOADS, "what" => what, "result" => result),
        )
    }

    /// Sets `weir_last_reload_successful`; `what` is from a closed set.
    pub fn set_last_reload(&self, what: &'static str, ok: bool) {
        let gauge = || metrics::gauge!(LAST_RELOAD, "what" => what);
        metrics::with_local_recorder(&self.recorder, gauge).set(f64::from(u8::from(ok)));
    }

    /// Sets `weir_limit`; `limit` is from a closed set.
    pub fn set_limit(&self, limit: &'static str, max: usize) {
        let gauge = || metrics::gauge!(LIMIT, "limit" => limit);
        #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
        metrics::with_local_recorder(&self.recorder, gauge).set(max as f64);
    }

    /// Counts in `weir_authentications_total`; both labels are from closed sets.
    pub fn count_authentication(&self, method: &'static str, result: &'static str) {
        self.authentication_counter(method, result).increment(1);
    }

    fn authentication_counter(&self, method: &'static str, result: &'static str) -> Counter {
        self.counter(
            &self.authentications,
            (method, result),
            || metrics::counter!(AUTHENTICATIONS, "method" => method, "result" => result),
        )
    }

    /// Counts in `weir_authorizations_total`; `ok` if any rule applies to the caller.
    pub fn count_authorization(&self, ok: bool) {
        let result = if ok { "ok" } else { "no_rule" };
        self.authorization_counter(result).increment(1);
    }

    fn authorization_counter(&self, result: &'static str) -> Counter {
        self.counter(
            &self.authorizations,
            result,
            || metrics::counter!(AUTHORIZATIONS, "result" => result),
        )
    }

    /// Counts an open watch in `weir_watches` until the guard is dropped.
    #[must_use]
    pub fn count_watch(&self, stage: Stage) -> StageGuard {
        StageGuard::enter(&self.watches, stage)
    }

    /// Counts an open feed in `weir_feeds` until the guard is dropped.
    #[must_use]
    pub fn count_feed(&self, mode: Mode, stage: Stage) -> StageGuard {
        StageGuard::enter(&self.feeds[mode as usize], stage)
    }

    fn counter<K: Copy + Eq + std::hash::Hash>(
        &self,
        counters: &Mutex<HashMap<K, Counter>>,
        labels: K,
        register: impl FnOnce() -> Counter,
    ) -> Counter {
        let mut counters = counters
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let registered = counters.entry(labels);
        registered
            .or_insert_with(|| metrics::with_local_recorder(&self.recorder, register))
            .clone()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns a duration in seconds, as histograms record it.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn index_of(operation: Operation) -> usize {
    operation as usize
}
