//! The start of a watch: finds its start position, then joins the ring or starts a catch-up.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{SharedStream, StartPosition, Watcher, WatcherState};
use crate::{
    error::Error,
    filter::Residual,
    hub::{
        Inner,
        catch_up::{CatchUpSpec, CatchUpStart, PendingOpen, RunningCatchUp},
        registry::JoinedFeed,
        resume_token::check_resume_token,
        ring::JoinPoint,
        stream::next_time,
        subscriber::Subscriber,
        sync::lock,
        undeliverable,
    },
    metrics::Mode,
    model::{FeedMode, Start},
    pipeline::{Plan, Watch},
    source::{Anchor, ClusterTime, Position},
    wire::{ResumeToken, TokenContext},
};

/// The maximum time that a call waits for MongoDB to open the catch-up stream of a new watch.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The position at which a watch starts or resumes.
#[derive(Debug)]
pub(super) struct ResumeTarget {
    position: Position,
    /// The last event before the position, where known.
    anchor: Option<Anchor>,
    /// The token that the position was read from. Identifies the stream that made it.
    made_by: Option<ResumeToken>,
    /// `true` if the watch starts now and MongoDB does not report its time.
    now_unknown: bool,
}

impl From<ResumeToken> for ResumeTarget {
    fn from(token: ResumeToken) -> Self {
        Self {
            position: token.position.clone(),
            anchor: token.anchor,
            made_by: Some(token),
            now_unknown: false,
        }
    }
}

impl Inner {
    /// See [`Hub::subscribe`](crate::hub::Hub::subscribe).
    pub(in crate::hub) async fn subscribe(
        self: &Arc<Self>,
        watch: &Arc<Watch>,
    ) -> Result<Watcher, Error> {
        let keys = self.settings.token_keys.as_ref();
        let deployment = self.deployment().await?;
        let shared_plan = Arc::new(Plan::shared(watch));
        let shared = SharedStream {
            token_context: TokenContext::new(deployment, &shared_plan).with_keys(keys.cloned()),
            plan: shared_plan,
        };
        let token = match &watch.start {
            Start::Token(token) => Some(check_resume_token(
                token,
                &shared.token_context,
                &watch.view,
            )?),
            Start::Now | Start::Time(_) => None,
        };
        let dedicated = Plan::dedicated(watch);
        let requested = match watch.feed_mode {
            // A watch with an end time ends when an empty reply proves that nothing is left. That takes
            // the shared stream, where an empty reply means that there were no events at all.
            FeedMode::Auto if watch.end_time.is_some() => FeedMode::Shared,
            mode => mode,
        };
        let joined = self.join_feed(requested, dedicated, &shared.plan).await?;
        let subscriber = Arc::new(Subscriber::default());
        let target = self.resume_target(watch, token, &joined).await?;
        let now_unknown = target.now_unknown;
        let spec = catch_up_spec(&joined, &shared, watch, target);
        let started = self
            .join_or_catch_up(spec, now_unknown, watch, &joined, &subscriber)
            .await;
        let (state, start) =
            started.map_err(|error| undeliverable::redact(error, &watch.view, keys))?;
        subscriber.set_reached_second(start.position.time().seconds);
        Ok(Watcher {
            hub: Arc::clone(self),
            watch: Arc::clone(watch),
            joined,
            shared,
            subscriber_slot: lock(&self.subscribers).insert(Arc::clone(&subscriber)),
            subscriber,
            state,
            last_stage: None,
            last_progress_time: None,
            start,
            skip_ahead: None,
        })
    }

    /// Joins the ring at the start position if possible, else starts a catch-up.
    async fn join_or_catch_up(
        self: &Arc<Self>,
        spec: CatchUpSpec,
        now_unknown: bool,
        watch: &Watch,
        joined: &JoinedFeed,
        subscriber: &Arc<Subscriber>,
    ) -> Result<(WatcherState, StartPosition), Error> {
        let residual = residual(watch, joined.mode);
        let mut start = StartPosition {
            token: match &watch.start {
                Start::Token(token) => token.clone(),
                Start::Now | Start::Time(_) => {
                    let anchor = spec.anchor.as_ref();
                    spec.token_context
                        .encode(&spec.from, anchor, watch.view.token_audience)
                }
            },
            position: spec.from.clone(),
            opened_by_time: false,
        };
        let point = if now_unknown {
            JoinPoint::Now
        } else {
            JoinPoint::After(&spec.from, spec.anchor.as_ref())
        };
        if let Some(reader) = joined.feed.ring.join(&residual, subscriber, &point) {
            return Ok((WatcherState::Live(reader), start));
        }
        let ready = self.try_open(&spec, watch.progress_interval).await?;
        start.opened_by_time = matches!(&ready, CatchUpStart::Open(_, opened) if opened.by_time);
        let running = RunningCatchUp::start(self, &joined.feed, residual, subscriber, spec, ready);
        Ok((WatcherState::CatchingUp(running), start))
    }

