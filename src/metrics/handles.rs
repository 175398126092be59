//! The handles that are created at start.

use metrics::{Counter, Gauge, Histogram, Label, Unit};

use super::*;

pub(super) struct Handles {
    pub(super) watches: [Gauge; Stage::ALL.len()],
    pub(super) feeds: [[Gauge; Stage::ALL.len()]; Mode::ALL.len()],
    pub(super) events_received: [Counter; Operation::ALL.len()],
    pub(super) events_sent: [Counter; Operation::ALL.len()],
    pub(super) encodings: [Counter; FORMATS.len()],
    pub(super) compressions: [Counter; Compression::ALL.len()],
    pub(super) watches_started: Counter,
    pub(super) watch_duration: Histogram,
    pub(super) delivery_lag: Histogram,
    pub(super) bytes_sent: Counter,
    pub(super) progress_sent: Counter,
    pub(super) ring_bytes: Gauge,
    pub(super) events_filtered: Counter,
    pub(super) connections: Gauge,
    pub(super) catch_ups: Gauge,
    pub(super) watches_fell_behind: Counter,
    pub(super) parks: Counter,
}

impl Handles {
    pub(super) fn register() -> Self {
        let by_operation = |name: &'static str| {
            Operation::ALL.map(|operation| metrics::counter!(name, "operation" => operation.name()))
        };
        Self {
            watches: Stage::ALL.map(|stage| metrics::gauge!(WATCHES, "state" => stage.name())),
            feeds: Mode::ALL.map(|mode| {
                Stage::ALL.map(|stage| {
                    let labels = [
                        Label::new("state", stage.name()),
                        Label::new("mode", mode.name()),
                    ];
                    metrics::gauge!(FEEDS, labels.iter())
                })
            }),
            events_received: by_operation(EVENTS_RECEIVED),
            events_sent: by_operation(EVENTS_SENT),
            encodings: FORMATS
                .map(|(_, name)| metrics::counter!(EVENT_ENCODINGS, "format" => name)),
            compressions: Compression::ALL
                .map(|it| metrics::counter!(COMPRESSIONS, "encoding" => it.name())),
            watches_started: metrics::counter!(WATCHES_STARTED),
            watch_duration: metrics::histogram!(WATCH_DURATION),
            delivery_lag: metrics::histogram!(DELIVERY_LAG),
            bytes_sent: metrics::counter!(BYTES_SENT),
            progress_sent: metrics::counter!(PROGRESS_SENT),
            ring_bytes: metrics::gauge!(RING_BYTES),
            events_filtered: metrics::counter!(EVENTS_FILTERED),
            connections: metrics::gauge!(CONNECTIONS),
            catch_ups: metrics::gauge!(CATCH_UPS),
            watches_fell_behind: metrics::counter!(WATCHES_FELL_BEHIND),
            parks: metrics::counter!(PARKS),
        }
    }
}

pub(super) fn describe() {
    metrics_process::Collector::default().describe();
    for metric in CATALOGUE {
        let unit = if metric.name.ends_with("_seconds") {
            Unit::Seconds
        } else if metric.name.contains("_bytes") {
            Unit::Bytes
        } else {
            Unit::Count
        };
        match metric.kind {
            "counter" => metrics::describe_counter!(metric.name, unit, metric.help),
            "gauge" => metrics::describe_gauge!(metric.name, unit, metric.help),
            _ => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
}
