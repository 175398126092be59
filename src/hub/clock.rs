//! MongoDB's current time.

use std::sync::Arc;

use crate::{
    hub::single_flight::SingleFlight,
    source::{ClusterTime, Source, SourceError},
};

/// Asks MongoDB for its current time, with one call for all who ask at once.
pub(super) struct Clock {
    source: Arc<dyn Source>,
    calls: SingleFlight<Option<ClusterTime>>,
}

impl Clock {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            calls: SingleFlight::new(),
        }
    }

    /// Returns a time that MongoDB reached after this call began; writes after the answer have a later
    /// time. `None` where MongoDB does not report its time.
    pub(super) async fn now(&self) -> Result<Option<ClusterTime>, SourceError> {
        let source = Arc::clone(&self.source);
        let ask = || async move { source.current_time().await };
        self.calls.run(ask).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::source::scripted::{ScriptedSource, at};

    #[tokio::test]
    async fn concurrent_callers_share_one_answer_and_later_callers_get_a_new_one() {
        let source = ScriptedSource::new([]);
        let clock = Arc::new(Clock::new(Arc::<ScriptedSource>::clone(&source)));
        let ask = || {
            let clock = Arc::clone(&clock);
            async move { clock.now().await.expect("the script answers") }
        };
        let answers = futures::future::join_all((0..100).map(|_| ask())).await;
        let calls = source.time_requests();
        assert!((1..=2).contains(&calls), "{calls} calls");
        assert!(answers.iter().all(|it| *it >= Some(at(1))));
        let later = ask().await;
        assert_eq!(later, Some(at(calls + 1)), "the time is a new one");
    }

    /// Each would leave a command behind.
    #[tokio::test(start_paused = true)]
    async fn callers_that_go_away_one_after_the_other_leave_one_call() {
        let source = Arc::new(ScriptedSource {
            time_delay: Duration::from_secs(10),
            ..ScriptedSource::of([])
        });
        let clock = Clock::new(Arc::<ScriptedSource>::clone(&source));
        for _ in 0..20 {
            let caller = tokio::time::timeout(Duration::from_millis(1), clock.now());
            assert!(caller.await.is_err());
        }
        assert_eq!(source.time_requests(), 1);
        assert!(clock.now().await.is_ok());
        assert_eq!(source.time_requests(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_one_failure() {
        let source = Arc::new(ScriptedSource {
            time_delay: Duration::from_secs(10),
            time_fails: true,
            ..ScriptedSource::of([])
        });
        let clock = Arc::new(Clock::new(Arc::<ScriptedSource>::clone(&source)));
        let started = Instant::now();
        let answers = futures::future::join_all((0..20).map(|_| clock.now())).await;
        assert!(answers.iter().all(Result::is_err));
        assert!(
            started.elapsed() <= Duration::from_secs(20),
            "the last heard after {:?}",
            started.elapsed()
        );
    }
}
