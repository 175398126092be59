//! The tasks of a hub, which end when it is closed.

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts tasks, and stops them. Clones share the tasks.
#[derive(Debug, Clone)]
pub(super) struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// # Panics
    /// Panics outside a tokio runtime.
    pub(super) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Returns a token that is cancelled when the tasks are stopped.
    pub(super) fn stop_token(&self) -> CancellationToken {
        self.stop.child_token()
    }

    /// Starts a task that [`close`](Self::close) waits for.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.tracker.spawn_on(task, &self.runtime)
    }

    /// Starts a task that [`close`](Self::close) does not wait for.
    pub(super) fn spawn_detached<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// Returns the number of live tasks of the whole runtime.
    pub(super) fn alive(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }

    /// Stops the tasks and waits until they have ended.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
