//! The options of `$changeStream` that depend on the deployment and not on the watch.

use std::sync::atomic::{AtomicBool, Ordering};

use bson::Document;

use crate::{plan::Plan, source::SourceError};

/// Makes an update look-up find nothing rather than a document of a later collection of the same name
/// (SERVER-95976: 8.1, and later patches of 6.0, 7.0 and 8.0).
const MATCH_UUID: &str = "matchCollectionUUIDForUpdateLookup";
/// Lets a stream be read on without the events of shards that were removed. Public since 9.0.
const IGNORE_REMOVED_SHARDS: &str = "ignoreRemovedShards";

/// The options and stages to add to one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamOptions {
    /// Append `$changeStreamSplitLargeEvent`.
    pub split: bool,
    /// Set `matchCollectionUUIDForUpdateLookup`.
    pub match_collection_uuid: bool,
    /// Set `ignoreRemovedShards`.
    pub ignore_removed_shards: bool,
}

impl StreamOptions {
    /// Returns the options without one that is not needed, if the opening may have failed because of it.
    pub(super) fn without_refused(self, error: &SourceError) -> Option<Self> {
        let refused = self.match_collection_uuid && error.may_refuse(MATCH_UUID);
        refused.then_some(Self {
            match_collection_uuid: false,
            ..self
        })
    }

    /// Adds the options to those of the `$changeStream` stage.
    pub(super) fn add_to(self, options: &mut Document) {
        if self.match_collection_uuid {
            options.insert(MATCH_UUID, true);
        }
        if self.ignore_removed_shards {
            options.insert(IGNORE_REMOVED_SHARDS, true);
        }
    }
}

/// Which options the deployment takes, as far as it has said so.
#[derive(Debug)]
pub(super) struct OptionSupport {
    ignore_removed_shards: bool,
    /// `true` once the deployment has refused the option. It is not asked again before Weir restarts.
    refuses_match_uuid: AtomicBool,
}

impl OptionSupport {
    pub(super) fn new(ignore_removed_shards: bool) -> Self {
        Self {
            ignore_removed_shards,
            refuses_match_uuid: AtomicBool::new(false),
        }
    }

    /// Returns the options for `plan`'s stream. `split` says that the deployment splits large events.
    pub(super) fn of(&self, plan: &Plan, split: bool) -> StreamOptions {
        let looks_up = matches!(
            plan.change_stream.get_str("fullDocument"),
            Ok("updateLookup")
        );
        StreamOptions {
            split,
            match_collection_uuid: looks_up && !self.refuses_match_uuid.load(Ordering::Relaxed),
            ignore_removed_shards: self.ignore_removed_shards,
        }
    }

    /// Records that the deployment opened a stream only without `matchCollectionUUIDForUpdateLookup`.
    pub(super) fn refused_match_uuid(&self) {
        if !self.refuses_match_uuid.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "this mongodb does not know {MATCH_UUID}; looking documents up without it"
            );
        }
    }
}
