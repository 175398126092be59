//! Gauges that are moved by guards, whose `Drop` moves them back.

use metrics::Gauge;

use super::Stage;

/// Counts one thing in the gauge of its stage, and takes it out again when dropped.
#[derive(Debug)]
pub struct InStage {
    gauges: [Gauge; Stage::ALL.len()],
    stage: Stage,
}

impl InStage {
    pub(super) fn enter(gauges: &[Gauge; Stage::ALL.len()], stage: Stage) -> Self {
        gauges[stage as usize].increment(1);
        Self {
            gauges: gauges.clone(),
            stage,
        }
    }

    /// Where it is counted.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Moves to another stage.
    pub fn move_to(&mut self, stage: Stage) {
        self.gauges[self.stage as usize].decrement(1);
        self.gauges[stage as usize].increment(1);
        self.stage = stage;
    }
}

impl Drop for InStage {
    fn drop(&mut self) {
        self.gauges[self.stage as usize].decrement(1);
    }
}

/// Adds to a gauge and takes the same away when dropped.
#[derive(Debug)]
pub struct Charge {
    gauge: Gauge,
    amount: f64,
}

impl Charge {
    /// Charges `bytes` to `gauge`.
    #[must_use]
    pub fn new(gauge: &Gauge, bytes: usize) -> Self {
        // Gauges are floats; a ring never comes near 2^53 bytes.
        #[expect(clippy::cast_precision_loss, reason = "a ring is far below 2^53 bytes")]
        let amount = bytes as f64;
        gauge.increment(amount);
        Self {
            gauge: gauge.clone(),
            amount,
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gauge.decrement(self.amount);
    }
}

/// Counts one thing in a gauge until it is dropped.
#[derive(Debug)]
pub struct Held(Gauge);

impl Held {
    /// Counts one more.
    #[must_use]
    pub fn new(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}
