//! Metrics: their catalogue, the handles that move them, and the page that Prometheus scrapes.
//!
//! The handles of the hot path are created at start for all their label values, so that an update costs one
//! atomic operation and no lock. Gauges are changed through guards, whose `Drop` undoes the change.

mod catalogue;
mod guards;
mod label_values;
mod labels;
mod process;
mod scrape;
mod series;

use std::time::Duration;

use crate::model::{Mode, Stage};

use label_values::AUTHENTICATION_RESULTS;

pub use catalogue::{CATALOGUE, MetricDescription, Metrics};
pub use guards::{GaugeGuard, StageGuard};
pub use scrape::ScrapedGauges;
pub use series::{Family, Scraped, Table};

impl Metrics {
    /// Drains the histograms' buffers, which grow until then. Call this every few seconds.
    pub fn upkeep(&self) {
        self.page.run_upkeep();
    }

    /// Returns the page that Prometheus scrapes, with `gauges` measured now.
    #[must_use]
    pub fn render(&self, gauges: &ScrapedGauges) -> String {
        let mut page = self.page.render();
        process::write(&mut page);
        gauges.write(self, &mut page);
        page
    }

    /// Counts in `weir_watches_fell_behind_total` and its deprecated name `weir_parks_total`.
    pub fn count_fell_behind(&self) {
        self.watches_fell_behind.increment(1);
        self.parks.increment(1);
    }

    /// Exposes the counters of authentication results; call this where authentication is on.
    pub fn expose_authentications(&self) {
        for (method, results) in AUTHENTICATION_RESULTS {
            let labels = results.iter().map(|result| (*method, *result));
            self.authentications.expose(labels);
        }
    }

    /// Exposes `weir_reloads_total` and `weir_last_reload_successful` of files that were read at start; `what`
    /// is from a closed set.
    pub fn expose_reloads(&self, what: &'static str) {
        self.reloads
            .expose([true, false].map(|ok| (what, reload_result(ok))));
        self.set_last_reload(what, true);
    }

    /// Counts in `weir_reloads_total` and sets `weir_last_reload_successful`; `what` is from a closed set.
    pub fn count_reload(&self, what: &'static str, ok: bool) {
        self.reloads.of((what, reload_result(ok))).increment(1);
        self.set_last_reload(what, ok);
    }

    /// Sets `weir_last_reload_successful`; `what` is from a closed set.
    pub fn set_last_reload(&self, what: &'static str, ok: bool) {
        self.last_reload.of(what).set(f64::from(u8::from(ok)));
    }

    /// Counts an open watch in `weir_watches` until the guard is dropped.
    #[must_use]
    pub fn count_watch(&self, stage: Stage) -> StageGuard {
        StageGuard::enter(Stage::ALL.map(|it| self.watches.of(it).clone()), stage)
    }

    /// Counts an open feed in `weir_feeds` until the guard is dropped.
    #[must_use]
    pub fn count_feed(&self, mode: Mode, stage: Stage) -> StageGuard {
        StageGuard::enter(
            Stage::ALL.map(|it| self.feeds.of((it, mode)).clone()),
            stage,
        )
    }
}

fn reload_result(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

/// Returns a duration in seconds, as histograms record it.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
