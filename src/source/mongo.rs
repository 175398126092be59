//! MongoDB behind the [`Source`] trait: the only module that names the driver's client.
//!
//! Batches are read raw (`aggregate(..).batch()`): events are never decoded, and each reply brings
//! its post-batch resume token. The price is that resuming is ours, which the hub does anyway. The
//! driver's own change stream resumes without pause or end and hides the token of an empty batch.

use std::{pin::pin, time::Duration};

use bson::{Bson, Document, RawDocumentBuf, doc};
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use mongodb::{
    Client,
    options::{ClientOptions, ReadConcern},
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use crate::{
    plan::{Operation, Plan, Scope},
    raw::{self, Elements},
    source::{
        Batch, ClusterTime, Cursor, Event, Position, ServerFacts, Source, SourceError,
        event::{EventError, range_in},
        failure::Failure,
        split::Merger,
    },
};

/// How long MongoDB holds a `getMore` open on a quiet stream. One round trip a second and stream
/// is what idle costs; also how often a quiet stream's place moves.
const MAX_AWAIT: Duration = Duration::from_secs(1);

/// How long a reply may be overdue while MongoDB answers otherwise: it may be scanning a long
/// stretch of the oplog that holds nothing for this stream. After that the connection is given up.
const STALLED: Duration = Duration::from_secs(600);

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
    can_split: std::sync::Arc<OnceCell<bool>>,
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
            can_split: std::sync::Arc::default(),
        })
    }

    /// Closes every connection and waits for the cursors to be killed.
    pub async fn close(self) {
        self.client.shutdown().await;
    }

    async fn command(&self, command: Document) -> Result<Document, SourceError> {
        let admin = self.client.database("admin");
        self.promptly(admin.run_command(command)).await
    }

    /// Waits for the answer to a question that MongoDB answers at once.
    async fn promptly<T>(
        &self,
        answer: impl IntoFuture<Output = Result<T, mongodb::error::Error>>,
    ) -> Result<T, SourceError> {
        match timeout(self.reply_timeout, answer.into_future()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(SourceError::new(Failure::Transient, "no reply in time")),
        }
    }

    /// Whether the server has `$changeStreamSplitLargeEvent` (6.0.9, 7.0). Asked once.
    async fn can_split(&self) -> Result<bool, SourceError> {
        self.can_split
            .get_or_try_init(|| async {
                let build = self.command(doc! { "buildInfo": 1 }).await?;
                Ok(has_split_stage(&version_numbers(&build)))
            })
            .await
            .copied()
    }

    async fn open_cursor(
        &self,
        plan: &Plan,
        at: Option<&Position>,
    ) -> Result<MongoCursor, SourceError> {
        let pipeline = pipeline(plan, at, self.can_split().await?)?;
        let (database, collection) = match &plan.scope {
            Scope::Collection {
                database,
                collection,
            } => (database.as_str(), Some(collection)),
            Scope::Collections { database, .. } | Scope::Database { database } => {
                (database.as_str(), None)
            }
            Scope::Deployment => ("admin", None),
        };
        let database = self.client.database(database);
        let collection = collection.map(|name| database.collection::<RawDocumentBuf>(name));
        let patience = Patience::of(self);
        // In a task of its own: an aggregate that is abandoned half-way, when the client cancels,
        // would leave its cursor on the server.
        let opening = tokio::spawn(async move {
            let aggregate = match &collection {
                Some(collection) => collection.aggregate(pipeline),
                None => database.aggregate(pipeline),
            };
            let opening = aggregate
                .max_await_time(MAX_AWAIT)
                .read_concern(ReadConcern::majority())
                .batch();
            let cursor = patience.bear(opening.into_future()).await??;
            Ok::<_, SourceError>((cursor, patience))
        });
        let (cursor, patience) = opening
            .await
            .map_err(|error| SourceError::broken(format!("the opening: {error}")))??;
        Ok(MongoCursor {
            cursor,
            patience,
            reached: at.map(Position::time),
            heard: None,
            merger: Merger::default(),
            ready: Vec::new(),
        })
    }

    async fn oldest_entry(&self) -> Result<Option<ClusterTime>, SourceError> {
        let oplog = self
            .client
            .database("local")
            .collection::<RawDocumentBuf>("oplog.rs");
        let oldest = oplog
            .find_one(doc! {})
            .sort(doc! { "$natural": 1 })
            .projection(doc! { "ts": 1 });
        match self.promptly(oldest).await {
            Ok(entry) => Ok(entry.and_then(|entry| {
                let ts = entry.get_timestamp("ts").ok()?;
                Some(ClusterTime {
                    seconds: ts.time,
                    increment: ts.increment,
                })
            })),
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
            now: hello
                .get_timestamp("operationTime")
                .ok()
                .map(|ts| ClusterTime {
                    seconds: ts.time,
                    increment: ts.increment,
                }),
        })
    }
}

