//! Validated conditions on documents, independent of protobuf.

use bson::Bson;

/// A condition on a document, with the same meaning as in MongoDB.
///
/// Groups hold at least one predicate. [`Watch::from_request`](crate::pipeline::Watch::from_request)
/// bounds depth, count and size.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// A condition on one field, by its dotted path in the document.
    Field {
        /// The dotted path.
        path: String,
        /// The condition.
        op: Condition,
    },
    /// Every part holds.
    AllOf(Vec<Predicate>),
    /// At least one part holds.
    AnyOf(Vec<Predicate>),
    /// No part holds.
    NoneOf(Vec<Predicate>),
}

/// A condition on the value of one field.
///
/// MongoDB compares documents field by field in their order, which a literal document keeps.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Equal to the value; null also equals a missing field.
    Eq(Bson),
    /// Not equal to the value, or missing.
    Ne(Bson),
    /// Greater, within the value's type.
    Gt(Bson),
    /// Greater or equal, within the value's type.
    Gte(Bson),
    /// Less, within the value's type.
    Lt(Bson),
    /// Less or equal, within the value's type.
    Lte(Bson),
    /// Equal to one of 1 to 1,000 values.
    In(Vec<Bson>),
    /// Equal to none of 1 to 1,000 values, or missing.
    NotIn(Vec<Bson>),
    /// The field is present, null included (`true`), or missing (`false`).
    Exists(bool),
    /// A string that starts with this text.
    Prefix(String),
    /// A string that matches a pattern. `options` are letters of "imsx", sorted.
    Regex {
        /// The pattern.
        pattern: String,
        /// The options.
        options: String,
    },
    /// The change touched this path, one above it or one below it (`true`), or did not (`false`). A
    /// replace touches every path, an insert and a delete none.
    Changed(bool),
}

impl Predicate {
    /// Returns the paths of all conditions, including `changed`, possibly with duplicates.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Predicate::Field { path, .. } => vec![path],
            Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
                parts.iter().flat_map(Predicate::paths).collect()
            }
        }
    }

    /// Returns whether the document key alone decides: every condition is on a value at or below `_id`.
    pub fn is_about_id_only(&self) -> bool {
        match self {
            Predicate::Field { path, op } => is_id_path(path) && !op.is_about_the_change(),
            Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
                parts.iter().all(Predicate::is_about_id_only)
            }
        }
    }

    /// Returns whether any condition is `changed`, which MongoDB's query language cannot express.
    pub fn uses_changed(&self) -> bool {
        self.changed_path().is_some()
    }

    /// Returns the path of the first condition that is `changed`.
    pub fn changed_path(&self) -> Option<&str> {
        match self {
            Predicate::Field { path, op } => op.is_about_the_change().then_some(path),
            Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
                parts.iter().find_map(Predicate::changed_path)
            }
        }
    }
}

impl Condition {
    /// Returns whether the condition is about the change, not about a value.
    const fn is_about_the_change(&self) -> bool {
        matches!(self, Condition::Changed(_))
    }
}

/// Returns whether the path is at or below `_id`. Such a field is known without the document and never
/// changes.
pub(crate) fn is_id_path(path: &str) -> bool {
    path == "_id" || path.starts_with("_id.")
}
