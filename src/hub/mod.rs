//! Feeds and their watchers: few change streams on MongoDB serve many watches.
//!
//! Reading order:
//! 1. A client's token is validated ([`resume_token`]). The watch's [`Plan`](crate::pipeline::Plan) is looked
//!    up in the [`feed_table`]; the [`registry`] opens a feed if there is none ([`open`]). The event of a
//!    token that holds only its digest is found by [`event_lookup`].
//! 2. A [`feed`] reads one change [`stream`], which reconnects by itself ([`backoff`],
//!    [`resume_deduplicator`]), reads up to an event that MongoDB cannot send ([`isolation`]) and reports
//!    it ([`undeliverable`]). It publishes [`segment`]s of events into its [`ring`]. What must be read ahead
//!    for that is read by a [`scan`].
//! 3. The ring's index of its subscribers finds the groups of watchers that an event matches, records it in
//!    their match lists and wakes each [`subscriber`].
//! 4. A [`watcher`] reads the ring. When the ring does not hold its position, a [`catch_up`] with one of
//!    the [`catch_up_permits`] reads MongoDB for it into a [`catch_up_queue`], until the ring holds what
//!    follows.
//! 5. An event that is sent in pieces lies in a [`revocable_buffer`]. All of this shares one [`budget`],
//!    and [`memory`] decides what is dropped when it is exceeded.

mod backoff;
mod budget;
mod catch_up;
mod catch_up_permits;
mod catch_up_queue;
mod clock;
mod event_lookup;
mod feed;
mod feed_table;
mod isolation;
mod label_cap;
mod memory;
mod open;
mod registry;
mod resume_deduplicator;
mod resume_token;
mod revocable_buffer;
mod ring;
mod scan;
mod segment;
mod single_flight;
mod stream;
mod subscriber;
mod sync;
mod undeliverable;
mod watcher;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use slab::Slab;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::Error,
    metrics::{Metrics, ScrapedGauges},
    pipeline::Watch,
    source::{ServerFacts, Source},
    wire::TokenKeys,
};

use catch_up_permits::CatchUpPermits;
use clock::Clock;
use feed_table::FeedTable;
use label_cap::LabelCap;
use memory::MemoryManager;
use registry::FeedHandle;
use single_flight::SingleFlight;
use subscriber::Subscriber;
use sync::{Mutex, lock};

pub use revocable_buffer::{Evicted, RevocableBuffer};
pub use ring::{FeedPosition, Invalidation};
pub use segment::{EncodedSelection, EventSelection, Segment};
pub use watcher::{StartPosition, Watcher, WatcherRead};

/// The interval between checks of the oplog's oldest entry while no watch is near it.
const OPLOG_CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// The shortest interval between two checks.
const OPLOG_MIN_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The number of checks before the oplog's oldest entry can reach the slowest watch, so that monitoring
/// sees the headroom shrink before it is gone.
const OPLOG_CHECKS_PER_HEADROOM: u32 = 4;
/// The delay before the first check, and between tests for watches while there are none.
const OPLOG_FIRST_CHECK_DELAY: Duration = Duration::from_secs(5);
/// The interval is at least this many times as long as the last check took: cheap on mongod, the check
/// is a scan of the whole oplog on some servers with a compatible API.
const OPLOG_CHECK_COST_FACTOR: u32 = 10;

/// Limits and identity of a [`Hub`].
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The maximum number of feeds, each with one change stream on MongoDB.
    pub max_feeds: usize,
    /// The maximum number of dedicated feeds per scope. Beyond it, a watch with feed mode AUTO uses the
    /// scope's shared feed.
    pub feeds_per_scope: usize,
    /// The maximum number of concurrent catch-ups, each with its own change stream.
    pub max_catch_ups: usize,
    /// The bytes of events that a feed keeps for its watchers. One reply of MongoDB (up to 16 MiB) may
    /// exceed it.
    pub ring_bytes: usize,
    /// The memory limit in bytes for all feeds, catch-ups and encodings together.
    pub memory_limit: usize,
    /// The time that a feed keeps running after its last watcher has left.
    pub feed_linger: Duration,
    /// The longest outage of MongoDB that a watch survives.
    pub upstream_grace: Duration,
    /// The deployment's name in resume tokens; by default the replica set's name.
    pub deployment_name: Option<String>,
    /// The keys that encrypt resume tokens. `None`: tokens are not encrypted.
    pub token_keys: Option<Arc<TokenKeys>>,
}

