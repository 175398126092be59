//! The way on after an event that a stream may not contain: a client's stages leave events out, and MongoDB looks
//! for a token's event behind them.
//!
//! The scope's stream has every event. It is read from the token's time up to the token's event, without documents.
//! Then the other stream starts at that time, and leaves out what had passed by then. So the same events follow
//! as would after the token itself.

use std::{collections::HashSet, time::Duration};

use bson::doc;
use tokio::time::timeout;

use crate::{
    hub::stream::{history::ensure_in_oplog, scan::Scan},
    model::Operation,
    pipeline::Plan,
    source::{
        Anchor, Batch, BatchSize, ClusterTime, Event, Failure, Position, Source, SourceError,
    },
};

/// The time for the search. A token may have an earlier time than its event, by as much as the stream had not
/// told of.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of events of one time that are remembered, in less than 1 MiB. A transaction that makes more
/// of them in one scope is delivered again.
const MAX_EVENTS: usize = 28_000;

/// The `invalidate` that ends a stream, and the operations that cause it.
const ENDS: [Operation; 4] = [
    Operation::Invalidate,
    Operation::Drop,
    Operation::Rename,
    Operation::DropDatabase,
];

/// Where a stream goes on after an event.
#[derive(Debug)]
pub(super) enum After {
    /// At a time, without the events that had passed.
    Events(PassedEvents),
    /// At a time: the event was the `invalidate` that ended a stream, and no other has its time.
    Invalidation(ClusterTime),
}

/// The events of one time, up to one of them.
#[derive(Debug)]
pub(super) struct PassedEvents {
    time: ClusterTime,
    digests: HashSet<[u8; 16]>,
}

/// Finds the event whose token `is_it` accepts, in the scope's outline from a time on. `None` if it does not come in
/// time, or has too many others before it at its own time.
///
/// # Errors
/// MongoDB does not answer, or no longer has that time.
pub(super) async fn find_event_in_scope(
    source: &dyn Source,
    outline: &Plan,
    from: ClusterTime,
    is_it: impl Fn(&[u8]) -> bool,
) -> Result<Option<After>, SourceError> {
    let search = search(source, outline, Position::Time(from), is_it);
    match timeout(SEARCH_TIMEOUT, search).await {
        Ok(found) => found,
        Err(_) => Ok(None),
    }
}

async fn search(
    source: &dyn Source,
    outline: &Plan,
    mut from: Position,
    is_it: impl Fn(&[u8]) -> bool,
) -> Result<Option<After>, SourceError> {
    ensure_in_oplog(source, &from).await?;
    let mut passed = PassedEvents {
        time: from.time(),
        digests: HashSet::new(),
    };
    loop {
        let mut invalidation = None;
        let mut scan = Scan::open(source, outline, &from, BatchSize::Default).await?;
        while let Some(batch) = scan.next().await? {
            for event in &batch.events {
                let token = &batch.buffer[event.token.clone()];
                let is_end = event.operation == Operation::Invalidate;
                if is_it(token) && is_end {
                    return Ok(Some(After::Invalidation(event.cluster_time)));
                }
                passed.add(token, event.cluster_time);
                if is_it(token) {
                    let is_whole = passed.digests.len() <= MAX_EVENTS;
                    return Ok(is_whole.then_some(After::Events(passed)));
                }
                if is_end {
                    invalidation = Some(event.position(&batch.buffer).detached());
                }
            }
        }
        // An earlier namespace of the same name ended there.
        match invalidation {
            Some(invalidation) => from = invalidation,
            None => return Ok(None),
        }
    }
}

/// Finds the `invalidate` that has ended a plan's stream at some position: the scope's outline has it. Returns it in a batch
/// of its own, behind the event that caused it. `None` if there is none, so that the stream was closed for another
/// reason.
///
/// # Errors
/// MongoDB does not answer in time, or no longer has the position.
pub(super) async fn find_invalidation(
    source: &dyn Source,
    plan: &Plan,
    at: &Position,
) -> Result<Option<Batch>, SourceError> {
    let outline = plan.scope_outline();
    let from = match at {
        // The one before.
        Position::Invalidate { time, .. } => time.successor(),
        at => at.time(),
    };
    // By time, as MongoDB repeats only the `invalidate` after the token of its cause; and only these events, which are
    // found without a look at all others.
    let ends = doc! { "operationType": { "$in": ENDS.map(Operation::name).to_vec() } };
    let search = async {
        let by_time = Position::Time(from);
        match ensure_in_oplog(source, &by_time).await {
            // The position may be later than its time.
            Err(error) if error.failure == Failure::HistoryLost && at.token().is_some() => {
                read_to_invalidation(source, &outline, at).await
            }
            Err(error) => Err(error),
            Ok(()) => read_to_invalidation(source, &outline.narrowed_to(ends), &by_time).await,
        }
    };
    let found = timeout(SEARCH_TIMEOUT, search).await;
    found.unwrap_or_else(|_| {
        let message = "MongoDB has closed the cursor, and does not say in time why";
        Err(SourceError::new(Failure::Transient, message))
    })
}

async fn read_to_invalidation(
    source: &dyn Source,
    outline: &Plan,
    at: &Position,
) -> Result<Option<Batch>, SourceError> {
    let mut scan = Scan::open(source, outline, at, BatchSize::Default).await?;
    while let Some(mut batch) = scan.next().await? {
        let is_end = |event: &Event| event.operation == Operation::Invalidate;
        let Some(end) = batch.events.iter().position(is_end) else {
            continue;
        };
        batch.events.truncate(end + 1);
        batch.events.retain(|event| ENDS.contains(&event.operation));
        batch.position = batch.events.last().map(|it| it.position(&batch.buffer));
        batch.closed = false;
        return Ok(Some(batch));
    }
    Ok(None)
}

impl PassedEvents {
    /// The time of the events.
    pub(super) fn time(&self) -> ClusterTime {
        self.time
    }

    /// Adds an event; only those of the latest time are kept, as far as they are not too many.
    fn add(&mut self, token: &[u8], time: ClusterTime) {
        if time > self.time {
            self.time = time;
            self.digests.clear();
        }
        if self.digests.len() <= MAX_EVENTS {
            self.digests.insert(Anchor::new(token, time).digest);
        }
    }

    /// Leaves them out of a batch. Returns whether none of them can come any more.
    ///
    /// While only such events have come, the batch has no position: it would lie before the one that was asked
    /// for.
    pub(super) fn leave_out_of(&self, batch: &mut Batch) -> bool {
        let position = batch.position.as_ref().map(Position::time);
        let last = batch.events.last().map(|it| it.cluster_time);
        let is_past = position.max(last) > Some(self.time);
        let buffer = &batch.buffer;
        batch.events.retain(|event| {
            let token = &buffer[event.token.clone()];
            !self.digests.contains(&Anchor::new(token, self.time).digest)
        });
        if batch.events.is_empty() && !is_past {
            batch.position = None;
        }
        is_past
    }
}
