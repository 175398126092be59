//! The opening of a change stream.

use std::sync::Arc;

use bson::RawDocumentBuf;
use mongodb::options::ReadConcern;

use crate::{
    limit::Permit,
    model::Scope,
    pipeline::Plan,
    source::{BatchSize, Position, ReplyDecoder, SourceError},
};

use super::{
    aggregate::{pipeline, stream_target},
    connected::Connected,
    cursor::{MAX_AWAIT, MongoCursor},
    options::StreamOptions,
    prover::Prover,
    reply_timeout::ReplyTimeout,
};

/// The maximum number of events in one reply. MongoDB never waits to fill a reply. Without a number,
/// mongod sends up to 16 MiB, while other servers send 100 events, so few that the round trip costs as
/// much as the events.
const BATCH_EVENTS: u32 = 1_000;

impl Connected {
    /// Opens the stream of `plan` at a position or from now, without an option that the server refuses. The permit is
    /// held until MongoDB has answered, also when this is dropped before. What is asked beside the stream is asked on the
    /// connections of `others`.
    pub(super) async fn open_cursor(
        &self,
        plan: &Plan,
        at: Option<&Position>,
        (batch_size, permit): (BatchSize, Option<Arc<Permit>>),
        others: &Connected,
    ) -> Result<MongoCursor, SourceError> {
        let options = self.options.of(plan, self.can_split().await?);
        let error = match self
            .try_open(plan, at, (batch_size, options, permit.clone()), others)
            .await
        {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let Some(fewer) = options.without_refused(&error) else {
            return Err(error);
        };
        let opened = self
            .try_open(plan, at, (batch_size, fewer, permit), others)
            .await?;
        self.options.refused_match_uuid();
        Ok(opened)
    }

    async fn try_open(
        &self,
        plan: &Plan,
        at: Option<&Position>,
        (batch_size, options, permit): (BatchSize, StreamOptions, Option<Arc<Permit>>),
        others: &Connected,
    ) -> Result<MongoCursor, SourceError> {
        let pipeline = pipeline(plan, at, options)?;
        // A stream from now starts at some time between the request and the reply, so the operation time
        // of the reply may be later than the first events.
        let reached = match at {
            Some(at) => Some(at.time()),
            None => self.operation_time().await?,
        };
        // Each of these commands may be the first on a connection that died silently while it was idle. The
        // stream itself is no command to send twice.
        if at.is_some() || self.client.selection_criteria().is_some() {
            self.check_connection().await?;
        }
        // Not worth failing for: without the answer less is said of where transactions end.
        let contiguous_transactions = matches!(self.is_sharded().await, Ok(false));
        let (database, collection) = stream_target(plan.scope());
        let database = self.client.database(database);
        let collection = collection.map(|name| database.collection::<RawDocumentBuf>(name));
        let reply_timeout = ReplyTimeout::new(others.clone());
        let events = match batch_size {
            BatchSize::Default => BATCH_EVENTS,
            BatchSize::One => 1,
        };
        let from = at.map(Position::time);
        // In its own task: an aggregate that is dropped midway, when the client cancels, would leave its
        // cursor open on the server.
        let opening = tokio::spawn(async move {
            let _permit = permit;
            let aggregate = match &collection {
                Some(collection) => collection.aggregate(pipeline),
                None => database.aggregate(pipeline),
            };
            let opening = aggregate
                .max_await_time(MAX_AWAIT)
                .batch_size(events)
                .read_concern(ReadConcern::majority())
                .batch();
            let cursor = reply_timeout.wait(opening.into_future(), from).await??;
            Ok::<_, SourceError>((cursor, reply_timeout))
        });
        let (cursor, reply_timeout) = opening
            .await
            .map_err(|error| {
                SourceError::unexpected(format!("the task that opens the stream failed: {error}"))
            })?
            .map_err(|error| {
                let one_collection = matches!(plan.scope(), Scope::Collection { .. });
                let error = error.when_opening_at(at, one_collection);
                if plan.has_client_stages() {
                    error.of_client_stages()
                } else {
                    error
                }
            })?;
        Ok(MongoCursor::new(
            (cursor, self.closed.clone()),
            reply_timeout,
            ReplyDecoder::new(at, reached)
                .with_contiguous_transactions(contiguous_transactions)
                .with_genuine(plan.genuine())
                .with_unfiltered(plan.leaves_no_event_out()),
            Prover::new(others.clone(), plan),
            plan.has_client_stages(),
        ))
    }
}
