//! One call to MongoDB that serves every caller waiting for its answer.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{runtime::Handle, sync::Mutex};

use crate::source::SourceError;

/// The number of the last request that an answer is valid for, and the answer.
type Answer<T> = (u64, Result<T, SourceError>);

/// Shares one call among all callers that asked before it was sent. A failure is shared too: while
/// MongoDB does not answer, callers do not run into the timeout one after another.
#[derive(Debug)]
pub(super) struct SingleFlight<T> {
    /// Where calls run, whoever is the first to ask.
    runtime: Handle,
    requests: AtomicU64,
    /// The last answer.
    last: Arc<Mutex<Option<Answer<T>>>>,
}

impl<T: Clone + Send + 'static> SingleFlight<T> {
    /// # Panics
    /// Panics outside a tokio runtime.
    pub(super) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            requests: AtomicU64::new(0),
            last: Arc::default(),
        }
    }

    /// Returns the answer of a call that was sent after this function was called. A call runs in a task of its own,
    /// so that callers who go away one after the other do not each leave one behind.
    pub(super) async fn run<Q>(&self, call: impl FnOnce() -> Q) -> Result<T, SourceError>
    where
        Q: Future<Output = Result<T, SourceError>> + Send + 'static,
    {
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mut last = Arc::clone(&self.last).lock_owned().await;
        match &*last {
            Some((valid_for, answer)) if *valid_for >= request => answer.clone(),
            _ => {
                let valid_for = self.requests.load(Ordering::Relaxed);
                let call = call();
                let running = self.runtime.spawn(async move {
                    let answer = call.await;
                    *last = Some((valid_for, answer.clone()));
                    answer
                });
                running.await.unwrap_or_else(|error| {
                    Err(SourceError::unexpected(format!(
                        "the task of a call failed: {error}"
                    )))
                })
            }
        }
    }
}
