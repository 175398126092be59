//! What a client asks for: a request becomes a validated [`Watch`], and that becomes a [`Plan`],
//! the change-stream pipeline of one feed, and a [`Residual`], what is left to decide in process.
//!
//! Reading order: [`Watch::from_request`] checks every field and names every problem; its filters
//! become a [`Predicate`]; [`Plan::dedicated`] says the whole of it to MongoDB. On a feed that many
//! watches share ([`Plan::shared`]), a [`Judge`] decides the same over the raw events, and a
//! [`FilterIndex`] finds the judges that an event concerns. Nothing here talks to anything: the
//! module is pure functions over the request and the events.

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
mod view;
pub use view::{Audience, Branch, Hidden, Led, View};
mod watch;
pub use watch::{RequestLimits, Watch};

mod predicate;
pub use predicate::{Condition, Predicate};
mod extended_json;
mod filters;
mod pattern;
mod regex_filter;

mod match_stage;
mod pipeline;
pub use pipeline::Plan;
mod residual;
pub use residual::Residual;
mod judge;
pub use judge::{Crossing, Judge, Subject};
mod index;
pub use index::FilterIndex;

#[cfg(test)]
mod fixtures;
