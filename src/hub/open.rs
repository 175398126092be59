//! Opening a change stream at a place: by MongoDB's token, or by time where the token won't do.

use crate::{
    error::{Error, UndeliverableEvent},
    hub::{seam::Seam, unsent},
    plan::Plan,
    source::{Batch, BatchSize, Cursor, Failure, Position, Source, SourceError},
    wire::TokenContext,
};

/// An open stream, with MongoDB's first answer.
pub(super) struct Opened {
    pub cursor: Box<dyn Cursor>,
    pub first: Batch,
    /// The place that the stream starts at.
    pub start: Position,
    /// How many events its replies bring.
    pub batch_size: BatchSize,
    /// Set when the stream was opened by time in place of a token: where to join.
    pub seam: Option<Seam>,
}

/// Opens `plan`'s stream for a watch: one attempt by token, and one by the token's time when
/// MongoDB does not find the token with this pipeline. Where the first reply from a place holds an event
/// that MongoDB can't send, once more for what stands before it.
///
/// `plan` is the one that made the token, or the scope's shared one, which leaves no event out. `token_context`
/// is that of its tokens.
pub(super) async fn open(
    source: &dyn Source,
    plan: &Plan,
    token_context: &TokenContext,
    at: Option<&Position>,
) -> Result<Opened, Error> {
    let mut opened = open_somehow(source, plan, at, BatchSize::Default).await;
    if at.is_some() && matches!(&opened, Err(error) if error.failure.concerns_one_event()) {
        opened = open_somehow(source, plan, at, BatchSize::One).await;
    }
    match opened {
        Ok(opened) => Ok(opened),
        Err(error) => Err(give_up(source, plan, token_context, &error, at).await),
    }
}

async fn open_somehow(
    source: &dyn Source,
    plan: &Plan,
    at: Option<&Position>,
    batch_size: BatchSize,
) -> Result<Opened, SourceError> {
    match open_at(source, plan, at, batch_size).await {
        Err(error) if error.failure == Failure::TokenNotFound => match at {
            Some(at) if can_go_by_time(at) => open_by_time(source, plan, at, batch_size).await,
            _ => Err(error),
        },
        opened => opened,
    }
}

/// Opens `plan`'s stream at a place, in the way that suits it, or from now.
pub(super) async fn open_at(
    source: &dyn Source,
    plan: &Plan,
    at: Option<&Position>,
    batch_size: BatchSize,
) -> Result<Opened, SourceError> {
    if let Some(at @ Position::Time(_)) = at {
        ensure_in_oplog(source, at).await?;
    }
    let mut cursor = source.open(plan, at, batch_size).await?;
    // MongoDB's answer to the opening holds the first batch: it is here already.
    let first = cursor.next().await?;
    let start = match (at, first.events.first(), &first.position) {
        (Some(at), ..) => at.clone(),
        // Something changed while the stream was being opened: start right before it.
        (None, Some(event), _) => Position::Time(event.cluster_time),
        (None, None, Some(position)) => position.clone(),
        (None, None, None) => Position::Time(first.operation_time.unwrap_or_default()),
    };
    Ok(Opened {
        cursor,
        first,
        start,
        batch_size,
        seam: None,
    })
}

/// Whether a place can be come back to by its time when MongoDB does not find its token. The time of
/// an invalidate would bring the same invalidate again, and so no further.
pub(super) fn can_go_by_time(at: &Position) -> bool {
    matches!(at, Position::Event { .. } | Position::HighWater { .. })
}

/// Opens `plan`'s stream at the time of a place whose token can't be used.
pub(super) async fn open_by_time(
    source: &dyn Source,
    plan: &Plan,
    at: &Position,
    batch_size: BatchSize,
) -> Result<Opened, SourceError> {
    let opened = open_at(source, plan, Some(&Position::Time(at.time())), batch_size).await?;
    Ok(Opened {
        start: at.clone(),
        seam: at.token().map(|token| Seam::new(token.clone(), at.time())),
        ..opened
    })
}

/// MongoDB refuses a time that is no longer in the oplog. A server that is only like it may begin
/// at its oldest entry instead, which would be a hole. Where the oplog can't be read, the server is
/// trusted.
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

/// What the client is told when nothing is left to try.
pub(super) async fn give_up(
    source: &dyn Source,
    plan: &Plan,
    token_context: &TokenContext,
    error: &SourceError,
    at: Option<&Position>,
) -> Error {
    let look = async || match at {
        Some(at) => unsent::look(source, plan, token_context, error.failure, at).await,
        None => UndeliverableEvent::default(),
    };
    match Error::from(error) {
        Error::TokenExpired { .. } => Error::TokenExpired {
            asked: at.map(Position::time),
            oldest: source.oldest_time().await.ok().flatten(),
        },
        Error::ImageUnavailable(_) => Error::ImageUnavailable(look().await),
        Error::UpstreamEventTooLarge(_) => Error::UpstreamEventTooLarge(look().await),
        other => {
            tracing::warn!(code = error.code, failure = ?error.failure, %error, "change stream failed");
            other
        }
    }
}
