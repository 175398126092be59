//! Fuzz targets: one function of bytes for each kind of untrusted input, and its seeds.
//!
//! The fuzzer (`make fuzz`) and the tests (`tests/it/fuzzing.rs`) run the same functions. Each panics when
//! one of its properties is violated.
#![allow(
    dead_code,
    reason = "each fuzz target is a separate crate and uses only some of the modules"
)]

pub mod credentials;
pub mod event;
pub mod filter;
pub mod reply;
pub mod request;
pub mod shard;
pub mod token;

mod field_coverage;
mod fixtures;
mod input;
