//! Why a request is refused: every bad field with its path, in words for the person who sent it.

/// The number of violations that are reported at most. Statuses travel in trailers, which must
/// stay small, and checking stops here so that a hostile request costs little.
pub const MAX_VIOLATIONS: usize = 16;

/// One bad field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path in the request: `filters[0].any_of.filters[2].field.eq`.
    pub field: String,
    /// What is wrong with its value and what would be right.
    pub description: String,
}

/// Why a request cannot become a watch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Fields hold bad values: 1 to [`MAX_VIOLATIONS`] of them.
    #[error("{}", describe(.0))]
    Invalid(Vec<FieldViolation>),
    /// The request asks for the whole deployment, which this server does not allow.
    #[error("watching a whole deployment is not allowed on this server; name a database")]
    DeploymentNotAllowed,
}

fn describe(violations: &[FieldViolation]) -> String {
    violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect::<Vec<_>>()
        .join("; ")
}

/// What has been found so far while a request is checked.
#[derive(Debug, Default)]
pub(super) struct Findings {
    violations: Vec<FieldViolation>,
}

impl Findings {
    /// Notes a bad field; beyond [`MAX_VIOLATIONS`] it is dropped.
    pub(super) fn invalid(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if !self.is_full() {
            self.violations.push(FieldViolation {
                field: field.into(),
                description: description.into(),
            });
        }
    }

    /// Whether further violations would be dropped, so that looking on is waste.
    pub(super) fn is_full(&self) -> bool {
        self.violations.len() >= MAX_VIOLATIONS
    }

    pub(super) fn into_result(self) -> Result<(), RequestError> {
        if self.violations.is_empty() {
            return Ok(());
        }
        Err(RequestError::Invalid(self.violations))
    }
}

/// A client's text as it may stand in a message: quoted, escaped, and cut to 40 characters, so
/// that sixteen violations stay within what trailers hold.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
