//! Text for people: notices on stderr, and escaping for the terminal.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

/// Prints a notice to stderr. Errors are ignored.
pub(in crate::cli) fn print_notice(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "weir: {text}");
}

/// Escapes control characters and marks of the text direction, so that names and messages from outside can't
/// control the terminal.
pub(in crate::cli) fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.chars().any(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if needs_escape(character) {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
    }
    Cow::Owned(clean)
}

fn needs_escape(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
    fn control_characters_are_escaped() {
        assert_eq!(
            escape_controls("a\u{1b}[2Jb\n\u{9b}"),
            "a\\u{1b}[2Jb\\n\\u{9b}"
        );
        assert_eq!(escape_controls("\u{202e}abc"), "\\u{202e}abc");
        assert!(matches!(escape_controls("zażółć 水"), Cow::Borrowed(_)));
    }

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
