//! The options of the `$changeStream` stage that a request decides.

use bson::Document;

use super::Watch;
use crate::model::{BeforeChange, FullDocument, Scope};

/// The options of the `$changeStream` stage that a request decides. The source adds those that the start
/// position and the deployment decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChangeStreamOptions {
    /// The document after the change in update events.
    pub full_document: FullDocument,
    /// The document before the change in events.
    pub before_change: BeforeChange,
    /// `true` if the stream contains expanded events.
    pub expanded: bool,
    /// `true` if the stream is that of the whole deployment.
    pub all_changes_for_cluster: bool,
}

impl ChangeStreamOptions {
    pub(super) fn new(watch: &Watch) -> Self {
        Self {
            full_document: watch.full_document,
            before_change: watch.before_change,
            expanded: watch.expanded,
            all_changes_for_cluster: watch.scope == Scope::Deployment,
        }
    }

    /// Returns the options without documents, so that MongoDB looks up none.
    pub(super) fn without_documents(self) -> Self {
        Self {
            full_document: FullDocument::Default,
            before_change: BeforeChange::Off,
            ..self
        }
    }

    /// Returns the options for MongoDB. Those that have its default value are left out.
    #[must_use]
    pub fn to_document(self) -> Document {
        let Self {
            full_document,
            before_change,
            expanded,
            all_changes_for_cluster,
        } = self;
        let mut options = Document::new();
        if let Some(value) = full_document.option() {
            options.insert("fullDocument", value);
        }
        if let Some(value) = before_change.option() {
            options.insert("fullDocumentBeforeChange", value);
        }
        if expanded {
            options.insert("showExpandedEvents", true);
        }
        if all_changes_for_cluster {
            options.insert("allChangesForCluster", true);
        }
        options
    }
}
