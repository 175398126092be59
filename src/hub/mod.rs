//! Feeds and their watchers.
//!
//! A [`Feed`](feed) owns one change stream and writes into a [ring], from which a watcher reads
//! through its [`Reader`]. Today a feed serves one watch; the parts are cut so that it can serve
//! many.

mod backoff;
mod feed;
mod open;
mod ring;
mod seam;
mod segment;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::Instrument as _;

use crate::{
    error::Error,
    metrics::{Metrics, Stage},
    plan::{Plan, Start, Watch},
    source::{ClusterTime, Position, Source},
    wire::{ResumeToken, Stamp},
};

use backoff::Backoff;
use feed::Feed;
use ring::Ring;

pub use ring::{Entry, Invalidation, Read, Tail};
pub use segment::Segment;

/// The hub's bounds.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// How many feeds, and so change streams on MongoDB, there may be.
    pub max_feeds: usize,
    /// How many bytes of events a feed holds for its watcher; one reply of MongoDB (16 MiB) may
    /// come on top.
    pub ring_bytes: usize,
    /// How long MongoDB may be away before a watch ends.
    pub upstream_grace: Duration,
    /// What tokens call this deployment, in place of its replica set's name.
    pub deployment_name: Option<String>,
}

/// Opens feeds and keeps count of them.
#[derive(Debug)]
pub struct Hub {
    source: SharedSource,
    settings: HubSettings,
    metrics: Arc<Metrics>,
    deployment: tokio::sync::OnceCell<String>,
    feeds: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
    rings: Mutex<HashMap<u64, (String, Weak<Ring>)>>,
    next_feed: AtomicU64,
}

/// A source that many feeds open streams on.
struct SharedSource(Arc<dyn Source>);

impl std::fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

/// A watch's end of a feed. Dropping it stops the feed.
#[derive(Debug)]
pub struct Reader {
    ring: Arc<Ring>,
    /// What the tokens of this feed are sealed with.
    pub stamp: Stamp,
    /// The place that the feed starts at.
    pub start: Position,
    /// The token of that place: the client's own where it sent one.
    pub start_token: Bytes,
    /// Whether the feed had to be opened by time in place of the token asked for.
    pub by_time: bool,
    _stop: DropGuard,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// Takes what there is to read.
    #[must_use]
    pub fn read(&self) -> Read {
        self.ring.read()
    }

    /// The token for a place that the feed has reached.
    #[must_use]
    pub fn token(&self, position: &Position) -> Bytes {
        // The client's own token may be of another pipeline than this feed's, which a new seal
        // around the same place would hide.
        if *position == self.start {
            self.start_token.clone()
        } else {
            self.stamp.seal(position)
        }
    }

    /// Waits until [`Reader::read`] may have more to give. May return early, never late.
    pub async fn readable(&self) {
        self.ring.readable().await;
    }
}

