//! What all catch-ups share.

use std::{sync::Arc, time::Duration};

use crate::{
    limit::{CostlyWork, Limit, Turns},
    metrics::Metrics,
    model::Caller,
    source::Source,
};

use super::{catch_up_permits::CatchUpPermits, memory::MemoryManager, tasks::Tasks};

/// The maximum number of streams that are being opened at once, or that were just opened and nobody has read yet.
/// MongoDB scans its history for each.
const MAX_OPENINGS: usize = 6;
/// The maximum number of them for the watches of one caller, so that it takes three to delay a fourth.
const MAX_OPENINGS_PER_CALLER: usize = 2;

/// Returns the turns to open the streams of catch-ups.
pub(super) fn opening_turns() -> Turns<Caller> {
    let limit = Limit::new("openings of catch-ups", MAX_OPENINGS);
    Turns::new(limit, MAX_OPENINGS_PER_CALLER)
}

/// The permits of catch-ups, and what each of them reads with.
pub(super) struct CatchUps {
    pub source: Arc<dyn Source>,
    pub memory: Arc<MemoryManager>,
    pub permits: CatchUpPermits,
    /// The turns to open the streams of those that have a permit.
    pub openings: Turns<Caller>,
    pub tasks: Tasks,
    pub costly: CostlyWork,
    pub metrics: Arc<Metrics>,
    /// The longest outage of MongoDB that a catch-up survives.
    pub upstream_grace: Duration,
}

impl std::fmt::Debug for CatchUps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CatchUps").finish_non_exhaustive()
    }
}
