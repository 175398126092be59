//! Opens a change stream at a position: by MongoDB's token, or by time when MongoDB rejects the token.

use std::sync::Arc;

use crate::{
    error::{Error, UndeliverableEvent},
    hub::{
        event_lookup::find_event,
        isolation::Isolation,
        resume_deduplicator::ResumeDeduplicator,
        undeliverable::{self, Found, has_history_since},
    },
    pipeline::Plan,
    source::{Batch, BatchSize, Cursor, Failure, Position, Source, SourceError},
    wire::TokenContext,
};

/// An open stream with its first reply.
pub(super) struct OpenedStream {
    pub cursor: Reader,
    pub first: Batch,
    /// The position that the stream starts at.
    pub start: Position,

    pub batch_size: BatchSize,
    /// Set when the stream was opened by time instead of by token: skips the events before the token.
    pub deduplicator: Option<ResumeDeduplicator>,
    /// `true` if events of the position's time may come that are before it.
    pub by_time: bool,
    /// `true` if this is the stream of [`StreamPlans::shared`].
    pub is_shared: bool,
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
pub(super) struct StreamPlans {
    /// The stream's own plan.
    pub own: Arc<Plan>,
    /// The scope's shared plan, for a token that the own stream does not contain. `None` if its stream is
    /// the own one.
    pub shared: Option<Arc<Plan>>,
}

impl StreamPlans {
    /// Returns a plan that has no alternative.
    pub(super) fn only(plan: &Arc<Plan>) -> Self {
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

/// Opens a stream for a watch. If the first reply contains an event that MongoDB cannot send, opens the
/// stream again with one event per reply, to get the events before it, and isolates the event if that fails
/// too.
///
/// A token does not say which stream it is from, and MongoDB runs a stream's filter before it looks for
/// the token's event. So there are up to three attempts: on the own stream; on the scope's shared stream,
/// which contains every event; and by the token's time. The last one also if MongoDB denies access.
pub(super) async fn open(
    source: &Arc<dyn Source>,
    plans: &StreamPlans,
    token_context: &TokenContext,
    at: Option<&Position>,
) -> Result<OpenedStream, Error> {
    let found;
    let mut is_lost = false;
    let at = match at {
        Some(at @ Position::EventDigest(event)) => {
            let plan = plans.widest();
            found = match find_event(&**source, plan, event).await {
                Ok(found) => found,
                Err(error) => {
                    let (source, at) = (&**source, Some(at));
                    let error = final_error(source, plan, token_context, &error, at, None);
                    return Err(error.await.unwrap_or_else(|passing| Error::from(&passing)));
                }
            };
            is_lost = found.token().is_none();
            Some(&found)
        }
        at => at,
    };
    let mut opened = open_with_fallback(&**source, plans, at, BatchSize::Default).await;
    if at.is_some() && matches!(&opened, Err(failed) if failed.error.failure.concerns_one_event()) {
        opened = open_with_fallback(&**source, plans, at, BatchSize::One).await;
    }
    let mut failed = match opened {
        Ok(opened) => {
            return Ok(OpenedStream {
                by_time: opened.by_time || is_lost,
                ..opened
            });
        }
        Err(failed) => failed,
    };
    let mut found = None;
    while let Some(at) = at
        && failed.error.failure.concerns_one_event()
    {
        let mut isolation = Isolation::new(
            Arc::clone(source),
            Arc::clone(plans.plan(failed.is_shared)),
            failed.error.clone(),
            at.clone(),
            failed.by_time,
        );
        match isolation.next().await {
            Ok(Some(first)) => {
                return Ok(OpenedStream {
                    cursor: Reader::Isolation(Box::new(isolation)),
                    first,
                    start: at.clone(),
                    batch_size: BatchSize::One,
                    deduplicator: None,
                    by_time: failed.by_time || is_lost,
                    is_shared: failed.is_shared,
                });
            }
            // The failure has passed, or its event was not found.
            Ok(None) => {
                let again = open_with_fallback(&**source, plans, Some(at), BatchSize::Default);
                match again.await {
                    Ok(opened) => {
                        return Ok(OpenedStream {
                            by_time: opened.by_time || is_lost,
                            ..opened
                        });
                    }
                    Err(again) => failed = again,
                }
                break;
            }
            // The stream failed before MongoDB had looked for the token.
            Err(error)
                if error.failure == Failure::TokenNotFound
                    && plans.shared.is_some()
                    && !failed.is_shared =>
            {
                failed.is_shared = true;
            }
            Err(error)
                if may_mean_the_token(error.failure)
                    && can_resume_by_time(at)
                    && !failed.by_time =>
            {
                failed.by_time = true;
            }
            Err(error) => {
                found = isolation.found().cloned();
                failed.error = error;
                break;
            }
        }
    }
    let plan = plans.plan(failed.is_shared);
    let error = &failed.error;
    let error = final_error(&**source, plan, token_context, error, at, found.as_ref());
    Err(error.await.unwrap_or_else(|passing| Error::from(&passing)))
}

/// A failure to open a stream, and the attempt that failed.
struct FailedOpening {
    error: SourceError,
    is_shared: bool,
    by_time: bool,
}

/// Makes up to three attempts; see [`open`].
async fn open_with_fallback(
    source: &dyn Source,
    plans: &StreamPlans,
    at: Option<&Position>,
    batch_size: BatchSize,
) -> Result<OpenedStream, FailedOpening> {
    let (mut is_shared, mut by_time) = (false, false);
    let mut opened = open_at(source, &plans.own, at, batch_size).await;
    if let Some(at) = at {
        if failed_with(&opened, |failure| failure == Failure::TokenNotFound)
            && let Some(shared) = &plans.shared
        {
            is_shared = true;
            opened = open_at(source, shared, Some(at), batch_size).await;
        }
        if failed_with(&opened, may_mean_the_token) && can_resume_by_time(at) {
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
    let is_sharded = source.is_sharded().await?;
    let opened = open_at(source, plan, Some(&Position::Time(at.time())), batch_size).await?;
    Ok(OpenedStream {
        start: at.clone(),
        deduplicator: at
            .token()
            .map(|token| ResumeDeduplicator::new(token.clone(), at.time(), is_sharded)),
        by_time: true,
        ..opened
    })
}

/// Checks that the oplog still holds a time. MongoDB rejects a time before the oplog's oldest entry, but
/// some compatible servers start at their oldest entry instead, which would lose events. Where the oplog
/// cannot be read, the server is trusted.
pub(super) async fn ensure_in_oplog(source: &dyn Source, at: &Position) -> Result<(), SourceError> {
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
    let oldest = match error.failure {
        Failure::HistoryLost => source.oldest_time().await.ok().flatten(),
        Failure::TokenNotFound => match source.oldest_time().await {
            Err(passing) if passing.failure.is_passing() => return Err(passing),
            oldest => match (oldest.ok().flatten(), at) {
                // A mongos does not show the oplog.
                (None, Some(at)) if has_history_since(source, plan, at.time()).await? => {
                    Some(at.time())
                }
                (oldest, _) => oldest,
            },
        },
        _ => None,
    };
    Ok(
        match Error::of_stream(error, plan.scope(), at.map(Position::time), oldest) {
            expired @ Error::TokenExpired { .. } => expired,
            Error::ImageUnavailable(_) => Error::ImageUnavailable(describe()),
            Error::UpstreamEventTooLarge(_) => Error::UpstreamEventTooLarge(describe()),
            Error::LookupAmbiguous(_) => Error::LookupAmbiguous(describe()),
            other => {
                tracing::warn!(code = error.code, failure = ?error.failure, %error, "change stream failed");
                other
            }
        },
    )
}