impl Hub {
    /// A hub over a source.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, settings: HubSettings, metrics: Arc<Metrics>) -> Self {
        Self {
            source: SharedSource(source),
            feeds: Arc::new(Semaphore::new(settings.max_feeds)),
            settings,
            metrics,
            deployment: tokio::sync::OnceCell::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            rings: Mutex::default(),
            next_feed: AtomicU64::new(0),
        }
    }

    /// The source, for questions that are not about a stream.
    #[must_use]
    pub fn source(&self) -> &dyn Source {
        &*self.source.0
    }

    /// Opens a feed for a watch. MongoDB has answered when this returns.
    ///
    /// # Errors
    /// Whatever MongoDB refuses, or a token that does not fit, or a limit.
    pub async fn subscribe(&self, watch: &Watch) -> Result<Reader, Error> {
        let plan = Arc::new(Plan::dedicated(watch));
        let permit = Arc::clone(&self.feeds).try_acquire_owned().map_err(|_| {
            self.metrics.limit_rejected("feeds");
            Error::LimitExceeded {
                limit: "feeds",
                max: self.settings.max_feeds,
            }
        })?;
        let stage = self.metrics.feed_in(Stage::Opening);
        let stamp = Stamp::new(self.deployment().await?, &plan);
        let (at, exact) = place(&watch.start, &stamp)?;
        let opened = open::open(self.source(), &plan, at.as_ref(), exact).await?;

        let by_time = opened.seam.is_some();
        let opened_at = opened.start.clone();
        let start_token = match &watch.start {
            Start::Token(token) => token.clone(),
            Start::Now | Start::Time(_) => stamp.seal(&opened.start),
        };
        let ring = Arc::new(Ring::new(
            self.settings.ring_bytes,
            Tail {
                position: opened.start.clone(),
                upstream: opened.first.operation_time,
                caught_up: false,
                heard: tokio::time::Instant::now(),
            },
        ));
        let stop = self.stop.child_token();
        let feed = Feed {
            source: Arc::clone(&self.source.0),
            plan: Arc::clone(&plan),
            ring: Arc::clone(&ring),
            metrics: Arc::clone(&self.metrics),
            upstream_grace: self.settings.upstream_grace,
            invalidate: watch.invalidate,
            position: opened.start.clone(),
            stage,
            cause: None,
            outage: None,
            backoff: Backoff::new(),
        };
        self.register(&plan, &ring);
        self.tasks
            .spawn(feed.run(opened, stop.clone()).in_current_span());
        Ok(Reader {
            ring,
            stamp,
            start: opened_at,
            start_token,
            by_time,
            _stop: stop.drop_guard(),
            _permit: permit,
        })
    }

    /// The lag of each namespace's feeds in seconds: the largest where several watch the same.
    #[must_use]
    pub fn lags(&self) -> Vec<(String, f64)> {
        let mut lags: HashMap<String, f64> = HashMap::new();
        for (namespace, ring) in self.rings().values() {
            if let Some(ring) = ring.upgrade() {
                let lag = lags.entry(namespace.clone()).or_default();
                *lag = lag.max(ring.tail().lag_seconds());
            }
        }
        let mut lags: Vec<_> = lags.into_iter().collect();
        lags.sort_by(|a, b| a.0.cmp(&b.0));
        lags
    }

    /// Stops every feed and waits until each has let go of its cursor.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn deployment(&self) -> Result<&str, Error> {
        if let Some(name) = &self.settings.deployment_name {
            return Ok(name);
        }
        let name = self.deployment.get_or_try_init(|| async {
            let facts = self.source().facts().await;
            facts.map(|facts| facts.set_name)
        });
        match name.await {
            Ok(name) => Ok(name),
            Err(error) => {
                tracing::warn!(code = error.code, %error, "mongodb does not tell what it is");
                Err(Error::from(&error))
            }
        }
    }

    fn register(&self, plan: &Plan, ring: &Arc<Ring>) {
        let id = self.next_feed.fetch_add(1, Ordering::Relaxed);
        let mut rings = self.rings();
        rings.retain(|_, (_, ring)| ring.strong_count() > 0);
        rings.insert(id, (plan.scope.to_string(), Arc::downgrade(ring)));
    }

    fn rings(&self) -> MutexGuard<'_, HashMap<u64, (String, Weak<Ring>)>> {
        self.rings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The place that a watch starts at, and whether its token was made by the very pipeline of
/// `stamp`.
fn place(start: &Start, stamp: &Stamp) -> Result<(Option<Position>, bool), Error> {
    match start {
        Start::Now => Ok((None, true)),
        Start::Time(seconds) => {
            // MongoDB counts the operations of a second from 1.
            let time = ClusterTime {
                seconds: *seconds,
                increment: 1,
            };
            Ok((Some(Position::Time(time)), true))
        }
        Start::Token(bytes) => {
            let token = ResumeToken::read(bytes)
                .map_err(|problem| Error::TokenMalformed(problem.to_string()))?;
            if !token.is_of_deployment(stamp) {
                return Err(Error::TokenMismatch("another MongoDB deployment"));
            }
            if !token.is_of_scope(stamp) {
                return Err(Error::TokenMismatch(
                    "another database or other collections than this request names",
                ));
            }
            let exact = token.is_of_plan(stamp);
            Ok((Some(token.position), exact))
        }
    }
}

#[cfg(test)]
mod tests;
