//! Feeds and their watchers: few change streams on MongoDB serve many watches.
//!
//! Reading order:
//! 1. A client's token is validated ([`resume_token`]), with the name and the keys of the [`deployment`]. The
//!    watch's [`Plan`](crate::pipeline::Plan) is looked up in the [`feed_table`]; [`feeds`] opens a feed if there
//!    is none.
//! 2. A [`feed`] reads one change [`stream`], which reconnects by itself, reads up to an event that MongoDB
//!    cannot send, and reports it. It publishes [`segment`]s of events into its [`ring`].
//! 3. The ring's index of its subscribers finds the groups of watchers that an event matches, records it in
//!    their match lists and wakes each [`subscriber`].
//! 4. A [`watcher`] reads the ring. Where a filter may take long, it gets [`undecided`] events and has them decided
//!    elsewhere. When the ring does not hold its position, a [`catch_up`] with one of
//!    the [`catch_up_permits`] reads MongoDB for it into a [`catch_up_queue`], until the ring holds what
//!    follows. Its stream is opened in turns ([`catch_up_openings`]). [`catch_ups`] is what all of them share.
//! 5. An event that is sent in pieces lies in a [`revocable_buffer`]. All of this shares one [`budget`] with what
//!    open watches keep of their requests ([`request_memory`]), and [`memory`] decides what is dropped when it is exceeded. What concerns all [`subscribers`] is the end of
//!    the server, and how close the oplog's oldest entry is to them ([`oplog_monitor`]).
//!
//! [`tasks`] starts and stops everything; [`single_flight`] asks MongoDB once for many, and [`label_cap`] bounds the
//! values of a label.

mod budget;
mod catch_up;
mod catch_up_openings;
mod catch_up_permits;
mod catch_up_queue;
mod catch_ups;
mod clock;
mod deployment;
mod feed;
mod feed_table;
mod feeds;
mod label_cap;
mod memory;
mod oplog_monitor;
mod request_memory;
mod resume_token;
mod revocable_buffer;
mod ring;
mod segment;
mod settings;
mod single_flight;
mod stream;
mod subscriber;
mod subscribers;
mod sync;
mod tasks;
mod undecided;
mod watcher;

use std::sync::Arc;

use crate::{
    error::Error,
    limit::CostlyWork,
    metrics::{Metrics, ScrapedGauges},
    pipeline::Watch,
    source::Source,
};

use catch_up_openings::CatchUpOpenings;
use catch_up_permits::CatchUpPermits;
use catch_ups::CatchUps;
use clock::Clock;
use deployment::Deployment;
use feeds::Feeds;
use memory::MemoryManager;
use oplog_monitor::OplogMonitor;
use request_memory::RequestMemory;
use subscribers::Subscribers;
use tasks::Tasks;
use watcher::WatchStarter;

pub use catch_up_permits::UNREAD_LIMIT;
pub use request_memory::HeldRequest;
pub use revocable_buffer::{Evicted, RevocableBuffer};
pub use ring::{FeedPosition, Invalidation};
pub use segment::{EncodedSelection, EventSelection, Segment};
pub use settings::HubSettings;
pub use watcher::{StartPosition, Watcher, WatcherRead};

/// Serves many watches from few change streams. Clones share everything.
#[derive(Clone)]
pub struct Hub {
    source: Arc<dyn Source>,
    feeds: Arc<Feeds>,
    memory: Arc<MemoryManager>,
    memory_limit: usize,
    requests: Arc<RequestMemory>,
    subscribers: Arc<Subscribers>,
    oplog_monitor: Arc<OplogMonitor>,
    starter: Arc<WatchStarter>,
    tasks: Tasks,
    costly: CostlyWork,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// Creates a hub that reads from `source`.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, settings: HubSettings, metrics: Arc<Metrics>) -> Self {
        let tasks = Tasks::new();
        let memory = Arc::new(MemoryManager::new(settings.memory_limit));
        let budget = Arc::clone(&memory.budget);
        let requests = RequestMemory::new(settings.memory_limit, budget, &metrics);
        let subscribers = Arc::new(Subscribers::default());
        let deployment = Arc::new(Deployment::new(
            Arc::clone(&source),
            settings.deployment_name.clone(),
            settings.token_keys.clone(),
        ));
        let feeds = Feeds::new(
            Arc::clone(&source),
            Arc::clone(&deployment),
            (Arc::clone(&memory), Arc::clone(&requests)),
            tasks.clone(),
            Arc::clone(&metrics),
            &settings,
        );
        let costly = CostlyWork::new();
        let catch_ups = Arc::new(CatchUps {
            costly: costly.clone(),
            source: Arc::clone(&source),
            memory: Arc::clone(&memory),
            openings: Arc::new(CatchUpOpenings::new()),
            permits: CatchUpPermits::new(settings.max_catch_ups, Arc::clone(&metrics)),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
            upstream_grace: settings.upstream_grace,
        });
        let starter = WatchStarter {
            deployment,
            clock: Clock::new(Arc::clone(&source)),
            feeds: Arc::clone(&feeds),
            catch_ups,
            subscribers: Arc::clone(&subscribers),
            memory: Arc::clone(&memory),
            metrics,
        };
        Self {
            oplog_monitor: Arc::new(OplogMonitor::new(
                Arc::clone(&source),
                Arc::clone(&subscribers),
            )),
            source,
            feeds,
            memory,
            memory_limit: settings.memory_limit,
            requests,
            subscribers,
            starter: Arc::new(starter),
            tasks,
            costly,
        }
    }

    /// The source, for requests that do not concern a stream.
    #[must_use]
    pub fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// Reserves the memory of what a watch keeps of its request, and has it share that with equal watches. The watch
    /// must not change afterwards.
    ///
    /// # Errors
    /// Too much is in use, by all or by the watch's principal.
    pub fn hold_request(&self, watch: &mut Watch) -> Result<HeldRequest, Error> {
        self.requests.hold(watch)
    }

    /// The threads for work that takes long.
    #[must_use]
    pub fn costly_work(&self) -> &CostlyWork {
        &self.costly
    }

    /// Starts a watch. Waits for MongoDB's first answer, so that errors at the start are returned here.
    ///
    /// # Errors
    /// MongoDB rejects the stream, the resume token does not match the watch, or a limit is reached.
    pub async fn subscribe(&self, watch: &Arc<Watch>) -> Result<Watcher, Error> {
        self.starter.start(watch).await
    }

    /// Measures the gauges that are read at a scrape.
    #[must_use]
    pub fn scraped_gauges(&self) -> ScrapedGauges {
        ScrapedGauges {
            // Set by the server of the metrics page.
            ready: false,
            feed_lags: self.feeds.lags(),
            memory_used_bytes: self.memory.budget.used(),
            memory_limit_bytes: self.memory_limit,
            oplog_headroom_seconds: self.oplog_monitor.headroom_seconds(),
            tasks: self.tasks.alive(),
        }
    }

    /// Checks the oplog's oldest entry at intervals. Never returns.
    pub async fn monitor_oplog(&self) {
        self.oplog_monitor.run().await;
    }

    /// Notifies every watcher that the server is shutting down.
    pub fn drain(&self) {
        self.subscribers.drain();
    }

    /// Stops every feed and waits until each has closed its cursor.
    pub async fn close(&self) {
        self.tasks.close().await;
    }
}

#[cfg(test)]
mod tests;
