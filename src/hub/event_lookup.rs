//! Finds the event that a token names by its digest only, because MongoDB's own token is too large for
//! Weir's tokens.

use crate::{
    hub::{open::open_at, stream::detach},
    plan::Plan,
    source::{Anchor, BatchSize, Position, Source, SourceError},
};

/// Returns the position right after the event with an anchor. If no event of that time has its digest,
/// returns the time, so that a watch repeats events rather than loses any.
///
/// `shared_plan` is the scope's shared plan. Its events are read without their documents, from the event's
/// time up to the event: one reply after the other, of which none is kept.
///
/// # Errors
/// MongoDB does not answer, or no longer has that time.
pub(super) async fn find_event(
    source: &dyn Source,
    shared_plan: &Plan,
    anchor: &Anchor,
) -> Result<Position, SourceError> {
    if let Some(found) = search(source, &shared_plan.identity_only(), anchor).await? {
        return Ok(found);
    }
    // The token of an event that is too large for one message of MongoDB depends on its fragments, and so
    // on its documents.
    match search(source, shared_plan, anchor).await {
        Ok(Some(found)) => Ok(found),
        Err(error) if !error.failure.concerns_one_event() => Err(error),
        Ok(None) | Err(_) => Ok(Position::Time(anchor.time)),
    }
}

async fn search(
    source: &dyn Source,
    plan: &Plan,
    anchor: &Anchor,
) -> Result<Option<Position>, SourceError> {
    let from = Position::Time(anchor.time);
    let opened = open_at(source, plan, Some(&from), BatchSize::Default).await?;
    let (mut cursor, mut batch) = (opened.cursor, opened.first);
    loop {
        let found = batch
            .events
            .iter()
            .find(|event| anchor.matches(&batch.buffer[event.token.clone()]));
        if let Some(event) = found {
            return Ok(Some(detach(&event.position(&batch.buffer))));
        }
        let passed = batch
            .events
            .last()
            .is_some_and(|last| last.cluster_time > anchor.time);
        if passed || batch.idle || batch.closed {
            return Ok(None);
        }
        match cursor.next().await? {
            Some(next) => batch = next,
            None => return Ok(None),
        }
    }
}
