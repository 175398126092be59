//! The MongoDB implementation of [`Source`]: the only module that uses the driver's client.
//!
//! It reads raw batches (`aggregate(..).batch()`): events are never decoded, and each reply has its
//! post-batch resume token. In exchange the hub has to resume streams itself. The driver's change
//! stream is no alternative: it resumes without pause or limit, and it hides the token of an empty
//! batch.

mod connect;
mod connected;
mod cursor;
mod idle;
mod no_events;
mod options;
mod reply_timeout;
mod retry;
mod uri;

use std::{sync::OnceLock, time::Duration};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc, spec::ElementType};
use futures::future::BoxFuture;
use mongodb::options::ReadConcern;

use crate::{
    model::Scope,
    pipeline::Plan,
    source::{
        BatchSize, ClusterTime, Cursor, Position, ReplyDecoder, ServerFacts, Source, SourceError,
        failure::Failure,
    },
};

pub use connect::{MongoSettings, MongoSource, check_uri};
use connected::Connected;
use cursor::MongoCursor;
use options::StreamOptions;
use reply_timeout::ReplyTimeout;

/// The time for which MongoDB holds a `getMore` open on a quiet stream. An idle stream costs one round
/// trip in this time, and its position moves once in this time.
const MAX_AWAIT: Duration = Duration::from_secs(1);

/// The time after which an empty reply counts as held back. MongoDB replies earlier, and in the midst of
/// a scan, where `internalOperationResponseMaxMS` is set (9.0, change_stream_response_deadline.js in
/// MongoDB's repository); such a reply does not show that there is nothing more to read.
const HELD_BACK: Duration = Duration::from_millis(900);

/// The maximum number of events in one reply. MongoDB never waits to fill a reply. Without a number,
/// mongod sends up to 16 MiB, while other servers send 100 events, so few that the round trip costs as
/// much as the events.
const BATCH_EVENTS: u32 = 1_000;

impl Connected {
    async fn command(&self, command: Document) -> Result<Document, SourceError> {
        let admin = self.client.database("admin");
        let run = || {
            self.answered(|| {
                let (admin, command) = (admin.clone(), command.clone());
                async move { admin.run_command(command).await }
            })
        };
        retry::on_another_server(run).await
    }

    async fn run(
        &self,
        database: &mongodb::Database,
        command: Document,
    ) -> Result<Document, SourceError> {
        let run = || self.run_once(database, command.clone());
        retry::on_another_server(run).await
    }

    /// Returns whether the server has `$changeStreamSplitLargeEvent` (6.0.9, 7.0). Asks until it is known.
    async fn can_split(&self) -> Result<bool, SourceError> {
        let ask = async {
            let build = self.command(doc! { "buildInfo": 1 }).await?;
            Ok(has_split_stage(&version_numbers(&build)))
        };
        cached_or_ask(&self.can_split, ask).await
    }

    async fn open_cursor(
        &self,
        plan: &Plan,
        at: Option<&Position>,
        batch_size: BatchSize,
    ) -> Result<MongoCursor, SourceError> {
        let options = self.options.of(plan, self.can_split().await?);
        let error = match self.try_open(plan, at, batch_size, options).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let Some(fewer) = options.without_refused(&error) else {
            return Err(error);
        };
        let opened = self.try_open(plan, at, batch_size, fewer).await?;
        self.options.refused_match_uuid();
        Ok(opened)
    }

    async fn try_open(
        &self,
        plan: &Plan,
        at: Option<&Position>,
        batch_size: BatchSize,
        options: StreamOptions,
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
        let (database, collection) = stream_target(&plan.scope);
        let database = self.client.database(database);
        let collection = collection.map(|name| database.collection::<RawDocumentBuf>(name));
        let reply_timeout = ReplyTimeout::new(self.clone());
        let events = match batch_size {
            BatchSize::Default => BATCH_EVENTS,
            BatchSize::One => 1,
        };
        let from = at.map(Position::time);
        // In its own task: an aggregate that is dropped midway, when the client cancels, would leave its
        // cursor open on the server.
        let opening = tokio::spawn(async move {
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
                let one_collection = matches!(plan.scope, Scope::Collection { .. });
                error.when_opening_at(at, one_collection)
            })?;
        Ok(MongoCursor::new(
            cursor,
            reply_timeout,
            ReplyDecoder::new(at, reached).with_contiguous_transactions(contiguous_transactions),
        ))
    }

