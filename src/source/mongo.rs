//! MongoDB behind the [`Source`] trait: the only module that names the driver's client.
//!
//! Batches are read raw (`aggregate(..).batch()`): events are never decoded, and each reply brings
//! its post-batch resume token. The price is that resuming is ours, which the hub does anyway. The
//! driver's own change stream resumes without pause or end and hides the token of an empty batch.

mod cursor;
mod reply_timeout;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc, spec::ElementType};
use futures::future::BoxFuture;
use mongodb::{
    Client,
    options::{ClientOptions, ReadConcern},
};
use tokio::time::timeout;

use crate::{
    plan::{Plan, Scope},
    source::{
        BatchSize, ClusterTime, Cursor, Position, ReplyReader, ServerFacts, Source, SourceError,
        failure::Failure,
    },
};

use cursor::MongoCursor;
use reply_timeout::ReplyTimeout;

/// How long MongoDB holds a `getMore` open on a quiet stream. One round trip a second and stream
/// is what idle costs; also how often a quiet stream's place moves.
const MAX_AWAIT: Duration = Duration::from_secs(1);

/// How many events MongoDB may put into one reply. It never waits for more than there are. Without
/// a number mongod fills 16 MiB, while others send a hundred, and then a round trip weighs as much
/// as the events it brings.
const BATCH_EVENTS: u32 = 1_000;

/// What the source needs to know to connect.
#[derive(Debug, Clone)]
pub struct MongoSettings {
    /// A MongoDB connection string.
    pub uri: String,
    /// How many connections the pool must at least be able to hold.
    pub min_pool_capacity: u32,
    /// How long to look for a usable server before an operation fails; the URI's own
    /// `serverSelectionTimeoutMS` wins.
    pub server_selection_timeout: Duration,
    /// How long a reply may be overdue before MongoDB is asked, on another connection, whether it
    /// is there at all; it has half of this to answer that. Above a second, as MongoDB holds a
    /// quiet stream's `getMore` that long.
    pub reply_timeout: Duration,
}

/// Opens change streams on a MongoDB deployment.
#[derive(Debug, Clone)]
pub struct MongoSource {
    client: Client,
    reply_timeout: Duration,
    can_split: Arc<OnceLock<bool>>,
    sharded: Arc<OnceLock<bool>>,
}

impl MongoSource {
    /// Reads the settings and prepares a client. Connects to nothing yet, except that a
    /// `mongodb+srv` URI is looked up in the DNS.
    ///
    /// # Errors
    /// When the URI can't be read; the message is the driver's and holds no password.
    pub async fn new(settings: &MongoSettings) -> Result<Self, SourceError> {
        let mut options = ClientOptions::parse(&settings.uri).await?;
        options.app_name.get_or_insert_with(|| "weir".to_owned());
        options
            .server_selection_timeout
            .get_or_insert(settings.server_selection_timeout);
        let pool = options.max_pool_size.unwrap_or(0);
        options.max_pool_size = Some(pool.max(settings.min_pool_capacity));
        tracing::info!(
            max_pool_size = options.max_pool_size,
            "mongodb connection pool sized"
        );
        Ok(Self {
            client: Client::with_options(options)?,
            reply_timeout: settings.reply_timeout,
            can_split: Arc::default(),
            sharded: Arc::default(),
        })
    }

    /// Closes every connection and waits for the cursors to be killed.
    pub async fn close(self) {
        self.client.shutdown().await;
    }

    async fn command(&self, command: Document) -> Result<Document, SourceError> {
        let admin = self.client.database("admin");
        self.with_timeout(admin.run_command(command)).await
    }

    /// Waits for the answer to a question that MongoDB answers at once.
    async fn with_timeout<T>(
        &self,
        answer: impl IntoFuture<Output = Result<T, mongodb::error::Error>>,
    ) -> Result<T, SourceError> {
        match timeout(self.reply_timeout, answer.into_future()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(SourceError::new(Failure::Transient, "no reply in time")),
        }
    }

