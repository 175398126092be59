//! Finds the event that a token names by its digest only, because MongoDB's own token is too large for
//! Weir's tokens.

use crate::{
    hub::stream::{history::ensure_in_oplog, scan::Scan},
    pipeline::Plan,
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
    ensure_in_oplog(source, &from).await?;
    let mut scan = Scan::open(source, plan, &from, BatchSize::Default).await?;
    while let Some(batch) = scan.next().await? {
        for event in &batch.events {
            if anchor.matches(&batch.buffer[event.token.clone()]) {
                return Ok(Some(event.position(&batch.buffer).detached()));
            }
            if event.cluster_time > anchor.time {
                return Ok(None);
            }
        }
    }
    Ok(None)
}
