//! Conditions on documents, and which events meet them.
//!
//! - `predicate`: a [`Predicate`] is a tree of validated [`Condition`]s, independent of protobuf.
//! - `parse`: makes it from a request's filters, within their bounds. `literal_form` reads literals, with
//!   `extended_json` and `raw_bson`; `regex_check` and `pcre2` check regular expressions, and
//!   `pattern` runs them.
//! - `evaluator`: a [`Filter`] is a predicate as it is kept, compiled and shared, and an [`Evaluator`] decides a
//!   residual over raw events.
//! - `residual`: a [`Residual`] is the conditions of one watch that remain to be evaluated in process.
//! - `index`: a [`FilterIndex`] finds the residuals that an event passes.

mod predicate;
pub(crate) use predicate::is_id_path;
pub use predicate::{Condition, Predicate};

pub(crate) mod extended_json;
mod literal_form;
pub(crate) mod parse;
mod problem;
pub(crate) mod raw_bson;

mod pattern;
pub(crate) use pattern::prefix_pattern;
mod pcre2;
pub(crate) use pcre2::check_linked_version as check_regex_engine;
mod regex_check;

mod residual;
pub use residual::{Clauses, Residual};

mod evaluator;
pub(crate) use evaluator::equal_numbers;
pub use evaluator::{Evaluator, EventFields, Filter, MatchTransition, Verdict};
pub use evaluator::{canonical_bytes, id_hash};

mod index;
pub use index::{FilterIndex, index_bytes};
