//! Which events of a ring one group of watchers takes: a short list that spares each of them a look
//! at every event.
//!
//! The list is an accelerator, and the ring is the truth. It is complete from its floor on; below it
//! a watcher looks at the events themselves. So it may be cut short at any time, and is, before it
//! costs much.

use std::collections::VecDeque;

use crate::{hub::ring::Seq, plan::Crossing};

/// How many runs a group keeps: 24 bytes each.
const MAX_RUNS: usize = 256;

#[derive(Debug)]
pub(super) struct Hits {
    /// The list holds every hit from here on.
    floor: Seq,
    runs: VecDeque<HitRun>,
    pub idle: Idle,
}

/// How many watchers of a group have read all that concerns them. What they have not looked at since is
/// nothing to them, so the ring need not keep it for them.
#[derive(Debug, Default)]
pub(super) struct Idle {
    count: usize,
    /// Counts the times at which all of them ceased to be.
    round: u64,
}

impl Idle {
    /// Counts a watcher that has read everything, which was last counted in a round. Gives the round,
    /// and whether it is counted anew.
    pub(super) fn enter(&mut self, before: Option<u64>) -> (u64, bool) {
        let anew = before != Some(self.round);
        self.count += usize::from(anew);
        (self.round, anew)
    }

    /// Something came for all of them. Gives how many there were.
    pub(super) fn end(&mut self) -> usize {
        self.round += 1;
        std::mem::take(&mut self.count)
    }

    /// Takes out a watcher that was counted in a round. Tells whether it still was.
    pub(super) fn leave(&mut self, counted: Option<u64>) -> bool {
        let was = counted == Some(self.round);
        self.count -= usize::from(was);
        was
    }
}

/// Consecutive events with the same crossing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HitRun {
    pub first: Seq,
    /// One past the last.
    pub end: Seq,
    pub crossing: Crossing,
}

/// What a list says of the events from a place on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It does not reach back so far: look at the events up to before this one.
    Unknown(Seq),
    /// None is taken.
    Nothing,
    /// These are; the first of them may have begun before.
    From(usize),
}

impl Hits {
    pub(super) fn new(floor: Seq) -> Self {
        Self {
            floor,
            runs: VecDeque::new(),
            idle: Idle::default(),
        }
    }

    /// Adds hits behind all others.
    pub(super) fn push(&mut self, run: HitRun) {
        if let Some(last) = self.runs.back_mut()
            && last.end == run.first
            && last.crossing == run.crossing
        {
            last.end = run.end;
            return;
        }
        if self.runs.len() == MAX_RUNS
            && let Some(oldest) = self.runs.pop_front()
        {
            self.floor = oldest.end;
        }
        self.runs.push_back(run);
    }

    /// Forgets hits before `seq`: they were read, or are no longer in the ring.
    pub(super) fn forget_before(&mut self, seq: Seq) {
        while let Some(oldest) = self.runs.front_mut() {
            if oldest.first >= seq {
                return;
            }
            if oldest.end > seq {
                oldest.first = seq;
                self.floor = self.floor.max(seq);
                return;
            }
            self.floor = oldest.end;
            self.runs.pop_front();
        }
    }

    pub(super) fn next(&self, from: Seq) -> Next {
        if from < self.floor {
            return Next::Unknown(self.floor);
        }
        let at = self.runs.partition_point(|run| run.end <= from);
        if at == self.runs.len() {
            Next::Nothing
        } else {
            Next::From(at)
        }
    }

    /// The runs from one on.
    pub(super) fn runs_from(&self, at: usize) -> impl Iterator<Item = HitRun> + '_ {
        self.runs.iter().skip(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(at: Seq, crossing: Crossing) -> HitRun {
        HitRun {
            first: at,
            end: at + 1,
            crossing,
        }
    }

    fn runs(hits: &Hits, from: Seq) -> Vec<(Seq, Seq)> {
        match hits.next(from) {
            Next::From(at) => hits.runs_from(at).map(|run| (run.first, run.end)).collect(),
            Next::Nothing => Vec::new(),
            Next::Unknown(floor) => panic!("nothing is known below {floor}"),
        }
    }

    #[test]
    fn neighbours_with_the_same_crossing_are_one_run() {
        let mut hits = Hits::new(5);
        for at in [5, 6, 7, 9] {
            hits.push(hit(at, Crossing::Untold));
        }
        hits.push(hit(10, Crossing::Left));
        assert_eq!(runs(&hits, 5), [(5, 8), (9, 10), (10, 11)]);
        assert_eq!(runs(&hits, 7), [(5, 8), (9, 10), (10, 11)]);
        assert_eq!(runs(&hits, 8), [(9, 10), (10, 11)]);
        assert_eq!(hits.next(11), Next::Nothing);
        assert_eq!(hits.next(4), Next::Unknown(5));
    }

    #[test]
    fn what_is_forgotten_is_unknown_and_what_hit_nobody_is_not() {
        let mut hits = Hits::new(0);
        for at in [3, 4, 5, 20] {
            hits.push(hit(at, Crossing::Untold));
        }
        hits.forget_before(2);
        assert_eq!(runs(&hits, 0), [(3, 6), (20, 21)]);
        hits.forget_before(5);
        assert_eq!(hits.next(4), Next::Unknown(5));
        assert_eq!(runs(&hits, 5), [(5, 6), (20, 21)]);
        hits.forget_before(15);
        assert_eq!(hits.next(5), Next::Unknown(6));
        assert_eq!(runs(&hits, 6), [(20, 21)], "nobody was hit in between");
    }

    #[test]
    fn a_list_never_grows_beyond_its_bound() {
        let mut hits = Hits::new(0);
        for at in 0..1000 {
            hits.push(hit(at * 2, Crossing::Untold));
        }
        assert_eq!(hits.runs.len(), MAX_RUNS);
        let floor = (1000 - MAX_RUNS as Seq) * 2 - 1;
        assert_eq!(hits.next(floor - 1), Next::Unknown(floor));
        assert_eq!(runs(&hits, floor).len(), MAX_RUNS);
    }
}
