//! Weir: one gRPC service that opens few MongoDB change streams and serves many typed `Watch`
//! streams from them.
//!
//! # The way of one event
//!
//! [`plan`] turns a request into a change-stream pipeline. [`source`] opens it and reads raw
//! batches. [`hub`] keeps them in a ring bounded in bytes and lets watchers read. [`wire`] turns
//! an event's raw BSON into the protobuf bytes that go out. [`rpc`] speaks gRPC. Modules stand in
//! reading order; none imports one that stands after it.

pub mod error;
pub mod pb;
pub mod plan;
pub mod wire;
pub mod source;
pub mod hub;
pub mod metrics;
pub mod config;
pub mod rpc;
pub mod admin;
pub mod app;
pub mod cli;
