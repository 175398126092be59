//! The end of a watch.

/// The last second that a watch delivers, as its client asked for. An event, a stream's position and the
/// source's clock are past the end from the next second on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTime {
    last_second: u32,
}

impl EndTime {
    /// Returns the end after a second, counted since 1970.
    #[must_use]
    pub fn after_second(last_second: u32) -> Self {
        Self { last_second }
    }

    /// Returns whether a time in this second, counted since 1970, is past the end.
    #[must_use]
    pub fn is_past(self, second: u32) -> bool {
        second > self.last_second
    }

    /// Returns the first second past the end. `None` if MongoDB can store no such time.
    #[must_use]
    pub fn first_second_past(self) -> Option<u32> {
        self.last_second.checked_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_second_belongs_to_the_watch() {
        let end = EndTime::after_second(7);
        assert_eq!(
            [6, 7, 8].map(|second| end.is_past(second)),
            [false, false, true]
        );
        assert_eq!(end.first_second_past(), Some(8));
    }

    #[test]
    fn the_last_second_that_mongodb_can_store_is_never_past() {
        let end = EndTime::after_second(u32::MAX);
        assert!(!end.is_past(u32::MAX));
        assert_eq!(end.first_second_past(), None);
    }
}
