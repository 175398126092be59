//! The servers that the stand-in can be.

use mongodb::bson::{Document, doc};

use super::ServerError;

/// The options of `$changeStream` that not every server takes, and the first versions that do. Later
/// patches of a listed release take them too, and so does every release after the last one listed.
const NEWER_OPTIONS: &[(&str, &[[i32; 3]])] = &[
    // https://www.mongodb.com/docs/manual/reference/operator/aggregation/changeStream/
    ("showExpandedEvents", &[[6, 0, 0]]),
    ("fullDocumentBeforeChange", &[[6, 0, 0]]),
    // SERVER-95976. Its backports to 6.0, 7.0 and 8.0 are left out.
    ("matchCollectionUUIDForUpdateLookup", &[[8, 1, 0]]),
    // Public since 9.0.
    ("ignoreRemovedShards", &[[9, 0, 0]]),
    // The successor of the flag behind which 7.1 and later keep `endOfTransaction`.
    ("showEndOfTransaction", &[[9, 1, 0]]),
];

/// The options that every supported server takes.
const OPTIONS: &[&str] = &[
    "resumeAfter",
    "startAfter",
    "startAtOperationTime",
    "fullDocument",
    "allChangesForCluster",
];

/// `$changeStreamSplitLargeEvent` came with 7.0 and was backported to 6.0.9.
const SPLIT_STAGE: &[[i32; 3]] = &[[6, 0, 9], [7, 0, 0]];

/// A server that the stand-in behaves as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: [i32; 3],
    sharded: bool,
    lacking: Vec<String>,
}

impl Version {
    /// A member of a replica set.
    pub fn mongod(numbers: [i32; 3]) -> Self {
        Self {
            numbers,
            sharded: false,
            lacking: Vec::new(),
        }
    }

    /// A router of a sharded cluster.
    pub fn mongos(numbers: [i32; 3]) -> Self {
        Self {
            sharded: true,
            ..Self::mongod(numbers)
        }
    }

    /// The same server without this option of `$changeStream`.
    #[must_use]
    pub fn lacking(mut self, option: &str) -> Self {
        self.lacking.push(option.to_owned());
        self
    }

    pub fn is_mongos(&self) -> bool {
        self.sharded
    }

    /// The version, such as "8.2.11".
    pub fn text(&self) -> String {
        self.numbers.map(|number| number.to_string()).join(".")
    }

    /// The answer to `buildInfo`.
    pub(super) fn build_info(&self) -> Document {
        let mut numbers = self.numbers.to_vec();
        numbers.push(0);
        doc! { "version": self.text(), "versionArray": numbers }
    }

    /// After a resume, an empty first reply has a token that lies before the given one
    /// (SERVER-135099, SERVER-134795).
    pub(super) fn first_token_regresses(&self) -> bool {
        self.sharded && matches!(self.numbers, [9, 0, 0 | 1])
    }

    /// Fields of expanded events come without `showExpandedEvents` too (SERVER-86688, undone by
    /// SERVER-109626).
    pub(super) fn always_sends_expanded_fields(&self) -> bool {
        self.numbers == [8, 2, 0]
    }

    pub(super) fn has_split_stage(&self) -> bool {
        self.has(SPLIT_STAGE)
    }

    /// Refuses an option that this server does not know, as its parser does.
    pub(super) fn check_option(&self, name: &str) -> Result<(), ServerError> {
        let known = OPTIONS.contains(&name)
            || NEWER_OPTIONS
                .iter()
                .any(|(option, since)| *option == name && self.has(since));
        if known && !self.lacking.iter().any(|option| option == name) {
            return Ok(());
        }
        let message = format!("BSON field '$changeStream.{name}' is an unknown field.");
        Err(ServerError::new(40415).message(message))
    }

    /// Returns whether this version is one of these, a later patch of one, or later than all.
    fn has(&self, since: &[[i32; 3]]) -> bool {
        let [major, minor, _] = self.numbers;
        let same_release = since.iter().find(|it| it[..2] == [major, minor]);
        match same_release {
            Some(first) => self.numbers >= *first,
            None => since.iter().max().is_some_and(|last| self.numbers > *last),
        }
    }
}
