//! The two streams that serve a watch, and how it catches up with the first: its feed's stream, and the
//! scope's shared one.

use std::sync::Arc;

use crate::{
    filter::Residual,
    hub::{catch_up::CatchUpSpec, feeds::JoinedFeed},
    model::Mode,
    pipeline::{Plan, Watch},
    source::{Anchor, Position},
    wire::{ResumeToken, TokenContext},
};

/// The streams of one watch.
#[derive(Debug)]
pub(super) struct WatchStreams {
    pub joined: JoinedFeed,
    pub shared: SharedStream,
}

/// The scope's shared stream. It can be resumed with a token of any plan.
#[derive(Debug)]
pub(super) struct SharedStream {
    pub plan: Arc<Plan>,
    pub token_context: TokenContext,
}

/// The position at which a watch starts or resumes.
#[derive(Debug)]
pub(super) struct ResumeTarget {
    pub position: Position,
    /// The last event before the position, where known.
    pub anchor: Option<Anchor>,
    /// The token that the position was read from. Identifies the stream that made it.
    pub made_by: Option<ResumeToken>,
    /// `true` if the watch starts now and MongoDB does not report its time.
    pub now_unknown: bool,
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

impl WatchStreams {
    /// The context that encodes the tokens of the feed.
    pub(super) fn token_context(&self) -> &TokenContext {
        &self.joined.feed.ring.token_context
    }

    /// The residual filter of a watch for the events of its feed.
    pub(super) fn residual(&self, watch: &Watch) -> Residual {
        match self.joined.mode {
            Mode::Dedicated => watch.dedicated_residual(),
            Mode::Shared => watch.shared_residual(),
        }
    }

    /// Returns the parameters of a catch-up to the feed.
    pub(super) fn catch_up_spec(&self, watch: &Watch, target: ResumeTarget) -> CatchUpSpec {
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
            anchor.filter(|_| made_by(self.token_context()) || made_by(&self.shared.token_context));
        CatchUpSpec {
            plan: Arc::clone(&self.joined.feed.plan),
            token_context: self.token_context().clone(),
            residual: self.residual(watch),
            from,
            anchor,
            shared_plan: Arc::clone(&self.shared.plan),
            watch_residual: watch.shared_residual(),
            caller: watch.caller.clone(),
        }
    }
}
