//! Evaluates residuals in process, over the raw BSON of an event, without decoding or allocating.
//!
//! The result agrees with the pipeline of [`Plan::dedicated`](crate::pipeline::Plan::dedicated). The evaluator
//! also covers what a pipeline cannot express: `changed`, and match transitions.
//!
//! Reading order: [`EventFields`] are the parts of an event that filters use; an [`Evaluator`] is a
//! compiled residual. `path` finds the values at a path, `value_test` tests one value, `value` and
//! `number` compare values, `changed` reads update descriptions, and `row_filter` is the condition that
//! a policy adds.

mod changed;
mod event_fields;
mod number;
mod path;
mod row_filter;
mod value;
mod value_test;

use changed::ChangedCondition;
pub use event_fields::EventFields;
pub(super) use number::Number;
pub(crate) use number::equal_numbers;
pub(super) use path::Path;
use row_filter::RowFilter;
pub(super) use value::{Literal, TypeClass, fields};
use value_test::ValueTest;

use super::pattern::WorkBudget;
use super::predicate::is_id_path;
use super::{Condition, Predicate, Residual};
use crate::model::{MissingImage, Operation, OperationSet};
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

/// A compiled residual that decides which events pass.
#[derive(Clone, Debug)]
pub struct Evaluator {
    operations: OperationSet,
    row_filter: Option<RowFilter>,
    filter: Option<Node>,
    /// The result of a filter whose value is unknown.
    passes_unknown: bool,
    pre_images: bool,
}

impl Evaluator {
    /// Compiles a residual.
    pub fn new(residual: &Residual) -> Self {
        Evaluator {
            operations: residual.operation_set(),
            row_filter: residual.row_filter.as_ref().map(RowFilter::new),
            filter: residual.filter.as_ref().map(Node::new),
            passes_unknown: residual.missing_image == MissingImage::Deliver,
            pre_images: residual.pre_images,
        }
    }

    /// Returns the match transition of an event that passes, `None` for an event that does not.
    pub fn evaluate(&self, event: &EventFields<'_>) -> Option<MatchTransition> {
        let operation = event.operation;
        if !self.operations.contains(operation) {
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
        let budget = &WorkBudget::default();

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

/// A compiled predicate, with its literals as raw BSON.
#[derive(Clone, Debug)]
enum Node {
    Field {
        path: Path,
        /// `true` if the path is in the document key, which is known without a document.
        on_key: bool,
        test: ValueTest,
        /// `true` if the condition is that no value passes `test`.
        negated: bool,
    },
    Changed(ChangedCondition),
    AllOf(Box<[Node]>),
    AnyOf(Box<[Node]>),
    NoneOf(Box<[Node]>),
}

impl Node {
    fn new(predicate: &Predicate) -> Node {
        let nodes = |parts: &[Predicate]| parts.iter().map(Node::new).collect();
        match predicate {
            Predicate::Field { path, op } => Node::field(path, op),
            Predicate::AllOf(parts) => Node::AllOf(nodes(parts)),
            Predicate::AnyOf(parts) => Node::AnyOf(nodes(parts)),
            Predicate::NoneOf(parts) => Node::NoneOf(nodes(parts)),
        }
    }

    fn field(path: &str, op: &Condition) -> Node {
        match (op, ValueTest::new(op)) {
            (Condition::Changed(wanted), _) => Node::Changed(ChangedCondition::new(path, *wanted)),
            (_, Some((test, negated))) => Node::Field {
                path: Path::new(path),
                on_key: is_id_path(path),
                test,
                negated,
            },
            // Not reached: every other condition has a test.
            (_, None) => Node::AnyOf(Box::default()),
        }
    }

    /// Returns whether the predicate holds for this document, in three-valued logic: `None` is unknown.
    fn holds(
        &self,
        event: &EventFields<'_>,
        document: Option<&[u8]>,
        budget: &WorkBudget,
    ) -> Option<bool> {
        match self {
            Node::Field {
                path,
                on_key,
                test,
                negated,
            } => {
                let found = if *on_key {
                    // An event without a document key is malformed; its fields count as missing.
                    match event.key {
                        Some(key) => any_value_passes(path, key, test, budget),
                        None => test.passes(None, budget),
                    }
                } else {
                    any_value_passes(path, document?, test, budget)
                };
                // Undecided or unreached values make the result unknown, unless another value passes.
                let is_known = found | !budget.take_undecided();
                is_known.then_some(found != *negated)
            }
            Node::Changed(changed) => changed.holds(event),
            Node::AllOf(nodes) => combine(nodes, event, (document, budget), false),
            Node::AnyOf(nodes) => combine(nodes, event, (document, budget), true),
            Node::NoneOf(nodes) => combine(nodes, event, (document, budget), true).map(|any| !any),
        }
    }
}

fn any_value_passes(path: &Path, document: &[u8], test: &ValueTest, budget: &WorkBudget) -> bool {
    let found = path.find(document, &mut |value| test.passes(value.as_ref(), budget));
    found.unwrap_or_else(|| {
        budget.mark_undecided();
        false
    })
}

/// Combines nodes in three-valued logic: the first node equal to `decisive` decides; otherwise one
/// unknown node makes the result unknown.
fn combine(
    nodes: &[Node],
    event: &EventFields<'_>,
    (document, budget): (Option<&[u8]>, &WorkBudget),
    decisive: bool,
) -> Option<bool> {
    let mut result = Some(!decisive);
    for node in nodes {
        match node.holds(event, document, budget) {
            Some(value) if value == decisive => return Some(decisive),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

#[cfg(test)]
mod tests;
