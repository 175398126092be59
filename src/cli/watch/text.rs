//! Text for people: notices on stderr, and escaping for the terminal.

use std::io::Write as _;
use std::time::Duration;

pub(in crate::cli) use crate::model::escape_controls;

/// Prints a notice to stderr. Errors are ignored.
pub(in crate::cli) fn print_notice(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "weir: {text}");
}

/// Returns the text of an error with its causes, without repetition.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// Returns the causes of an error without its own text, which for tonic's errors is only "transport error".
pub(in crate::cli) fn root_causes(error: &dyn std::error::Error) -> String {
    with_causes(error.source().unwrap_or(error))
}

/// Returns a duration such as "0.4 s".
pub(in crate::cli) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("refused"));
        assert_eq!(with_causes(&error), "outer: refused");
        assert_eq!(root_causes(&error), "refused");
    }
}
