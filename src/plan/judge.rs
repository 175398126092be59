//! The evaluator in process: a residual over the raw BSON of an event, without decoding it and
//! without an allocation.
//!
//! It says of each event what the pipeline of [`Plan::dedicated`](super::Plan::dedicated) would,
//! and where that pipeline has no words (`changed`, how a change moved a document), it says more.
//!
//! Reading order: a [`Subject`] is what there is to look at in one event; a [`Judge`] is the
//! condition. `path` finds values, `test` judges one, `value` and `number` order them, `changed`
//! reads what an update touched, `guard` holds for all that an event shows.

mod changed;
mod guard;
mod number;
mod path;
mod subject;
mod test;
mod value;

use changed::Changed;
use guard::Guard;
pub(super) use number::Number;
pub(super) use path::Path;
pub use subject::Subject;
use test::Test;
pub(super) use value::{Class, Literal, fields};

use super::pattern::Effort;
use super::predicate::is_id_path;
use super::residual::Operations;
use super::{Condition, MissingImage, Operation, Predicate, Residual};
use crate::pb;

/// How a change moved the document across the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Crossing {
    /// Not known, or there is no filter.
    Untold,
    /// The document matches now and did not before.
    Entered,
    /// The document matches, as it did before.
    Stayed,
    /// The document matched before and does not now.
    Left,
}

impl Crossing {
    /// The API's number for it.
    pub const fn to_pb(self) -> pb::FilterMatch {
        match self {
            Crossing::Untold => pb::FilterMatch::Unspecified,
            Crossing::Entered => pb::FilterMatch::Entered,
            Crossing::Stayed => pb::FilterMatch::Stayed,
            Crossing::Left => pb::FilterMatch::Left,
        }
    }
}

/// A residual, ready to be asked about events.
#[derive(Clone, Debug)]
pub struct Judge {
    operations: Operations,
    guard: Option<Guard>,
    filter: Option<Node>,
    /// What an unknown whole is worth.
    unknown: bool,
    pre_images: bool,
}

impl Judge {
    /// Compiles a residual.
    pub fn new(residual: &Residual) -> Self {
        Judge {
            operations: residual.operation_set(),
            guard: residual.guard.as_ref().map(Guard::new),
            filter: residual.filter.as_ref().map(Node::new),
            unknown: residual.missing_image == MissingImage::Deliver,
            pre_images: residual.pre_images,
        }
    }

    /// Judges an event: `None` when it is not for this watcher.
    pub fn judge(&self, subject: &Subject<'_>) -> Option<Crossing> {
        let operation = subject.operation;
        if !self.operations.contains(operation) {
            return None;
        }
        if !operation.is_document() {
            return Some(Crossing::Untold);
        }
        if let Some(guard) = &self.guard
            && !guard.admits(subject)
        {
            return None;
        }
        let Some(filter) = &self.filter else {
            return Some(Crossing::Untold);
        };
        let passes = |verdict: Option<bool>| verdict.unwrap_or(self.unknown);
        let effort = &Effort::default();

        if !self.pre_images {
            let now = filter.holds(subject, subject.after, effort);
            return passes(now).then_some(Crossing::Untold);
        }
        let before = filter.holds(subject, subject.before, effort);
        if operation == Operation::Delete && subject.before.is_some() {
            return passes(before).then_some(told(before, Some(false)));
        }
        let now = filter.holds(subject, subject.after, effort);
        let matches = passes(now) || (subject.before.is_some() && passes(before));
        matches.then(|| match operation {
            Operation::Insert => told(Some(false), now),
            Operation::Delete => told(before, Some(false)),
            _ => told(before, now),
        })
    }
}

fn told(before: Option<bool>, now: Option<bool>) -> Crossing {
    match (before, now) {
        (Some(false), Some(true)) => Crossing::Entered,
        (Some(true), Some(true)) => Crossing::Stayed,
        (Some(true), Some(false)) => Crossing::Left,
        _ => Crossing::Untold,
    }
}

/// A predicate with its literals as raw BSON.
#[derive(Clone, Debug)]
enum Node {
    Field {
        path: Path,
        /// Whether the path is in the document key, and so known without a document.
        on_key: bool,
        test: Test,
        /// Whether the condition is that no value passes.
        negated: bool,
    },
    Changed(Changed),
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
        match (op, Test::new(op)) {
            (Condition::Changed(wanted), _) => Node::Changed(Changed::new(path, *wanted)),
            (_, Some((test, negated))) => Node::Field {
                path: Path::new(path),
                on_key: is_id_path(path),
                test,
                negated,
            },
            // Every other condition has a test.
            (_, None) => Node::AnyOf(Box::default()),
        }
    }

    /// Whether the predicate holds for this document, in Kleene's logic: `None` is unknown.
    fn holds(
        &self,
        subject: &Subject<'_>,
        document: Option<&[u8]>,
        effort: &Effort,
    ) -> Option<bool> {
        match self {
            Node::Field {
                path,
                on_key,
                test,
                negated,
            } => {
                let found = if *on_key {
                    // An event of a document without a key is broken, and a field of it missing.
                    match subject.key {
                        Some(key) => finds(path, key, test, effort),
                        None => test.passes(None, effort),
                    }
                } else {
                    finds(path, document?, test, effort)
                };
                // A value that was not decided, or not come by, counts where no other passes.
                let is_known = found | !effort.gave_up();
                is_known.then_some(found != *negated)
            }
            Node::Changed(changed) => changed.holds(subject),
            Node::AllOf(nodes) => each(nodes, subject, (document, effort), false),
            Node::AnyOf(nodes) => each(nodes, subject, (document, effort), true),
            Node::NoneOf(nodes) => each(nodes, subject, (document, effort), true).map(|any| !any),
        }
    }
}

fn finds(path: &Path, document: &[u8], test: &Test, effort: &Effort) -> bool {
    let found = path.find(document, &mut |value| test.passes(value.as_ref(), effort));
    found.unwrap_or_else(|| {
        effort.give_up();
        false
    })
}

/// The first node that says `decisive` decides; without one, an unknown makes the whole unknown.
fn each(
    nodes: &[Node],
    subject: &Subject<'_>,
    (document, effort): (Option<&[u8]>, &Effort),
    decisive: bool,
) -> Option<bool> {
    let mut whole = Some(!decisive);
    for node in nodes {
        match node.holds(subject, document, effort) {
            Some(value) if value == decisive => return Some(decisive),
            Some(_) => {}
            None => whole = None,
        }
    }
    whole
}

#[cfg(test)]
mod tests;
