//! What can be told of an event that MongoDB can't send: a look at the same place, without what makes it
//! fail.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    error::{Error, UndeliverableEvent},
    hub::stream::own,
    plan::{Operation, Plan, View},
    source::{BatchSize, Failure, Position, Source, SourceError},
    wire::{ResumeToken, TokenContext, TokenKeys},
};

/// How long the look may take. Without an answer the status goes out without what it would tell.
const LIMIT: Duration = Duration::from_secs(5);

/// How many bytes MongoDB's token may have to be told: a status must fit the trailers of HTTP/2, which
/// many limit to 8 KiB, in base64 twice over.
const MAX_TOKEN: usize = 3 << 10;

/// Looks at the event after a place, at which `plan`'s stream fails.
pub(super) async fn look(
    source: &dyn Source,
    plan: &Plan,
    token_context: &TokenContext,
    failure: Failure,
    at: &Position,
) -> UndeliverableEvent {
    let found = match timeout(LIMIT, find(source, plan, failure, at)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(code = error.code, %error, "the event could not be looked at");
            None
        }
        Err(_) => None,
    };
    let token = |event: &Position| {
        let small = event.token().is_some_and(|it| it.len() <= MAX_TOKEN);
        small.then(|| token_context.encode(event, None, None))
    };
    UndeliverableEvent {
        after: Some(at.time()),
        time: found.as_ref().map(Position::time),
        next_token: found.as_ref().and_then(token),
    }
}

/// What a watch is told of why it ends. The event that can't be sent is one of the feed's, and may be none
/// that the watch's guard lets through: then nothing is told of it but a token that can't be read.
pub(super) fn told(error: Error, view: &View, keys: Option<&Arc<TokenKeys>>) -> Error {
    let told = |unsent: UndeliverableEvent| {
        let open = view.guard.is_none();
        let token = unsent.next_token.as_deref();
        let token = token.and_then(|it| ResumeToken::decode(it, keys.map(Arc::as_ref)).ok());
        let token = token.filter(|token| open || token.was_encrypted());
        UndeliverableEvent {
            time: unsent.time.filter(|_| open),
            next_token: token.map(|token| token.encode_for(view.audience, keys.cloned())),
            ..unsent
        }
    };
    match error {
        Error::ImageUnavailable(unsent) => Error::ImageUnavailable(told(unsent)),
        Error::UpstreamEventTooLarge(unsent) => Error::UpstreamEventTooLarge(told(unsent)),
        other => other,
    }
}

/// The place right after the event, if it is certain which one it is. A server may read ahead of what it
/// sends, and fail at an event that others still stand before: to go on after one of those would lose
/// it. So it must be one that can fail, and the stream must go on after it.
async fn find(
    source: &dyn Source,
    plan: &Plan,
    failure: Failure,
    at: &Position,
) -> Result<Option<Position>, SourceError> {
    let looked_up = plan.before_documents();
    let mut before = at.clone();
    if looked_up != *plan {
        // Events that a filter on documents leaves out may stand before it.
        match last_before(source, &looked_up, failure, at).await? {
            Some(last) => before = last,
            None => return Ok(None),
        }
    }
    let outline = plan.outline();
    let Some((_, after)) = first_of(source, &outline, &before, |operation| {
        let asked = plan.asked.as_ref();
        asked.is_none_or(|asked| asked.contains(&operation))
    })
    .await?
    .filter(|(operation, _)| may_fail(failure, plan, *operation)) else {
        return Ok(None);
    };
    match begins(source, plan, &after).await {
        Ok(()) => Ok(Some(after)),
        Err(error) if error.failure == failure => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first event after a place that is wanted: its operation, and the place after it.
async fn first_of(
    source: &dyn Source,
    plan: &Plan,
    at: &Position,
    wanted: impl Fn(Operation) -> bool,
) -> Result<Option<(Operation, Position)>, SourceError> {
    let mut cursor = source.open(plan, Some(at), BatchSize::Default).await?;
    loop {
        let batch = cursor.next().await?;
        if let Some(event) = batch.events.iter().find(|event| wanted(event.operation)) {
            let place = own(&event.position(&batch.buffer));
            return Ok(Some((event.operation, place)));
        }
        if batch.idle || batch.closed {
            return Ok(None);
        }
    }
}

/// Whether a stream can be read from a place on.
async fn begins(source: &dyn Source, plan: &Plan, at: &Position) -> Result<(), SourceError> {
    let mut cursor = source.open(plan, Some(at), BatchSize::One).await?;
    cursor.next().await.map(drop)
}

/// The place after the last event that comes before the stream fails.
async fn last_before(
    source: &dyn Source,
    plan: &Plan,
    failure: Failure,
    at: &Position,
) -> Result<Option<Position>, SourceError> {
    let mut last = at.clone();
    let mut cursor = match source.open(plan, Some(at), BatchSize::One).await {
        Err(error) if error.failure == failure => return Ok(Some(last)),
        opened => opened?,
    };
    loop {
        match cursor.next().await {
            Err(error) if error.failure == failure => return Ok(Some(last)),
            batch => {
                let batch = batch?;
                if batch.idle || batch.closed {
                    return Ok(None);
                }
                if let Some(position) = &batch.position {
                    last = own(position);
                }
            }
        }
    }
}

/// Whether an event of that operation can be the one. Only an update has its document looked up; others
/// hold it, or have none.
fn may_fail(failure: Failure, plan: &Plan, operation: Operation) -> bool {
    match failure {
        Failure::ImageMissing => match operation {
            Operation::Update => true,
            Operation::Replace | Operation::Delete => plan.needs_before(),
            _ => false,
        },
        _ => operation.is_document(),
    }
}
