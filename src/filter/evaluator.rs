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

use std::sync::atomic::{AtomicU32, Ordering};

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

/// The number of conditions, and of the states of all patterns, from which a filter may cost more than others should
/// wait for: some 10 µs for an event of a few KiB.
const MANY_CONDITIONS: usize = 64;
const MANY_STATES: usize = 512;

/// The number of events in a row after which a filter is tried again, if none of them is known to have taken long. A
/// brief evaluation takes at most 0.3 ms, so that a filter which takes long now and then costs a microsecond an event.
const CALM_EVENTS: u32 = 256;

/// The answer to an event in the time for which others may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event passes.
    Passes(MatchTransition),
    /// It does not pass.
    Fails,
    /// It may take long to say: ask [`Evaluator::evaluate`] where nobody waits for the answer.
    Undecided,
}

impl From<Option<MatchTransition>> for Verdict {
    fn from(passes: Option<MatchTransition>) -> Self {
        passes.map_or(Self::Fails, Self::Passes)
    }
}

/// A residual that decides which events pass. It shares its filters with the residual.
#[derive(Debug)]
pub struct Evaluator {
    operations: OperationSet,
    shard: Option<Shard>,
    row_filter: Option<RowFilter>,
    filter: Option<Filter>,
    /// The result of a filter whose value is unknown.
    passes_unknown: bool,
    pre_images: bool,
    /// `true` if the filter has patterns.
    has_patterns: bool,
    /// `true` if the filter is so large that it may always cost more than others should wait for.
    is_large: bool,
    /// The number of events since one took longer than others should wait for, up to [`CALM_EVENTS`].
    calm_events: AtomicU32,
}

impl Evaluator {
    /// Creates the evaluator of a residual, whose filters are compiled already.
    pub fn new(residual: &Clauses) -> Self {
        let (conditions, states) = match &residual.filter {
            Some(filter) => filter.root().size(),
            None => (0, 0),
        };
        Evaluator {
            operations: residual.operation_set(),
            shard: residual.shard,
            row_filter: residual.row_filter.as_ref().map(RowFilter::new),
            filter: residual.filter.clone(),
            has_patterns: states > 0,
            is_large: conditions > MANY_CONDITIONS || states > MANY_STATES,
            calm_events: CALM_EVENTS.into(),
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

    /// Returns whether many events may take long together, even if none has so far.
    pub fn may_take_long(&self) -> bool {
        self.has_patterns || self.is_large
    }

    /// Returns the match transition of an event that passes, `None` for an event that does not. May take about 0.1 s.
    pub fn evaluate(&self, event: &EventFields<'_>) -> Option<MatchTransition> {
        let budget = WorkBudget::default();
        let passes = self.evaluate_within(event, &budget);
        self.note(&budget);
        passes
    }

    /// Decides in a few hundred microseconds, or not at all: a filter that has taken longer is not tried again before
    /// [`CALM_EVENTS`] events in a row have not, as far as [`evaluate`](Self::evaluate) was asked about them.
    pub fn evaluate_briefly(&self, event: &EventFields<'_>) -> Verdict {
        if !self.may_take_long() {
            return self.evaluate(event).into();
        }
        let is_calm = self.calm_events.load(Ordering::Relaxed) >= CALM_EVENTS;
        if is_calm && !self.is_large {
            let budget = WorkBudget::brief();
            let passes = self.evaluate_within(event, &budget);
            if !budget.took_long() {
                return passes.into();
            }
            self.note(&budget);
        }
        match self.passes_by_others(event) {
            Some(passes) => passes.into(),
            None => {
                if !is_calm {
                    self.calm_events.fetch_add(1, Ordering::Relaxed);
                }
                Verdict::Undecided
            }
        }
    }

    /// Notes whether an evaluation took longer than others should wait for.
    fn note(&self, budget: &WorkBudget) {
        if budget.took_long() {
            self.calm_events.store(0, Ordering::Relaxed);
        }
    }

    fn evaluate_within(
        &self,
        event: &EventFields<'_>,
        budget: &WorkBudget,
    ) -> Option<MatchTransition> {
        if let Some(passes) = self.passes_by_others(event) {
            return passes;
        }
        let filter = self.filter.as_ref()?.root();
        let operation = event.operation;
        let passes = |holds: Option<bool>| holds.unwrap_or(self.passes_unknown);
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

    /// Returns the answer of the clauses other than the filter; `None` if the filter decides.
    fn passes_by_others(&self, event: &EventFields<'_>) -> Option<Option<MatchTransition>> {
        let operation = event.operation;
        if !self.operations.contains(operation) {
            return Some(None);
        }
        if let Some(shard) = self.shard
            && !event.id_hash().is_none_or(|hash| shard.contains(hash))
        {
            return Some(None);
        }
        if !operation.is_document() {
            return Some(Some(MatchTransition::Unspecified));
        }
        if let Some(row_filter) = &self.row_filter
            && !row_filter.admits(event)
        {
            return Some(None);
        }
        match &self.filter {
            None => Some(Some(MatchTransition::Unspecified)),
            Some(_) => None,
        }
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
