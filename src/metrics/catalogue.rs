//! The catalogue of metrics: the single definition of every name, label, help text and bucket, and of the
//! handle that moves it.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Recorder as _, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::{
    model::{Format, Mode, Operation, Stage},
    wire::Compression,
};

use super::{
    label_values::{
        ADMIN_REFUSALS, AUTHORIZATION_RESULTS, FEED_RESTART_REASONS, REJECTED_LIMITS, watch_ends,
    },
    series::{Family, Handle, Names, Scraped, Table},
};

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

/// Each entry: the handle and its type, the name, the labels in the order of the handle's, and the help text;
/// then the `buckets` of a histogram, or the label values of a [`Family`] that are `known` at start.
macro_rules! catalogue {
    ($(
        $visibility:vis $handle:ident: $type:ty = $name:literal, [$($label:literal),*], $help:literal
        $(, buckets: $buckets:expr)? $(, known: $known:expr)?;
    )*) => {
        /// Every metric except those of the process (`process_*`).
        pub const CATALOGUE: &[MetricDescription] = &[$(
            MetricDescription {
                name: $name,
                kind: <$type as Handle>::KIND,
                labels: &[$($label),*],
                help: $help,
            },
        )*];

        /// The handles of every metric, and the page that Prometheus scrapes.
        pub struct Metrics {
            pub(super) page: PrometheusHandle,
            $(
                #[doc = concat!("`", $name, "`")]
                $visibility $handle: $type,
            )*
        }

        impl Metrics {
            /// Creates the recorder, the descriptions and the handles. Touches nothing global, so that several
            /// servers can run in one process.
            #[must_use]
            pub fn new() -> Self {
                let builder = PrometheusBuilder::new();
                $($(
                    let builder = builder
                        .set_buckets_for_metric(Matcher::Full($name.to_owned()), $buckets)
                        .expect("the buckets are not empty");
                )?)*
                let recorder = Arc::new(builder.build_recorder());
                CATALOGUE.iter().for_each(|metric| describe(&recorder, metric));
                let metrics = Self {
                    page: recorder.handle(),
                    $($handle: {
                        let (labels, help) = (&[$($label),*], $help);
                        Handle::register(&recorder, Names { name: $name, labels, help })
                    },)*
                };
                $($(metrics.$handle.expose($known.iter().copied());)?)*
                metrics.build_info.of(env!("CARGO_PKG_VERSION")).set(1);
                metrics
            }
        }
    };
}

/// The buckets of lags, in seconds: from 0.1 ms, which loopback reaches, to 5 minutes.
const LAG_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The buckets of durations, in seconds: from 1 second to 1 week.
const DURATION_BUCKETS: &[f64] = &[
    1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0, 604_800.0,
];

