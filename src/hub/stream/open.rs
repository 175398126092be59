//! Opens a change stream at a position: by MongoDB's token, or by time when MongoDB rejects the token.

use std::sync::Arc;

use crate::{
    error::Error,
    hub::stream::{
        event_lookup::find_event,
        final_error::final_error,
        history::ensure_in_oplog,
        isolation::Isolation,
        passed_events::{After, PassedEvents, find_event_in_scope},
        resume_deduplicator::ResumeDeduplicator,
        undeliverable::Found,
    },
    pipeline::Plan,
    source::{Anchor, Batch, BatchSize, Cursor, Failure, Position, Source, SourceError},
    wire::TokenContext,
};

/// An open stream with its first reply.
pub(in crate::hub) struct OpenedStream {
    pub(super) cursor: Reader,
    pub first: Batch,
    /// The position that the stream starts at.
    pub start: Position,
    pub batch_size: BatchSize,
    /// Set when the stream was opened by time instead of by token: skips the events before the token.
    pub(super) deduplicator: Option<Deduplicator>,
    /// `true` if events of the position's time may come that are before it.
    pub by_time: bool,
    /// `true` if this is the stream of [`StreamPlans::shared`].
    pub is_shared: bool,
}

/// What skips the events before a token, in a stream that was opened by time.
pub(super) enum Deduplicator {
    /// By the token's own event, which is waited for.
    UpToToken(ResumeDeduplicator),
    /// By the tokens of all of them. The stream may not contain the token's event.
    Passed(PassedEvents),
}

/// A reader of an open stream.
pub(super) enum Reader {
    Cursor(Box<dyn Cursor>),
    /// Reads up to an event that fails.
    Isolation(Box<Isolation>),
}

impl Reader {
    /// Returns the next batch. `None` if the stream is to be opened again at the position after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, SourceError> {
        match self {
            Self::Cursor(cursor) => cursor.next().await.map(Some),
            Self::Isolation(isolation) => isolation.next().await,
        }
    }
}

/// The plans with which a stream can be opened.
#[derive(Debug, Clone)]
pub(in crate::hub) struct StreamPlans {
    /// The stream's own plan.
    pub own: Arc<Plan>,
    /// The scope's shared plan, for a token that the own stream does not contain. `None` if its stream is
    /// the own one.
    pub shared: Option<Arc<Plan>>,
}

impl StreamPlans {
    /// Returns a plan that has no alternative.
    pub(in crate::hub) fn only(plan: &Arc<Plan>) -> Self {
        Self {
            own: Arc::clone(plan),
            shared: None,
        }
    }

    /// Returns the plan of the widest stream.
    pub(super) fn widest(&self) -> &Arc<Plan> {
        self.shared.as_ref().unwrap_or(&self.own)
    }

    /// Returns the scope's shared plan, or the stream's own.
    fn plan(&self, is_shared: bool) -> &Arc<Plan> {
        if is_shared { self.widest() } else { &self.own }
    }
}

/// A failure to open a stream, and the attempt that failed.
struct FailedOpening {
    error: SourceError,
    is_shared: bool,
    by_time: bool,
    /// The event that MongoDB cannot send, if it was determined.
    found: Option<Found>,
}

/// Opens a stream for a watch. If the first reply contains an event that MongoDB cannot send, opens the
/// stream again with one event per reply, to get the events before it, and isolates the event if that fails
/// too.
///
/// A token does not say which stream it is from, and MongoDB runs a stream's filter before it looks for
/// the token's event. So there are up to three attempts: on the own stream; on the scope's shared stream,
/// which contains every event; and by the token's time. The last one also if MongoDB denies access. With a client's
/// stages, see [`open_with_client_stages`].
pub(in crate::hub) async fn open(
    source: &Arc<dyn Source>,
    plans: &StreamPlans,
    token_context: &TokenContext,
    at: Option<&Position>,
) -> Result<OpenedStream, Error> {
    let opened = match at {
        Some(Position::EventDigest(event)) if !plans.own.has_client_stages() => {
            open_after_digest(source, plans, event).await
        }
        at => open_or_isolate(source, plans, at).await,
    };
    let failed = match opened {
        Ok(opened) => return Ok(opened),
        Err(failed) => failed,
    };
    let plan = plans.plan(failed.is_shared);
    let (source, found) = (&**source, failed.found.as_ref());
    let error = final_error(source, plan, token_context, &failed.error, at, found);
    Err(error.await.unwrap_or_else(|passing| Error::from(&passing)))
}

