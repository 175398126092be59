//! Opens feeds, shares them, and closes them some time after their last watcher has left.

use std::{collections::HashMap, future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    error::Error,
    hub::{
        deployment::Deployment,
        feed::{BatchSegmenter, Feed},
        feed_table::{FeedId, FeedTable},
        label_cap::LabelCap,
        memory::MemoryManager,
        request_memory::{HeldPlan, RequestMemory},
        ring::{Ring, RingHistory},
        settings::HubSettings,
        stream::{OpenedStream, ReconnectingStream, StreamPlans, open},
        sync::{Mutex, lock},
        tasks::Tasks,
    },
    limit::{Exceeded, Limit},
    metrics::{Metrics, StageGuard},
    model::{Caller, FeedMode, Mode, Stage},
    pipeline::Plan,
    source::{ClusterTime, Position, Source},
    wire::TokenContext,
};

/// The time that a call waits for a feed to open; MongoDB opens a stream from now at once. After a timeout
/// the feed continues to open, for later calls.
const FEED_OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// All feeds.
pub(super) struct Feeds {
    source: Arc<dyn Source>,
    deployment: Arc<Deployment>,
    memory: Arc<MemoryManager>,
    requests: Arc<RequestMemory>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    table: Mutex<FeedTable<FeedHandle>>,
    scope_labels: Mutex<LabelCap>,
    /// The bytes of events that a feed keeps.
    ring_bytes: usize,
    /// Notified when a feed becomes idle.
    idle: Notify,
    /// The longest outage of MongoDB that a feed survives.
    upstream_grace: Duration,
}

/// An open feed.
#[derive(Debug)]
pub(super) struct OpenFeed {
    pub plan: Arc<Plan>,
    pub ring: Arc<Ring>,
    /// The position that it started at.
    pub start: Position,
}

/// Receives the result of opening a feed. `None`: still opening.
type OpenOutcome = watch::Receiver<Option<Result<Arc<OpenFeed>, Error>>>;

/// Sends the result of opening a feed.
type OpenSender = watch::Sender<Option<Result<Arc<OpenFeed>, Error>>>;

/// A feed in the feed table: open, opening, or failed to open.
#[derive(Debug, Clone)]
struct FeedHandle {
    opened: OpenOutcome,
    stop: CancellationToken,
    /// The memory of its plan, if that has conditions of clients.
    _plan: Option<Arc<HeldPlan>>,
}

/// An open feed that a watcher has joined.
#[derive(Debug)]
pub(super) struct JoinedFeed {
    pub feed: Arc<OpenFeed>,
    pub mode: Mode,
    /// `true` if the feed was opened for this watcher.
    pub is_new: bool,
    _guard: FeedGuard,
}

/// A feed that a watcher has joined and that may still be opening.
struct PendingFeed {
    guard: FeedGuard,
    mode: Mode,
    opened: OpenOutcome,
    is_new: bool,
}

/// Keeps a feed open for a watcher.
#[derive(Debug)]
struct FeedGuard {
    feeds: Arc<Feeds>,
    feed_id: FeedId,
    caller: Caller,
}

/// Removes a feed from the feed table when its task ends in any way.
struct RemoveOnDrop(Arc<Feeds>, FeedId);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        lock(&self.0.table).remove(&self.1);
    }
}

impl std::fmt::Debug for Feeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feeds").finish_non_exhaustive()
    }
}

impl FeedHandle {
    /// The ring, if the feed is open.
    fn ring(&self) -> Option<Arc<Ring>> {
        match &*self.opened.borrow() {
            Some(Ok(feed)) => Some(Arc::clone(&feed.ring)),
            _ => None,
        }
    }

    fn stop(&self) {
        self.stop.cancel();
    }
}

impl Feeds {
    pub(super) fn new(
        source: Arc<dyn Source>,
        deployment: Arc<Deployment>,
        (memory, requests): (Arc<MemoryManager>, Arc<RequestMemory>),
        tasks: Tasks,
        metrics: Arc<Metrics>,
        settings: &HubSettings,
    ) -> Arc<Self> {
        let limit = Limit::new("feeds", settings.max_feeds)
            .counted_by(metrics.limit_rejections.of("feeds"));
        let table = FeedTable::new(limit, settings.feeds_per_scope, settings.feed_linger);
        let feeds = Arc::new(Self {
            source,
            deployment,
            memory,
            requests,
            tasks,
            metrics,
            table: Mutex::new(table),
            scope_labels: Mutex::default(),
            ring_bytes: settings.ring_bytes,
            idle: Notify::new(),
            upstream_grace: settings.upstream_grace,
        });
        let (stop, stop_idle) = (feeds.tasks.stop_token(), Arc::clone(&feeds).stop_idle());
        feeds.tasks.spawn(async move {
            stop.run_until_cancelled(stop_idle).await;
        });
        feeds
    }

