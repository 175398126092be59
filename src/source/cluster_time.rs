//! MongoDB's logical clock.

use std::fmt;

/// A MongoDB cluster time: whole seconds since 1970, and a counter within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterTime {
    /// Seconds since 1970.
    pub seconds: u32,
    /// The counter of operations within that second.
    pub increment: u32,
}

impl ClusterTime {
    /// Returns the whole seconds from `earlier` to `self`; 0 when `earlier` is not earlier.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> u32 {
        self.seconds.saturating_sub(earlier.seconds)
    }

    /// Returns the last possible time before `self`.
    #[must_use]
    pub fn predecessor(self) -> Self {
        match self.increment.checked_sub(1) {
            Some(increment) => Self { increment, ..self },
            None => Self {
                seconds: self.seconds.saturating_sub(1),
                increment: u32::MAX,
            },
        }
    }

    /// Returns the next possible time after `self`.
    #[must_use]
    pub fn successor(self) -> Self {
        match self.increment.checked_add(1) {
            Some(increment) => Self { increment, ..self },
            None => Self {
                seconds: self.seconds.saturating_add(1),
                increment: 0,
            },
        }
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seconds, self.increment)
    }
}
