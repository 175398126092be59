//! The parameters of a catch-up, and the opening of its stream.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::{
    error::Error,
    filter::Residual,
    hub::{
        catch_up_openings::{CatchUpOpenings, OpeningTurn},
        catch_up_permits::{CatchUpPermit, UNREAD_LIMIT},
        catch_up_queue::CatchUpQueue,
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
    Open(CatchUpPermit, Box<OpenedInTurn>),
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

/// A stream that was opened, and the turn to do so.
pub(in crate::hub) struct OpenedInTurn {
    pub stream: OpenedStream,
    pub turn: KeptTurn,
}

/// The turn to open the stream of a catch-up, kept until it shows whether its client reads.
pub(in crate::hub) struct KeptTurn {
    _turn: OpeningTurn,
    opened: Instant,
}

impl KeptTurn {
    /// Keeps the turn until the client reads what the stream brought, or has nothing to read, or for a second. Notes
    /// which of these it was. Never returns.
    pub(super) async fn keep_while_unread(
        turn: Option<Self>,
        (openings, caller): (&CatchUpOpenings, &Caller),
        queue: &CatchUpQueue,
    ) -> Infallible {
        if let Some(turn) = turn {
            let limit = turn.opened + UNREAD_LIMIT;
            let read = timeout_at(limit, queue.wait_read(turn.opened)).await;
            // Who reads slowly takes something now and then. Who does not read has taken all that it takes at once.
            let reads = read.is_ok() || queue.was_read_within(UNREAD_LIMIT / 2);
            openings.note(caller, reads);
        }
        pending().await
    }
}

/// A task that opens a stream, when it is its caller's turn, and holds the permit. From that turn on it keeps both until
/// MongoDB has answered, even if the watch is cancelled, because MongoDB still runs the scan on a connection of Weir.
pub(in crate::hub) struct PendingOpen {
    task: JoinHandle<(CatchUpPermit, Result<OpenedInTurn, Error>)>,
    _wanted: DropGuard,
}

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
        let (openings, caller) = (Arc::clone(&catch_ups.openings), spec.caller.clone());
        let wanted = CancellationToken::new();
        let cancelled = wanted.clone();
        let open = async move {
            let turn = tokio::select! {
                biased;
                // Nobody waits for the answer.
                () = cancelled.cancelled() => return (permit, Err(Error::Internal)),
                turn = openings.acquire(&caller) => turn,
            };
            let opened = open(&source, &plans, &token_context, Some(&from)).await;
            let opened = opened.map(|stream| OpenedInTurn {
                stream,
                turn: KeptTurn {
                    _turn: turn,
                    opened: Instant::now(),
                },
            });
            (permit, opened)
        };
        Self {
            task: catch_ups.tasks.spawn_detached(open.in_current_span()),
            _wanted: wanted.drop_guard(),
        }
    }

    /// Waits for MongoDB's answer and returns it with the permit. Cancel safe.
    pub(in crate::hub) async fn answer(
        &mut self,
    ) -> Result<(CatchUpPermit, Result<OpenedInTurn, Error>), Error> {
        // The task panicked, or the runtime shuts down.
        (&mut self.task).await.map_err(|_| Error::Internal)
    }
}