    /// The lag in seconds by scope label; the largest one where several feeds have the same label.
    pub(super) fn lags(&self) -> Vec<(String, f64)> {
        let mut lags: HashMap<String, f64> = HashMap::new();
        for (plan, handle) in lock(&self.table).feeds() {
            if let Some(ring) = handle.ring() {
                let scope = lock(&self.scope_labels).label(plan.scope().to_string());
                let lag = lags.entry(scope).or_default();
                *lag = lag.max(ring.lag_seconds());
            }
        }
        let mut lags: Vec<_> = lags.into_iter().collect();
        lags.sort_by(|a, b| a.0.cmp(&b.0));
        lags
    }

    /// The rings of the open feeds of a scope.
    #[cfg(test)]
    pub(super) fn rings_of(&self, scope: &str) -> Vec<Arc<Ring>> {
        let table = lock(&self.table);
        let feeds = table
            .feeds()
            .filter(|(plan, _)| plan.scope().to_string() == scope);
        feeds.filter_map(|(_, handle)| handle.ring()).collect()
    }

    /// Joins a dedicated or a shared feed. Opens it if there is none, and waits until it is open.
    pub(super) async fn join(
        self: &Arc<Self>,
        requested: FeedMode,
        dedicated: Plan,
        shared: &Arc<Plan>,
        caller: &Caller,
    ) -> Result<JoinedFeed, Error> {
        let PendingFeed {
            guard,
            mode,
            mut opened,
            is_new,
        } = self.join_or_open(requested, dedicated, shared, caller)?;
        let answer = timeout(FEED_OPEN_TIMEOUT, opened.wait_for(Option::is_some)).await;
        let Ok(answer) = answer else {
            tracing::warn!("timed out waiting for mongodb to open a change stream");
            return Err(Error::UpstreamUnavailable);
        };
        let answer = answer.ok().and_then(|answer| answer.clone());
        match answer {
            Some(Ok(feed)) => Ok(JoinedFeed {
                feed,
                mode,
                is_new,
                _guard: guard,
            }),
            Some(Err(error)) => Err(error),
            // The task that opens the feed was stopped.
            None => Err(Error::Draining),
        }
    }

    /// Joins a feed, or starts a task that opens it.
    fn join_or_open(
        self: &Arc<Self>,
        requested: FeedMode,
        dedicated: Plan,
        shared: &Arc<Plan>,
        caller: &Caller,
    ) -> Result<PendingFeed, Error> {
        let guard = |feed_id| FeedGuard {
            feeds: Arc::clone(self),
            feed_id,
            caller: caller.clone(),
        };
        // The mode is chosen and the feed inserted under one lock, so that concurrent watches count each
        // other.
        let mut table = lock(&self.table);
        let mode = table.choose_mode(requested, &dedicated, shared);
        let (mode, held_plan) = match self.hold_plan(&table, mode, &dedicated) {
            Ok(held) => (mode, held),
            // The shared feed needs no memory for conditions.
            Err(_) if requested == FeedMode::Auto => (Mode::Shared, None),
            Err(exceeded) => return Err(exceeded.into()),
        };
        let plan = match mode {
            Mode::Dedicated => Arc::new(dedicated),
            Mode::Shared => Arc::clone(shared),
        };
        if let Some((feed_id, handle)) = table.join(&plan) {
            return Ok(PendingFeed {
                guard: guard(feed_id),
                mode,
                opened: handle.opened,
                is_new: false,
            });
        }
        let (sender, opened) = watch::channel(None);
        let stop = self.tasks.stop_token();
        let handle = FeedHandle {
            opened: opened.clone(),
            stop: stop.clone(),
            _plan: held_plan.map(Arc::new),
        };
        let (feed_id, retired) = table.insert(&plan, mode, handle)?;
        drop(table);
        if let Some(retired) = retired {
            tracing::debug!("stopping an idle feed to make room for another");
            retired.stop();
        }
        self.spawn(plan, mode, feed_id.clone(), stop, (sender, opened.clone()));
        Ok(PendingFeed {
            guard: guard(feed_id),
            mode,
            opened,
            is_new: true,
        })
    }

    /// Reserves the memory of the plan of a dedicated feed that is not there yet.
    fn hold_plan(
        &self,
        table: &FeedTable<FeedHandle>,
        mode: Mode,
        dedicated: &Plan,
    ) -> Result<Option<HeldPlan>, Exceeded> {
        if mode == Mode::Shared || table.contains(dedicated) {
            return Ok(None);
        }
        let held = self.requests.hold_plan(dedicated);
        held.map(Some).ok_or_else(|| self.requests.reject())
    }