impl Source for MongoSource {
    fn open<'a>(
        &'a self,
        plan: &'a Plan,
        at: Option<&'a Position>,
    ) -> BoxFuture<'a, Result<Box<dyn Cursor>, SourceError>> {
        Box::pin(async move {
            let cursor = self.open_cursor(plan, at).await?;
            Ok(Box::new(cursor) as Box<dyn Cursor>)
        })
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        Box::pin(self.oldest_entry())
    }

    fn facts(&self) -> BoxFuture<'_, Result<ServerFacts, SourceError>> {
        Box::pin(self.server_facts())
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
            options.insert(
                "startAtOperationTime",
                Bson::Timestamp(bson::Timestamp {
                    time: time.seconds,
                    increment: time.increment,
                }),
            );
        }
    }
    let mut stages = vec![doc! { "$changeStream": options }];
    stages.extend(plan.stages.iter().cloned());
    if can_split {
        stages.push(doc! { "$changeStreamSplitLargeEvent": {} });
    }
    Ok(stages)
}

fn token_document(token: &[u8]) -> Result<Document, SourceError> {
    Document::from_reader(token)
        .map_err(|_| SourceError::new(Failure::TokenInvalid, "the token is not a BSON document"))
}

/// An open change stream on MongoDB.
struct MongoCursor {
    cursor: RawBatchCursor,
    patience: Patience,
    /// A time that the place of this stream has surely reached.
    reached: Option<ClusterTime>,
    /// The operation time of the reply before.
    heard: Option<ClusterTime>,
    merger: Merger,
    /// Batches of the last reply that are still to be handed out, in reverse order. Only a reply
    /// with fragments makes more than one.
    ready: Vec<Batch>,
}

impl Cursor for MongoCursor {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, SourceError>> {
        Box::pin(async move {
            loop {
                if let Some(batch) = self.ready.pop() {
                    return Ok(batch);
                }
                let reply = self.reply().await?;
                let batch = self.read(reply)?;
                self.ready = self.merger.take(batch)?;
                self.ready.reverse();
            }
        })
    }
}

impl MongoCursor {
    async fn reply(&mut self) -> Result<RawBatch, SourceError> {
        match self.patience.bear(self.cursor.next()).await? {
            Some(reply) => Ok(reply?),
            None => Err(SourceError::new(
                Failure::Transient,
                "the cursor is used up",
            )),
        }
    }

