//! Opens feeds, shares them, and lets go of them a while after their last watcher.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    error::Error,
    hub::{
        Inner,
        feed::{Feed, Intake},
        open::{Opened, open},
        ring::{Before, Ring},
        roll::Ticket,
        stream::{Stream, own},
        sync::lock,
    },
    metrics::{Mode, Stage, StageGuard},
    plan::{FeedMode, Plan},
    source::{ClusterTime, Position},
    wire::TokenContext,
};

/// How long a call waits for a stream from now, which MongoDB opens at once. It may come to be open
/// all the same, for whoever calls next.
const OPENING_LIMIT: Duration = Duration::from_secs(30);

/// A feed that reads.
#[derive(Debug)]
pub(super) struct OpenFeed {
    pub plan: Arc<Plan>,
    pub ring: Arc<Ring>,
    /// The place that it began at.
    pub start: Position,
}

/// What became of opening a feed, once that is known.
type Opening = watch::Receiver<Option<Result<Arc<OpenFeed>, Error>>>;

/// A feed as the roll holds it: open, opening, or failed to open.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    opened: Opening,
    stop: CancellationToken,
}

/// A watcher's part in a feed: as long as there is one, the feed stays.
#[derive(Debug)]
pub(super) struct Lease {
    pub feed: Arc<OpenFeed>,
    pub mode: Mode,
    /// Whether it was opened for this watcher.
    pub new: bool,
    _part: Part,
}

/// A watcher's part in a feed that may still be opening.
struct Joined {
    part: Part,
    mode: Mode,
    opened: Opening,
    new: bool,
}

/// Keeps a feed from being let go.
#[derive(Debug)]
struct Part {
    hub: Arc<Inner>,
    ticket: Ticket,
}

/// Takes a feed that has ended, whichever way, out of the roll.
struct ForgetWhenDropped(Arc<Inner>, Ticket);

impl Drop for ForgetWhenDropped {
    fn drop(&mut self) {
        lock(&self.0.roll).forget(&self.1);
    }
}

impl Handle {
    /// Its ring, once it has one.
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
    /// Takes part in a feed for one of two plans, and opens it when there is none. MongoDB has answered
    /// when this returns.
    pub(super) async fn lease(
        self: &Arc<Self>,
        wish: FeedMode,
        dedicated: Plan,
        shared: &Arc<Plan>,
    ) -> Result<Lease, Error> {
        let Joined {
            part,
            mode,
            mut opened,
            new,
        } = self.take_part(wish, dedicated, shared)?;
        let answer = timeout(OPENING_LIMIT, opened.wait_for(Option::is_some)).await;
        let Ok(answer) = answer else {
            tracing::warn!("mongodb takes too long to open a change stream");
            return Err(Error::UpstreamUnavailable);
        };
        let answer = answer.ok().and_then(|answer| answer.clone());
        match answer {
            Some(Ok(feed)) => Ok(Lease {
                feed,
                mode,
                new,
                _part: part,
            }),
            Some(Err(error)) => Err(error),
            // The task that opens it was stopped.
            None => Err(Error::Draining),
        }
    }

