//! Evaluates residuals in process, over the raw BSON of an event, without decoding or allocating.
//!
//! The result agrees with the pipeline of [`Plan::dedicated`](crate::pipeline::Plan::dedicated). The evaluator
//! also covers what a pipeline cannot express: `changed`, and match transitions.
//!
//! Reading order: [`EventFields`] are the parts of an event that filters use; a [`Filter`] is a compiled predicate, a
//! tree of `node`s, and an [`Evaluator`] decides a residual with it. `path` finds the values at a path, `value_test`
//! tests one value against a `literal` or several, `value` and `number` compare values, `changed` reads update descriptions, and `row_filter` is
//! the condition that a policy adds. `canonical` hashes an `_id`, which decides the shard of an event.

mod canonical;
pub use canonical::{canonical_bytes, id_hash};
mod changed;
mod event_fields;
mod filter;
mod literal;
mod node;
mod number;
mod path;
mod row_filter;
mod value;
mod value_test;

pub use event_fields::EventFields;
pub use filter::Filter;
pub(super) use literal::{Literal, LiteralList};
pub(super) use node::Node;
pub(super) use number::Number;
pub(crate) use number::equal_numbers;
pub(super) use path::Path;
use row_filter::RowFilter;
pub(super) use value::{TypeClass, fields};
pub(super) use value_test::ValueTest;

use super::Clauses;
use super::pattern::WorkBudget;
use crate::model::{MissingImage, Operation, OperationSet, Shard};
use crate::pb;

/// The change of a document's match with the filter, from before to after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchTransition {
    /// Unknown, or there is no filter.
    Unspecified,
    /// The document matches after the change and did not match before.
    Entered,
    /// The document matches after the change and matched before.
    Stayed,
    /// The document matched before the change and does not match after it.
    Left,
}

impl MatchTransition {
    /// Returns the value of the API.
    pub const fn to_pb(self) -> pb::FilterMatch {
        match self {
            MatchTransition::Unspecified => pb::FilterMatch::Unspecified,
            MatchTransition::Entered => pb::FilterMatch::Entered,
            MatchTransition::Stayed => pb::FilterMatch::Stayed,
            MatchTransition::Left => pb::FilterMatch::Left,
        }
    }
}

/// A residual that decides which events pass. It shares its filters with the residual.
#[derive(Clone, Debug)]
pub struct Evaluator {
    operations: OperationSet,
    shard: Option<Shard>,
    row_filter: Option<RowFilter>,
    filter: Option<Filter>,
    /// The result of a filter whose value is unknown.
    passes_unknown: bool,
    pre_images: bool,
}

impl Evaluator {
    /// Creates the evaluator of a residual, whose filters are compiled already.
    pub fn new(residual: &Clauses) -> Self {
        Evaluator {
            operations: residual.operation_set(),
            shard: residual.shard,
            row_filter: residual.row_filter.as_ref().map(RowFilter::new),
            filter: residual.filter.clone(),
            passes_unknown: residual.missing_image == MissingImage::Deliver,
            pre_images: residual.pre_images,
        }
    }

    pub(super) fn operations(&self) -> OperationSet {
        self.operations
    }

    pub(super) fn shard(&self) -> Option<Shard> {
        self.shard
    }

    pub(super) fn row_filter(&self) -> Option<&Filter> {
        self.row_filter.as_ref().map(RowFilter::filter)
    }

    pub(super) fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    pub(super) fn passes_unknown(&self) -> bool {
        self.passes_unknown
    }

    pub(super) fn pre_images(&self) -> bool {
        self.pre_images
    }

    /// Returns the match transition of an event that passes, `None` for an event that does not.
    pub fn evaluate(&self, event: &EventFields<'_>) -> Option<MatchTransition> {
        let operation = event.operation;
        if !self.operations.contains(operation) {
            return None;
        }
        if let Some(shard) = self.shard
            && !event.id_hash().is_none_or(|hash| shard.contains(hash))
        {
            return None;
        }
        if !operation.is_document() {
            return Some(MatchTransition::Unspecified);
        }
        if let Some(row_filter) = &self.row_filter
            && !row_filter.admits(event)
        {
            return None;
        }
        let Some(filter) = &self.filter else {
            return Some(MatchTransition::Unspecified);
        };
        let passes = |holds: Option<bool>| holds.unwrap_or(self.passes_unknown);
        let (filter, budget) = (filter.root(), &WorkBudget::default());

        if !self.pre_images {
            let now = filter.holds(event, event.after, budget);
            return passes(now).then_some(MatchTransition::Unspecified);
        }
        let before = filter.holds(event, event.before, budget);
        if operation == Operation::Delete && event.before.is_some() {
            return passes(before).then_some(transition(before, Some(false)));
        }
        let now = filter.holds(event, event.after, budget);
        let matches = passes(now) || (event.before.is_some() && passes(before));
        matches.then(|| match operation {
            Operation::Insert => transition(Some(false), now),
            Operation::Delete => transition(before, Some(false)),
            _ => transition(before, now),
        })
    }
}

fn transition(before: Option<bool>, now: Option<bool>) -> MatchTransition {
    match (before, now) {
        (Some(false), Some(true)) => MatchTransition::Entered,
        (Some(true), Some(true)) => MatchTransition::Stayed,
        (Some(true), Some(false)) => MatchTransition::Left,
        _ => MatchTransition::Unspecified,
    }
}

#[cfg(test)]
mod tests;
