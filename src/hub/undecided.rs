//! Events of which a filter that may take long has still to say whether they pass.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::filter::{Evaluator, MatchTransition};

use super::{ring::Seq, segment::Segment};

/// The time after which the rest waits for another turn. One event may take longer.
const SLICE: Duration = Duration::from_millis(4);

/// Events of one segment, in order, for one watch. It does not hold the segment, as its turn may be long in coming: at
/// most 4 KiB for the 512 events of the largest.
#[derive(Debug)]
pub(super) struct UndecidedEvents {
    first_seq: Seq,
    /// Indices of events. The match transition of those that are known to pass, `None` for the others.
    events: Vec<(u32, Option<MatchTransition>)>,
    evaluator: Arc<Evaluator>,
}

/// What one turn has decided.
#[derive(Debug)]
pub(super) struct Decided {
    /// The sequence number of the segment's first event.
    pub first_seq: Seq,
    /// Indices of the events that pass, with their match transitions.
    pub passed: Vec<(u32, MatchTransition)>,
    /// What follows them.
    pub rest: Option<UndecidedEvents>,
}

impl UndecidedEvents {
    /// `first_seq` is the sequence number of the segment's first event in its ring; 0 outside a ring.
    pub(super) fn new(
        first_seq: Seq,
        events: impl Iterator<Item = (u32, Option<MatchTransition>)>,
        evaluator: &Arc<Evaluator>,
    ) -> Self {
        Self {
            first_seq,
            events: events.collect(),
            evaluator: Arc::clone(evaluator),
        }
    }

    pub(super) fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// Decides about the first of the events, which are of this segment: for a few milliseconds, and about one at least.
    pub(super) fn decide(mut self, segment: &Segment) -> Decided {
        let begin = Instant::now();
        let mut passed = Vec::new();
        let mut done = 0;
        for (index, known) in &self.events {
            if done > 0 && begin.elapsed() >= SLICE {
                break;
            }
            done += 1;
            let evaluate = || {
                self.evaluator
                    .evaluate(&segment.event_fields(*index as usize))
            };
            if let Some(transition) = known.or_else(evaluate) {
                passed.push((*index, transition));
            }
        }
        self.events.drain(..done);
        Decided {
            first_seq: self.first_seq,
            passed,
            rest: (!self.events.is_empty()).then_some(self),
        }
    }
}