/// Serves many watches from few change streams.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    source: Arc<dyn Source>,
    settings: HubSettings,
    metrics: Arc<Metrics>,
    /// The deployment's name, once MongoDB has reported it.
    deployment: OnceLock<String>,
    facts: SingleFlight<ServerFacts>,
    clock: Clock,
    memory: Arc<MemoryManager>,
    catch_up_permits: CatchUpPermits,
    feed_table: Mutex<FeedTable<FeedHandle>>,
    subscribers: Mutex<Slab<Arc<Subscriber>>>,
    scope_labels: Mutex<LabelCap>,
    /// The time of the oplog's oldest entry, in seconds since 1970; 0 while unknown.
    oldest_second: AtomicU32,
    draining: AtomicBool,
    runtime: tokio::runtime::Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl std::fmt::Debug for Inner {
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
        Self(Arc::new(Inner {
            clock: Clock::new(Arc::clone(&source)),
            source,
            memory: Arc::new(MemoryManager::new(settings.memory_limit)),
            catch_up_permits: CatchUpPermits::new(settings.max_catch_ups, Arc::clone(&metrics)),
            feed_table: Mutex::new(FeedTable::new(settings.max_feeds, settings.feeds_per_scope)),
            settings,
            metrics,
            deployment: OnceLock::new(),
            facts: SingleFlight::new(),
            subscribers: Mutex::default(),
            scope_labels: Mutex::default(),
            oldest_second: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            runtime: tokio::runtime::Handle::current(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The source, for requests that do not concern a stream.
    #[must_use]
    pub fn source(&self) -> &dyn Source {
        &*self.0.source
    }

    /// Starts a watch. Waits for MongoDB's first answer, so that errors at the start are returned here.
    ///
    /// # Errors
    /// MongoDB rejects the stream, the resume token does not match the watch, or a limit is reached.
    pub async fn subscribe(&self, watch: &Arc<Watch>) -> Result<Watcher, Error> {
        self.0.subscribe(watch).await
    }

    /// Measures the gauges that are read at a scrape.
    #[must_use]
    pub fn scraped_gauges(&self) -> ScrapedGauges {
        ScrapedGauges {
            // Set by the server of the metrics page.
            ready: false,
            feed_lags: self.0.feed_lags(),
            memory_used_bytes: self.0.memory.budget.used(),
            memory_limit_bytes: self.0.settings.memory_limit,
            oplog_headroom_seconds: self.0.oplog_headroom(),
            tasks: self.0.runtime.metrics().num_alive_tasks(),
        }
    }

    /// Checks the oplog's oldest entry at intervals. Never returns.
    pub async fn monitor_oplog(&self) {
        let mut pause = OPLOG_FIRST_CHECK_DELAY;
        loop {
            tokio::time::sleep(pause).await;
            if lock(&self.0.subscribers).is_empty() {
                pause = OPLOG_FIRST_CHECK_DELAY;
                continue;
            }
            let began = Instant::now();
            match self.0.source.oldest_time().await {
                Ok(oldest) => {
                    let second = oldest.map_or(0, |it| it.seconds);
                    self.0.oldest_second.store(second, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::debug!(code = error.code, %error, "could not read the oplog's oldest entry");
                }
            }
            let headroom = self.0.oplog_headroom().map(Duration::from_secs);
            pause = oplog_check_pause(headroom, began.elapsed());
        }
    }

    /// Notifies every watcher that the server is shutting down.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        let subscribers: Vec<_> = lock(&self.0.subscribers)
            .iter()
            .map(|(_, subscriber)| Arc::clone(subscriber))
            .collect();
        subscribers.iter().for_each(|subscriber| subscriber.wake());
    }

    /// Stops every feed and waits until each has closed its cursor.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// Returns the pause after a check of the oplog that found `headroom` and took `took`.
fn oplog_check_pause(headroom: Option<Duration>, took: Duration) -> Duration {
    headroom
        .map_or(OPLOG_CHECK_INTERVAL, |headroom| {
            headroom / OPLOG_CHECKS_PER_HEADROOM
        })
        .clamp(OPLOG_MIN_CHECK_INTERVAL, OPLOG_CHECK_INTERVAL)
        .max(took * OPLOG_CHECK_COST_FACTOR)
}

impl Inner {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    async fn deployment(&self) -> Result<&str, Error> {
        if let Some(name) = &self.settings.deployment_name {
            return Ok(name);
        }
        if let Some(name) = self.deployment.get() {
            return Ok(name);
        }
        let facts = self
            .facts
            .run(|| self.source.facts())
            .await
            .map_err(|error| {
                tracing::warn!(code = error.code, %error, "could not read the name of the mongodb deployment");
                Error::from(&error)
            })?;
        // A replica set gets its name when it is initiated. Tokens with an empty name would match any
        // other set that is not initiated.
        if facts.set_name.is_empty() {
            return Err(Error::ChangeStreamsUnsupported(None));
        }
        Ok(self.deployment.get_or_init(|| facts.set_name))
    }

    /// The lag in seconds by scope label; the largest one where several feeds have the same label.
    fn feed_lags(&self) -> Vec<(String, f64)> {
        let mut lags: HashMap<String, f64> = HashMap::new();
        for (plan, handle) in lock(&self.feed_table).feeds() {
            if let Some(ring) = handle.ring() {
                let scope = lock(&self.scope_labels).label(plan.scope.to_string());
                let lag = lags.entry(scope).or_default();
                *lag = lag.max(ring.lag_seconds());
            }
        }
        let mut lags: Vec<_> = lags.into_iter().collect();
        lags.sort_by(|a, b| a.0.cmp(&b.0));
        lags
    }

    /// The seconds between the oplog's oldest entry and the slowest watcher; 0 when the oplog no longer
    /// holds the watcher's position. `None` while either is unknown.
    fn oplog_headroom(&self) -> Option<u64> {
        let oldest = self.oldest_second.load(Ordering::Relaxed);
        let slowest = lock(&self.subscribers)
            .iter()
            .filter_map(|(_, subscriber)| subscriber.reached_second())
            .min()?;
        (oldest > 0).then(|| slowest.saturating_sub(oldest).into())
    }
}

#[cfg(test)]
mod tests;
