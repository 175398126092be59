//! The options of `$changeStream` that depend on the deployment and not on the watch.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bson::Document;
use tokio::time::Instant;

use crate::{model::FullDocument, pipeline::Plan, source::SourceError};

/// Makes an update look-up find nothing rather than a document of a later collection of the same name
/// (SERVER-95976: 8.1, and later patches of 6.0, 7.0 and 8.0).
const MATCH_UUID: &str = "matchCollectionUUIDForUpdateLookup";
/// Lets a stream be read on without the events of shards that were removed. Public since 9.0.
const IGNORE_REMOVED_SHARDS: &str = "ignoreRemovedShards";

/// The time for which a refusal counts. After it the option is asked for again, since the server may have
/// been upgraded: one more attempt to open a stream, if not.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(10 * 60);

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
    /// The time of the last refusal of `matchCollectionUUIDForUpdateLookup`.
    refused_match_uuid_at: Mutex<Option<Instant>>,
}

impl OptionSupport {
    pub(super) fn new(ignore_removed_shards: bool) -> Self {
        Self {
            ignore_removed_shards,
            refused_match_uuid_at: Mutex::default(),
        }
    }

    /// Returns the options for `plan`'s stream. `split` says that the deployment splits large events.
    pub(super) fn of(&self, plan: &Plan, split: bool) -> StreamOptions {
        let looks_up = plan.options().full_document == FullDocument::UpdateLookup;
        StreamOptions {
            split,
            match_collection_uuid: looks_up && !self.refuses_match_uuid(),
            ignore_removed_shards: self.ignore_removed_shards,
        }
    }

    fn refuses_match_uuid(&self) -> bool {
        let refused_at = self.refused_match_uuid_at.lock();
        refused_at
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|at| at.elapsed() < REFUSAL_LIFETIME)
    }

    /// Records that the deployment opened a stream only without `matchCollectionUUIDForUpdateLookup`.
    pub(super) fn refused_match_uuid(&self) {
        let refused_at = self.refused_match_uuid_at.lock();
        let earlier = refused_at
            .unwrap_or_else(PoisonError::into_inner)
            .replace(Instant::now());
        if earlier.is_none() {
            tracing::info!(
                "this mongodb does not know {MATCH_UUID}; looking documents up without it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::{
        pb,
        pipeline::{RequestLimits, Watch},
        source::Failure,
    };

    fn with_look_up() -> Plan {
        let request = pb::WatchRequest {
            database: "shop".to_owned(),
            collections: vec!["orders".to_owned()],
            full_document: pb::FullDocument::UpdateLookup.into(),
            ..Default::default()
        };
        let limits = RequestLimits::default();
        Plan::dedicated(&Watch::from_request(request, &limits).expect("it is valid"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_counts_for_ten_minutes() {
        let support = OptionSupport::new(false);
        let plan = with_look_up();
        assert!(support.of(&plan, false).match_collection_uuid);
        for _ in 0..2 {
            support.refused_match_uuid();
            advance(REFUSAL_LIFETIME - Duration::from_millis(1)).await;
            assert!(!support.of(&plan, false).match_collection_uuid);
            advance(Duration::from_millis(1)).await;
            assert!(support.of(&plan, false).match_collection_uuid);
        }
    }

    #[test]
    fn only_a_refusal_drops_the_option() {
        let options = OptionSupport::new(false).of(&with_look_up(), false);
        let namespace = format!("x.{MATCH_UUID} moved");
        let field = format!("BSON field '$changeStream.{MATCH_UUID}' is an unknown field");
        for (failure, code, message, dropped) in [
            (Failure::Unsupported, 40415, &*field, true),
            (Failure::TokenInvalid, 9, &*field, true),
            (Failure::Unsupported, 303, MATCH_UUID, true),
            (Failure::Unsupported, 40415, "", true),
            (Failure::Unsupported, 40415, "$changeStream", true),
            (Failure::NotACollection, 115, MATCH_UUID, true),
            (Failure::Refused, 8, MATCH_UUID, true),
            (Failure::Unsupported, 40415, &*namespace, false),
            (Failure::NotACollection, 166, &*namespace, false),
            (Failure::Refused, 8, "", false),
            (Failure::Unsupported, 40415, "showExpandedEvents", false),
            (Failure::Unsupported, 40573, &*field, false),
            (Failure::Transient, 13388, &*namespace, false),
            (Failure::Transient, 13388, &*field, false),
            (Failure::Overloaded, 146, MATCH_UUID, false),
            (Failure::AccessDenied, 13, MATCH_UUID, false),
            (Failure::HistoryLost, 286, MATCH_UUID, false),
            (Failure::TokenInvalid, 260, MATCH_UUID, false),
        ] {
            let error = SourceError::with_reply(failure, code, message);
            let fewer = options.without_refused(&error);
            let expected = StreamOptions {
                match_collection_uuid: false,
                ..options
            };
            assert_eq!(fewer, dropped.then_some(expected), "{code} {message}");
        }
    }
}
