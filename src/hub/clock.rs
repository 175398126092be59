//! MongoDB's time now, asked for by many at once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::source::{ClusterTime, Source, SourceError};

/// Answers everybody who asked before a question was sent with the one answer to it, so that many who
/// come together cost MongoDB little.
pub(super) struct Clock {
    source: Arc<dyn Source>,
    asked: AtomicU64,
    /// The last answer, and the last asker that it holds for.
    told: tokio::sync::Mutex<(u64, Option<ClusterTime>)>,
}

impl Clock {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            asked: AtomicU64::new(0),
            told: tokio::sync::Mutex::default(),
        }
    }

    /// A time that MongoDB reached after this was called, and that nothing written after the answer
    /// has. `None` where MongoDB does not tell.
    pub(super) async fn now(&self) -> Result<Option<ClusterTime>, SourceError> {
        let ticket = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().await;
        if told.0 < ticket {
            let up_to = self.asked.load(Ordering::Relaxed);
            let now = self.source.now().await?;
            *told = (up_to, now);
        }
        Ok(told.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::script::{ScriptedSource, at};

    #[tokio::test]
    async fn those_who_ask_together_share_an_answer_and_those_who_come_later_do_not() {
        let source = ScriptedSource::new([]);
        let clock = Arc::new(Clock::new(Arc::<ScriptedSource>::clone(&source)));
        let ask = || {
            let clock = Arc::clone(&clock);
            async move { clock.now().await.expect("the script answers") }
        };
        let answers = futures::future::join_all((0..100).map(|_| ask())).await;
        let questions = source.time_asked();
        assert!((1..=2).contains(&questions), "{questions} questions");
        assert!(answers.iter().all(|it| *it >= Some(at(1))));
        let later = ask().await;
        assert_eq!(later, Some(at(questions + 1)), "the time is a new one");
    }
}
