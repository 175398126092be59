//! MongoDB's status for `GetServerInfo`, cached for many callers.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::{ClusterTime, ServerFacts, Source, SourceError};

/// The time that an answer is cached: long enough that many callers cost MongoDB next to nothing.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// The status that one query of MongoDB returned.
#[derive(Debug, Clone)]
pub(super) struct UpstreamStatus {
    pub(super) facts: ServerFacts,
    pub(super) oldest: Option<ClusterTime>,
}

/// Queries MongoDB at most once a second; failures are cached too.
#[derive(Debug, Default)]
pub(super) struct ServerInfoCache {
    last: tokio::sync::Mutex<Option<(Instant, Result<UpstreamStatus, SourceError>)>>,
}

impl ServerInfoCache {
    pub(super) async fn get(&self, source: &dyn Source) -> Result<UpstreamStatus, SourceError> {
        let mut last = self.last.lock().await;
        if let Some((at, status)) = &*last
            && at.elapsed() < CACHE_TTL
        {
            return status.clone();
        }
        let status = fetch(source).await;
        // Stamped after the query, so that callers that waited for an unreachable MongoDB share one failure.
        *last = Some((Instant::now(), status.clone()));
        status
    }
}

async fn fetch(source: &dyn Source) -> Result<UpstreamStatus, SourceError> {
    let facts = source.facts().await?;
    let oldest = source.oldest_time().await?;
    Ok(UpstreamStatus { facts, oldest })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::scripted::ScriptedSource;

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_one_answer_or_failure_for_a_second() {
        let source = Arc::new(ScriptedSource {
            failing_facts_requests: 1,
            ..ScriptedSource::of([])
        });
        let info = Arc::new(ServerInfoCache::default());
        let get = || {
            let (info, source) = (Arc::clone(&info), Arc::clone(&source));
            async move { info.get(&*source).await }
        };
        let first = futures::future::join_all((0..100).map(|_| get())).await;
        assert!(
            first.iter().all(Result::is_err),
            "MongoDB does not answer at first"
        );
        assert_eq!(source.facts_requests(), 1);
        tokio::time::advance(CACHE_TTL).await;
        let then = futures::future::join_all((0..100).map(|_| get())).await;
        assert!(then.iter().all(Result::is_ok));
        assert_eq!(source.facts_requests(), 2);
    }
}
