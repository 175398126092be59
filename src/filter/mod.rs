//! Conditions on documents, and which events meet them.
//!
//! Reading order: a request's filters are parsed into a [`Predicate`] (`parse`, `pattern`,
//! `extended_json`). A [`Residual`] is the conditions that remain to be evaluated in process for one
//! watch; an [`Evaluator`] decides it over raw events, and a [`FilterIndex`] finds the residuals that an
//! event passes.

mod predicate;
pub(crate) use predicate::is_id_path;
pub use predicate::{Condition, Predicate};

mod extended_json;
pub(crate) mod parse;
mod pattern;
pub(crate) use pattern::prefix_pattern;
mod regex_check;

mod residual;
pub use residual::Residual;

mod evaluator;
pub(crate) use evaluator::equal_numbers;
pub use evaluator::{Evaluator, EventFields, MatchTransition};

mod index;
pub use index::FilterIndex;
