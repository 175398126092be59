//! Text from outside that is shown to people, in logs, labels and terminals.

use std::borrow::Cow;

/// Escapes what could control a terminal or forge a line: control characters, breaks of lines, and marks of the
/// text direction.
#[must_use]
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_control(character) {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
    }
    Cow::Owned(clean)
}

/// Returns whether a character could control a terminal or forge a line.
#[must_use]
pub fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
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
        assert_eq!(
            escape_controls("\u{202e}abc\u{2028}"),
            "\\u{202e}abc\\u{2028}"
        );
        assert!(matches!(escape_controls("größe 寸法"), Cow::Borrowed(_)));
    }
}
