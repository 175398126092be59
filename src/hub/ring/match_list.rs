//! A short list of the events in a ring that a group of watchers matches, so that its members need not
//! evaluate every event.
//!
//! The list is a cache, and the ring is the source of truth. The list is complete from its floor on;
//! below the floor a watcher evaluates the events itself. So the list can be shortened at any time, which
//! bounds its memory.

use std::collections::VecDeque;

use crate::filter::MatchTransition;

use super::position::Seq;

/// The maximum number of ranges per group, of 24 bytes each.
const MAX_RANGES: usize = 256;

/// The matches of one group, in order.
#[derive(Debug)]
pub(super) struct MatchList {
    /// The list holds every match at or after this sequence number.
    floor: Seq,
    ranges: VecDeque<MatchRange>,
    pub idle: IdleReaders,
}

/// Counts the watchers of a group that have read everything that matches. Later events up to the next match
/// do not concern them, so the ring need not keep those events for them.
#[derive(Debug, Default)]
pub(super) struct IdleReaders {
    count: usize,
    /// The number of times that a match has ended the idleness of all.
    round: u64,
}

impl IdleReaders {
    /// Counts a watcher as idle. `counted` is the round in which it was counted last. Returns the current
    /// round, and whether the watcher was not yet counted in it.
    pub(super) fn enter(&mut self, counted: Option<u64>) -> (u64, bool) {
        let newly_counted = counted != Some(self.round);
        self.count += usize::from(newly_counted);
        (self.round, newly_counted)
    }

    /// Ends the idleness of all watchers because of a match. Returns how many were idle.
    pub(super) fn end(&mut self) -> usize {
        self.round += 1;
        std::mem::take(&mut self.count)
    }

    /// Removes a watcher that was last counted in a round. Returns whether it was still counted.
    pub(super) fn leave(&mut self, counted: Option<u64>) -> bool {
        let was = counted == Some(self.round);
        self.count -= usize::from(was);
        was
    }
}

/// Consecutive events with the same match transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MatchRange {
    pub first: Seq,
    /// One past the last event.
    pub end: Seq,
    /// `None`: whether the events match is still to be decided, by the watchers that read them.
    pub transition: Option<MatchTransition>,
}

/// The next match at or after a sequence number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextMatch {
    /// The list does not reach back so far: evaluate the events before this sequence number.
    Unknown(Seq),
    /// There is none.
    Nothing,
    /// The index of the range that contains it or starts with it.
    From(usize),
}

impl MatchList {
    pub(super) fn new(floor: Seq) -> Self {
        Self {
            floor,
            ranges: VecDeque::new(),
            idle: IdleReaders::default(),
        }
    }

    /// Appends a match.
    pub(super) fn push(&mut self, range: MatchRange) {
        if let Some(last) = self.ranges.back_mut()
            && last.end == range.first
            && last.transition == range.transition
        {
            last.end = range.end;
            return;
        }
        if self.ranges.len() == MAX_RANGES
            && let Some(oldest) = self.ranges.pop_front()
        {
            self.floor = oldest.end;
        }
        self.ranges.push_back(range);
    }

    /// Drops matches before `seq`, which the ring no longer holds.
    pub(super) fn forget_before(&mut self, seq: Seq) {
        while let Some(oldest) = self.ranges.front_mut() {
            if oldest.first >= seq {
                return;
            }
            if oldest.end > seq {
                oldest.first = seq;
                self.floor = self.floor.max(seq);
                return;
            }
            self.floor = oldest.end;
            self.ranges.pop_front();
        }
    }

    /// Finds the next match at or after `from`.
    pub(super) fn next(&self, from: Seq) -> NextMatch {
        if from < self.floor {
            return NextMatch::Unknown(self.floor);
        }
        let at = self.ranges.partition_point(|range| range.end <= from);
        if at == self.ranges.len() {
            NextMatch::Nothing
        } else {
            NextMatch::From(at)
        }
    }

    /// The ranges from an index on.
    pub(super) fn ranges_from(&self, at: usize) -> impl Iterator<Item = MatchRange> + '_ {
        self.ranges.iter().skip(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_event(at: Seq, transition: MatchTransition) -> MatchRange {
        MatchRange {
            first: at,
            end: at + 1,
            transition: Some(transition),
        }
    }

    fn ranges(list: &MatchList, from: Seq) -> Vec<(Seq, Seq)> {
        match list.next(from) {
            NextMatch::From(at) => list
                .ranges_from(at)
                .map(|range| (range.first, range.end))
                .collect(),
            NextMatch::Nothing => Vec::new(),
            NextMatch::Unknown(floor) => panic!("the list starts at {floor}"),
        }
    }

    #[test]
    fn neighbours_with_the_same_transition_share_a_range() {
        let mut list = MatchList::new(5);
        for at in [5, 6, 7, 9] {
            list.push(one_event(at, MatchTransition::Unspecified));
        }
        list.push(one_event(10, MatchTransition::Left));
        assert_eq!(ranges(&list, 5), [(5, 8), (9, 10), (10, 11)]);
        assert_eq!(ranges(&list, 7), [(5, 8), (9, 10), (10, 11)]);
        assert_eq!(ranges(&list, 8), [(9, 10), (10, 11)]);
        assert_eq!(list.next(11), NextMatch::Nothing);
        assert_eq!(list.next(4), NextMatch::Unknown(5));
    }

    #[test]
    fn dropped_matches_are_unknown_but_gaps_between_matches_are_known() {
        let mut list = MatchList::new(0);
        for at in [3, 4, 5, 20] {
            list.push(one_event(at, MatchTransition::Unspecified));
        }
        list.forget_before(2);
        assert_eq!(ranges(&list, 0), [(3, 6), (20, 21)]);
        list.forget_before(5);
        assert_eq!(list.next(4), NextMatch::Unknown(5));
        assert_eq!(ranges(&list, 5), [(5, 6), (20, 21)]);
        list.forget_before(15);
        assert_eq!(list.next(5), NextMatch::Unknown(6));
        assert_eq!(ranges(&list, 6), [(20, 21)], "there is no match in between");
    }

    #[test]
    fn a_list_never_exceeds_its_maximum_length() {
        let mut list = MatchList::new(0);
        for at in 0..1000 {
            list.push(one_event(at * 2, MatchTransition::Unspecified));
        }
        assert_eq!(list.ranges.len(), MAX_RANGES);
        let floor = (1000 - MAX_RANGES as Seq) * 2 - 1;
        assert_eq!(list.next(floor - 1), NextMatch::Unknown(floor));
        assert_eq!(ranges(&list, floor).len(), MAX_RANGES);
    }
}
