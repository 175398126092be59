//! The gauges that are measured only when Prometheus scrapes.

use std::fmt::Write as _;

use super::{CATALOGUE, FEED_LAG, MEMORY_LIMIT, MEMORY_USED, OPLOG_HEADROOM, READY, TASKS};

/// Gauge values measured at a scrape.
#[derive(Debug, Clone, Default)]
pub struct ScrapedGauges {
    /// `true` if the instance is ready for clients.
    pub ready: bool,
    /// The lag of each feed in seconds, with its scope.
    pub feed_lags: Vec<(String, f64)>,
    /// Bytes in use of the memory limit.
    pub memory_used_bytes: usize,
    /// The memory limit, in bytes.
    pub memory_limit_bytes: usize,
    /// Seconds from the oldest oplog entry to the position of the slowest watch, if known.
    pub oplog_headroom_seconds: Option<u64>,
    /// Running tasks of the async runtime.
    pub tasks: usize,
}

impl ScrapedGauges {
    pub(super) fn write(&self, page: &mut String) {
        let lags = self
            .feed_lags
            .iter()
            .map(|(scope, lag)| (format!("{{scope=\"{}\"}}", escaped(scope)), *lag));
        gauge(page, READY, [count(usize::from(self.ready))]);
        gauge(page, FEED_LAG, lags);
        gauge(page, MEMORY_USED, [count(self.memory_used_bytes)]);
        gauge(page, MEMORY_LIMIT, [count(self.memory_limit_bytes)]);
        gauge(page, TASKS, [count(self.tasks)]);
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
        let headroom = self.oplog_headroom_seconds.map(|seconds| seconds as f64);
        gauge(
            page,
            OPLOG_HEADROOM,
            headroom.map(|seconds| (String::new(), seconds)),
        );
        page.push('\n');
    }
}

/// Returns the sample of a gauge without labels.
#[expect(
    clippy::cast_precision_loss,
    reason = "memory is far below 2^53 bytes, and so are tasks"
)]
fn count(amount: usize) -> (String, f64) {
    (String::new(), amount as f64)
}

/// Writes a gauge and its samples; the labels of each are in the text format, such as `{scope="a"}`.
fn gauge(page: &mut String, name: &str, samples: impl IntoIterator<Item = (String, f64)>) {
    let described = CATALOGUE.iter().find(|metric| metric.name == name);
    let help = described.map_or("", |metric| metric.help);
    // Writing to a string never fails.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in samples {
        let _ = writeln!(page, "{name}{labels} {value}");
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
