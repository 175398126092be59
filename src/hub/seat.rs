//! Where a watcher waits.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Waker},
};

use tracing::Span;

use super::sync::{Mutex, lock};

/// A watcher, as those who have news for it know it: its waker while it waits, and how far it is.
#[derive(Debug)]
pub(super) struct Seat {
    waker: Mutex<Option<Waker>>,
    /// The second that its place has surely reached; 0 while none is known.
    reached: AtomicU32,
    /// What everything about the watch is logged in. Whoever polls it is in no span.
    pub span: Span,
}

impl Default for Seat {
    /// A seat for whoever is served now, by the span.
    fn default() -> Self {
        Self {
            waker: Mutex::default(),
            reached: AtomicU32::default(),
            span: Span::current(),
        }
    }
}

impl Seat {
    /// Asks to be woken by the next news. To be called before looking whether there are any.
    pub(super) fn await_news(&self, context: &Context<'_>) {
        let mut waker = lock(&self.waker);
        if !waker
            .as_ref()
            .is_some_and(|it| it.will_wake(context.waker()))
        {
            *waker = Some(context.waker().clone());
        }
    }

    /// Wakes the watcher, if it waits.
    pub(super) fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn reach(&self, second: u32) {
        self.reached.store(second, Ordering::Relaxed);
    }

    pub(super) fn reached(&self) -> Option<u32> {
        Some(self.reached.load(Ordering::Relaxed)).filter(|second| *second > 0)
    }
}
