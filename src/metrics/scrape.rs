//! The gauges that are measured only when Prometheus scrapes.

use super::catalogue::Metrics;

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
    pub(super) fn write(&self, metrics: &Metrics, page: &mut String) {
        let lags = self.feed_lags.iter();
        let lags = lags.map(|(scope, lag)| (scope.as_str(), *lag));
        metrics
            .ready
            .write(page, Some(f64::from(u8::from(self.ready))));
        metrics.feed_lag.write_each(page, lags);
        metrics
            .memory_used
            .write(page, Some(count(self.memory_used_bytes)));
        metrics
            .memory_limit
            .write(page, Some(count(self.memory_limit_bytes)));
        metrics.tasks.write(page, Some(count(self.tasks)));
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
        let headroom = self.oplog_headroom_seconds.map(|seconds| seconds as f64);
        metrics.oplog_headroom.write(page, headroom);
        page.push('\n');
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "memory is far below 2^53 bytes, and so are tasks"
)]
fn count(amount: usize) -> f64 {
    amount as f64
}
