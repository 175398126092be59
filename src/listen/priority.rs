//! Threads of a low priority beside those of the runtime, and futures that go from the one to the other with what
//! their connection asks for.
//!
//! A task that waits for its turn on a thread waits for all that came before it, and only the kernel stops what runs.
//! So what is asked for by few, at a great rate, has threads that the kernel stops when one of the others has
//! something to do. When no other has, they have all cores.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::runtime::{Builder, Handle, Runtime};

use super::demand::ConnectionDemand;
use crate::limit::lower_priority;

/// How much less than others these threads are preferred, in the kernel's unit: they get a tenth of what another
/// thread gets on the same core.
const NICE: i32 = 10;

/// The threads of a low priority. They end when this is dropped, with the tasks on them.
#[derive(Debug)]
pub(super) struct LowPriority(Option<Runtime>);

/// Where the futures of connections run.
#[derive(Debug, Clone)]
pub(super) struct Threads {
    normal: Handle,
    low: Handle,
}

impl LowPriority {
    /// Starts as many threads as a runtime has by default.
    ///
    /// # Errors
    /// The system starts none.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("low-priority")
            .on_thread_start(|| lower_priority(NICE))
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }
}

impl Drop for LowPriority {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Threads {
    /// Uses the current runtime, and `low` if there is one.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub(super) fn new(low: Option<&LowPriority>) -> Self {
        let normal = Handle::current();
        let low = low.and_then(|low| low.0.as_ref());
        let low = low.map_or(&normal, Runtime::handle).clone();
        Self { normal, low }
    }

    /// Runs a future of a connection in a task, at its priority.
    pub(super) fn spawn(
        &self,
        demand: &Arc<ConnectionDemand>,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.run(ConnectionTask {
            future: Some(Box::pin(future)),
            demand: Arc::clone(demand),
            threads: self.clone(),
            is_low: demand.is_over(),
        });
    }

    fn run(&self, task: ConnectionTask) {
        let threads = if task.is_low { &self.low } else { &self.normal };
        threads.spawn(task);
    }
}

/// A future of a connection, in a task of its present priority.
struct ConnectionTask {
    /// `None` once it is in another task.
    future: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    demand: Arc<ConnectionDemand>,
    threads: Threads,
    is_low: bool,
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let is_low = self.demand.is_over();
        if is_low != self.is_low {
            // A future may be polled by another task than before: it wakes who has polled it last.
            let moved = Self {
                future: self.future.take(),
                demand: Arc::clone(&self.demand),
                threads: self.threads.clone(),
                is_low,
            };
            self.threads.run(moved);
            return Poll::Ready(());
        }
        match &mut self.future {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use metrics::Gauge;
    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::listen::demand::Demand;

    /// Asks a task on which thread it runs.
    struct Asked {
        questions: mpsc::UnboundedSender<()>,
        answers: mpsc::UnboundedReceiver<bool>,
    }

    impl Asked {
        fn spawn(threads: &Threads, demand: &Arc<ConnectionDemand>) -> Self {
            let (questions, mut asked) = mpsc::unbounded_channel();
            let (answer, answers) = mpsc::unbounded_channel();
            threads.spawn(demand, async move {
                while asked.recv().await.is_some() {
                    let name = thread::current().name().map(str::to_owned);
                    let is_low = name.as_deref() == Some("low-priority");
                    answer.send(is_low).expect("the test reads it");
                }
            });
            Self { questions, answers }
        }

        async fn is_low(&mut self) -> bool {
            self.questions.send(()).expect("the task runs");
            let answer = timeout(Duration::from_secs(60), self.answers.recv()).await;
            answer.expect("it is woken").expect("the task runs")
        }
    }

    #[tokio::test]
    async fn tasks_of_a_connection_move_with_what_it_asks_for() {
        let low = LowPriority::start().expect("threads");
        let threads = Threads::new(Some(&low));
        let demand = Demand::new(Gauge::noop());
        let (flood, other) = (demand.connection(), demand.connection());
        let mut early = Asked::spawn(&threads, &flood);
        let mut beside = Asked::spawn(&threads, &other);
        for _ in 0..3 {
            while !early.is_low().await {
                flood.begin_call();
            }
            let mut late = Asked::spawn(&threads, &flood);
            assert!(late.is_low().await);
            assert!(!beside.is_low().await);
            // A second of silence.
            let silence = async { while early.is_low().await || late.is_low().await {} };
            timeout(Duration::from_secs(60), silence)
                .await
                .expect("it moves back");
        }
        drop((early, beside));
    }

    #[tokio::test]
    async fn tasks_end_with_the_threads_of_a_low_priority() {
        let low = LowPriority::start().expect("threads");
        let threads = Threads::new(Some(&low));
        let flood = Demand::new(Gauge::noop()).connection();
        while !flood.is_over() {
            flood.begin_call();
        }
        let mut task = Asked::spawn(&threads, &flood);
        assert!(task.is_low().await);
        drop(low);
        let end = timeout(Duration::from_secs(60), task.answers.recv()).await;
        assert_eq!(end, Ok(None));
    }
}
