//! The proof that a stream has no event between a position and a time.

use bson::{Bson, doc};
use tokio::time::Instant;

use crate::{
    pipeline::Plan,
    source::{ClusterTime, Position, SourceError},
};

use super::{
    connected::Connected,
    cursor::{HELD_BACK, MAX_AWAIT},
    opening::{pipeline, stream_target},
    options::StreamOptions,
    values::timestamp,
};

/// The maximum number of replies in the midst of a scan. The scan of a longer range is given up.
const MAX_MIDWAY_REPLIES: usize = 8;

impl Connected {
    /// Opens the stream at a position, reads at least up to the time `until`, and returns `true` when
    /// there is no event. On a replica set an empty reply proves that, as long as no stage filters events
    /// and the reply did not come in the midst of a scan. Behind a mongos it may come before every shard
    /// has replied, so the result is `false`.
    pub(super) async fn finds_no_events(
        &self,
        plan: &Plan,
        at: &Position,
        until: ClusterTime,
    ) -> Result<bool, SourceError> {
        if self.is_sharded().await? {
            return Ok(false);
        }
        let may_reply_midway = self.may_reply_midway().await?;
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
        let aggregate = doc! {
            "aggregate": collection,
            "pipeline": pipeline,
            "cursor": { "batchSize": 1 },
            "readConcern": { "level": "majority", "afterClusterTime": timestamp(until) },
        };
        let answer = self.run(&database, aggregate).await?;
        let no_cursor =
            |_| SourceError::unexpected("the reply to an aggregate has no usable cursor");
        let cursor = answer.get_document("cursor").map_err(no_cursor)?;
        let id = cursor.get_i64("id").unwrap_or_default();
        let namespace = cursor.get_str("ns").unwrap_or_default();
        let collection = namespace.split_once('.').map_or("", |(_, name)| name);
        let read = async {
            let mut empty = cursor
                .get_array("firstBatch")
                .map_err(no_cursor)?
                .is_empty();
            let wait = if may_reply_midway {
                i64::try_from(MAX_AWAIT.as_millis()).unwrap_or(i64::MAX)
            } else {
                1
            };
            // Some servers always leave the first batch empty.
            let mut proven = id == 0;
            for _ in 0..MAX_MIDWAY_REPLIES {
                if proven || !empty {
                    break;
                }
                let asked = Instant::now();
                let get_more = doc! {
                    "getMore": id, "collection": collection, "batchSize": 1, "maxTimeMS": wait,
                };
                let answer = self.run_once(&database, get_more).await?;
                let cursor = answer.get_document("cursor").map_err(no_cursor)?;
                empty = cursor.get_array("nextBatch").map_err(no_cursor)?.is_empty();
                proven = !may_reply_midway || asked.elapsed() >= HELD_BACK;
            }
            Ok(empty && proven)
        };
        let found = read.await;
        if id != 0 {
            // After a failure too. Its own failure takes nothing from what was read.
            let kill = doc! { "killCursors": collection, "cursors": [id] };
            if let Err(error) = self.run_once(&database, kill).await {
                tracing::debug!(code = error.code, %error, "could not close a cursor of mongodb");
            }
        }
        found
    }
}
