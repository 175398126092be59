//! The part of a watcher that others share: its waker and its progress.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Waker},
};

use tracing::Span;

use super::sync::{Mutex, lock};
use crate::{model::EndTime, source::ClusterTime};

/// A watcher as seen by the ring and the catch-up that serve it, and by the hub.
#[derive(Debug)]
pub(super) struct Subscriber {
    waker: Mutex<Option<Waker>>,
    /// The time that the watcher has certainly reached, in seconds since 1970; 0 while unknown.
    reached_second: AtomicU32,
    /// The end of the watch, which it is woken at.
    pub end_time: Option<EndTime>,
    /// The span for log entries about the watch. Needed because the watch is polled outside of any span.
    pub span: Span,
}

impl Default for Subscriber {
    /// A subscriber without an end.
    fn default() -> Self {
        Self::until(None)
    }
}

impl Subscriber {
    /// Creates a subscriber with the current span.
    pub(super) fn until(end_time: Option<EndTime>) -> Self {
        Self {
            waker: Mutex::default(),
            reached_second: AtomicU32::default(),
            end_time,
            span: Span::current(),
        }
    }

    /// Registers the context's waker. Call this before checking for events, so that no wake-up is lost.
    pub(super) fn register_waker(&self, context: &Context<'_>) {
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

    /// The first time past its end, if it has one.
    pub(super) fn first_time_past_end(&self) -> Option<ClusterTime> {
        Some(ClusterTime {
            seconds: self.end_time?.first_second_past()?,
            increment: 0,
        })
    }

    /// Wakes the watcher if this time, which its stream has reached, is past its end.
    pub(super) fn wake_if_past_end(&self, reached: ClusterTime) {
        if self
            .end_time
            .is_some_and(|end| end.is_past(reached.seconds))
        {
            self.wake();
        }
    }

    /// Records the time that the watcher has reached.
    pub(super) fn set_reached_second(&self, second: u32) {
        self.reached_second.store(second, Ordering::Relaxed);
    }

    /// The time that the watcher has reached, if known.
    pub(super) fn reached_second(&self) -> Option<u32> {
        Some(self.reached_second.load(Ordering::Relaxed)).filter(|second| *second > 0)
    }
}
