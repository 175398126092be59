//! The start of a watch: finds its start position, then joins the ring or starts a catch-up.

use std::sync::Arc;

use super::{
    StartPosition, Watcher, WatcherState,
    deciding::Deciding,
    streams::{ResumeTarget, SharedStream, WatchStreams},
};
use crate::{
    error::Error,
    hub::{
        catch_up::{CatchUpStart, RunningCatchUp},
        catch_ups::CatchUps,
        clock::Clock,
        deployment::Deployment,
        feeds::{Feeds, JoinedFeed},
        memory::MemoryManager,
        resume_token::check_resume_token,
        ring::JoinPoint,
        stream::undeliverable,
        subscriber::Subscriber,
        subscribers::Subscribers,
    },
    metrics::Metrics,
    model::{FeedMode, Start},
    pipeline::{Plan, Watch},
    source::{Anchor, ClusterTime, Position},
    wire::ResumeToken,
};

/// Starts watches.
pub(in crate::hub) struct WatchStarter {
    pub deployment: Arc<Deployment>,
    pub clock: Clock,
    pub feeds: Arc<Feeds>,
    pub catch_ups: Arc<CatchUps>,
    pub subscribers: Arc<Subscribers>,
    pub memory: Arc<MemoryManager>,
    pub metrics: Arc<Metrics>,
}

impl WatchStarter {
    /// See [`Hub::subscribe`](crate::hub::Hub::subscribe).
    pub(in crate::hub) async fn start(&self, watch: &Arc<Watch>) -> Result<Watcher, Error> {
        let shared_plan = Arc::new(Plan::shared(watch));
        let shared = SharedStream {
            token_context: self.deployment.token_context(&shared_plan).await?,
            plan: shared_plan,
        };
        let token = match &watch.start {
            Start::Token(token) => Some(check_resume_token(token, &shared.token_context, watch)?),
            Start::Now | Start::Time(_) => None,
        };
        let dedicated = Plan::dedicated(watch);
        let requested = match watch.feed_mode {
            // The shared stream does not run the client's stages.
            _ if dedicated.has_client_stages() => FeedMode::Dedicated,
            // A watch with an end time ends when an empty reply proves that nothing is left. That takes
            // the shared stream, where an empty reply means that there were no events at all.
            FeedMode::Auto if watch.end_time.is_some() => FeedMode::Shared,
            mode => mode,
        };
        let plans = (dedicated, &shared.plan);
        let joined = self.feeds.join(&watch.caller, requested, plans).await?;
        let target = self.resume_target(watch, token, &joined).await?;
        let streams = WatchStreams { joined, shared };
        let subscriber = Arc::new(Subscriber::until(watch.end_time));
        let started = self.join_or_catch_up(watch, target, &streams, &subscriber);
        let keys = self.deployment.token_keys();
        let (state, start) = started
            .await
            .map_err(|error| undeliverable::redact(error, watch, keys))?;
        subscriber.set_reached_second(start.position.time().seconds);
        Ok(Watcher {
            watch: Arc::clone(watch),
            streams,
            subscription: self.subscribers.add(Arc::clone(&subscriber)),
            subscriber,
            state,
            deciding: Deciding::default(),
            last_stage: None,
            last_progress_time: None,
            start,
            skip_ahead: None,
            token_keys: keys.cloned(),
            catch_ups: Arc::clone(&self.catch_ups),
            memory: Arc::clone(&self.memory),
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// Joins the ring at the start position if possible, else starts a catch-up.
    async fn join_or_catch_up(
        &self,
        watch: &Watch,
        target: ResumeTarget,
        streams: &WatchStreams,
        subscriber: &Arc<Subscriber>,
    ) -> Result<(WatcherState, StartPosition), Error> {
        let now_unknown = target.now_unknown;
        let spec = streams.catch_up_spec(watch, target);
        let residual = streams.residual(watch);
        let feed = &streams.joined.feed;
        let mut start = StartPosition {
            token: match &watch.start {
                Start::Token(token) => token.clone(),
                Start::Now | Start::Time(_) => {
                    let anchor = spec.anchor.as_ref();
                    spec.token_context
                        .encode(&spec.from, anchor, watch.rendering.audience)
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
        if let Some(reader) = feed.ring.join(&residual, subscriber, &point) {
            return Ok((WatcherState::Live(reader), start));
        }
        let ready = CatchUpStart::try_open(&self.catch_ups, &spec, watch.progress_interval).await?;
        start.opened_by_time =
            matches!(&ready, CatchUpStart::Open(_, opened) if opened.stream.by_time);
        let running =
            RunningCatchUp::start(&self.catch_ups, feed, residual, subscriber, spec, ready);
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
            // The feed's events do not tell their times, so only its position says which follow.
            (Start::Now | Start::Token(_), None) if !joined.feed.plan.genuine().every_time => {
                let end = joined.feed.ring.position();
                return Ok(ResumeTarget {
                    position: end.position,
                    anchor: end.anchor,
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
                now.unwrap_or_default().successor()
            }
        };
        Ok(ResumeTarget {
            position: Position::Time(time),
            anchor: None,
            made_by: None,
            now_unknown,
        })
    }
}
