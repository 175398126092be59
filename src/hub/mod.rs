//! Feeds and their watchers: few change streams on MongoDB, many watches served from them.
//!
//! Reading order: a watch's [`Plan`](crate::plan::Plan) is looked up in the [`roll`] of feeds, and its
//! feed opened if there is none ([`registry`], [`open`]); a client's [`token`] is judged before. A [`feed`] reads one change [`stream`], which
//! comes back by itself ([`backoff`], [`seam`]) and tells what it can't get ([`unsent`]), and publishes [`segment`]s of events into its
//! [`ring`]. There the [`audience`] tells who takes which event ([`hits`]) and wakes them in their
//! [`seat`]s. A [`watcher`] reads the ring, or a [`relay`] that a [`catch_up`] fills for it when its
//! [`turn`](turns) comes, until the ring holds what follows. An event that goes out in pieces is a
//! [`loan`] meanwhile. All of it shares one [`budget`] of [`memory`].

mod audience;
mod backoff;
mod budget;
mod catch_up;
mod clock;
mod feed;
mod hits;
mod loan;
mod memory;
mod named_scopes;
mod open;
mod registry;
mod relay;
mod ring;
mod roll;
mod seam;
mod seat;
mod segment;
mod stream;
mod sync;
mod token;
mod turns;
mod unsent;
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
    plan::Watch,
    source::{ServerFacts, Source},
    wire::TokenKeys,
};

use clock::{Answers, Clock};
use memory::Memory;
use named_scopes::NamedScopes;
use registry::Handle;
use roll::Roll;
use seat::Seat;
use sync::{Mutex, lock};
use turns::Turns;

pub use loan::{CalledIn, Loan};
pub use ring::{Invalidation, Tail};
pub use segment::{EncodedRun, Run, Segment};
pub use watcher::{Beginning, Read, Watcher};

/// How often the oplog's oldest entry is looked at while no watch is near it.
const OPLOG_CHECK: Duration = Duration::from_secs(15);
/// How often it is looked at, at most, when one is.
const OPLOG_CLOSE_CHECK: Duration = Duration::from_secs(1);
/// How many looks there are to be while the oplog's oldest entry comes up to the slowest watch, so
/// that the headroom is seen to shrink before it is gone.
const OPLOG_LOOKS: u32 = 4;
/// How long to wait before that is begun, and before it is seen again whether there are watches.
const OPLOG_FIRST_CHECK: Duration = Duration::from_secs(5);
/// How much longer the pause is than the look took: what is nothing to mongod is a scan of the whole
/// oplog to servers that are like it.
const OPLOG_CHECK_SHARE: u32 = 100;

/// The hub's bounds.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// How many feeds, and so change streams on MongoDB, there may be.
    pub max_feeds: usize,
    /// How many dedicated feeds one scope may have before a watch that leaves the choice to the server
    /// shares the scope's common one.
    pub feeds_per_scope: usize,
    /// How many watches may catch up at once, each on a change stream of its own.
    pub max_catch_ups: usize,
    /// How many bytes of events a feed keeps for its watchers; one reply of MongoDB (16 MiB) may
    /// come on top.
    pub ring_bytes: usize,
    /// How many bytes all of it together may hold.
    pub memory_limit: usize,
    /// How long a feed goes on after its last watcher.
    pub feed_linger: Duration,
    /// How long MongoDB may be away before a watch ends.
    pub upstream_grace: Duration,
    /// What tokens call this deployment, in place of its replica set's name.
    pub deployment_name: Option<String>,
    /// What tokens are encrypted with, if they are.
    pub token_keys: Option<Arc<TokenKeys>>,
}

