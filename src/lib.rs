//! Weir: a gRPC service that opens few MongoDB change streams and serves many typed `Watch` streams
//! from them.
//!
//! # Path of an event
//!
//! [`model`] has the vocabulary. [`pipeline`] turns a request into a change-stream pipeline, its filters by
//! [`filter`]. [`source`] opens the change stream and reads raw batches. [`wire`] encodes an event's raw BSON as
//! protobuf. [`hub`] keeps the events of each stream in a ring with a byte limit, reopens the stream after an
//! outage, and hands events to watchers. [`rpc`] serves gRPC. [`app`] wires everything together.
//!
//! Modules are listed in reading order; no module imports a later one.

pub mod pb;

pub mod digest;

pub mod raw;

pub mod model;

pub mod filter;

pub mod pipeline;

pub mod limit;

pub mod files;

pub mod source;

pub mod wire;

pub mod error;

pub mod metrics;

pub mod reload;

mod yaml;

pub mod spans;

pub mod hub;

pub mod auth;

pub mod policy;

pub mod rpc;

pub mod tls;

pub mod listen;

pub mod admin;

pub mod config;

pub mod app;

pub mod cli;
