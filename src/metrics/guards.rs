//! Guards that change a gauge, and undo the change when dropped.

use metrics::Gauge;

use crate::model::Stage;

/// Counts one watch or feed in the gauge of its stage until dropped.
#[derive(Debug)]
pub struct StageGuard {
    gauges: [Gauge; Stage::ALL.len()],
    stage: Stage,
}

impl StageGuard {
    pub(super) fn enter(gauges: [Gauge; Stage::ALL.len()], stage: Stage) -> Self {
        gauges[stage as usize].increment(1);
        Self { gauges, stage }
    }

    /// The stage that it is counted in.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Moves the count to another stage.
    pub fn move_to(&mut self, stage: Stage) {
        self.gauges[self.stage as usize].decrement(1);
        self.gauges[stage as usize].increment(1);
        self.stage = stage;
    }
}

impl Drop for StageGuard {
    fn drop(&mut self) {
        self.gauges[self.stage as usize].decrement(1);
    }
}

/// Adds an amount to a gauge and subtracts it when dropped.
#[derive(Debug)]
pub struct GaugeGuard {
    gauge: Gauge,
    amount: f64,
}

impl GaugeGuard {
    /// Adds 1.
    #[must_use]
    pub fn one(gauge: &Gauge) -> Self {
        Self::add(gauge, 1.0)
    }

    /// Adds `bytes`.
    #[must_use]
    pub fn bytes(gauge: &Gauge, bytes: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
        Self::add(gauge, bytes as f64)
    }

    fn add(gauge: &Gauge, amount: f64) -> Self {
        gauge.increment(amount);
        Self {
            gauge: gauge.clone(),
            amount,
        }
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.gauge.decrement(self.amount);
    }
}
