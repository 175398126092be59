//! A condition on a document, validated and free of protobuf.

use bson::Bson;

use super::{FieldViolation, RequestError, filters, violations::Findings};
use crate::pb;

/// A condition on a document, with MongoDB's own meaning.
///
/// Groups hold at least one predicate. [`Watch::from_request`](super::Watch::from_request)
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
    /// Every one holds.
    AllOf(Vec<Predicate>),
    /// At least one holds.
    AnyOf(Vec<Predicate>),
    /// None holds.
    NoneOf(Vec<Predicate>),
}

/// A condition on the value of one field.
///
/// A literal that is a document was sent as a protobuf map, which keeps no order, so its fields
/// are sorted by name. MongoDB compares documents field by field in their order: equality with a
/// document of several fields holds only where the stored fields stand in the order of their
/// names. Conditions on the dotted paths of the fields do not have that limit.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Equal; null also means missing.
    Eq(Bson),
    /// Not equal, or missing.
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
    /// The field is there, null included; or it is missing.
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
    /// An update touched this path, one above it or one below it, component by component; or it
    /// did not. A replace touches every path, an insert and a delete none.
    Changed(bool),
}

impl Predicate {
    /// What filters that must all hold say together, within the bounds that a request's have.
    ///
    /// # Errors
    /// What is wrong with them. No filter at all is wrong too.
    pub fn from_filters(filters: Vec<pb::Filter>) -> Result<Predicate, Vec<FieldViolation>> {
        let mut findings = Findings::default();
        let (predicate, _) = filters::predicate(filters, &mut findings);
        match (predicate, findings.into_result()) {
            (Some(predicate), Ok(())) => Ok(predicate),
            (_, Err(RequestError::Invalid(violations))) => Err(violations),
            (_, Ok(()) | Err(RequestError::DeploymentNotAllowed)) => Err(vec![FieldViolation {
                field: "filters".to_owned(),
                description: "hold no condition".to_owned(),
            }]),
        }
    }

    /// The paths that conditions are on, those of `changed` included; some more than once.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Predicate::Field { path, .. } => vec![path],
            Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
                parts.iter().flat_map(Predicate::paths).collect()
            }
        }
    }

    /// Whether the document key alone decides: every condition is on the value of `_id` or below
    /// it.
    pub fn is_about_id_only(&self) -> bool {
        match self {
            Predicate::Field { path, op } => is_id_path(path) && !op.is_about_the_change(),
            Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
                parts.iter().all(Predicate::is_about_id_only)
            }
        }
    }

    /// Whether any condition is about the change instead of a document. MongoDB's query language
    /// has no word for those.
    pub fn uses_changed(&self) -> bool {
        match self {
            Predicate::Field { op, .. } => op.is_about_the_change(),
            Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
                parts.iter().any(Predicate::uses_changed)
            }
        }
    }
}

impl Condition {
    /// Whether the condition is about what the change touched, and not about a value.
    pub(super) const fn is_about_the_change(&self) -> bool {
        matches!(self, Condition::Changed(_))
    }
}

/// Whether the path is `_id` or below it. Such a field is known even without the document, and
/// never changes.
pub(super) fn is_id_path(path: &str) -> bool {
    path == "_id" || path.starts_with("_id.")
}