/// Serves watches from few change streams.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    source: Arc<dyn Source>,
    settings: HubSettings,
    metrics: Arc<Metrics>,
    /// The deployment's name, once MongoDB has told it.
    deployment: OnceLock<String>,
    facts: Answers<ServerFacts>,
    clock: Clock,
    memory: Arc<Memory>,
    turns: Turns,
    roll: Mutex<Roll<Handle>>,
    seats: Mutex<Slab<Arc<Seat>>>,
    scopes: Mutex<NamedScopes>,
    /// The second of the oplog's oldest entry; 0 while it is not known.
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
    /// A hub over a source.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, settings: HubSettings, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            clock: Clock::new(Arc::clone(&source)),
            source,
            memory: Arc::new(Memory::new(settings.memory_limit)),
            turns: Turns::new(settings.max_catch_ups, Arc::clone(&metrics)),
            roll: Mutex::new(Roll::new(settings.max_feeds, settings.feeds_per_scope)),
            settings,
            metrics,
            deployment: OnceLock::new(),
            facts: Answers::new(),
            seats: Mutex::default(),
            scopes: Mutex::default(),
            oldest_second: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            runtime: tokio::runtime::Handle::current(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The source, for questions that are not about a stream.
    #[must_use]
    pub fn source(&self) -> &dyn Source {
        &*self.0.source
    }

    /// Begins a watch. What can be known at once, MongoDB has answered when this returns.
    ///
    /// # Errors
    /// Whatever MongoDB refuses, or a token that does not fit, or a limit.
    pub async fn subscribe(&self, watch: &Arc<Watch>) -> Result<Watcher, Error> {
        self.0.subscribe(watch).await
    }

    /// What is measured when it is asked for.
    #[must_use]
    pub fn scraped_gauges(&self) -> ScrapedGauges {
        ScrapedGauges {
            // Whoever serves the page knows.
            ready: false,
            feed_lags: self.0.feed_lags(),
            memory_used_bytes: self.0.memory.budget.used(),
            memory_limit_bytes: self.0.settings.memory_limit,
            oplog_headroom_seconds: self.0.oplog_headroom(),
            tasks: self.0.runtime.metrics().num_alive_tasks(),
        }
    }

    /// Looks at the oplog's oldest entry every now and then, for as long as it is polled.
    pub async fn keep_an_eye_on_the_oplog(&self) {
        let mut pause = OPLOG_FIRST_CHECK;
        loop {
            tokio::time::sleep(pause).await;
            if lock(&self.0.seats).is_empty() {
                pause = OPLOG_FIRST_CHECK;
                continue;
            }
            let began = Instant::now();
            match self.0.source.oldest_time().await {
                Ok(oldest) => {
                    let second = oldest.map_or(0, |it| it.seconds);
                    self.0.oldest_second.store(second, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::debug!(code = error.code, %error, "the oplog's start is not known");
                }
            }
            let headroom = self.0.oplog_headroom().map(Duration::from_secs);
            pause = headroom
                .map_or(OPLOG_CHECK, |headroom| headroom / OPLOG_LOOKS)
                .clamp(OPLOG_CLOSE_CHECK, OPLOG_CHECK)
                .max(began.elapsed() * OPLOG_CHECK_SHARE);
        }
    }

    /// Tells every watcher that the server is shutting down.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        let seats: Vec<_> = lock(&self.0.seats)
            .iter()
            .map(|(_, seat)| Arc::clone(seat))
            .collect();
        seats.iter().for_each(|seat| seat.wake());
    }

    /// Stops every feed and waits until each has let go of its cursor.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
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
            .ask(|| self.source.facts())
            .await
            .map_err(|error| {
                tracing::warn!(code = error.code, %error, "mongodb does not tell what it is");
                Error::from(&error)
            })?;
        // A set that is yet to be initiated will have one, which is not to be mistaken for another's.
        if facts.set_name.is_empty() {
            return Err(Error::ChangeStreamsUnsupported);
        }
        Ok(self.deployment.get_or_init(|| facts.set_name))
    }

    /// The lag of each scope's feeds in seconds: the largest where several are called the same.
    fn feed_lags(&self) -> Vec<(String, f64)> {
        let mut lags: HashMap<String, f64> = HashMap::new();
        for (plan, handle) in lock(&self.roll).feeds() {
            if let Some(ring) = handle.ring() {
                let scope = lock(&self.scopes).call(plan.scope.to_string());
                let lag = lags.entry(scope).or_default();
                *lag = lag.max(ring.lag_seconds());
            }
        }
        let mut lags: Vec<_> = lags.into_iter().collect();
        lags.sort_by(|a, b| a.0.cmp(&b.0));
        lags
    }

    /// How far the slowest watcher is from the oplog's end, in seconds; where both are known. 0 when
    /// the oplog has passed it.
    fn oplog_headroom(&self) -> Option<u64> {
        let oldest = self.oldest_second.load(Ordering::Relaxed);
        let slowest = lock(&self.seats)
            .iter()
            .filter_map(|(_, seat)| seat.reached())
            .min()?;
        (oldest > 0).then(|| slowest.saturating_sub(oldest).into())
    }
}

#[cfg(test)]
mod tests;