    async fn operation_time(&self) -> Result<Option<ClusterTime>, SourceError> {
        let pong = self.command(doc! { "ping": 1 }).await?;
        Ok(operation_time(&pong))
    }

    async fn is_sharded(&self) -> Result<bool, SourceError> {
        let ask = async {
            let hello = self.command(doc! { "hello": 1 }).await?;
            Ok(matches!(hello.get_str("msg"), Ok("isdbgrid")))
        };
        cached_or_ask(&self.sharded, ask).await
    }

    async fn oldest_oplog_time(&self) -> Result<Option<ClusterTime>, SourceError> {
        let oplog = self
            .client
            .database("local")
            .collection::<RawDocumentBuf>("oplog.rs");
        let oldest = || {
            let oplog = oplog.clone();
            async move {
                let oldest = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 });
                oldest.projection(doc! { "ts": 1 }).await
            }
        };
        match self.answered(oldest).await {
            Ok(entry) => Ok(entry.and_then(|entry| entry.get_timestamp("ts").ok().map(time_of))),
            // No right to read it, or no oplog here, as behind a mongos.
            Err(error) if !error.failure.is_passing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn server_facts(&self) -> Result<ServerFacts, SourceError> {
        let build = self.command(doc! { "buildInfo": 1 }).await?;
        let hello = self.command(doc! { "hello": 1 }).await?;
        let set_name = match (hello.get_str("setName"), hello.get_str("msg")) {
            (Ok(name), _) => name,
            (_, Ok("isdbgrid")) => "sharded",
            _ => "",
        };
        Ok(ServerFacts {
            version: build.get_str("version").unwrap_or_default().to_owned(),
            set_name: set_name.to_owned(),
            now: operation_time(&hello),
        })
    }
}

impl MongoSource {
    /// Checks that the deployment answers, and that change streams can be opened with the read preference of
    /// the connection string. Returns its facts.
    ///
    /// # Errors
    /// The reason, as of any call.
    pub async fn check(&self) -> Result<ServerFacts, SourceError> {
        let facts = self.facts().await?;
        self.connected().await?.check_read_preference().await?;
        Ok(facts)
    }
}

impl Source for MongoSource {
    fn open<'a>(
        &'a self,
        plan: &'a Plan,
        at: Option<&'a Position>,
        batch_size: BatchSize,
    ) -> BoxFuture<'a, Result<Box<dyn Cursor>, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            let open = || source.open_cursor(plan, at, batch_size);
            let cursor = source.retried(open).await?;
            Ok(Box::new(cursor) as Box<dyn Cursor>)
        })
    }

    fn oldest_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            source.retried(|| source.oldest_oplog_time()).await
        })
    }

    fn current_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            source.retried(|| source.operation_time()).await
        })
    }

    fn has_no_events<'a>(
        &'a self,
        plan: &'a Plan,
        at: &'a Position,
        until: ClusterTime,
    ) -> BoxFuture<'a, Result<bool, SourceError>> {
        Box::pin(async move {
            let (source, permit) = self.connected().await?.for_look().await?;
            let (plan, at) = (plan.clone(), at.clone());
            // In its own task: dropped midway, it would leave its cursor open on the server.
            let task = tokio::spawn(async move {
                let _permit = permit;
                let look = || source.finds_no_events(&plan, &at, until);
                source.retried(look).await
            });
            task.await.map_err(|error| {
                SourceError::unexpected(format!("the task that looks for events failed: {error}"))
            })?
        })
    }

    fn is_sharded(&self) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            source.retried(|| source.is_sharded()).await
        })
    }

    fn facts(&self) -> BoxFuture<'_, Result<ServerFacts, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            source.retried(|| source.server_facts()).await
        })
    }
}

/// Returns the database and the collection that a scope's stream is opened on.
fn stream_target(scope: &Scope) -> (&str, Option<&str>) {
    match scope {
        Scope::Collection {
            database,
            collection,
        } => (database, Some(collection)),
        Scope::Collections { database, .. } | Scope::Database { database } => (database, None),
        Scope::Deployment => ("admin", None),
    }
}

