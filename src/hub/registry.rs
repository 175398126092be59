//! Opens feeds, shares them, and closes them some time after their last watcher has left.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    error::Error,
    hub::{
        Inner,
        feed::{BatchSegmenter, Feed},
        feed_table::FeedId,
        open::{OpenedStream, StreamPlans, open},
        ring::{Ring, RingHistory},
        stream::{ReconnectingStream, detach},
        sync::lock,
    },
    metrics::{Mode, Stage, StageGuard},
    model::FeedMode,
    pipeline::Plan,
    source::{ClusterTime, Position},
    wire::TokenContext,
};

/// The time that a call waits for a feed to open; MongoDB opens a stream from now at once. After a timeout
/// the feed continues to open, for later calls.
const FEED_OPEN_TIMEOUT: Duration = Duration::from_secs(30);

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

/// A feed in the feed table: open, opening, or failed to open.
#[derive(Debug, Clone)]
pub(super) struct FeedHandle {
    opened: OpenOutcome,
    stop: CancellationToken,
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
    hub: Arc<Inner>,
    feed_id: FeedId,
}

/// Removes a feed from the feed table when its task ends in any way.
struct RemoveOnDrop(Arc<Inner>, FeedId);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        lock(&self.0.feed_table).remove(&self.1);
    }
}

impl FeedHandle {
    /// The ring, if the feed is open.
    pub(super) fn ring(&self) -> Option<Arc<Ring>> {
        match &*self.opened.borrow() {
            Some(Ok(feed)) => Some(Arc::clone(&feed.ring)),
            _ => None,
        }
    }

    fn stop(&self) {
        self.stop.cancel();
    }
}

impl Inner {
    /// Joins a dedicated or a shared feed. Opens it if there is none, and waits until it is open.
    pub(super) async fn join_feed(
        self: &Arc<Self>,
        requested: FeedMode,
        dedicated: Plan,
        shared: &Arc<Plan>,
    ) -> Result<JoinedFeed, Error> {
        let PendingFeed {
            guard,
            mode,
            mut opened,
            is_new,
        } = self.join_or_open(requested, dedicated, shared)?;
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
    ) -> Result<PendingFeed, Error> {
        let guard = |feed_id| FeedGuard {
            hub: Arc::clone(self),
            feed_id,
        };
        // The mode is chosen and the feed inserted under one lock, so that concurrent watches count each
        // other.
        let mut feed_table = lock(&self.feed_table);
        let mode = feed_table.choose_mode(requested, &dedicated, shared);
        let plan = match mode {
            Mode::Dedicated => Arc::new(dedicated),
            Mode::Shared => Arc::clone(shared),
        };
        if let Some((feed_id, handle)) = feed_table.join(&plan) {
            return Ok(PendingFeed {
                guard: guard(feed_id),
                mode,
                opened: handle.opened,
                is_new: false,
            });
        }
        let (sender, opened) = watch::channel(None);
        let stop = self.stop.child_token();
        let handle = FeedHandle {
            opened: opened.clone(),
            stop: stop.clone(),
        };
        let Ok((feed_id, retired)) = feed_table.insert(&plan, mode, handle) else {
            drop(feed_table);
            self.metrics.count_limit_rejection("feeds");
            return Err(Error::LimitExceeded {
                limit: "feeds",
                max: self.settings.max_feeds,
            });
        };
        drop(feed_table);
        if let Some(retired) = retired {
            tracing::debug!("stopping an idle feed to make room for another");
            retired.stop();
        }
        let span =
            tracing::info_span!(parent: None, "feed", scope = %plan.scope, mode = mode.name());
        let hub = Arc::clone(self);
        let running = feed_id.clone();
        let answer = opened.clone();
        // A separate task, since other watches may wait for the feed after this one is cancelled.
        self.tasks.spawn(
            async move {
                let removed_on_drop = RemoveOnDrop(Arc::clone(&hub), running);
                let feed = hub.serve(&plan, mode, &removed_on_drop.1, sender);
                if stop.run_until_cancelled(feed).await.is_none()
                    && let Some(Ok(feed)) = &*answer.borrow()
                {
                    feed.ring.end(Error::Draining);
                }
                tracing::debug!("feed ended");
            }
            .instrument(span),
        );
        Ok(PendingFeed {
            guard: guard(feed_id),
            mode,
            opened,
            is_new: true,
        })
    }

    /// Opens a feed and runs it until it ends. Sends the result of opening it.
    async fn serve(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        mode: Mode,
        feed_id: &FeedId,
        sender: watch::Sender<Option<Result<Arc<OpenFeed>, Error>>>,
    ) {
        let gauge = self.metrics.count_feed(mode, Stage::Opening);
        let opened = match self.deployment().await {
            Ok(name) => {
                let keys = self.settings.token_keys.clone();
                let token_context = TokenContext::new(name, plan).with_keys(keys);
                open(&self.source, &StreamPlans::only(plan), &token_context, None)
                    .await
                    .map(|opened| (token_context, opened))
            }
            Err(error) => Err(error),
        };
        // Read after the stream was opened: see `RingHistory::starting_at`.
        let opened = match opened {
            Ok((token_context, opened)) => match self.source.current_time().await {
                Ok(now) => Ok((token_context, opened, now)),
                // The stream is open, and works without: it joins fewer catch-ups at first.
                Err(error) if error.failure.is_passing() => {
                    tracing::info!(code = error.code, %error, "could not read mongodb's time for a new feed");
                    Ok((token_context, opened, None))
                }
                Err(error) => Err(Error::from(&error)),
            },
            Err(error) => Err(error),
        };
        let (token_context, opened, now) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Before the result is sent, so that later watches open a new feed.
                lock(&self.feed_table).remove(feed_id);
                sender.send_replace(Some(Err(error)));
                return;
            }
        };
        let feed = self.feed(plan, token_context, opened, now, gauge);
        let ring = Arc::clone(&feed.ring);
        sender.send_replace(Some(Ok(Arc::new(OpenFeed {
            plan: Arc::clone(plan),
            ring,
            start: detach(feed.stream.position()),
        }))));
        let error = feed.run().await;
        tracing::debug!(%error, "feed failed");
    }

    fn feed(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        token_context: TokenContext,
        opened: OpenedStream,
        now: Option<ClusterTime>,
        gauge: StageGuard,
    ) -> Feed {
        let history = RingHistory::starting_at(&opened.start, now);
        let ring = Arc::new(Ring::new(
            self.settings.ring_bytes,
            token_context.clone(),
            Arc::clone(&self.metrics),
            detach(&opened.start),
            history,
        ));
        self.memory.register(&ring);
        let mut stream = ReconnectingStream::new(
            Arc::clone(&self.source),
            (StreamPlans::only(plan), token_context.clone()),
            Arc::clone(&self.metrics),
            self.settings.upstream_grace,
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

    /// Stops a feed that is still idle after the linger time.
    async fn expire(self: Arc<Self>, feed_id: FeedId) {
        let linger = self.settings.feed_linger;
        let lingered = self.stop.run_until_cancelled(tokio::time::sleep(linger));
        if lingered.await.is_some() {
            let expired = lock(&self.feed_table).expire(&feed_id, linger);
            if let Some(expired) = expired {
                expired.stop();
            }
        }
    }
}

impl Drop for FeedGuard {
    fn drop(&mut self) {
        let last = lock(&self.hub.feed_table).leave(&self.feed_id);
        if last {
            let expire = Arc::clone(&self.hub).expire(self.feed_id.clone());
            // Not tracked: shutdown would wait for the linger time.
            self.hub.runtime.spawn(expire);
        }
    }
}
