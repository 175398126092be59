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

    /// Returns `true`, and takes an option out, if the opening failed because of one that is not needed.
    /// A deployment that names the option when it refuses is not asked for it again.
    pub(super) fn can_do_without(&self, error: &SourceError, options: &mut StreamOptions) -> bool {
        if !options.match_collection_uuid || !error.may_refuse(MATCH_UUID) {
            return false;
        }
        options.match_collection_uuid = false;
        let named = error
            .refusal()
            .is_some_and(|it| it.about == Some(MATCH_UUID));
        if named {
            tracing::info!(
                code = error.code,
                "this mongodb does not know {MATCH_UUID}; looking up without it"
            );
            self.refuses_match_uuid.store(true, Ordering::Relaxed);
        }
        true
    }
}