    fn take_part(
        self: &Arc<Self>,
        wish: FeedMode,
        dedicated: Plan,
        shared: &Arc<Plan>,
    ) -> Result<Joined, Error> {
        let part = |ticket| Part {
            hub: Arc::clone(self),
            ticket,
        };
        // Chosen and entered in one step, so that those who come together count each other.
        let mut roll = lock(&self.roll);
        let mode = roll.choose(wish, &dedicated, shared);
        let plan = match mode {
            Mode::Dedicated => Arc::new(dedicated),
            Mode::Shared => Arc::clone(shared),
        };
        if let Some((ticket, handle)) = roll.join(&plan) {
            return Ok(Joined {
                part: part(ticket),
                mode,
                opened: handle.opened,
                new: false,
            });
        }
        let (tell, opened) = watch::channel(None);
        let stop = self.stop.child_token();
        let handle = Handle {
            opened: opened.clone(),
            stop: stop.clone(),
        };
        let Ok((ticket, retired)) = roll.open(&plan, mode, handle) else {
            drop(roll);
            self.metrics.count_limit_rejection("feeds");
            return Err(Error::LimitExceeded {
                limit: "feeds",
                max: self.settings.max_feeds,
            });
        };
        drop(roll);
        if let Some(retired) = retired {
            tracing::debug!("an idle feed makes room for another");
            retired.stop();
        }
        let span =
            tracing::info_span!(parent: None, "feed", scope = %plan.scope, mode = mode.name());
        let hub = Arc::clone(self);
        let running = ticket.clone();
        let answer = opened.clone();
        // In a task of its own, since others wait for it too, whoever asked first.
        self.tasks.spawn(
            async move {
                let entry = ForgetWhenDropped(Arc::clone(&hub), running);
                let feed = hub.serve(&plan, mode, &entry.1, tell);
                if stop.run_until_cancelled(feed).await.is_none()
                    && let Some(Ok(feed)) = &*answer.borrow()
                {
                    feed.ring.end(Error::Draining);
                }
                tracing::debug!("feed ended");
            }
            .instrument(span),
        );
        Ok(Joined {
            part: part(ticket),
            mode,
            opened,
            new: true,
        })
    }

    /// Opens a feed and reads it to its end.
    async fn serve(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        mode: Mode,
        ticket: &Ticket,
        tell: watch::Sender<Option<Result<Arc<OpenFeed>, Error>>>,
    ) {
        let gauge = self.metrics.count_feed(mode, Stage::Opening);
        let opened = match self.deployment().await {
            Ok(name) => {
                let keys = self.settings.token_keys.clone();
                let token_context = TokenContext::new(name, plan).with_keys(keys);
                open(&*self.source, plan, &token_context, None)
                    .await
                    .map(|opened| (token_context, opened))
            }
            Err(error) => Err(error),
        };
        // Asked for after the opening, since MongoDB may begin later than it says with its answer.
        let opened = match opened {
            Ok((token_context, opened)) => match self.source.current_time().await {
                Ok(now) => Ok((token_context, opened, now)),
                Err(error) => Err(Error::from(&error)),
            },
            Err(error) => Err(error),
        };
        let (token_context, opened, now) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // First: who comes now is to try anew.
                lock(&self.roll).forget(ticket);
                tell.send_replace(Some(Err(error)));
                return;
            }
        };
        let feed = self.feed(plan, token_context, opened, now, gauge);
        let ring = Arc::clone(&feed.ring);
        tell.send_replace(Some(Ok(Arc::new(OpenFeed {
            plan: Arc::clone(plan),
            ring,
            start: own(feed.stream.position()),
        }))));
        let why = feed.run().await;
        tracing::debug!(%why, "nothing is left to try");
    }

    fn feed(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        token_context: TokenContext,
        opened: Opened,
        now: Option<ClusterTime>,
        gauge: StageGuard,
    ) -> Feed {
        let before = Before::beginning(&opened.start, now);
        let ring = Arc::new(Ring::new(
            self.settings.ring_bytes,
            token_context.clone(),
            Arc::clone(&self.metrics),
            own(&opened.start),
            before,
        ));
        self.memory.add(&ring);
        let mut stream = Stream::new(
            Arc::clone(&self.source),
            (Arc::clone(plan), token_context.clone()),
            Arc::clone(&self.metrics),
            self.settings.upstream_grace,
            opened.start.clone(),
        );
        stream.begin(opened);
        Feed {
            stream,
            intake: Intake::new(
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

    /// Lets go of a feed that nobody has read for as long as feeds linger.
    async fn expire(self: Arc<Self>, ticket: Ticket) {
        let linger = self.settings.feed_linger;
        let lingered = self.stop.run_until_cancelled(tokio::time::sleep(linger));
        if lingered.await.is_some() {
            let expired = lock(&self.roll).expire(&ticket, linger);
            if let Some(expired) = expired {
                expired.stop();
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let last = lock(&self.hub.roll).leave(&self.ticket);
        if last {
            let expire = Arc::clone(&self.hub).expire(self.ticket.clone());
            // Not on the tracker: it would hold up the end for as long as feeds linger.
            self.hub.runtime.spawn(expire);
        }
    }
}
