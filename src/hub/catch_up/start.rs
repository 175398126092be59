//! The parameters of a catch-up, and the opening of its stream.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::timeout};
use tracing::Instrument as _;

use crate::{
    error::Error,
    filter::Residual,
    hub::{
        catch_up_permits::CatchUpPermit,
        catch_ups::CatchUps,
        stream::{OpenedStream, StreamPlans, open},
    },
    model::Caller,
    pipeline::Plan,
    source::{Anchor, Position},
    wire::TokenContext,
};

/// The maximum time that a call waits for MongoDB to open the catch-up stream of a new watch.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The parameters of a catch-up.
#[derive(Debug)]
pub(in crate::hub) struct CatchUpSpec {
    /// The feed's plan. Its stream is read if it contains the position, else the scope's shared one.
    pub plan: Arc<Plan>,
    /// The context that encodes the tokens of either stream.
    pub token_context: TokenContext,
    /// The residual filter for the events of the feed's stream.
    pub residual: Residual,
    /// The position to start after.
    pub from: Position,
    /// The last event before it, where known and part of the feed's stream.
    pub anchor: Option<Anchor>,
    /// The scope's shared plan.
    pub shared_plan: Arc<Plan>,
    /// The residual filter of the watch for the shared stream.
    pub watch_residual: Residual,
    /// Whose watch it is.
    pub caller: Caller,
}

impl CatchUpSpec {
    /// The plans with which its stream can be opened.
    pub(in crate::hub) fn plans(&self) -> StreamPlans {
        // The shared stream's events have not gone through the client's stages.
        if self.plan.has_client_stages() {
            return StreamPlans::only(&self.plan);
        }
        let is_shared = self.plan.has_stream_of(&self.shared_plan);
        StreamPlans {
            own: Arc::clone(&self.plan),
            shared: (!is_shared).then(|| Arc::clone(&self.shared_plan)),
        }
    }
}

/// The state in which a catch-up starts.
pub(in crate::hub) enum CatchUpStart {
    /// It has a permit, and its stream is open.
    Open(CatchUpPermit, Box<OpenedStream>),
    /// It has a permit, and MongoDB is still opening the stream. This can take long, as MongoDB may scan
    /// much of the oplog for the first event.
    Opening(PendingOpen),
    /// It waits for a permit.
    WaitingForPermit,
}

impl CatchUpStart {
    /// Opens the catch-up stream of a new watch, if a permit is free. Returns MongoDB's error if it answers
    /// within `max_wait`. After that the watch starts anyway, because a client cannot tell a waiting call from
    /// a dead one.
    pub(in crate::hub) async fn try_open(
        catch_ups: &CatchUps,
        spec: &CatchUpSpec,
        max_wait: Duration,
    ) -> Result<Self, Error> {
        let Some(permit) = catch_ups.permits.try_acquire(&spec.caller) else {
            return Ok(Self::WaitingForPermit);
        };
        let mut opening = PendingOpen::begin(catch_ups, permit, spec);
        match timeout(max_wait.min(OPEN_TIMEOUT), opening.answer()).await {
            Ok(answer) => {
                let (permit, opened) = answer?;
                Ok(Self::Open(permit, Box::new(opened?)))
            }
            Err(_) => Ok(Self::Opening(opening)),
        }
    }
}

/// A task that opens a stream, when it is its caller's turn, and holds the permit. It keeps the permit until MongoDB has answered, even if
/// the watch is cancelled, because MongoDB still runs the scan on a connection of Weir.
pub(in crate::hub) struct PendingOpen(JoinHandle<(CatchUpPermit, Result<OpenedStream, Error>)>);

impl PendingOpen {
    /// Starts to open the stream.
    pub(in crate::hub) fn begin(
        catch_ups: &CatchUps,
        permit: CatchUpPermit,
        spec: &CatchUpSpec,
    ) -> Self {
        let source = Arc::clone(&catch_ups.source);
        let (plans, token_context) = (spec.plans(), spec.token_context.clone());
        let from = spec.from.clone();
        let (openings, caller) = (catch_ups.openings.clone(), spec.caller.clone());
        let open = async move {
            let _turn = openings.acquire(&caller).await;
            (
                permit,
                open(&source, &plans, &token_context, Some(&from)).await,
            )
        };
        Self(catch_ups.tasks.spawn_detached(open.in_current_span()))
    }

    /// Waits for MongoDB's answer and returns it with the permit. Cancel safe.
    pub(in crate::hub) async fn answer(
        &mut self,
    ) -> Result<(CatchUpPermit, Result<OpenedStream, Error>), Error> {
        // The task panicked, or the runtime shuts down.
        (&mut self.0).await.map_err(|_| Error::Internal)
    }
}
