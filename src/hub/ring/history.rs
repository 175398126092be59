//! The known facts about a stream before the oldest event in a ring.

use crate::source::{Anchor, ClusterTime, Position};

/// Decides whether a position is right before the oldest event of a ring, or after it.
#[derive(Debug, Clone)]
pub(in crate::hub) struct RingHistory {
    /// The last event before the ring's oldest one, where known.
    last: Option<Anchor>,
    /// The position that the feed started at. `None` once an event was evicted.
    origin: Option<Anchor>,
    /// The ring holds every event at or after this time.
    complete_from: Option<ClusterTime>,
    /// The stream started at this time or earlier. `None`: unknown.
    start_upper_bound: Option<ClusterTime>,
    /// `true` if the events have their own times. The others have one that is not later, and another stream may tell
    /// another one.
    has_exact_times: bool,
}

impl RingHistory {
    /// The history of a stream that started at `start`, where `now` is MongoDB's time read after that.
    ///
    /// The time in the reply that opens the stream is not enough: without a start position, mongod starts
    /// after the last operation it has applied, which may be later than the majority-committed time in the
    /// reply.
    pub(in crate::hub) fn starting_at(start: &Position, now: Option<ClusterTime>) -> Self {
        let origin = start.token().map(|token| Anchor::new(token, start.time()));
        Self {
            last: None,
            origin,
            complete_from: match start {
                Position::Time(time) => Some(*time),
                _ => now.map(ClusterTime::successor),
            },
            start_upper_bound: now,
            has_exact_times: true,
        }
    }

    /// Sets whether the events have their own times, as they have by default.
    pub(in crate::hub) fn with_exact_times(self, has_exact_times: bool) -> Self {
        Self {
            has_exact_times,
            ..self
        }
    }

    pub(super) fn has_exact_times(&self) -> bool {
        self.has_exact_times
    }

    /// Records that the event with this token and time was evicted.
    pub(super) fn record_evicted(&mut self, token: &[u8], time: ClusterTime) {
        self.last = Some(Anchor::new(token, time));
        self.origin = None;
        self.complete_from = Some(time.successor());
    }

    /// Adds facts from a catch-up that has read up to the oldest event.
    pub(super) fn learn(&mut self, anchor: Option<&Anchor>, quiet_from: Option<ClusterTime>) {
        if self.last.is_none() {
            self.last = anchor.copied();
        }
        if let Some(time) = quiet_from {
            self.complete_from = Some(self.complete_from.map_or(time, |earlier| earlier.min(time)));
        }
    }

    /// The anchor of a high-water position right before the oldest event.
    pub(super) fn anchor(&self) -> Option<Anchor> {
        self.last.or(self.origin)
    }

    /// Returns whether the event with this token is the last one before the oldest event.
    pub(super) fn ends_with(&self, token: &[u8]) -> bool {
        self.last.is_some_and(|last| last.matches(token))
            || self.origin.is_some_and(|origin| origin.matches(token))
    }

    /// Returns whether a position with this anchor is right before the oldest event.
    pub(super) fn is_anchored(&self, anchor: &Anchor) -> bool {
        let is_same = |it: Anchor| {
            it.digest == anchor.digest && (it.time == anchor.time || !self.has_exact_times)
        };
        self.last.is_some_and(is_same) || self.origin.is_some_and(is_same)
    }

    /// Returns whether the stream had certainly started at a time.
    pub(super) fn had_started_by(&self, time: ClusterTime) -> bool {
        self.start_upper_bound.is_some_and(|start| start <= time)
    }

    /// Returns whether the ring holds every event at or after a time.
    pub(super) fn is_complete_from(&self, time: ClusterTime) -> bool {
        self.has_exact_times && self.complete_from.is_some_and(|from| from <= time)
    }
}
