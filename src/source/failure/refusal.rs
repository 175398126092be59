//! MongoDB's errors in words that clients may see.

use std::fmt;

/// The longest name of a code that is passed on, in bytes. MongoDB's longest has 55.
const MAX_NAME_BYTES: usize = 64;

/// What Weir puts into a command and a deployment may not know, the most specific first.
const ASKED_FOR: [&str; 16] = [
    "ignoreRemovedShards",
    "matchCollectionUUIDForUpdateLookup",
    "showExpandedEvents",
    "fullDocumentBeforeChange",
    "allChangesForCluster",
    "startAtOperationTime",
    "startAfter",
    "resumeAfter",
    "whenAvailable",
    "updateLookup",
    "fullDocument",
    "$changeStreamSplitLargeEvent",
    "$changeStream",
    "readConcern",
    "majority",
    "$match",
];

/// Those of them that came after change streams themselves (4.0): a server may know none of them.
pub(super) const NEWER_OPTIONS: [&str; 4] = [
    "ignoreRemovedShards",
    "matchCollectionUUIDForUpdateLookup",
    "showExpandedEvents",
    "fullDocumentBeforeChange",
];

/// An error code of MongoDB with its name, and with the part of Weir's command that MongoDB's message names.
///
/// The message itself may quote data, so nothing else of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: i32,
    /// Its name, up to 64 bytes of letters, digits and underscores; empty if MongoDB sent none.
    pub name: String,
    /// The stage or option of Weir's command that the message names.
    pub about: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(code: i32, name: &str, message: &str) -> Self {
        let plain = |it: &char| it.is_ascii_alphanumeric() || *it == '_';
        Self {
            code,
            name: name.chars().filter(plain).take(MAX_NAME_BYTES).collect(),
            about: ASKED_FOR.into_iter().find(|word| message.contains(word)),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.code)?;
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        match self.about {
            Some(about) => write!(f, " about {about}"),
            None => Ok(()),
        }
    }
}

/// Returns whether a message names an option by itself or as a field of `$changeStream`. A namespace may
/// contain the option's name too: there, letters or a dot with more of the namespace precede or follow it.
pub(super) fn names_option(message: &str, option: &str) -> bool {
    let in_word = |it: char| it.is_alphanumeric() || matches!(it, '_' | '-' | '$');
    message.match_indices(option).any(|(start, _)| {
        let (before, after) = (&message[..start], &message[start + option.len()..]);
        let starts = before.ends_with("$changeStream.")
            || !before.ends_with(|it: char| it == '.' || in_word(it));
        let ends = !after
            .strip_prefix('.')
            .unwrap_or(after)
            .starts_with(in_word);
        starts && ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_told_from_a_namespace_that_contains_its_name() {
        const OPTION: &str = "matchCollectionUUIDForUpdateLookup";
        for (message, named) in [
            (
                "BSON field '$changeStream.OPTION' is an unknown field.",
                true,
            ),
            ("unrecognized option to $changeStream stage: OPTION", true),
            ("OPTION: true is not supported", true),
            ("there is no \"OPTION\".", true),
            ("the server has no OPTION.", true),
            ("collection x.OPTION is not there", false),
            ("collection OPTION.x is not there", false),
            ("collection x.OPTIONs is not there", false),
            ("x.myOPTION and 'my-OPTION'", false),
            ("x.OPTION: '$changeStream.OPTION' is unknown", true),
            ("", false),
        ] {
            let message = message.replace("OPTION", OPTION);
            assert_eq!(names_option(&message, OPTION), named, "{message}");
        }
    }

    #[test]
    fn nothing_of_the_message_is_kept_but_words_of_the_command() {
        let message =
            "BSON field '$changeStream.ignoreRemovedShards' is an unknown field; secret=42";
        let refusal = Refusal::new(40415, "IDLUnknownField", message);
        assert_eq!(
            refusal.to_string(),
            "error 40415 (IDLUnknownField) about ignoreRemovedShards"
        );
        assert_eq!(Refusal::new(2, "", "secret=42").to_string(), "error 2");
        let odd = Refusal::new(1, &format!("A b\n{}", "x".repeat(999)), "");
        assert_eq!(odd.name, format!("Ab{}", "x".repeat(62)));
    }
}
