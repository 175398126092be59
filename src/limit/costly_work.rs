//! Work that takes milliseconds, off the threads of the runtime: on few threads of a low priority, so that whoever
//! waits for nothing but a wake-up does not wait for it, and in turns that go round by caller.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::{Limit, Turn, Turns, lower_priority};
use crate::model::Caller;

/// How much less than other threads these are preferred, in the kernel's unit: they get half of what another thread
/// gets. With less, whatever else runs on the machine would keep them from running at all.
const NICE: i32 = 3;

type Job = Box<dyn FnOnce() + Send>;

/// Runs costly work of callers, in a tokio runtime. Its clones share the threads, which end with the last one.
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
        let (sender, receiver) = oneshot::channel();
        let jobs = self.jobs.clone();
        let begin = move |turn: Turn<Caller>| {
            let job = move || {
                let result = catch_unwind(AssertUnwindSafe(work));
                drop(turn);
                // Fails if nobody waits for the result any more.
                let _ = sender.send(result);
            };
            // The threads run for as long as there is a sender.
            let _ = jobs.send(Box::new(job));
        };
        // In a task of its own: otherwise a turn that comes while nobody polls this future, as its client does not
        // read, would be lost to all who wait.
        let _waiting = match self.turns.try_acquire(caller) {
            Some(turn) => {
                begin(turn);
                None
            }
            None => {
                let (turns, caller) = (self.turns.clone(), caller.clone());
                let waiting = async move { begin(turns.acquire(&caller).await) };
                Some(AbortOnDropHandle::new(tokio::spawn(waiting)))
            }
        };
        receiver.await.expect("a job sends its result")
    }
}

#[cfg(test)]
impl CostlyWork {
    /// Keeps all threads busy until the senders are dropped. Then the tasks return `true`.
    pub(crate) async fn occupy(
        &self,
        caller: &Caller,
    ) -> (Vec<mpsc::Sender<()>>, Vec<tokio::task::JoinHandle<bool>>) {
        let busy = (0..self.threads).map(|_| {
            let (end, ended) = mpsc::channel::<()>();
            let (costly, caller) = (self.clone(), caller.clone());
            let run = tokio::spawn(async move {
                let wait = move || ended.recv().is_err();
                costly.run(&caller, wait).await.unwrap()
            });
            (end, run)
        });
        let busy = busy.unzip();
        while self.turns.in_use() < self.threads {
            tokio::task::yield_now().await;
        }
        busy
    }

    /// Returns how many wait for a turn.
    pub(crate) fn waiting(&self) -> usize {
        self.turns.waiting()
    }
}

impl Default for CostlyWork {
    fn default() -> Self {
        Self::new()
    }
}

fn run_jobs(receiver: &Mutex<mpsc::Receiver<Job>>) {
    lower_priority(NICE);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{FutureExt as _, future::join_all};

    use super::*;

    fn caller(name: &str) -> Caller {
        Caller::Principal(name.into())
    }

    #[tokio::test]
    async fn work_goes_round_by_caller_and_a_panic_reaches_whoever_waits() {
        let costly = CostlyWork::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        let (ends, busy) = costly.occupy(&caller("first")).await;
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
        let before = order.lock().unwrap().iter().position(|it| *it == "few");
        let before = before.expect("it is done");
        assert!(before <= 2 * costly.threads + 1, "{before} came first");
        all.join_all().await;
        let caller = caller("a");
        let failed: thread::Result<()> = costly.run(&caller, || panic!("as it should")).await;
        assert!(failed.is_err());
        let next = costly.run(&caller, || 7).await;
        assert_eq!(next.unwrap(), 7, "the thread goes on");
    }

    /// As those of clients that do not read.
    #[tokio::test]
    async fn calls_that_nobody_polls_any_more_keep_no_turn_from_others() {
        let costly = CostlyWork::new();
        let (ends, busy) = costly.occupy(&caller("first")).await;
        let (stalled, other) = (caller("stalled"), caller("other"));
        let mut calls: Vec<_> = (0..=costly.threads)
            .map(|_| Box::pin(costly.run(&stalled, || 7)))
            .collect();
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
        }
        while costly.waiting() < calls.len() {
            tokio::task::yield_now().await;
        }
        drop(ends);
        assert!(join_all(busy).await.into_iter().all(|ended| ended.unwrap()));
        let done = tokio::time::timeout(Duration::from_secs(20), costly.run(&other, || 8));
        assert_eq!(done.await.expect("it has a turn").unwrap(), 8);
        for done in join_all(calls).await {
            assert_eq!(done.unwrap(), 7);
        }
        while costly.turns.in_use() > 0 {
            tokio::task::yield_now().await;
        }
        // Who goes away gives up its place.
        let (_ends, _busy) = costly.occupy(&caller("first")).await;
        let mut call = Box::pin(costly.run(&stalled, || 7));
        assert!((&mut call).now_or_never().is_none());
        while costly.waiting() < 1 {
            tokio::task::yield_now().await;
        }
        drop(call);
        while costly.waiting() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
