//! What MongoDB is asked by many at once, and answers once: its time now, above all.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::source::{ClusterTime, Source, SourceError};

/// Answers everybody who asked before a question was sent with the one answer to it, so that many who
/// come together cost MongoDB little. A failure is an answer too: while MongoDB is silent, nobody waits
/// for one after the other to find that out.
#[derive(Debug)]
pub(super) struct Answers<T> {
    asked: AtomicU64,
    /// The last answer, and the last asker that it holds for.
    told: tokio::sync::Mutex<Option<(u64, Result<T, SourceError>)>>,
}

impl<T: Clone> Answers<T> {
    pub(super) fn new() -> Self {
        Self {
            asked: AtomicU64::new(0),
            told: tokio::sync::Mutex::new(None),
        }
    }

    /// The answer to a question that was sent after this was called.
    pub(super) async fn ask<Q>(&self, question: impl FnOnce() -> Q) -> Result<T, SourceError>
    where
        Q: Future<Output = Result<T, SourceError>>,
    {
        let ticket = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().await;
        match &*told {
            Some((up_to, answer)) if *up_to >= ticket => answer.clone(),
            _ => {
                let up_to = self.asked.load(Ordering::Relaxed);
                let answer = question().await;
                *told = Some((up_to, answer.clone()));
                answer
            }
        }
    }
}

/// MongoDB's time now.
pub(super) struct Clock {
    source: Arc<dyn Source>,
    answers: Answers<Option<ClusterTime>>,
}

impl Clock {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            answers: Answers::new(),
        }
    }

    /// A time that MongoDB reached after this was called, and that nothing written after the answer
    /// has. `None` where MongoDB does not tell.
    pub(super) async fn now(&self) -> Result<Option<ClusterTime>, SourceError> {
        self.answers.ask(|| self.source.current_time()).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::source::scripted::{ScriptedSource, at};

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

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_together_are_refused_together() {
        let source = Arc::new(ScriptedSource {
            time_takes: Duration::from_secs(10),
            time_fails: true,
            ..ScriptedSource::of([])
        });
        let clock = Arc::new(Clock::new(Arc::<ScriptedSource>::clone(&source)));
        let asked = Instant::now();
        let answers = futures::future::join_all((0..20).map(|_| clock.now())).await;
        assert!(answers.iter().all(Result::is_err));
        assert!(
            asked.elapsed() <= Duration::from_secs(20),
            "the last heard after {:?}",
            asked.elapsed()
        );
    }
}
