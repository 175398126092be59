//! A compiled predicate, and whether it holds for a document.

use std::hash::{Hash, Hasher};

use super::changed::ChangedCondition;
use super::event_fields::EventFields;
use super::literal::ALLOCATION;
use super::path::Path;
use super::value_test::ValueTest;
use crate::filter::pattern::WorkBudget;
use crate::filter::{Condition, Predicate, is_id_path};

/// A compiled predicate, with its literals as raw BSON.
#[derive(Debug, PartialEq)]
pub(in crate::filter) enum Node {
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
    pub(super) fn new(predicate: &Predicate) -> Node {
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

    /// Decodes the predicate.
    pub(super) fn predicate(&self) -> Predicate {
        let parts = |nodes: &[Node]| nodes.iter().map(Node::predicate).collect();
        match self {
            Node::Field {
                path,
                test,
                negated,
                ..
            } => Predicate::Field {
                path: path.text().to_owned(),
                op: test.condition(*negated),
            },
            Node::Changed(changed) => Predicate::Field {
                path: changed.path().to_owned(),
                op: Condition::Changed(changed.wanted()),
            },
            Node::AllOf(nodes) => Predicate::AllOf(parts(nodes)),
            Node::AnyOf(nodes) => Predicate::AnyOf(parts(nodes)),
            Node::NoneOf(nodes) => Predicate::NoneOf(parts(nodes)),
        }
    }

    /// Appends the path of each condition.
    pub(super) fn push_paths<'n>(&'n self, paths: &mut Vec<&'n str>) {
        match self {
            Node::Field { path, .. } => paths.push(path.text()),
            Node::Changed(changed) => paths.push(changed.path()),
            Node::AllOf(nodes) | Node::AnyOf(nodes) | Node::NoneOf(nodes) => {
                nodes.iter().for_each(|node| node.push_paths(paths));
            }
        }
    }

    pub(super) fn uses_changed(&self) -> bool {
        match self {
            Node::Field { .. } => false,
            Node::Changed(_) => true,
            Node::AllOf(nodes) | Node::AnyOf(nodes) | Node::NoneOf(nodes) => {
                nodes.iter().any(Node::uses_changed)
            }
        }
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Node::Field { path, test, .. } => path.heap_bytes() + test.heap_bytes(),
            Node::Changed(changed) => changed.heap_bytes(),
            Node::AllOf(nodes) | Node::AnyOf(nodes) | Node::NoneOf(nodes) => {
                let inner: usize = nodes.iter().map(Node::heap_bytes).sum();
                size_of_val(&**nodes) + ALLOCATION + inner
            }
        }
    }

    /// Returns the number of conditions, and the sum of the states of their patterns.
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Node::Field { test, .. } => (1, test.pattern_states()),
            Node::Changed(_) => (1, 0),
            Node::AllOf(nodes) | Node::AnyOf(nodes) | Node::NoneOf(nodes) => {
                let sizes = nodes.iter().map(Node::size);
                sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
            }
        }
    }

    /// Returns whether the predicate holds for this document, in three-valued logic: `None` is unknown.
    pub(super) fn holds(
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

pub(super) fn any_value_passes(
    path: &Path,
    document: &[u8],
    test: &ValueTest,
    budget: &WorkBudget,
) -> bool {
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

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Node::Field {
                path,
                on_key: _,
                test,
                negated,
            } => {
                path.text().hash(state);
                (test, negated).hash(state);
            }
            Node::Changed(changed) => (changed.path(), changed.wanted()).hash(state),
            Node::AllOf(nodes) => (b'a', nodes).hash(state),
            Node::AnyOf(nodes) => (b'o', nodes).hash(state),
            Node::NoneOf(nodes) => (b'n', nodes).hash(state),
        }
    }
}
