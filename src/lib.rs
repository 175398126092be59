//! Weir: one gRPC service that opens few MongoDB change streams and serves many typed `Watch`
//! streams from them.
//!
//! # The way of one event
//!
//! [`plan`] turns a request into a change-stream pipeline. [`source`] opens it and reads raw
//! batches. [`wire`] turns an event's raw BSON into the protobuf bytes that go out. [`hub`] keeps
//! the events of each stream in a ring bounded in bytes, brings the stream back when MongoDB was
//! away, and lets the watcher read. [`rpc`] speaks gRPC. [`app`] wires all of it.
//!
//! Modules stand in reading order, and none imports one that stands after it.

pub mod pb;

pub mod raw;

pub mod plan;

pub mod source;

pub mod wire;

pub mod error;

pub mod metrics;

pub mod reload;

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
