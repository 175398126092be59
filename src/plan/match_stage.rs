//! A predicate said in MongoDB's query language, over the fields of a change event.
//!
//! Two readings exist. With a document in the event, a predicate is true or false and is said as
//! it stands. Without one, only the document key is known, and three-valued logic says what can
//! be told: a condition on any other field is unknown, and groups follow Kleene.
//!
//! The query language has no word for `changed`. In every reading it counts as whatever lets more
//! events pass: true, and false where it is negated. The judge in process then looks at them.

use bson::raw::CString;
use bson::{Bson, Document, Regex, doc};

use super::predicate::{Condition, Predicate, is_id_path};

/// What is left of a predicate to ask of an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// True whatever the event holds.
    Always,
    /// False whatever the event holds.
    Never,
    /// As the event decides.
    When(Document),
}

/// The predicate over the document that the event holds under `root` (`fullDocument` or
/// `fullDocumentBeforeChange`). Conditions on `_id` read the document key whatever the root,
/// because MongoDB can look at that in the oplog, before it looks any document up. Without
/// `changed` in it, it is said as it stands.
pub(super) fn with_document(predicate: &Predicate, root: &str) -> Verdict {
    let reading = Reading {
        root: Some(root),
        unknown: true,
        changed: true,
    };
    reading.of(predicate)
}

/// When the predicate is true for certain, by the document key alone; with `changed` in it, when
/// it is so for what may have been changed.
pub(super) fn surely(predicate: &Predicate) -> Verdict {
    let reading = Reading {
        root: None,
        unknown: false,
        changed: true,
    };
    reading.of(predicate)
}

/// When the predicate may be true, that is, is not false for certain, by the document key alone.
pub(super) fn possibly(predicate: &Predicate) -> Verdict {
    let reading = Reading {
        root: None,
        unknown: true,
        changed: true,
    };
    reading.of(predicate)
}

#[derive(Clone, Copy)]
struct Reading<'a> {
    /// Where the document is; `None` without one.
    root: Option<&'a str>,
    /// What a condition on a document that is not there counts as.
    unknown: bool,
    /// What `changed` counts as.
    changed: bool,
}

impl Reading<'_> {
    fn of(self, predicate: &Predicate) -> Verdict {
        match predicate {
            Predicate::Field { path, op } => self.field(path, op),
            Predicate::AllOf(parts) => all_hold(parts.iter().map(|part| self.of(part))),
            Predicate::AnyOf(parts) => any_holds(parts.iter().map(|part| self.of(part))),
            // None holds for certain exactly where none may hold.
            Predicate::NoneOf(parts) => {
                let opposite = Reading {
                    unknown: !self.unknown,
                    changed: !self.changed,
                    ..self
                };
                none_holds(parts.iter().map(|part| opposite.of(part)))
            }
        }
    }

    fn field(self, path: &str, op: &Condition) -> Verdict {
        let counted = |as_true| {
            if as_true {
                Verdict::Always
            } else {
                Verdict::Never
            }
        };
        let Some(said) = operator(op) else {
            return counted(self.changed);
        };
        let path = match self.root {
            _ if is_id_path(path) => format!("documentKey.{path}"),
            Some(root) => format!("{root}.{path}"),
            None => return counted(self.unknown),
        };
        Verdict::When(doc! { path: said })
    }
}

fn all_hold(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let mut conditions = Vec::new();
    for verdict in verdicts {
        match verdict {
            Verdict::Always => {}
            Verdict::Never => return Verdict::Never,
            Verdict::When(condition) => conditions.push(condition),
        }
    }
    if conditions.is_empty() {
        return Verdict::Always;
    }
    Verdict::When(all_of(conditions))
}

fn any_holds(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let mut conditions = Vec::new();
    for verdict in verdicts {
        match verdict {
            Verdict::Always => return Verdict::Always,
            Verdict::Never => {}
            Verdict::When(condition) => conditions.push(condition),
        }
    }
    if conditions.is_empty() {
        return Verdict::Never;
    }
    Verdict::When(any_of(conditions))
}

fn none_holds(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let mut conditions = Vec::new();
    for verdict in verdicts {
        match verdict {
            Verdict::Always => return Verdict::Never,
            Verdict::Never => {}
            Verdict::When(condition) => conditions.push(condition),
        }
    }
    if conditions.is_empty() {
        return Verdict::Always;
    }
    Verdict::When(doc! { "$nor": conditions })
}

/// All conditions at once; one alone stands by itself.
pub(super) fn all_of(conditions: Vec<Document>) -> Document {
    one_or("$and", conditions)
}

/// At least one of the conditions; one alone stands by itself.
pub(super) fn any_of(conditions: Vec<Document>) -> Document {
    one_or("$or", conditions)
}

fn one_or(operator: &str, mut conditions: Vec<Document>) -> Document {
    if conditions.len() == 1 {
        return conditions.swap_remove(0);
    }
    doc! { operator: conditions }
}

/// One condition in its explicit form: `{path: value}` would read a document with an operator in
/// it, or a regular expression, as something else than equality. `None` where MongoDB has no
/// operator.
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

/// A pattern that matches exactly the strings that start with `prefix`. Without options, `^` is
/// the start of the whole string, newlines stand for themselves, and a backslash before any ASCII
/// punctuation means that character.
pub(super) fn prefix_pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    pattern.push('^');
    for character in prefix.chars() {
        match character {
            // A BSON pattern ends at NUL.
            '\0' => pattern.push_str(r"\x00"),
            character if character.is_ascii_punctuation() && character != '_' => {
                pattern.push('\\');
                pattern.push(character);
            }
            character => pattern.push(character),
        }
    }
    pattern
}

#[cfg(test)]
mod tests;
