//! Plans a watch: a request becomes a validated [`Watch`], and that becomes a [`Plan`], the change-stream
//! pipeline of its feed, and a [`Residual`], the conditions that remain to be evaluated in process.
//!
//! Reading order: [`Watch::from_request`] validates every field and reports every problem; the filters
//! become a [`Predicate`]; [`Plan::dedicated`] translates all of it into a pipeline for MongoDB. On a feed
//! that many watches share ([`Plan::shared`]), an [`Evaluator`] applies the same conditions to the raw
//! events, and a [`FilterIndex`] finds the residuals that an event passes. The module has no I/O: it is
//! pure functions over requests and events.

mod operation;
pub use operation::Operation;
mod scope;
pub use scope::{INTERNAL_DATABASES, Scope};
mod options;
pub use options::{
    BeforeChange, FeedMode, Format, FullDocument, Invalidate, MissingImage, Oversize, Start,
};
mod violations;
pub use violations::{FieldViolation, MAX_VIOLATIONS, RequestError};
mod view;
pub use view::{FieldMask, MaskNode, PathMatch, TokenAudience, View};
mod watch;
pub use watch::{RequestLimits, Watch};

mod predicate;
pub use predicate::{Condition, Predicate};
mod extended_json;
mod filters;
mod pattern;
mod regex_check;

mod match_stage;
mod pipeline;
pub use pipeline::Plan;
mod residual;
pub use residual::Residual;
mod evaluator;
pub(crate) use evaluator::equal_numbers;
pub use evaluator::{Evaluator, EventFields, MatchTransition};
mod index;
pub use index::FilterIndex;

#[cfg(test)]
mod fixtures;