catalogue! {
    pub(super) build_info: Family<Gauge, &'static str> = "weir_build_info", ["version"],
        "1, with Weir's version.";
    pub(super) ready: Scraped = "weir_ready", [],
        "1 if the instance is ready for clients, as /readyz reports; 0 otherwise.";
    pub(super) watches: Table<Gauge, Stage> = "weir_watches", ["state"],
        "Open watches, by state: opening, catching_up, live, reconnecting.";
    pub watches_started: Counter = "weir_watches_started_total", [],
        "Watch calls received, including refused ones.";
    pub watches_ended: Family<Counter, (&'static str, &'static str)> = "weir_watches_ended_total", ["code", "reason"],
        "Ended watches, by gRPC code and reason.", known: watch_ends();
    pub watch_duration: Histogram = "weir_watch_duration_seconds", [],
        "Duration of watches, from the call to the end of the stream.", buckets: DURATION_BUCKETS;
    pub(super) feeds: Table<Gauge, (Stage, Mode)> = "weir_feeds", ["state", "mode"],
        "Open feeds, each one change stream on MongoDB that watches share, by state (opening, live, catching_up, reconnecting) and mode (shared, dedicated).";
    pub connections: Gauge = "weir_connections", [],
        "Open connections of gRPC clients.";
    pub low_priority_connections: Gauge = "weir_low_priority_connections", [],
        "Open connections that ask for so much that they are served at a low priority.";
    pub catch_ups: Gauge = "weir_catch_ups", [],
        "Watches that read events which their feed no longer holds, each on its own change stream.";
    pub catch_ups_waiting: Gauge = "weir_catch_ups_waiting", [],
        "Watches that wait for their turn to read events which their feed no longer holds.";
    pub(super) watches_fell_behind: Counter = "weir_watches_fell_behind_total", [],
        "Times that a watch fell behind the events that its feed holds, or left a chunked event unread while memory was short, and had to catch up.";
    pub(super) parks: Counter = "weir_parks_total", [],
        "Deprecated: use weir_watches_fell_behind_total, which has the same value. The next version, 0.3.0, removes this name.";
    pub(super) oplog_headroom: Scraped = "weir_oplog_headroom_seconds", [],
        "Time from the oldest entry of MongoDB's oplog to the position of the slowest watch; absent while either is unknown.";
    pub feed_restarts: Family<Counter, &'static str> = "weir_feed_restarts_total", ["reason"],
        "Change streams reopened after a failure, by reason.", known: FEED_RESTART_REASONS;
    pub(super) feed_lag: Scraped = "weir_feed_lag_seconds", ["scope"],
        "MongoDB's operation time minus the position that the feed has reached, by scope; 0 when nothing is left to read.";
    pub delivery_lag: Histogram = "weir_delivery_lag_seconds", [],
        "Time from the wall time of a message's oldest event, set by the database server, to handing the message to the client's connection.", buckets: LAG_BUCKETS;
    pub events_received: Table<Counter, Operation> = "weir_events_received_total", ["operation"],
        "Events read from MongoDB, by operation.";
    pub events_sent: Table<Counter, Operation> = "weir_events_sent_total", ["operation"],
        "Events handed to clients' connections, by operation.";
    pub events_filtered: Counter = "weir_events_filtered_total", [],
        "Events read from MongoDB that matched no watch of their feed.";
    pub encodings: Table<Counter, Format> = "weir_event_encodings_total", ["format"],
        "Events encoded, by document format.";
    pub compressions: Table<Counter, Compression> = "weir_message_compressions_total", ["encoding"],
        "Messages compressed, once for all watches that send them, by encoding: gzip, zstd.";
    pub bytes_sent: Counter = "weir_bytes_sent_total", [],
        "Bytes of messages handed to clients' connections, before HTTP/2 framing.";
    pub progress_sent: Counter = "weir_progress_sent_total", [],
        "Progress messages handed to clients' connections.";
    pub ring_bytes: Gauge = "weir_ring_bytes", [],
        "Bytes of events that feeds keep for their watches.";
    pub(super) memory_used: Scraped = "weir_memory_used_bytes", [],
        "Bytes in use of --memory-limit: events read from MongoDB and their encodings.";
    pub(super) memory_limit: Scraped = "weir_memory_limit_bytes", [],
        "The value of --memory-limit.";
    pub(super) tasks: Scraped = "weir_tasks", [],
        "Running tasks of the process: a few for each connection, feed and catch-up, and one for each watch.";
    pub limits: Family<Gauge, &'static str> = "weir_limit", ["limit"],
        "Maximum number that may be open at once, by limit: watches, connections, feeds, catch_ups.";
    pub limit_rejections: Family<Counter, &'static str> = "weir_limit_rejections_total", ["limit"],
        "Watches, calls and connections refused because a limit was reached: watches, feeds, openings, calls, connections, checks, filters, principal_filters, request_timeout, principal_watches, principal_watch_rate, watch_rate, principals.", known: REJECTED_LIMITS;
    pub tls_handshakes: Family<Counter, &'static str> = "weir_tls_handshakes_total", ["result"],
        "Finished TLS handshakes, by result: ok, timeout, refused_by_client, certificate_missing, certificate_refused, protocol, closed.";
    pub tls_certificate_expiry: Family<Gauge, ()> = "weir_tls_certificate_expiry_timestamp_seconds", [],
        "Expiry of the server certificate in use, in seconds since 1970; absent without TLS.";
    pub authentications: Family<Counter, (&'static str, &'static str)> = "weir_authentications_total", ["method", "result"],
        "Authenticated and rejected calls, by method (jwt, key, cert, none) and result (ok, missing, invalid, expired, unavailable).";
    pub authorizations: Family<Counter, &'static str> = "weir_authorizations_total", ["result"],
        "Calls of authenticated callers, by whether any rule of the policy applies to the caller: ok, no_rule.", known: AUTHORIZATION_RESULTS;
    pub admin_refusals: Family<Counter, &'static str> = "weir_admin_refusals_total", ["reason"],
        "Requests that the admin port refused, by reason: host, token, not_local.", known: ADMIN_REFUSALS;
    pub(super) reloads: Family<Counter, (&'static str, &'static str)> = "weir_reloads_total", ["what", "result"],
        "Reloads of changed files, by content (tls, api_keys, jwks, policy, token_keys, admin_token) and result (ok, failed).";
    pub(super) last_reload: Family<Gauge, &'static str> = "weir_last_reload_successful", ["what"],
        "1 if the last version of the files is in force, 0 if it could not be used, by content (see weir_reloads_total).";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn describe(recorder: &PrometheusRecorder, metric: &MetricDescription) {
    let unit = if metric.name.ends_with("_seconds") {
        Unit::Seconds
    } else if metric.name.contains("_bytes") {
        Unit::Bytes
    } else {
        Unit::Count
    };
    let (name, unit, help) = (metric.name.into(), Some(unit), metric.help.into());
    match metric.kind {
        "counter" => recorder.describe_counter(name, unit, help),
        "gauge" => recorder.describe_gauge(name, unit, help),
        _ => recorder.describe_histogram(name, unit, help),
    }
}