    /// Determines the position at which a watch starts.
    async fn resume_target(
        &self,
        watch: &Watch,
        token: Option<ResumeToken>,
        joined: &JoinedFeed,
    ) -> Result<ResumeTarget, Error> {
        let mut now_unknown = false;
        let time = match (&watch.start, token) {
            (_, Some(token)) => return Ok(ResumeTarget::from(token)),
            (Start::Time(seconds), None) => ClusterTime {
                seconds: *seconds,
                // MongoDB counts the operations of a second from 1.
                increment: 1,
            },
            // The first watcher of a feed starts where the feed does.
            (Start::Now | Start::Token(_), None) if joined.is_new => {
                let position = joined.feed.start.clone();
                let origin = position.token().map(|it| Anchor::new(it, position.time()));
                return Ok(ResumeTarget {
                    position,
                    anchor: origin,
                    made_by: None,
                    now_unknown: false,
                });
            }
            (Start::Now | Start::Token(_), None) => {
                let now = self.clock.now().await.map_err(|error| {
                    tracing::warn!(code = error.code, %error, "could not read mongodb's time");
                    Error::from(&error)
                })?;
                let now = now.or(joined.feed.ring.position().upstream_time);
                now_unknown = now.is_none();
                // Not the current end of the ring: events that were added to it since then belong to the
                // watch.
                next_time(now.unwrap_or_default())
            }
        };
        Ok(ResumeTarget {
            position: Position::Time(time),
            anchor: None,
            made_by: None,
            now_unknown,
        })
    }

    /// Opens the catch-up stream, if a permit is free. Returns MongoDB's error if it answers within
    /// `max_wait`. After that the watch starts anyway, because a client cannot tell a waiting call from a
    /// dead one.
    async fn try_open(
        &self,
        spec: &CatchUpSpec,
        max_wait: Duration,
    ) -> Result<CatchUpStart, Error> {
        let Some(permit) = self.catch_up_permits.try_acquire() else {
            return Ok(CatchUpStart::WaitingForPermit);
        };
        let mut opening = PendingOpen::begin(self, permit, spec);
        match timeout(max_wait.min(OPEN_TIMEOUT), opening.answer()).await {
            Ok(answer) => {
                let (permit, opened) = answer?;
                Ok(CatchUpStart::Open(permit, Box::new(opened?)))
            }
            Err(_) => Ok(CatchUpStart::Opening(opening)),
        }
    }
}

/// The residual filter of a watch for the events of its feed.
pub(super) fn residual(watch: &Watch, mode: Mode) -> Residual {
    match mode {
        Mode::Dedicated => Residual::for_dedicated(watch),
        Mode::Shared => Residual::for_shared(watch),
    }
}

/// Returns the parameters of a catch-up to the feed.
pub(super) fn catch_up_spec(
    joined: &JoinedFeed,
    shared: &SharedStream,
    watch: &Watch,
    target: ResumeTarget,
) -> CatchUpSpec {
    let feed = &joined.feed;
    let ResumeTarget {
        position: from,
        anchor,
        made_by: token,
        now_unknown: _,
    } = target;
    let made_by = |token_context: &TokenContext| {
        token
            .as_ref()
            .is_none_or(|token| token.is_same_plan(token_context))
    };
    // Only for these two streams is it certain that the feed's stream has no event between the anchor and
    // the position.
    let anchor =
        anchor.filter(|_| made_by(&feed.ring.token_context) || made_by(&shared.token_context));
    CatchUpSpec {
        plan: Arc::clone(&feed.plan),
        token_context: feed.ring.token_context.clone(),
        residual: residual(watch, joined.mode),
        from,
        anchor,
        shared_plan: Arc::clone(&shared.plan),
        watch_residual: Residual::for_shared(watch),
    }
}
