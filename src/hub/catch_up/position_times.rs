//! What the position of a catch-up says about times.

use crate::source::{ClusterTime, Position};

use super::CatchUp;

impl CatchUp {
    /// A time at or after the current position.
    pub(super) fn position_upper_bound(&self) -> Option<ClusterTime> {
        match (&self.last, &self.spec.from) {
            (Some(last), _) => Some(last.time()),
            // A high-water position may be later than its own time.
            (None, Position::HighWater { .. }) => self.start_upper_bound,
            (None, from) => Some(from.time()),
        }
    }

    /// A time from which on every event is new to the watch, and before which none is.
    pub(super) fn first_new_time(&self) -> Option<ClusterTime> {
        match (&self.last, &self.spec.from) {
            // Nothing was delivered, and a position by time includes the events of that time.
            (None, Position::Time(time)) => Some(*time),
            _ => Some(self.position_upper_bound()?.successor()),
        }
    }

    /// A time at or after which the stream has had no event.
    pub(super) fn quiet_from(&self) -> Option<ClusterTime> {
        match (&self.last, &self.spec.from) {
            // The stream may have had events between the position and its upper bound.
            (None, Position::HighWater { .. }) => None,
            _ => self.first_new_time(),
        }
    }
}