/// Opens the stream after the event with a digest, or at its time if no event has it.
async fn open_after_digest(
    source: &Arc<dyn Source>,
    plans: &StreamPlans,
    event: &Anchor,
) -> Result<OpenedStream, FailedOpening> {
    let found = find_event(&**source, plans.widest(), event).await;
    let at = found.map_err(|error| FailedOpening {
        error,
        is_shared: true,
        by_time: false,
        found: None,
    })?;
    let opened = open_or_isolate(source, plans, Some(&at)).await?;
    Ok(OpenedStream {
        by_time: opened.by_time || at.token().is_none(),
        ..opened
    })
}

/// Opens the stream with as many events per reply as MongoDB sends; with one, if an event of the first reply
/// fails; and up to that event, if it is the first one.
async fn open_or_isolate(
    source: &Arc<dyn Source>,
    plans: &StreamPlans,
    at: Option<&Position>,
) -> Result<OpenedStream, FailedOpening> {
    let opened = open_with_fallback(&**source, plans, at, BatchSize::Default).await;
    let Some(at) = at else { return opened };
    let opened = match opened {
        Err(failed) if failed.error.failure.concerns_one_event() => {
            open_with_fallback(&**source, plans, Some(at), BatchSize::One).await
        }
        opened => opened,
    };
    match opened {
        Err(failed) if failed.error.failure.concerns_one_event() => {
            isolate(source, plans, at, failed).await
        }
        opened => opened,
    }
}

/// Opens the stream up to the event because of which an opening has failed.
async fn isolate(
    source: &Arc<dyn Source>,
    plans: &StreamPlans,
    at: &Position,
    mut failed: FailedOpening,
) -> Result<OpenedStream, FailedOpening> {
    loop {
        let mut isolation = Isolation::new(
            Arc::clone(source),
            Arc::clone(plans.plan(failed.is_shared)),
            failed.error.clone(),
            at.clone(),
            failed.by_time,
        );
        let error = match isolation.next().await {
            Ok(Some(first)) => {
                return Ok(OpenedStream {
                    cursor: Reader::Isolation(Box::new(isolation)),
                    first,
                    start: at.clone(),
                    batch_size: BatchSize::One,
                    deduplicator: None,
                    by_time: failed.by_time,
                    is_shared: failed.is_shared,
                });
            }
            // The failure has passed, or its event was not found.
            Ok(None) => {
                return open_with_fallback(&**source, plans, Some(at), BatchSize::Default).await;
            }
            Err(error) => error,
        };
        // The stream may have failed before MongoDB had looked for the token.
        if error.failure == Failure::TokenNotFound && plans.shared.is_some() && !failed.is_shared {
            failed.is_shared = true;
        } else if error.failure.may_mean_the_token() && at.can_resume_by_time() && !failed.by_time {
            failed.by_time = true;
        } else {
            return Err(FailedOpening {
                error,
                found: isolation.found().cloned(),
                ..failed
            });
        }
    }
}

