//! A look for what follows a position, up to a time.

use std::time::Duration;

use bson::{Bson, Document, doc};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    pipeline::Plan,
    source::{ClusterTime, Position, SourceError, token_time::token_time},
};

use super::{
    aggregate::{pipeline, stream_target},
    connected::Connected,
    options::StreamOptions,
    values::{time_of, timestamp},
};

/// The maximum number of replies that are read. The scan of a longer range is given up.
const MAX_REPLIES: usize = 8;

/// The time for which a server with opaque tokens is asked to hold back an empty reply, in milliseconds.
const HOLD_MS: i32 = 200;

/// A reply that took as long was held back.
const HELD: Duration = Duration::from_millis(180);

/// The number of replies in a row with one token after which a server has nothing left. It may reply in the midst of a
/// scan, but reads at least one entry for each reply.
const REPEATS: usize = 3;

/// What follows a position in a stream that leaves nothing out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Following {
    /// No event up to the time that was asked for.
    Nothing,
    /// An event at this time, and none before it.
    Event(ClusterTime),
    /// It can't be determined.
    Unknown,
}

impl Following {
    /// Returns a time up to which there is no event, where `until` was asked for.
    pub(super) fn reached(self, until: ClusterTime) -> Option<ClusterTime> {
        match self {
            Self::Nothing => Some(until),
            Self::Event(time) => Some(time.predecessor()),
            Self::Unknown => None,
        }
    }
}

/// The replies of one look.
#[derive(Debug)]
struct Replies {
    /// The token, or the time, with which the stream was opened.
    opened_with: (Option<Document>, Option<ClusterTime>),
    until: ClusterTime,
    token: Option<Document>,
    /// The last token tells no time.
    is_opaque: bool,
    /// The number of replies in a row that had the same token as the one before.
    repeats: usize,
}

impl Replies {
    /// Returns the time for which MongoDB is to hold back the next reply, if it has no event for it.
    fn hold_ms(&self) -> i32 {
        if self.is_opaque { HOLD_MS } else { 1 }
    }

    /// Returns what a reply shows, if it shows anything, which took as long as this.
    fn add(&mut self, cursor: &Document, batch: &str, took: Duration) -> Option<Following> {
        let events = cursor.get_array(batch).map_or(&[][..], Vec::as_slice);
        if let Some(event) = events.first() {
            let time = event
                .as_document()
                .map(|it| it.get_timestamp("clusterTime"));
            return Some(match time {
                Some(Ok(time)) => Following::Event(time_of(time)),
                _ => Following::Unknown,
            });
        }
        if matches!(cursor.get_i64("id"), Ok(0)) {
            return Some(Following::Nothing);
        }
        let token = cursor.get_document("postBatchResumeToken").ok().cloned();
        let told = token.as_ref().and_then(|it| token_time(&it.to_vec().ok()?));
        self.repeats = if self.token.is_some() && token == self.token {
            self.repeats + 1
        } else {
            0
        };
        let is_first = batch == "firstBatch";
        let (opened_with, opened_at) = &self.opened_with;
        let has_moved = token != *opened_with && told > *opened_at;
        self.token = token;
        self.is_opaque = told.is_none();
        let is_proof = match told {
            Some(told) if told > self.until || told == self.until && has_moved => true,
            // Some servers always leave it empty.
            _ if is_first => false,
            Some(_) => self.repeats >= REPEATS,
            // As said by a server that waited for an event, and not by one that was interrupted.
            None => self.repeats > 0 && took >= HELD,
        };
        is_proof.then_some(Following::Nothing)
    }
}

/// A look that runs in a task. Once it is dropped, the task does no more than close what it has opened.
#[derive(Debug)]
pub(super) struct Look {
    answer: JoinHandle<Result<Following, SourceError>>,
    _stop: DropGuard,
}

impl Look {
    /// Waits for the answer. Cancel safe.
    ///
    /// # Errors
    /// As of any call.
    pub(super) async fn answer(&mut self) -> Result<Following, SourceError> {
        let answer = (&mut self.answer).await;
        answer.map_err(|error| {
            SourceError::unexpected(format!("the task that looks for events failed: {error}"))
        })?
    }
}

