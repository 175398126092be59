//! The error that ends a stream when no further attempt is made.

use crate::{
    error::{Error, UndeliverableEvent},
    hub::stream::{
        history::has_history_since,
        undeliverable::{self, Found},
    },
    pipeline::Plan,
    source::{ClusterTime, Failure, Position, Source, SourceError},
    wire::TokenContext,
};

/// Returns the error for the client when no further attempt is made, with details read from MongoDB.
/// `found` is the event that MongoDB cannot send after `at`.
///
/// # Errors
/// MongoDB does not say at present whether the oplog still holds the position, on which the meaning of the
/// error depends.
pub(super) async fn final_error(
    source: &dyn Source,
    plan: &Plan,
    token_context: &TokenContext,
    error: &SourceError,
    at: Option<&Position>,
    found: Option<&Found>,
) -> Result<Error, SourceError> {
    let describe = || match at {
        Some(at) => undeliverable::describe(token_context, at, found),
        None => UndeliverableEvent::default(),
    };
    let oldest = oldest_for(source, plan, error.failure, at).await?;
    Ok(
        match Error::of_stream(error, plan.scope(), at.map(Position::time), oldest) {
            expired @ Error::TokenExpired { .. } => expired,
            Error::ImageUnavailable(_) => Error::ImageUnavailable(describe()),
            Error::UpstreamEventTooLarge(_) => Error::UpstreamEventTooLarge(describe()),
            Error::LookupAmbiguous(_) => Error::LookupAmbiguous(describe()),
            // MongoDB's message quotes stages and documents.
            stages @ (Error::PipelineChangedToken | Error::StagesRefused(_)) => stages,
            other => {
                tracing::warn!(code = error.code, failure = ?error.failure, %error, "change stream failed");
                other
            }
        },
    )
}

/// Returns the oldest time that MongoDB has, if the meaning of the failure depends on it and it is known. For
/// a token that was not found it may be the position's own time, which is then known to be there.
///
/// # Errors
/// See [`final_error`].
async fn oldest_for(
    source: &dyn Source,
    plan: &Plan,
    failure: Failure,
    at: Option<&Position>,
) -> Result<Option<ClusterTime>, SourceError> {
    match failure {
        Failure::HistoryLost => Ok(source.oldest_time().await.ok().flatten()),
        Failure::TokenNotFound => match (source.oldest_time().await, at) {
            (Err(passing), _) if passing.failure.is_passing() => Err(passing),
            (Ok(Some(oldest)), _) => Ok(Some(oldest)),
            // A mongos does not show the oplog.
            (_, Some(at)) if has_history_since(source, plan, at.time()).await? => {
                Ok(Some(at.time()))
            }
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}