/// Makes up to three attempts; see [`open`].
async fn open_with_fallback(
    source: &dyn Source,
    plans: &StreamPlans,
    at: Option<&Position>,
    batch_size: BatchSize,
) -> Result<OpenedStream, FailedOpening> {
    if plans.own.has_client_stages() {
        let opened = open_with_client_stages(source, &plans.own, at, batch_size, false).await;
        return opened.map_err(|error| FailedOpening {
            error,
            is_shared: false,
            by_time: false,
            found: None,
        });
    }
    let (mut is_shared, mut by_time) = (false, false);
    let mut opened = open_at(source, &plans.own, at, batch_size).await;
    if let Some(at) = at {
        if failed_with(&opened, |failure| failure == Failure::TokenNotFound)
            && let Some(shared) = &plans.shared
        {
            is_shared = true;
            opened = open_at(source, shared, Some(at), batch_size).await;
        }
        if failed_with(&opened, Failure::may_mean_the_token) && at.can_resume_by_time() {
            by_time = true;
            opened = open_by_time(source, plans.plan(is_shared), at, batch_size).await;
        }
    }
    opened
        .map(|opened| OpenedStream {
            is_shared,
            ..opened
        })
        .map_err(|error| FailedOpening {
            error,
            is_shared,
            by_time,
            found: None,
        })
}

fn failed_with(
    opened: &Result<OpenedStream, SourceError>,
    is_it: impl FnOnce(Failure) -> bool,
) -> bool {
    matches!(opened, Err(error) if is_it(error.failure))
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
        cursor: Reader::Cursor(cursor),
        first,
        start,
        batch_size,
        deduplicator: None,
        by_time: false,
        is_shared: false,
    })
}

/// Opens `plan`'s stream at the time of a position whose token MongoDB rejects.
pub(super) async fn open_by_time(
    source: &dyn Source,
    plan: &Plan,
    at: &Position,
    batch_size: BatchSize,
) -> Result<OpenedStream, SourceError> {
    let is_sharded = source.is_sharded().await?;
    let opened = open_at(source, plan, Some(&Position::Time(at.time())), batch_size).await?;
    Ok(OpenedStream {
        start: at.clone(),
        deduplicator: at
            .token()
            .map(|token| ResumeDeduplicator::new(token.clone(), at.time(), is_sharded))
            .map(Deduplicator::UpToToken),
        by_time: true,
        ..opened
    })
}

/// Opens a stream with a client's stages at a position, or from now.
///
/// The scope's shared stream is no way out where the own stream does not contain the token's event: its events have
/// not gone through the stages. So the event is looked up there, and the own stream opened after it. `is_refused`:
/// MongoDB has not found the token in the own stream before. If nothing finds it, the stream starts by its time.
pub(super) async fn open_with_client_stages(
    source: &dyn Source,
    plan: &Plan,
    at: Option<&Position>,
    batch_size: BatchSize,
    is_refused: bool,
) -> Result<OpenedStream, SourceError> {
    let Some(at) = at else {
        return open_at(source, plan, None, batch_size).await;
    };
    let found = match at {
        Position::Time(_) => return open_at(source, plan, Some(at), batch_size).await,
        // The stages may leave the `invalidate` out, as Weir's own do.
        Position::Invalidate { time, .. } => Some(After::Invalidation(*time)),
        _ => {
            if at.token().is_some() && !is_refused {
                let opened = open_at(source, plan, Some(at), batch_size).await;
                if !failed_with(&opened, Failure::may_mean_the_token) {
                    return opened;
                }
            }
            let is_it = |token: &[u8]| match at {
                Position::EventDigest(event) => event.matches(token),
                at => at.token().is_some_and(|it| it == token),
            };
            find_event_in_scope(source, &plan.scope_outline(), at.time(), is_it).await?
        }
    };
    let (from, passed, by_time) = match found {
        Some(After::Events(passed)) => (passed.time(), Some(passed), false),
        Some(After::Invalidation(time)) => (time.successor(), None, false),
        None => (at.time(), None, true),
    };
    let mut opened = open_at(source, plan, Some(&Position::Time(from)), batch_size).await?;
    opened.start = at.clone();
    opened.deduplicator = passed.map(Deduplicator::Passed);
    opened.by_time = by_time;
    Ok(opened)
}
