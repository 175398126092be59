//! A request becomes a change-stream pipeline.
//!
//! Reading order: [`Watch::from_request`] validates every field and reports every problem;
//! [`Plan::dedicated`] translates all of it into a pipeline for MongoDB. On a feed that many watches share
//! ([`Plan::shared`]), a [`Residual`](crate::filter::Residual) holds the same conditions. The module has
//! no I/O: it is pure functions over requests.

mod view;
pub use view::View;

mod watch;
pub use watch::{RequestLimits, Watch};

mod match_stage;

mod change_stream_options;
pub use change_stream_options::ChangeStreamOptions;
mod filter_stages;
mod scope_stage;
mod stage;

mod plan;
pub use plan::Plan;

mod residual;

#[cfg(test)]
pub(crate) mod fixtures;
