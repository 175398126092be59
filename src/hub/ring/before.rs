//! What is known of a stream before the oldest event that a ring holds.

use crate::{
    hub::stream::next_time,
    source::{ClusterTime, Position},
    wire::Anchor,
};

/// Enough to tell whether a place lies right before the oldest event, or after it.
#[derive(Debug, Clone, Default)]
pub(in crate::hub) struct Before {
    /// The last event before the ring's oldest one, once one is known.
    last: Option<Anchor>,
    /// The place that the feed began at, while nothing has left the ring since.
    origin: Option<Anchor>,
    /// The ring holds every event from this time on.
    complete_from: Option<ClusterTime>,
    /// A time that had surely come when the stream began. `None`: not known.
    began_by: Option<ClusterTime>,
}

impl Before {
    /// A stream that began at a place which had surely come when MongoDB's time was `now`. (Without
    /// a place to start at, MongoDB begins after the last operation it has applied, which may be later
    /// than what is confirmed and told with its answer.)
    pub(in crate::hub) fn beginning(start: &Position, now: Option<ClusterTime>) -> Self {
        let origin = start.token().map(|token| Anchor::new(token, start.time()));
        Self {
            last: None,
            origin,
            complete_from: match start {
                Position::Time(time) => Some(*time),
                _ => now.map(next_time),
            },
            began_by: now,
        }
    }

    /// The event with this token and time has left the ring.
    pub(super) fn has_left(&mut self, token: &[u8], time: ClusterTime) {
        self.last = Some(Anchor::new(token, time));
        self.origin = None;
        self.complete_from = Some(next_time(time));
    }

    /// What somebody found out who read up to the oldest event.
    pub(super) fn learn(&mut self, anchor: Option<&Anchor>, quiet_from: Option<ClusterTime>) {
        if self.last.is_none() {
            self.last = anchor.copied();
        }
        if let Some(time) = quiet_from {
            self.complete_from = Some(self.complete_from.map_or(time, |known| known.min(time)));
        }
    }

    /// What a high-water place right before the oldest event is anchored to.
    pub(super) fn anchor(&self) -> Option<Anchor> {
        self.last.or(self.origin)
    }

    /// Whether the place after this event is right before the oldest one.
    pub(super) fn ends_with(&self, token: &[u8]) -> bool {
        self.last.is_some_and(|last| last.matches(token))
            || self.origin.is_some_and(|origin| origin.matches(token))
    }

    /// Whether a place with this anchor is right before the oldest event.
    pub(super) fn is_anchored(&self, anchor: &Anchor) -> bool {
        self.last == Some(*anchor) || self.origin == Some(*anchor)
    }

    /// Whether the stream had surely begun at a time.
    pub(super) fn had_begun_at(&self, time: ClusterTime) -> bool {
        self.began_by.is_some_and(|began| began <= time)
    }

    pub(super) fn is_complete_from(&self, time: ClusterTime) -> bool {
        self.complete_from.is_some_and(|from| from <= time)
    }
}
