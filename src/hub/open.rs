//! Opens a change stream at a position: by MongoDB's token, or by time when MongoDB rejects the token.

use crate::{
    error::{Error, UndeliverableEvent},
    hub::{resume_deduplicator::ResumeDeduplicator, undeliverable},
    plan::Plan,
    source::{Batch, BatchSize, Cursor, Failure, Position, Source, SourceError},
    wire::TokenContext,
};

/// An open stream with its first reply.
pub(super) struct OpenedStream {
    pub cursor: Box<dyn Cursor>,
    pub first: Batch,
    /// The position that the stream starts at.
    pub start: Position,

    pub batch_size: BatchSize,
    /// Set when the stream was opened by time instead of by token: skips the events before the token.
    pub deduplicator: Option<ResumeDeduplicator>,
}

/// Opens `plan`'s stream for a watch: one attempt by token, and one by the token's time when
/// MongoDB does not find the token with this pipeline, or denies access to it. If the first reply contains an event that
/// MongoDB cannot send, opens the stream again with one event per reply, to get the events before it.
///
/// `plan` is the plan that made the token, or the scope's shared one, which contains every event.
pub(super) async fn open(
    source: &dyn Source,
    plan: &Plan,
    token_context: &TokenContext,
    at: Option<&Position>,
) -> Result<OpenedStream, Error> {
    let mut opened = open_with_fallback(source, plan, at, BatchSize::Default).await;
    if at.is_some() && matches!(&opened, Err(error) if error.failure.concerns_one_event()) {
        opened = open_with_fallback(source, plan, at, BatchSize::One).await;
    }
    match opened {
        Ok(opened) => Ok(opened),
        Err(error) => Err(final_error(source, plan, token_context, &error, at).await),
    }
}

async fn open_with_fallback(
    source: &dyn Source,
    plan: &Plan,
    at: Option<&Position>,
    batch_size: BatchSize,
) -> Result<OpenedStream, SourceError> {
    match open_at(source, plan, at, batch_size).await {
        Err(error) if may_mean_the_token(error.failure) => match at {
            Some(at) if can_resume_by_time(at) => open_by_time(source, plan, at, batch_size).await,
            _ => Err(error),
        },
        opened => opened,
    }
}

/// Opens `plan`'s stream at a position, or from now. One attempt.
pub(super) async fn open_at(
    source: &dyn Source,
    plan: &Plan,
    at: Option<&Position>,
    batch_size: BatchSize,
) -> Result<OpenedStream, SourceError> {
    if let Some(at @ Position::Time(_)) = at {
        ensure_in_oplog(source, at).await?;
    }
    let mut cursor = source.open(plan, at, batch_size).await?;
    // The reply to `aggregate` contains the first batch, so this does not wait.
    let first = cursor.next().await?;
    let start = match (at, first.events.first(), &first.position) {
        (Some(at), ..) => at.clone(),
        // A change came while the stream was being opened: start right before it.
        (None, Some(event), _) => Position::Time(event.cluster_time),
        (None, None, Some(position)) => position.clone(),
        (None, None, None) => Position::Time(first.operation_time.unwrap_or_default()),
    };
    Ok(OpenedStream {
        cursor,
        first,
        start,
        batch_size,
        deduplicator: None,
    })
}

/// Returns whether a position can be resumed by its time when MongoDB does not find its token. The time
/// of an `invalidate` would return the same `invalidate` again.
pub(super) fn can_resume_by_time(at: &Position) -> bool {
    matches!(at, Position::Event { .. } | Position::HighWater { .. })
}

/// Returns whether the failure of an opening with a token may be the token's alone. Some compatible servers
/// deny access (13) for a token that names a collection of the server's own, such as `db.$cmd`; without a
/// token the denial is about the rights of Weir's user.
pub(super) fn may_mean_the_token(failure: Failure) -> bool {
    matches!(failure, Failure::TokenNotFound | Failure::AccessDenied)
}

/// Opens `plan`'s stream at the time of a position whose token MongoDB rejects.
pub(super) async fn open_by_time(
    source: &dyn Source,
    plan: &Plan,
    at: &Position,
    batch_size: BatchSize,
) -> Result<OpenedStream, SourceError> {
    let opened = open_at(source, plan, Some(&Position::Time(at.time())), batch_size).await?;
    Ok(OpenedStream {
        start: at.clone(),
        deduplicator: at
            .token()
            .map(|token| ResumeDeduplicator::new(token.clone(), at.time())),
        ..opened
    })
}

/// Checks that the oplog still holds a time. MongoDB rejects a time before the oplog's oldest entry, but
/// some compatible servers start at their oldest entry instead, which would lose events. Where the oplog
/// cannot be read, the server is trusted.
async fn ensure_in_oplog(source: &dyn Source, at: &Position) -> Result<(), SourceError> {
    match source.oldest_time().await? {
        Some(oldest) if at.time() < oldest => Err(SourceError::new(
            Failure::HistoryLost,
            format!(
                "{} is older than the oldest oplog entry, {oldest}",
                at.time()
            ),
        )),
        _ => Ok(()),
    }
}

/// Returns the error for the client when no further attempt is made, with details read from MongoDB.
pub(super) async fn final_error(
    source: &dyn Source,
    plan: &Plan,
    token_context: &TokenContext,
    error: &SourceError,
    at: Option<&Position>,
) -> Error {
    let describe = async || match at {
        Some(at) => undeliverable::describe(source, plan, token_context, error.failure, at).await,
        None => UndeliverableEvent::default(),
    };
    let oldest = match error.failure {
        Failure::HistoryLost | Failure::TokenNotFound => source.oldest_time().await.ok().flatten(),
        _ => None,
    };
    match Error::of_stream(error, &plan.scope, at.map(Position::time), oldest) {
        expired @ Error::TokenExpired { .. } => expired,
        Error::ImageUnavailable(_) => Error::ImageUnavailable(describe().await),
        Error::UpstreamEventTooLarge(_) => Error::UpstreamEventTooLarge(describe().await),
        Error::LookupAmbiguous(_) => Error::LookupAmbiguous(describe().await),
        other => {
            tracing::warn!(code = error.code, failure = ?error.failure, %error, "change stream failed");
            other
        }
    }
}