    fn read(&mut self, reply: RawBatch) -> Result<Batch, SourceError> {
        let buffer = Bytes::from_owner(Reply(reply));
        let parts = ReplyParts::find(&buffer)?;
        let mut events = Vec::new();
        for element in Elements::new(parts.batch).map_err(EventError::from)? {
            let document = element
                .and_then(|it| it.as_document().ok_or(raw::Error::Value))
                .map_err(EventError::from)?;
            events.push(Event::parse(&buffer, range_in(&buffer, document))?);
        }
        // A whole second's worth of trust: an empty reply has seen everything that was committed
        // when the one before it was made.
        let reached = match events.last() {
            Some(event) => Some(event.cluster_time),
            None => self.heard.or(match self.reached {
                None => parts.operation_time,
                Some(_) => None,
            }),
        };
        self.reached = self.reached.max(reached);
        self.heard = parts.operation_time;
        let time = self.reached.unwrap_or_default();
        let position = match (events.last(), parts.post_batch_token) {
            (Some(event), Some(token)) if buffer[event.token.clone()] != *token => {
                // An invalidate closes the stream: the only way on is right after it.
                if event.operation == Operation::Invalidate {
                    Some(event.position(&buffer))
                } else {
                    let token = buffer.slice_ref(token);
                    Some(Position::HighWater { token, time })
                }
            }
            (Some(event), _) => Some(event.position(&buffer)),
            (None, Some(token)) => {
                let token = buffer.slice_ref(token);
                Some(Position::HighWater { token, time })
            }
            (None, None) => None,
        };
        Ok(Batch {
            events,
            position,
            operation_time: parts.operation_time,
            closed: parts.cursor_id == Some(0),
            buffer,
        })
    }
}

/// Waits for MongoDB's answers, for as long as they can be waited for.
///
/// The driver sets no limit on a reply, so a connection that died without a word would hold the
/// stream for ever. A long scan of the oplog looks the same from here; asking on another connection
/// tells them apart.
struct Patience {
    client: Client,
    reply_timeout: Duration,
}

impl Patience {
    fn of(source: &MongoSource) -> Self {
        Self {
            client: source.client.clone(),
            reply_timeout: source.reply_timeout,
        }
    }

    async fn bear<T>(&self, answer: impl Future<Output = T>) -> Result<T, SourceError> {
        let asked = Instant::now();
        let mut answer = pin!(answer);
        loop {
            match timeout(self.reply_timeout, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if asked.elapsed() > STALLED => {
                    return Err(SourceError::new(
                        Failure::Transient,
                        "no reply for 10 minutes",
                    ));
                }
                Err(_) => self.probe().await?,
            }
        }
    }

    /// Asks MongoDB, on another connection, whether it is there.
    async fn probe(&self) -> Result<(), SourceError> {
        let admin = self.client.database("admin");
        let answer = admin.run_command(doc! { "ping": 1 });
        match timeout(self.reply_timeout / 2, answer.into_future()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(SourceError::new(Failure::Transient, error.to_string())),
            Err(_) => Err(SourceError::new(
                Failure::Transient,
                "no reply, and none to a ping either",
            )),
        }
    }
}

/// Lets a reply's bytes be shared without a copy.
struct Reply(RawBatch);

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.0.as_raw_document().as_bytes()
    }
}

/// What a reply to `aggregate` or `getMore` holds.
struct ReplyParts<'a> {
    batch: &'a [u8],
    cursor_id: Option<i64>,
    post_batch_token: Option<&'a [u8]>,
    operation_time: Option<ClusterTime>,
}

impl<'a> ReplyParts<'a> {
    fn find(reply: &'a [u8]) -> Result<Self, EventError> {
        let mut cursor = None;
        let mut operation_time = None;
        for field in Elements::new(reply)? {
            let field = field?;
            match field.key {
                b"cursor" => cursor = field.as_document(),
                b"operationTime" => {
                    operation_time = field
                        .as_timestamp()
                        .map(|(seconds, increment)| ClusterTime { seconds, increment });
                }
                _ => {}
            }
        }
        let (mut batch, mut cursor_id, mut post_batch_token) = (None, None, None);
        for field in Elements::new(cursor.ok_or(EventError::Missing("cursor"))?)? {
            let field = field?;
            match field.key {
                // An array is a document whose keys are numbers.
                b"firstBatch" | b"nextBatch" => batch = Some(field.value),
                b"id" => cursor_id = field.as_int(),
                b"postBatchResumeToken" => post_batch_token = field.as_document(),
                _ => {}
            }
        }
        Ok(Self {
            batch: batch.ok_or(EventError::Missing("batch"))?,
            cursor_id,
            post_batch_token,
            operation_time,
        })
    }
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
