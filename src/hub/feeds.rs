//! Opens feeds, shares them, and closes them some time after their last watcher has left.

mod handle;
mod openings;

use std::{collections::HashMap, future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
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
    limit::{Exceeded, Limit, Turn},
    metrics::{Metrics, StageGuard},
    model::{Caller, FeedMode, Mode, Stage},
    pipeline::Plan,
    source::{ClusterTime, Source},
    wire::TokenContext,
};

pub(super) use handle::OpenFeed;
use handle::{FeedHandle, OpenOutcome, OpenSender};
use openings::{Openings, PacedTurn};

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
    /// The feeds that are being opened, also those that nobody waits for any more.
    openings: Openings,
    scope_labels: Mutex<LabelCap>,
    /// The bytes of events that a feed keeps.
    ring_bytes: usize,
    /// Notified when a feed becomes idle.
    idle: Notify,
    /// The longest outage of MongoDB that a feed survives.
    upstream_grace: Duration,
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

/// What a watch asks for, and for whom.
struct Wanted<'a> {
    caller: &'a Caller,
    requested: FeedMode,
    dedicated: Arc<Plan>,
    shared: &'a Arc<Plan>,
}

impl Wanted<'_> {
    /// The plan of the feed of a mode.
    fn plan(&self, mode: Mode) -> &Arc<Plan> {
        match mode {
            Mode::Dedicated => &self.dedicated,
            Mode::Shared => self.shared,
        }
    }
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
            source: source.for_feeds(),
            openings: Openings::new(settings.max_feeds, &metrics),
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
    ///
    /// # Errors
    /// MongoDB does not open it in time, or it was not the caller's turn to have one opened.
    pub(super) async fn join(
        self: &Arc<Self>,
        caller: &Caller,
        requested: FeedMode,
        (dedicated, shared): (Plan, &Arc<Plan>),
    ) -> Result<JoinedFeed, Error> {
        let deadline = Instant::now() + FEED_OPEN_TIMEOUT;
        let wanted = Wanted {
            caller,
            requested,
            dedicated: Arc::new(dedicated),
            shared,
        };
        let existing = {
            let mut table = lock(&self.table);
            let (mode, _) = self.choose(&table, &wanted)?;
            self.join_existing(&mut table, mode, &wanted)
        };
        let pending = match existing {
            Some(pending) => pending,
            None => {
                let turn = self.openings.acquire(caller).await?;
                self.join_or_open(&wanted, turn)?
            }
        };
        let PendingFeed {
            guard,
            mode,
            mut opened,
            is_new,
        } = pending;
        let answer = timeout_at(deadline, opened.wait_for(Option::is_some)).await;
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

    /// Decides which feed a watch uses, and reserves the memory of its plan if that is not there yet.
    fn choose(
        &self,
        table: &FeedTable<FeedHandle>,
        wanted: &Wanted<'_>,
    ) -> Result<(Mode, Option<HeldPlan>), Exceeded> {
        let plans = (&*wanted.dedicated, &**wanted.shared);
        let mode = table.choose_mode(wanted.caller, wanted.requested, plans);
        // It would wait for a dedicated one.
        let is_late = || {
            let is_new = mode == Mode::Dedicated && !table.contains(&wanted.dedicated);
            is_new && !self.openings.has_token(wanted.caller)
        };
        if wanted.requested == FeedMode::Auto && is_late() {
            return Ok((Mode::Shared, None));
        }
        match self.hold_plan(table, mode, &wanted.dedicated) {
            Ok(held) => Ok((mode, held)),
            // The shared feed needs no memory for conditions.
            Err(_) if wanted.requested == FeedMode::Auto => Ok((Mode::Shared, None)),
            Err(exceeded) => Err(exceeded),
        }
    }

    /// Joins the feed of this mode, if it is in the table.
    fn join_existing(
        self: &Arc<Self>,
        table: &mut FeedTable<FeedHandle>,
        mode: Mode,
        wanted: &Wanted<'_>,
    ) -> Option<PendingFeed> {
        let (feed_id, handle) = table.join(wanted.plan(mode), wanted.caller)?;
        Some(PendingFeed {
            guard: self.guard(feed_id, wanted),
            mode,
            opened: handle.opened,
            is_new: false,
        })
    }

    fn guard(self: &Arc<Self>, feed_id: FeedId, wanted: &Wanted<'_>) -> FeedGuard {
        FeedGuard {
            feeds: Arc::clone(self),
            feed_id,
            caller: wanted.caller.clone(),
        }
    }

    /// Joins a feed, or starts a task that opens it and has the turn until that is done.
    fn join_or_open(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        turn: Turn<Caller>,
    ) -> Result<PendingFeed, Error> {
        // The mode is chosen and the feed inserted under one lock, so that concurrent watches count each
        // other.
        let mut table = lock(&self.table);
        let (mode, held_plan) = self.choose(&table, wanted)?;
        if let Some(joined) = self.join_existing(&mut table, mode, wanted) {
            return Ok(joined);
        }
        let plan = Arc::clone(wanted.plan(mode));
        let (sender, opened) = watch::channel(None);
        let stop = self.tasks.stop_token();
        let handle = FeedHandle {
            opened: opened.clone(),
            stop: stop.clone(),
            _plan: held_plan.map(Arc::new),
        };
        let (feed_id, retired) = table.insert((&plan, mode), handle, wanted.caller)?;
        drop(table);
        for retired in retired {
            tracing::debug!("stopping an idle feed to make room for another");
            retired.stop();
        }
        let turn = self.openings.begin(wanted.caller, turn);
        let outcome = (sender, opened.clone());
        self.spawn((plan, mode), feed_id.clone(), (stop, turn), outcome);
        Ok(PendingFeed {
            guard: self.guard(feed_id, wanted),
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
        (plan, mode): (Arc<Plan>, Mode),
        feed_id: FeedId,
        (stop, turn): (CancellationToken, PacedTurn),
        (sender, opened): (OpenSender, OpenOutcome),
    ) {
        let span =
            tracing::info_span!(parent: None, "feed", scope = %plan.scope(), mode = mode.name());
        let feeds = Arc::clone(self);
        let task = async move {
            let removed_on_drop = RemoveOnDrop(Arc::clone(&feeds), feed_id);
            let feed = feeds.serve((&plan, mode), &removed_on_drop.1, turn, sender);
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
    async fn serve(
        self: &Arc<Self>,
        (plan, mode): (&Arc<Plan>, Mode),
        feed_id: &FeedId,
        turn: PacedTurn,
        sender: OpenSender,
    ) {
        let gauge = self.metrics.count_feed(mode, Stage::Opening);
        let (token_context, opened, now) = match self.open_in_turn(plan, turn).await {
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

    /// Opens the stream of a feed, in a task that goes on to MongoDB's answer and has the turn so long, even if the
    /// feed is stopped meanwhile: MongoDB works on it, and it has a connection.
    async fn open_in_turn(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        turn: PacedTurn,
    ) -> Result<(TokenContext, OpenedStream, Option<ClusterTime>), Error> {
        let (feeds, plan) = (Arc::clone(self), Arc::clone(plan));
        let opening = async move {
            let opened = feeds.open(&plan).await;
            turn.end(&feeds.tasks);
            opened
        };
        let opening = self.tasks.spawn_detached(opening.in_current_span());
        // The task panicked, or the runtime shuts down.
        opening.await.unwrap_or(Err(Error::Internal))
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
