//! Questions about a deployment: its times, its version and its kind.

use std::sync::OnceLock;

use bson::{Document, RawDocumentBuf, doc};

use crate::source::{ClusterTime, ServerFacts, SourceError};

use super::{
    connected::Connected,
    values::{Kind, operation_time, time_of},
};

impl Connected {
    /// Returns whether the server has `$changeStreamSplitLargeEvent` (6.0.9, 7.0). Asks until it is known.
    pub(super) async fn can_split(&self) -> Result<bool, SourceError> {
        let ask = async {
            let build = self.command(doc! { "buildInfo": 1 }).await?;
            Ok(has_split_stage(&version_numbers(&build)))
        };
        cached_or_ask(&self.can_split, ask).await
    }

    /// Returns MongoDB's operation time.
    pub(super) async fn operation_time(&self) -> Result<Option<ClusterTime>, SourceError> {
        let pong = self.command(doc! { "ping": 1 }).await?;
        Ok(operation_time(&pong))
    }

    /// Returns whether MongoDB is a mongos. Asks until it is known.
    pub(super) async fn is_sharded(&self) -> Result<bool, SourceError> {
        Ok(self.kind().await?.is_sharded)
    }

    /// Returns whether MongoDB has sessions. Asks until it is known.
    pub(super) async fn has_sessions(&self) -> Result<bool, SourceError> {
        Ok(self.kind().await?.has_sessions)
    }

    async fn kind(&self) -> Result<Kind, SourceError> {
        let ask = async {
            let hello = self.command(doc! { "hello": 1 }).await?;
            Ok(Kind::of(&hello))
        };
        cached_or_ask(&self.kind, ask).await
    }

    /// Returns the time of the oldest entry of the oplog, if it can be read.
    pub(super) async fn oldest_oplog_time(&self) -> Result<Option<ClusterTime>, SourceError> {
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

    /// Returns the facts about the deployment.
    pub(super) async fn server_facts(&self) -> Result<ServerFacts, SourceError> {
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

/// Returns the cached value, or asks MongoDB for it and caches it. Concurrent callers ask separately, so
/// that none waits for the failure of another before its own.
async fn cached_or_ask<T: Copy>(
    cache: &OnceLock<T>,
    ask: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
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
