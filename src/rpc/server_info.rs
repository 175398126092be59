//! What MongoDB tells about itself, for many who ask.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::{ClusterTime, ServerFacts, Source, SourceError};

/// For how long an answer holds: long enough that a crowd of askers costs MongoDB next to nothing.
const HOLDS: Duration = Duration::from_secs(1);

/// What one look at MongoDB told.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) facts: ServerFacts,
    pub(super) oldest: Option<ClusterTime>,
}

/// Asks MongoDB at most once a second, a failure included.
#[derive(Debug, Default)]
pub(super) struct ServerInfo {
    last: tokio::sync::Mutex<Option<(Instant, Result<Told, SourceError>)>>,
}

impl ServerInfo {
    pub(super) async fn ask(&self, source: &dyn Source) -> Result<Told, SourceError> {
        let mut last = self.last.lock().await;
        if let Some((at, told)) = &*last
            && at.elapsed() < HOLDS
        {
            return told.clone();
        }
        let told = look(source).await;
        // Its age counts from the answer: those who wait here while MongoDB is away share one failure.
        *last = Some((Instant::now(), told.clone()));
        told
    }
}

async fn look(source: &dyn Source) -> Result<Told, SourceError> {
    let facts = source.facts().await?;
    let oldest = source.oldest_time().await?;
    Ok(Told { facts, oldest })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::scripted::ScriptedSource;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_askers_shares_an_answer_for_a_second_and_a_failure_too() {
        let source = Arc::new(ScriptedSource {
            failing_facts_requests: 1,
            ..ScriptedSource::of([])
        });
        let info = Arc::new(ServerInfo::default());
        let ask = || {
            let (info, source) = (Arc::clone(&info), Arc::clone(&source));
            async move { info.ask(&*source).await }
        };
        let first = futures::future::join_all((0..100).map(|_| ask())).await;
        assert!(first.iter().all(Result::is_err), "MongoDB is away at first");
        assert_eq!(source.facts_requests(), 1);
        tokio::time::advance(HOLDS).await;
        let then = futures::future::join_all((0..100).map(|_| ask())).await;
        assert!(then.iter().all(Result::is_ok));
        assert_eq!(source.facts_requests(), 2);
    }
}
