//! What is fuzzed: one function of bytes for each door that bytes from outside come in by, and the
//! inputs to begin with.
//!
//! The fuzzer (`make fuzz`) and the tests (`tests/fuzzing.rs`) run the same functions. Each panics when
//! what it holds to be true is not.
#![allow(
    dead_code,
    reason = "each fuzz target is a crate of its own and uses a part of this"
)]

pub mod credentials;
pub mod event;
pub mod filter;
pub mod reply;
pub mod request;
pub mod token;

mod field_coverage;
mod fixtures;
mod input;
