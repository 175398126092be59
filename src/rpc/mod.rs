//! The gRPC services. In the order in which a call passes them:
//!
//! - [`concurrency_layer`] bounds every call before a service sees it: [`protocol`] refuses what is not gRPC,
//!   [`deadline`] and [`request_body`] how long a call and its request may take.
//! - [`auth_layer`] authenticates the caller and asks the policy, both held by [`access`].
//! - [`service`] reads a call's request, by [`codec`] and [`unknown_fields`], and sends what its method returns:
//!   [`frame_body`] puts frames into what HTTP/2 sends, compressed as [`compression`] negotiated.
//! - [`watch_api`] has the methods of `weir.v1.WatchService`. A watch is authorized by [`authorization_lease`],
//!   checked in turn by [`filter_compile_queue`], and counted by [`quotas`]. [`server_info`] caches what MongoDB
//!   says of itself.
//! - [`stream`] is the stream of messages of one watch: events by [`batch`] and [`oversize`], all else by
//!   [`messages`]; [`outbox`] holds what is not yet sent. [`outcome`] records how it ended.
//!
//! [`health`] and [`reflection`] are the other two services.

mod access;
mod auth_layer;
mod authorization_lease;
mod batch;
mod codec;
mod compression;
mod concurrency_layer;
mod deadline;
mod filter_compile_queue;
mod frame_body;
mod health;
mod messages;
mod outbox;
mod outcome;
mod oversize;
mod protocol;
mod quotas;
mod reflection;
mod request_body;
mod server_info;
mod service;
mod stream;
mod unknown_fields;
mod watch_api;

pub use access::Access;
pub use auth_layer::{AuthLayer, AuthService};
pub use concurrency_layer::{ConcurrencyLayer, ConcurrencyService, EXTRA_CALLS};
pub use deadline::Arrival;
pub use health::{HealthApi, HealthReporter};
pub use protocol::MAX_HEADER_LIST_BYTES;
pub use reflection::{ReflectionApi, ReflectionIndex};
pub use service::{MAX_REQUEST_BYTES, WATCH_PATH, WatchServer};
pub use watch_api::{ServiceLimits, WatchApi};
