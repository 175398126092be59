//! What a watcher waits for while a costly filter is evaluated elsewhere.

use std::{
    fmt,
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{
    hub::{
        ring::Ring,
        undecided::{Decided, UndecidedEvents},
    },
    limit::CostlyWork,
    model::Caller,
};

/// At most one evaluation that runs, or waits for its turn. It holds no events: the ring may evict them meanwhile.
#[derive(Default)]
pub(super) struct Deciding(Option<Running>);

type Running = Pin<Box<dyn Future<Output = Result<Decided, Evicted>> + Send>>;

/// The ring has lost the events before their turn.
#[derive(Debug)]
pub(super) struct Evicted;

impl Deciding {
    pub(super) fn start(
        &mut self,
        events: UndecidedEvents,
        ring: &Arc<Ring>,
        costly: &CostlyWork,
        caller: &Caller,
    ) {
        let (ring, costly, caller) = (Arc::clone(ring), costly.clone(), caller.clone());
        let work = move || {
            let segment = ring.segment(events.first_seq()).ok_or(Evicted)?;
            Ok(events.decide(&segment))
        };
        self.0 = Some(Box::pin(async move {
            let decided = costly.run(&caller, work).await;
            decided.unwrap_or_else(|panic| resume_unwind(panic))
        }));
    }

    /// Forgets the events, which are read again.
    pub(super) fn stop(&mut self) {
        self.0 = None;
    }

    /// Returns whether events were read from the ring that are not delivered yet.
    pub(super) fn is_running(&self) -> bool {
        self.0.is_some()
    }

    /// Returns what was decided; `None` if nothing is to be decided.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Decided, Evicted>>> {
        let Some(running) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let decided = ready!(running.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(Some(decided))
    }
}

impl fmt::Debug for Deciding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deciding").field(&self.is_running()).finish()
    }
}
