//! Details about an event that MongoDB cannot send. They are read from the same position with a plan that
//! does not fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{sleep, timeout};

use crate::{
    error::{Error, UndeliverableEvent},
    hub::stream::scan::Scan,
    model::Operation,
    pipeline::{Plan, Watch},
    source::{BatchSize, ClusterTime, Failure, Position, Source, SourceError},
    wire::{ResumeToken, TokenContext, TokenKeys},
};

/// The time limit for the check that a stream can be read from a position.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the check is repeated.
const CHECK_PAUSE: Duration = Duration::from_millis(250);

/// An undeliverable event that was determined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub time: ClusterTime,
    /// The position right after it.
    pub next: Position,
}

/// Describes an undeliverable event for the client. `at` is the position right before it.
pub(super) fn describe(
    token_context: &TokenContext,
    at: &Position,
    found: Option<&Found>,
) -> UndeliverableEvent {
    UndeliverableEvent {
        after: Some(at.time()),
        time: found.map(|found| found.time),
        next_token: found.map(|found| token_context.encode(&found.next, None, None)),
    }
}

/// Removes from an error what the watch may not see. An undeliverable event of the feed may be one that the
/// watch's row filter rejects; then the error contains nothing of it but an encrypted token.
pub(in crate::hub) fn redact(error: Error, watch: &Watch, keys: Option<&Arc<TokenKeys>>) -> Error {
    let redact = |undeliverable: UndeliverableEvent| {
        let sees_all_rows = watch.row_filter.is_none();
        let token = undeliverable.next_token.as_deref();
        let token = token.and_then(|it| ResumeToken::decode(it, keys.map(Arc::as_ref)).ok());
        let token = token.filter(|token| sees_all_rows || token.was_encrypted());
        UndeliverableEvent {
            time: undeliverable.time.filter(|_| sees_all_rows),
            next_token: token
                .map(|token| token.encode_for(watch.rendering.audience, keys.cloned())),
            ..undeliverable
        }
    };
    match error {
        Error::ImageUnavailable(undeliverable) => Error::ImageUnavailable(redact(undeliverable)),
        Error::UpstreamEventTooLarge(undeliverable) => {
            Error::UpstreamEventTooLarge(redact(undeliverable))
        }
        Error::LookupAmbiguous(undeliverable) => Error::LookupAmbiguous(redact(undeliverable)),
        other => other,
    }
}

/// Finds the undeliverable event after a position on a server that looks up the documents of every event
/// that it reads, also of those that it does not send. It may read ahead of what it sends, and fail at an
/// event while earlier ones are not sent yet. To resume after an earlier one would lose the events between.
/// So the event must be one that can fail, and the stream must be readable after it.
pub(super) async fn locate(
    source: &dyn Source,
    plan: &Plan,
    failure: Failure,
    at: &Position,
) -> Result<Option<Found>, SourceError> {
    let lookup_plan = plan.without_document_stages();
    let mut before = at.clone();
    if lookup_plan != *plan {
        // Events that a filter on documents rejects may come before it.
        match last_position_before_failure(source, &lookup_plan, failure, at).await? {
            Some(last) => before = last,
            None => return Ok(None),
        }
    }
    let outline = plan.identity_only();
    let Some((_, after)) = first_matching(source, &outline, &before, |operation| {
        let operations = plan.operations();
        operations.is_none_or(|all| all.contains(&operation))
    })
    .await?
    .filter(|(operation, _)| can_fail(failure, plan, *operation)) else {
        return Ok(None);
    };
    let time = after.time();
    let follower = first_matching(source, &outline, &after, |_| true).await?;
    let next = match follower {
        // No stream can start between two events of one time but after the event itself.
        Some((_, follower)) if follower.time() <= time => after,
        _ => Position::Time(time.successor()),
    };
    match check_readable_from(source, plan, &next).await {
        Ok(()) => Ok(Some(Found { time, next })),
        Err(error) if error.failure == failure => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether `plan`'s stream can be opened at a position. It may fail there because of a later event.
/// While MongoDB fails with an error that passes by itself, it is asked again.
pub(in crate::hub) async fn is_readable_from(
    source: &dyn Source,
    plan: &Plan,
    at: &Position,
) -> bool {
    let is_unavailable = AtomicBool::new(false);
    let check = async {
        loop {
            is_unavailable.store(false, Ordering::Relaxed);
            match check_readable_from(source, plan, at).await {
                Err(error) if error.failure.is_passing() => {}
                checked => return checked,
            }
            is_unavailable.store(true, Ordering::Relaxed);
            sleep(CHECK_PAUSE).await;
        }
    };
    match timeout(CHECK_TIMEOUT, check).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => error.failure.concerns_one_event(),
        // MongoDB has accepted the position, and scans for an event.
        Err(_) => !is_unavailable.load(Ordering::Relaxed),
    }
}

/// Finds the first event with a wanted operation after a position. Returns the operation and the position
/// after the event.
async fn first_matching(
    source: &dyn Source,
    plan: &Plan,
    at: &Position,
    wanted: impl Fn(Operation) -> bool,
) -> Result<Option<(Operation, Position)>, SourceError> {
    let mut scan = Scan::open(source, plan, at, BatchSize::Default).await?;
    while let Some(batch) = scan.next().await? {
        if let Some(event) = batch.events.iter().find(|event| wanted(event.operation)) {
            let position = event.position(&batch.buffer).detached();
            return Ok(Some((event.operation, position)));
        }
    }
    Ok(None)
}

/// Checks that a stream can be read from a position on.
async fn check_readable_from(
    source: &dyn Source,
    plan: &Plan,
    at: &Position,
) -> Result<(), SourceError> {
    let mut cursor = source.open(plan, Some(at), BatchSize::One).await?;
    cursor.next().await.map(drop)
}

/// Finds the position after the last event before the stream fails. `None` if it does not fail.
async fn last_position_before_failure(
    source: &dyn Source,
    plan: &Plan,
    failure: Failure,
    at: &Position,
) -> Result<Option<Position>, SourceError> {
    let mut last = at.clone();
    let read_to_end = async {
        let mut scan = Scan::open(source, plan, at, BatchSize::One).await?;
        while let Some(batch) = scan.next().await? {
            if let Some(position) = &batch.position {
                last = position.detached();
            }
        }
        Ok::<_, SourceError>(())
    };
    match read_to_end.await {
        Ok(()) => Ok(None),
        Err(error) if error.failure == failure => Ok(Some(last)),
        Err(error) => Err(error),
    }
}

/// Returns whether an event of an operation can cause a failure. MongoDB looks up the document only for an
/// update; other events contain it or have none.
fn can_fail(failure: Failure, plan: &Plan, operation: Operation) -> bool {
    match failure {
        Failure::ImageMissing => match operation {
            Operation::Update => true,
            Operation::Replace | Operation::Delete => plan.requires_pre_image(),
            _ => false,
        },
        Failure::LookupAmbiguous => operation == Operation::Update,
        _ => operation.is_document(),
    }
}