    /// Starts the task of a feed. A separate task, since other watches may wait for the feed after the one
    /// that it is opened for is cancelled.
    fn spawn(
        self: &Arc<Self>,
        plan: Arc<Plan>,
        mode: Mode,
        feed_id: FeedId,
        stop: CancellationToken,
        (sender, opened): (OpenSender, OpenOutcome),
    ) {
        let span =
            tracing::info_span!(parent: None, "feed", scope = %plan.scope(), mode = mode.name());
        let feeds = Arc::clone(self);
        let task = async move {
            let removed_on_drop = RemoveOnDrop(Arc::clone(&feeds), feed_id);
            let feed = feeds.serve(&plan, mode, &removed_on_drop.1, sender);
            if stop.run_until_cancelled(feed).await.is_none()
                && let Some(Ok(feed)) = &*opened.borrow()
            {
                feed.ring.end(Error::Draining);
            }
            tracing::debug!("feed ended");
        };
        self.tasks.spawn(task.instrument(span));
    }

    /// Opens a feed and runs it until it ends. Sends the result of opening it.
    async fn serve(&self, plan: &Arc<Plan>, mode: Mode, feed_id: &FeedId, sender: OpenSender) {
        let gauge = self.metrics.count_feed(mode, Stage::Opening);
        let (token_context, opened, now) = match self.open(plan).await {
            Ok(opened) => opened,
            Err(error) => {
                // Before the result is sent, so that later watches open a new feed.
                lock(&self.table).remove(feed_id);
                sender.send_replace(Some(Err(error)));
                return;
            }
        };
        let feed = self.feed(plan, token_context, opened, now, gauge);
        if lock(&self.table).opened(feed_id) {
            self.idle.notify_one();
        }
        sender.send_replace(Some(Ok(Arc::new(OpenFeed {
            plan: Arc::clone(plan),
            ring: Arc::clone(&feed.ring),
            start: feed.stream.position().detached(),
        }))));
        let error = feed.run().await;
        tracing::debug!(%error, "feed failed");
    }

    /// Opens the stream of a feed. Returns it with MongoDB's time after that, where MongoDB reports one.
    async fn open(
        &self,
        plan: &Arc<Plan>,
    ) -> Result<(TokenContext, OpenedStream, Option<ClusterTime>), Error> {
        let token_context = self.deployment.token_context(plan).await?;
        let plans = StreamPlans::only(plan);
        let opened = open(&self.source, &plans, &token_context, None).await?;
        // Read after the stream was opened: see `RingHistory::starting_at`.
        let now = match self.source.current_time().await {
            Ok(now) => now,
            // The stream is open, and works without: it joins fewer catch-ups at first.
            Err(error) if error.failure.is_passing() => {
                tracing::info!(code = error.code, %error, "could not read mongodb's time for a new feed");
                None
            }
            Err(error) => return Err(Error::from(&error)),
        };
        Ok((token_context, opened, now))
    }

    fn feed(
        &self,
        plan: &Arc<Plan>,
        token_context: TokenContext,
        opened: OpenedStream,
        now: Option<ClusterTime>,
        gauge: StageGuard,
    ) -> Feed {
        let history = RingHistory::starting_at(&opened.start, now)
            .with_exact_times(plan.genuine().every_time);
        let ring = Arc::new(Ring::new(
            self.ring_bytes,
            token_context.clone(),
            Arc::clone(&self.metrics),
            opened.start.detached(),
            history,
        ));
        self.memory.register(&ring);
        let mut stream = ReconnectingStream::new(
            Arc::clone(&self.source),
            (StreamPlans::only(plan), token_context.clone()),
            Arc::clone(&self.metrics),
            self.upstream_grace,
            opened.start.clone(),
        );
        stream.adopt(opened);
        Feed {
            stream,
            segmenter: BatchSegmenter::new(
                Arc::clone(plan),
                token_context,
                Arc::clone(&self.memory.budget),
                Arc::clone(&self.metrics),
            ),
            ring,
            memory: Arc::clone(&self.memory),
            gauge,
        }
    }

    /// Stops feeds that have been idle for too long. Never returns.
    async fn stop_idle(self: Arc<Self>) {
        loop {
            let (expired, next) = lock(&self.table).expire();
            for feed in expired {
                feed.stop();
            }
            let next_expires = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = next_expires => {}
                () = self.idle.notified() => {}
            }
        }
    }
}

impl Drop for FeedGuard {
    fn drop(&mut self) {
        let last = lock(&self.feeds.table).leave(&self.feed_id, &self.caller);
        if last {
            self.feeds.idle.notify_one();
        }
    }
}
