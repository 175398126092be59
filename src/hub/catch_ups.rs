//! What all catch-ups share.

use std::{sync::Arc, time::Duration};

use crate::{limit::CostlyWork, metrics::Metrics, source::Source};

use super::{
    catch_up_openings::CatchUpOpenings, catch_up_permits::CatchUpPermits, memory::MemoryManager,
    tasks::Tasks,
};

/// The permits of catch-ups, and what each of them reads with.
pub(super) struct CatchUps {
    pub source: Arc<dyn Source>,
    pub memory: Arc<MemoryManager>,
    pub permits: CatchUpPermits,
    /// The turns to open the streams of those that have a permit.
    pub openings: Arc<CatchUpOpenings>,
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
