//! What a client asks for: a request becomes a validated [`Watch`], and that becomes a [`Plan`],
//! the change-stream pipeline of one feed.
//!
//! Reading order: [`Watch::from_request`] checks every field and names every problem; its filters
//! become a [`Predicate`]; [`Plan::dedicated`] says the whole of it to MongoDB. Nothing here talks
//! to anything: the module is pure functions over the request.

mod operation;
pub use operation::Operation;
mod scope;
pub use scope::Scope;
mod options;
pub use options::{
    BeforeChange, FeedMode, Format, FullDocument, Invalidate, MissingImage, Oversize, Start,
};
mod violations;
pub use violations::{FieldViolation, MAX_VIOLATIONS, RequestError};
mod watch;
pub use watch::{RequestLimits, Watch};

mod predicate;
pub use predicate::{Condition, Predicate};
mod extended_json;
mod filters;
mod regex_filter;

mod match_stage;
mod pipeline;
pub use pipeline::Plan;

#[cfg(test)]
mod fixtures;
