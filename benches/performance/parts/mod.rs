//! The measurements, one file per part.

pub mod added_latency;
pub mod builds;
pub mod compression;
pub mod fan_out;
pub mod fields;
pub mod filters;
pub mod load_run;
pub mod neighbours;
pub mod one_watcher;
pub mod stalled;
pub mod steady;
