//! Translates predicates into MongoDB's query language, over the fields of a change event.
//!
//! There are two cases. With a document in the event, a predicate is true or false and is translated
//! directly. Without one, only the document key is known: a condition on any other field is unknown, and
//! groups follow Kleene's three-valued logic.
//!
//! The query language cannot express `changed`. It counts as the value that lets more events pass: true,
//! and false under a negation. The evaluator then checks those events in process.

use bson::raw::CString;
use bson::{Bson, Document, Regex, doc};

use crate::filter::{Condition, Predicate, is_id_path, prefix_pattern};

/// A translated predicate.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Clause {
    /// True for every event.
    Always,
    /// False for every event.
    Never,
    /// True for the events that this condition matches.
    When(Document),
}

/// Translates the predicate for events that carry the document `root` (`fullDocument` or
/// `fullDocumentBeforeChange`). Conditions on `_id` read the document key instead, because MongoDB can
/// check that in the oplog, before it looks up documents. The result is exact unless the predicate uses
/// `changed`.
pub(super) fn with_document(predicate: &Predicate, root: &str) -> Clause {
    let translation = Translation {
        root: Some(root),
        unknown: true,
        changed: true,
    };
    translation.predicate(predicate)
}

/// Translates the predicate for events without a document: true where the document key alone makes it
/// certainly true, apart from `changed`.
pub(super) fn certain_match(predicate: &Predicate) -> Clause {
    let translation = Translation {
        root: None,
        unknown: false,
        changed: true,
    };
    translation.predicate(predicate)
}

/// Translates the predicate for events without a document: true unless the document key alone makes it
/// certainly false.
pub(super) fn possible_match(predicate: &Predicate) -> Clause {
    let translation = Translation {
        root: None,
        unknown: true,
        changed: true,
    };
    translation.predicate(predicate)
}

/// Returns a predicate on documents as a query, for people to read. `changed`, which no query has, is `$changed`.
pub(crate) fn query(predicate: &Predicate) -> Document {
    let all = |parts: &[Predicate]| parts.iter().map(query).collect::<Vec<_>>();
    match predicate {
        Predicate::Field { path, op } => {
            let operator = operator(op).unwrap_or_else(|| match op {
                Condition::Changed(changed) => doc! { "$changed": *changed },
                _ => Document::new(),
            });
            doc! { path: operator }
        }
        Predicate::AllOf(parts) => doc! { "$and": all(parts) },
        Predicate::AnyOf(parts) => doc! { "$or": all(parts) },
        Predicate::NoneOf(parts) => doc! { "$nor": all(parts) },
    }
}

#[derive(Clone, Copy)]
struct Translation<'a> {
    /// The field that holds the document; `None` if there is no document.
    root: Option<&'a str>,
    /// The value of a condition on an absent document.
    unknown: bool,
    /// The value of `changed`.
    changed: bool,
}

impl Translation<'_> {
    fn predicate(self, predicate: &Predicate) -> Clause {
        match predicate {
            Predicate::Field { path, op } => self.field(path, op),
            Predicate::AllOf(parts) => all_hold(parts.iter().map(|part| self.predicate(part))),
            Predicate::AnyOf(parts) => any_holds(parts.iter().map(|part| self.predicate(part))),
            // "None of" is certain exactly where no part is possible, and the reverse.
            Predicate::NoneOf(parts) => {
                let opposite = Translation {
                    unknown: !self.unknown,
                    changed: !self.changed,
                    ..self
                };
                none_holds(parts.iter().map(|part| opposite.predicate(part)))
            }
        }
    }

    fn field(self, path: &str, op: &Condition) -> Clause {
        let constant = |value| {
            if value { Clause::Always } else { Clause::Never }
        };
        let Some(operator) = operator(op) else {
            return constant(self.changed);
        };
        let path = match self.root {
            _ if is_id_path(path) => format!("documentKey.{path}"),
            Some(root) => format!("{root}.{path}"),
            None => return constant(self.unknown),
        };
        Clause::When(doc! { path: operator })
    }
}

fn all_hold(clauses: impl Iterator<Item = Clause>) -> Clause {
    let mut conditions = Vec::new();
    for clause in clauses {
        match clause {
            Clause::Always => {}
            Clause::Never => return Clause::Never,
            Clause::When(condition) => conditions.push(condition),
        }
    }
    if conditions.is_empty() {
        return Clause::Always;
    }
    Clause::When(all_of(conditions))
}

fn any_holds(clauses: impl Iterator<Item = Clause>) -> Clause {
    let mut conditions = Vec::new();
    for clause in clauses {
        match clause {
            Clause::Always => return Clause::Always,
            Clause::Never => {}
            Clause::When(condition) => conditions.push(condition),
        }
    }
    if conditions.is_empty() {
        return Clause::Never;
    }
    Clause::When(any_of(conditions))
}

fn none_holds(clauses: impl Iterator<Item = Clause>) -> Clause {
    let mut conditions = Vec::new();
    for clause in clauses {
        match clause {
            Clause::Always => return Clause::Never,
            Clause::Never => {}
            Clause::When(condition) => conditions.push(condition),
        }
    }
    if conditions.is_empty() {
        return Clause::Always;
    }
    Clause::When(doc! { "$nor": conditions })
}

/// Combines conditions with `$and`; a single one is returned as it is.
pub(super) fn all_of(conditions: Vec<Document>) -> Document {
    join("$and", conditions)
}

/// Combines conditions with `$or`; a single one is returned as it is.
pub(super) fn any_of(conditions: Vec<Document>) -> Document {
    join("$or", conditions)
}

fn join(operator: &str, mut conditions: Vec<Document>) -> Document {
    if conditions.len() == 1 {
        return conditions.swap_remove(0);
    }
    doc! { operator: conditions }
}

/// Returns the condition with an explicit operator, `None` if MongoDB has none for it. The short form
/// `{path: value}` would not mean equality for a regular expression or a document with operators.
fn operator(op: &Condition) -> Option<Document> {
    Some(match op {
        Condition::Eq(value) => doc! { "$eq": value },
        Condition::Ne(value) => doc! { "$ne": value },
        Condition::Gt(value) => doc! { "$gt": value },
        Condition::Gte(value) => doc! { "$gte": value },
        Condition::Lt(value) => doc! { "$lt": value },
        Condition::Lte(value) => doc! { "$lte": value },
        Condition::In(values) => doc! { "$in": values },
        Condition::NotIn(values) => doc! { "$nin": values },
        Condition::Exists(exists) => doc! { "$exists": *exists },
        Condition::Prefix(prefix) => doc! { "$regex": regex(&prefix_pattern(prefix), "") },
        Condition::Regex { pattern, options } => doc! { "$regex": regex(pattern, options) },
        Condition::Changed(_) => return None,
    })
}

fn regex(pattern: &str, options: &str) -> Bson {
    let text = |text: &str| {
        CString::try_from(text).expect("patterns were checked for NUL and prefixes escape it")
    };
    Bson::RegularExpression(Regex {
        pattern: text(pattern),
        options: text(options),
    })
}

#[cfg(test)]
mod tests;
