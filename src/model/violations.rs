//! The errors of invalid requests: the path of each invalid field and a description for its author.

/// The most violations that are reported. A status travels in HTTP trailers, which must stay small, and
/// validation stops here, so that a hostile request costs little.
pub const MAX_VIOLATIONS: usize = 16;

/// One invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field in the request, such as `filters[0].any_of.filters[2].field.eq`.
    pub field: String,
    /// The problem with its value, and the valid form.
    pub description: String,
}

/// The reason why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Fields have invalid values: 1 to [`MAX_VIOLATIONS`] of them.
    #[error("{}", describe(.0))]
    Invalid(Vec<FieldViolation>),
    /// The request asks for the whole deployment, which this server does not allow.
    #[error("this server does not allow watching the whole deployment: name a database")]
    DeploymentNotAllowed,
    /// The request has stages of its own, which this server does not allow.
    #[error("this server does not allow pipeline: leave it out")]
    PipelineNotAllowed,
}

fn describe(violations: &[FieldViolation]) -> String {
    violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The violations found so far during validation.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    violations: Vec<FieldViolation>,
}

impl Findings {
    /// Adds a violation; drops it if there are [`MAX_VIOLATIONS`] already.
    pub(crate) fn invalid(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if !self.is_full() {
            self.violations.push(FieldViolation {
                field: field.into(),
                description: description.into(),
            });
        }
    }

    /// Returns whether further violations would be dropped, so that validation may stop.
    pub(crate) fn is_full(&self) -> bool {
        self.violations.len() >= MAX_VIOLATIONS
    }

    pub(crate) fn into_result(self) -> Result<(), RequestError> {
        if self.violations.is_empty() {
            return Ok(());
        }
        Err(RequestError::Invalid(self.violations))
    }
}

/// Quotes, escapes and truncates a client's text to 40 characters, so that 16 violations fit into
/// trailers.
pub(crate) fn quoted(text: &str) -> String {
    const MAX_QUOTED_CHARS: usize = 40;
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
