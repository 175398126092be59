//! A request becomes a change-stream pipeline for MongoDB, and conditions that are evaluated in process. The
//! module has no I/O: it is pure functions over requests.
//!
//! - `watch`: [`Watch::from_request`] validates every field and reports every problem. `view` is what the policy
//!   adds.
//! - `client_stages`: reads and checks the stages of a request.
//! - `plan`: the change stream of a feed. [`Plan::dedicated`] translates all of a watch for MongoDB;
//!   [`Plan::shared`] only its scope, for a feed that many watches share.
//! - `change_stream_options`, `stage`: what a plan consists of beside its scope, and which stages read documents.
//!   `scope_stage` and `filter_stages` make the stages of a watch.
//! - `genuine`: what a client's own stages leave of an event as MongoDB made it.
//! - `match_stage`: writes a predicate in MongoDB's query language.
//! - `residual`: the conditions that either plan leaves to a [`Residual`](crate::filter::Residual).
//! - `shape`: what a watch keeps of its request, which equal watches share.

mod view;
pub use view::View;

mod client_stages;
pub use client_stages::ClientStages;
mod watch;
pub use watch::{RequestLimits, Watch};

mod match_stage;
pub(crate) use match_stage::query;

mod change_stream_options;
pub use change_stream_options::ChangeStreamOptions;
mod filter_stages;
mod genuine;
pub use genuine::Genuine;
mod scope_stage;
mod stage;

mod plan;
pub use plan::Plan;

mod residual;
mod shape;
pub use shape::Shape;

#[cfg(test)]
pub(crate) mod fixtures;