fn operation_time(answer: &Document) -> Option<ClusterTime> {
    answer.get_timestamp("operationTime").ok().map(time_of)
}

fn time_of(timestamp: bson::Timestamp) -> ClusterTime {
    ClusterTime {
        seconds: timestamp.time,
        increment: timestamp.increment,
    }
}

/// Converts a time to the BSON value that MongoDB takes for it.
pub(crate) fn timestamp(time: ClusterTime) -> bson::Timestamp {
    bson::Timestamp {
        time: time.seconds,
        increment: time.increment,
    }
}

/// Returns the cached value, or asks MongoDB for it and caches it. Concurrent callers ask separately, so
/// that none waits for the failure of another before its own.
async fn cached_or_ask(
    cache: &OnceLock<bool>,
    ask: impl Future<Output = Result<bool, SourceError>>,
) -> Result<bool, SourceError> {
    match cache.get() {
        Some(cached) => Ok(*cached),
        None => {
            let answer = ask.await?;
            Ok(*cache.get_or_init(|| answer))
        }
    }
}

fn version_numbers(build: &Document) -> Vec<i64> {
    let array = build.get_array("versionArray").map(Vec::as_slice);
    array
        .unwrap_or_default()
        .iter()
        .filter_map(|number| number.as_i32().map(i64::from).or_else(|| number.as_i64()))
        .collect()
}

/// Returns whether a version has the stage: it came with 7.0 and was backported to 6.0.9; the rapid
/// releases 6.1 to 6.3 lack it.
fn has_split_stage(version: &[i64]) -> bool {
    match version {
        [6, 0, patch, ..] => *patch >= 9,
        [major, ..] => *major >= 7,
        [] => false,
    }
}

fn pipeline(
    plan: &Plan,
    at: Option<&Position>,
    asked: StreamOptions,
) -> Result<Vec<Document>, SourceError> {
    let mut options = plan.change_stream.clone();
    asked.add_to(&mut options);
    match at {
        None => {}
        Some(Position::Event { token, .. } | Position::HighWater { token, .. }) => {
            options.insert("resumeAfter", token_document(token)?);
        }
        Some(Position::Invalidate { token, .. }) => {
            options.insert("startAfter", token_document(token)?);
        }
        Some(at @ (Position::EventDigest(_) | Position::Time(_))) => {
            options.insert("startAtOperationTime", timestamp(at.time()));
        }
    }
    let mut stages = vec![doc! { "$changeStream": options }];
    stages.extend(plan.stages.iter().cloned());
    if asked.split {
        stages.push(doc! { "$changeStreamSplitLargeEvent": {} });
    }
    Ok(stages)
}

/// Converts a resume token to the document that is sent. It must be a flat document, as MongoDB's tokens
/// are: one nested as deeply as 16 KiB allow would overflow the stack.
pub(crate) fn token_document(token: &[u8]) -> Result<Document, SourceError> {
    let refused = || {
        SourceError::new(
            Failure::TokenInvalid,
            "the resume token is not a flat document",
        )
    };
    let raw = RawDocument::from_bytes(token).map_err(|_| refused())?;
    let mut document = Document::new();
    for element in raw {
        let (name, value) = element.map_err(|_| refused())?;
        if matches!(
            value.element_type(),
            ElementType::EmbeddedDocument
                | ElementType::Array
                | ElementType::JavaScriptCodeWithScope
        ) {
            return Err(refused());
        }
        let value = Bson::try_from(value).map_err(|_| refused())?;
        document.insert(name.as_str(), value);
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_stage_is_used_where_the_server_has_it() {
        for (version, has) in [
            (vec![6, 0, 8, 0], false),
            (vec![6, 0, 9, 0], true),
            (vec![6, 3, 1, 0], false),
            (vec![7, 0, 0, 0], true),
            (vec![8, 2, 11, 0], true),
            (vec![5, 0, 30, 0], false),
            (vec![], false),
        ] {
            assert_eq!(has_split_stage(&version), has, "{version:?}");
        }
    }
}
