//! Work that takes milliseconds, off the threads of the runtime: on few threads of a low priority, so that whoever
//! waits for nothing but a wake-up does not wait for it, and in turns that go round by caller.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;

use super::{Limit, Turns};
use crate::model::Caller;

/// How much less than other threads these are preferred, in the kernel's unit: they get half of what another thread
/// gets. With less, whatever else runs on the machine would keep them from running at all.
const NICE: i32 = 3;

type Job = Box<dyn FnOnce() + Send>;

/// Runs costly work of callers. Its clones share the threads, which end with the last one.
#[derive(Debug, Clone)]
pub struct CostlyWork {
    turns: Turns<Caller>,
    /// The number of threads.
    #[cfg(test)]
    threads: usize,
    jobs: mpsc::Sender<Job>,
}

impl CostlyWork {
    /// Starts the threads: half as many as there are cores, and at least one.
    ///
    /// # Panics
    /// Panics if the system starts no thread.
    #[must_use]
    pub fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = (cores / 2).max(1);
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..count {
            let receiver = Arc::clone(&receiver);
            thread::Builder::new()
                .name("costly-work".to_owned())
                .spawn(move || run_jobs(&receiver))
                .expect("the system starts a thread");
        }
        Self {
            turns: Turns::new(Limit::new("pieces of costly work", count), usize::MAX),
            #[cfg(test)]
            threads: count,
            jobs,
        }
    }

    /// Runs `work` when it is the caller's turn. It should take a few milliseconds: longer work comes in pieces, each
    /// with its own turn. If the future is dropped, work that has begun goes on, and its result is dropped.
    ///
    /// # Errors
    /// What `work` panicked with.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::Result<T> {
        let turn = self.turns.acquire(caller).await;
        let (sender, receiver) = oneshot::channel();
        let job = move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            drop(turn);
            // Fails if nobody waits for the result any more.
            let _ = sender.send(result);
        };
        // The threads run for as long as there is a sender.
        let _ = self.jobs.send(Box::new(job));
        receiver.await.expect("a job sends its result")
    }
}

impl Default for CostlyWork {
    fn default() -> Self {
        Self::new()
    }
}

fn run_jobs(receiver: &Mutex<mpsc::Receiver<Job>>) {
    lower_priority();
    loop {
        // Held while it waits: the other threads wait for the lock instead.
        let job = receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        match job {
            Ok(job) => job(),
            Err(mpsc::RecvError) => return,
        }
    }
}

/// Lowers the priority of this thread. Only Linux has priorities of threads.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the priority of a thread could not be lowered");
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::join_all};

    use super::*;

    fn caller(name: &str) -> Caller {
        Caller::Principal(name.into())
    }

    #[tokio::test]
    async fn work_goes_round_by_caller_and_a_panic_reaches_whoever_waits() {
        let costly = CostlyWork::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        // Whatever the number of threads, all are busy until these are told to end.
        let (ends, busy): (Vec<_>, Vec<_>) = (0..costly.threads)
            .map(|_| {
                let (end, ended) = mpsc::channel::<()>();
                let costly = costly.clone();
                let run = tokio::spawn(async move {
                    let wait = move || ended.recv().is_err();
                    costly.run(&caller("first"), wait).await.unwrap()
                });
                (end, run)
            })
            .unzip();
        while costly.turns.in_use() < ends.len() {
            tokio::task::yield_now().await;
        }
        let work = |name: &'static str| {
            let (costly, order) = (costly.clone(), Arc::clone(&order));
            async move {
                let note = move || order.lock().unwrap().push(name);
                costly.run(&caller(name), note).await.unwrap();
            }
        };
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..20 {
            all.spawn(work("many"));
        }
        while !costly.turns.has_waiters() {
            tokio::task::yield_now().await;
        }
        let mut few = Box::pin(work("few"));
        assert!((&mut few).now_or_never().is_none());
        drop(ends);
        assert!(join_all(busy).await.into_iter().all(|ended| ended.unwrap()));
        few.await;
        let before = order
            .lock()
            .unwrap()
            .iter()
            .filter(|name| **name == "many")
            .count();
        assert!(before <= 2 * costly.threads + 1, "{before} came first");
        all.join_all().await;
        let caller = caller("a");
        let failed: thread::Result<()> = costly.run(&caller, || panic!("as it should")).await;
        assert!(failed.is_err());
        let next = costly.run(&caller, || 7).await;
        assert_eq!(next.unwrap(), 7, "the thread goes on");
    }
}