impl Connected {
    /// Begins to look in `plan`'s stream, which must leave nothing out, for what follows a position up to the time
    /// `until`. In its own task: dropped midway, it would leave its cursor open on the server.
    pub(super) fn begin_look(&self, plan: Plan, at: Position, until: ClusterTime) -> Look {
        let (source, stop) = (self.clone(), CancellationToken::new());
        let guard = stop.clone().drop_guard();
        let look = async move {
            let permitted = stop.run_until_cancelled(source.for_look()).await;
            let Some((source, _permit)) = permitted.transpose()? else {
                return Ok(Following::Unknown);
            };
            let look = || source.look(&plan, &at, until, &stop);
            source.retried(look).await
        };
        Look {
            answer: tokio::spawn(look),
            _stop: guard,
        }
    }

    /// Opens the stream at a position and reads at least up to the time `until`, or until it is to stop. Behind a mongos
    /// an empty reply may come before every shard has replied, so nothing is asked there.
    async fn look(
        &self,
        plan: &Plan,
        at: &Position,
        until: ClusterTime,
        stop: &CancellationToken,
    ) -> Result<Following, SourceError> {
        if self.is_sharded().await? {
            return Ok(Following::Unknown);
        }
        // Documents that are looked up do not matter here.
        let options = StreamOptions {
            match_collection_uuid: false,
            ..self.options.of(plan, self.can_split().await?)
        };
        let pipeline = pipeline(plan, Some(at), options)?;
        self.check_connection().await?;
        let (database, collection) = stream_target(plan.scope());
        let collection = collection.map_or(Bson::Int32(1), Bson::from);
        let database = self.client.database(database);
        // MongoDB refuses a `getMore` in another session than that of the `aggregate` (50738), and the driver takes any
        // session for a command that names none.
        let session = self.start_session().await?;
        let aggregate = doc! {
            "aggregate": collection,
            "pipeline": pipeline,
            "cursor": { "batchSize": 1 },
            "readConcern": { "level": "majority", "afterClusterTime": timestamp(until) },
        };
        if stop.is_cancelled() {
            return Ok(Following::Unknown);
        }
        let answer = self.run(&database, aggregate, &session).await?;
        let no_cursor =
            |_| SourceError::unexpected("the reply to an aggregate has no usable cursor");
        let cursor = answer.get_document("cursor").map_err(no_cursor)?;
        let id = cursor.get_i64("id").unwrap_or_default();
        let namespace = cursor.get_str("ns").unwrap_or_default();
        let collection = namespace.split_once('.').map_or("", |(_, name)| name);
        let read = async {
            let mut replies = Replies {
                opened_with: match at.token() {
                    Some(token) => (Document::from_reader(&token[..]).ok(), None),
                    None => (None, Some(at.time())),
                },
                until,
                token: None,
                is_opaque: false,
                repeats: 0,
            };
            let mut found = replies.add(cursor, "firstBatch", Duration::ZERO);
            for _ in 0..MAX_REPLIES {
                if found.is_some() || stop.is_cancelled() {
                    break;
                }
                let get_more = doc! {
                    "getMore": id, "collection": collection, "batchSize": 1, "maxTimeMS": replies.hold_ms(),
                };
                let begin = Instant::now();
                let answer = self.run_once(&database, get_more, &session).await?;
                let cursor = answer.get_document("cursor").map_err(no_cursor)?;
                found = replies.add(cursor, "nextBatch", begin.elapsed());
            }
            Ok(found.unwrap_or(Following::Unknown))
        };
        let found = read.await;
        if id != 0 {
            // After a failure too. Its own failure takes nothing from what was read. The driver sends it in no session.
            let kill = doc! { "killCursors": collection, "cursors": [id] };
            if let Err(error) = self.run_once(&database, kill, &None).await {
                tracing::debug!(code = error.code, %error, "could not close a cursor of mongodb");
            }
        }
        found
    }
}
