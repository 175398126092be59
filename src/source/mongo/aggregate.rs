//! The parts of the `aggregate` that opens a change stream.

use bson::{Document, doc};

use crate::{
    model::Scope,
    pipeline::Plan,
    source::{Position, SourceError},
};

use super::{
    options::StreamOptions,
    values::{timestamp, token_document},
};

/// Returns the database and the collection that a scope's stream is opened on.
pub(super) fn stream_target(scope: &Scope) -> (&str, Option<&str>) {
    match scope {
        Scope::Collection {
            database,
            collection,
        } => (database, Some(collection)),
        Scope::Collections { database, .. } | Scope::Database { database } => (database, None),
        Scope::Deployment => ("admin", None),
    }
}

/// Returns the stages of `plan` with the options that the server is asked for.
pub(super) fn pipeline(
    plan: &Plan,
    at: Option<&Position>,
    asked: StreamOptions,
) -> Result<Vec<Document>, SourceError> {
    let mut options = plan.options().to_document();
    asked.add_to(&mut options);
    match at {
        None => {}
        Some(Position::Event { token, .. } | Position::HighWater { token, .. }) => {
            options.insert("resumeAfter", token_document(token)?);
        }
        Some(Position::Invalidate { token, .. }) => {
            options.insert("startAfter", token_document(token)?);
        }
        Some(at @ (Position::EventDigest(_) | Position::Time(_))) => {
            options.insert("startAtOperationTime", timestamp(at.time()));
        }
    }
    let mut stages = vec![doc! { "$changeStream": options }];
    stages.extend(plan.stages());
    if asked.split {
        stages.push(doc! { "$changeStreamSplitLargeEvent": {} });
    }
    Ok(stages)
}
