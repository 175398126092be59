//! Events of which a filter that may take long has still to say whether they pass.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::filter::{Evaluator, MatchTransition};

use super::{
    ring::Seq,
    segment::{EventSelection, Segment},
};

/// The time after which the rest waits for another turn. One event may take longer.
const SLICE: Duration = Duration::from_millis(4);

/// Events of one segment, in order, for one watch. It holds the segment.
#[derive(Debug)]
pub(super) struct UndecidedEvents {
    segment: Arc<Segment>,
    first_seq: Seq,
    /// Indices of events. The match transition of those that are known to pass, `None` for the others.
    events: Vec<(u32, Option<MatchTransition>)>,
    evaluator: Arc<Evaluator>,
}

/// What one turn has decided.
#[derive(Debug)]
pub(super) struct Decided {
    /// The events that pass, if any does.
    pub passed: Option<EventSelection>,
    /// What follows them.
    pub rest: Option<UndecidedEvents>,
}

impl UndecidedEvents {
    pub(super) fn new(
        segment: &Arc<Segment>,
        first_seq: Seq,
        events: impl Iterator<Item = (u32, Option<MatchTransition>)>,
        evaluator: &Arc<Evaluator>,
    ) -> Self {
        Self {
            segment: Arc::clone(segment),
            first_seq,
            events: events.collect(),
            evaluator: Arc::clone(evaluator),
        }
    }

    /// Decides about the first of the events: for a few milliseconds, and about one at least.
    pub(super) fn decide(mut self) -> Decided {
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
                    .evaluate(&self.segment.event_fields(*index as usize))
            };
            if let Some(transition) = known.or_else(evaluate) {
                passed.push((*index, transition));
            }
        }
        self.events.drain(..done);
        let selection =
            |passed| EventSelection::list(Arc::clone(&self.segment), self.first_seq, passed);
        Decided {
            passed: (!passed.is_empty()).then(|| selection(passed)),
            rest: (!self.events.is_empty()).then_some(self),
        }
    }
}