    /// Whether the server has `$changeStreamSplitLargeEvent` (6.0.9, 7.0). Asked until it is known.
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
        let pipeline = pipeline(plan, at, self.can_split().await?)?;
        // A stream from now begins at some time between the question and the answer, and the answer's own
        // time may be later than changes that are still to come.
        let reached = match at {
            Some(at) => Some(at.time()),
            None => self.operation_time().await?,
        };
        let (database, collection) = stream_target(&plan.scope);
        let database = self.client.database(database);
        let collection = collection.map(|name| database.collection::<RawDocumentBuf>(name));
        let reply_timeout = ReplyTimeout::new(self.client.clone(), self.reply_timeout);
        let events = match batch_size {
            BatchSize::Default => BATCH_EVENTS,
            BatchSize::One => 1,
        };
        let from = at.map(Position::time);
        // In a task of its own: an aggregate that is abandoned half-way, when the client cancels,
        // would leave its cursor on the server.
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
            .map_err(|error| SourceError::unexpected(format!("the opening: {error}")))?
            .map_err(|error| error.when_opening_at(at))?;
        Ok(MongoCursor::new(
            cursor,
            reply_timeout,
            ReplyReader::new(at, reached),
        ))
    }

    async fn operation_time(&self) -> Result<Option<ClusterTime>, SourceError> {
        let pong = self.command(doc! { "ping": 1 }).await?;
        Ok(operation_time(&pong))
    }

    /// Opens the stream at a place, with what MongoDB has confirmed up to a time at least, and looks
    /// whether there is anything. On one replica set an empty first batch has then seen all of it, as
    /// long as no stage passes over events; behind a mongos it may come before every shard has
    /// answered.
    async fn finds_no_events(
        &self,
        plan: &Plan,
        at: &Position,
        until: ClusterTime,
    ) -> Result<bool, SourceError> {
        if self.is_sharded().await? {
            return Ok(false);
        }
        let pipeline = pipeline(plan, Some(at), self.can_split().await?)?;
        let (database, collection) = stream_target(&plan.scope);
        let collection = collection.map_or(Bson::Int32(1), Bson::from);
        let database = self.client.database(database);
        let question = doc! {
            "aggregate": collection,
            "pipeline": pipeline,
            "cursor": { "batchSize": 1 },
            "readConcern": { "level": "majority", "afterClusterTime": timestamp(until) },
        };
        let answer = self.with_timeout(database.run_command(question)).await?;
        let broken = |_| SourceError::unexpected("an answer without a cursor");
        let cursor = answer.get_document("cursor").map_err(broken)?;
        let first = cursor.get_array("firstBatch").map_err(broken)?;
        let id = cursor.get_i64("id").unwrap_or_default();
        let mut empty = first.is_empty();
        if id != 0 {
            let namespace = cursor.get_str("ns").unwrap_or_default();
            let collection = namespace.split_once('.').map_or("", |(_, name)| name);
            if empty {
                // A server may leave the first batch empty on principle.
                let more = doc! {
                    "getMore": id, "collection": collection, "batchSize": 1, "maxTimeMS": 1,
                };
                let answer = self.with_timeout(database.run_command(more)).await?;
                let cursor = answer.get_document("cursor").map_err(broken)?;
                empty = cursor.get_array("nextBatch").map_err(broken)?.is_empty();
            }
            let kill = doc! { "killCursors": collection, "cursors": [id] };
            self.with_timeout(database.run_command(kill)).await?;
        }
        Ok(empty)
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
        let oldest = oplog
            .find_one(doc! {})
            .sort(doc! { "$natural": 1 })
            .projection(doc! { "ts": 1 });
        match self.with_timeout(oldest).await {
            Ok(entry) => Ok(entry.and_then(|entry| entry.get_timestamp("ts").ok().map(time_of))),
            // No right to read it, or no oplog here, as behind a mongos.
            Err(error) if error.failure != Failure::Transient => Ok(None),
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

impl Source for MongoSource {
    fn open<'a>(
        &'a self,
        plan: &'a Plan,
        at: Option<&'a Position>,
        batch_size: BatchSize,
    ) -> BoxFuture<'a, Result<Box<dyn Cursor>, SourceError>> {
        Box::pin(async move {
            let cursor = self.open_cursor(plan, at, batch_size).await?;
            Ok(Box::new(cursor) as Box<dyn Cursor>)
        })
    }

    fn oldest_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        Box::pin(self.oldest_oplog_time())
    }

    fn current_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        Box::pin(self.operation_time())
    }

    fn has_no_events<'a>(
        &'a self,
        plan: &'a Plan,
        at: &'a Position,
        until: ClusterTime,
    ) -> BoxFuture<'a, Result<bool, SourceError>> {
        Box::pin(async move {
            let (source, plan, at) = (self.clone(), plan.clone(), at.clone());
            // In a task of its own: abandoned half-way, it would leave its cursor on the server.
            let asking =
                tokio::spawn(async move { source.finds_no_events(&plan, &at, until).await });
            asking
                .await
                .map_err(|error| SourceError::unexpected(format!("the question: {error}")))?
        })
    }

    fn facts(&self) -> BoxFuture<'_, Result<ServerFacts, SourceError>> {
        Box::pin(self.server_facts())
    }
}

/// The database and the collection that a scope's stream is opened on.
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

fn timestamp(time: ClusterTime) -> Bson {
    Bson::Timestamp(bson::Timestamp {
        time: time.seconds,
        increment: time.increment,
    })
}

/// What is known already, or what MongoDB answers. Each asks for itself until then, as none should wait for
/// another's failure before its own.
async fn cached_or_ask(
    known: &OnceLock<bool>,
    ask: impl Future<Output = Result<bool, SourceError>>,
) -> Result<bool, SourceError> {
    match known.get() {
        Some(known) => Ok(*known),
        None => {
            let answer = ask.await?;
            Ok(*known.get_or_init(|| answer))
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

/// The stage came with 7.0 and was brought back to 6.0.9; the rapid releases 6.1 to 6.3 lack it.
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
    can_split: bool,
) -> Result<Vec<Document>, SourceError> {
    let mut options = plan.change_stream.clone();
    match at {
        None => {}
        Some(Position::Event { token, .. } | Position::HighWater { token, .. }) => {
            options.insert("resumeAfter", token_document(token)?);
        }
        Some(Position::Invalidate { token, .. }) => {
            options.insert("startAfter", token_document(token)?);
        }
        Some(Position::Time(time)) => {
            options.insert("startAtOperationTime", timestamp(*time));
        }
    }
    let mut stages = vec![doc! { "$changeStream": options }];
    stages.extend(plan.stages.iter().cloned());
    if can_split {
        stages.push(doc! { "$changeStreamSplitLargeEvent": {} });
    }
    Ok(stages)
}

/// MongoDB's token as it is to be sent. All that is asked of it is that it is a flat document, as
/// MongoDB makes them: one that nests as deeply as 16 KiB allow would take more stack than there is.
fn token_document(token: &[u8]) -> Result<Document, SourceError> {
    let refused = || SourceError::new(Failure::TokenInvalid, "the token is not a flat document");
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
