//! Reading of a ring by one watcher, at its own position.

use std::{ops::Range, sync::Arc};

use crate::{
    error::Error,
    filter::{Evaluator, MatchTransition, Residual},
    hub::{
        segment::{EventSelection, Segment},
        subscriber::Subscriber,
        sync::lock,
        undecided::{Decided, UndecidedEvents},
    },
    model::Stage,
    source::ClusterTime,
};

use super::{
    Ring,
    join_point::JoinPoint,
    match_list::{MatchList, NextMatch},
    position::{FeedPosition, Invalidation, Seq},
    state::{Content, State},
    subscriber_index::{GroupId, SubscriberKey},
};

/// The number of segments that one read evaluates before it yields to other tasks.
const MAX_SCANS_PER_READ: usize = 8;

/// Reads a ring for one watcher, from its own position on. Dropping it removes the watcher from the ring's
/// subscribers.
#[derive(Debug)]
pub(in crate::hub) struct RingReader {
    ring: Arc<Ring>,
    subscriber_key: SubscriberKey,
    evaluator: Option<Arc<Evaluator>>,
    /// The sequence number to read next.
    at: Seq,
    /// Skip events earlier than this time.
    not_before: Option<ClusterTime>,
    /// The stage last reported to the watcher.
    last_stage: Option<Stage>,
    /// The time of the last progress reported before the watcher joined.
    last_progress_time: Option<ClusterTime>,
    /// The round in which this watcher is counted as idle (see
    /// [`IdleReaders`](super::match_list::IdleReaders)).
    idle: Option<u64>,
}

/// The result of a read.
#[derive(Debug)]
pub(in crate::hub) enum RingRead {
    /// Events that match the watch.
    Events(EventSelection),
    /// Events that may match the watch: what is decided of them is passed to [`RingReader::take`].
    Undecided(UndecidedEvents),
    /// The feed has entered a stage, with the reason.
    Stage(Stage, &'static str),
    /// The watched collection or database was dropped or renamed.
    Invalidated(Invalidation),
    /// Nothing to read now.
    Empty,
    /// More events are left to evaluate: read again after other tasks have run.
    Yield,
    /// The ring no longer holds the next event.
    FellBehind,
    /// The feed has ended, and everything before its end has been read.
    Ended(Error),
}

/// The result of a search under the lock.
enum FindResult {
    Done(RingRead),
    /// The match list does not cover these events of a segment: evaluate them outside of the lock. With
    /// the sequence number of the segment's first event.
    Scan(Arc<Segment>, Seq, Range<usize>),
}

impl Ring {
    /// Adds a watcher at a join point. `None` unless the ring certainly holds everything that follows it.
    pub(in crate::hub) fn join(
        self: &Arc<Self>,
        residual: &Residual,
        subscriber: &Arc<Subscriber>,
        point: &JoinPoint<'_>,
    ) -> Option<RingReader> {
        let evaluator = self.evaluator_for(residual);
        let mut subscribers = lock(&self.subscribers);
        let mut state = lock(&self.state);
        let (at, not_before) = state.find(point)?;
        let (subscriber_key, new_group) = subscribers.insert(
            residual,
            evaluator.as_ref(),
            Arc::clone(subscriber),
            not_before,
        );
        if let Some(group) = subscriber_key.group
            && new_group
        {
            let floor = state.next;
            state.insert_match_list(group, MatchList::new(floor));
        }
        state.record_join(at);
        self.wake_writer(&mut state);
        drop(state);
        drop(subscribers);
        Some(RingReader {
            ring: Arc::clone(self),
            subscriber_key,
            evaluator,
            at,
            not_before,
            last_stage: None,
            last_progress_time: None,
            idle: None,
        })
    }
}

impl RingReader {
    /// Records the stage and the progress time reported to the watcher before it joined, so that neither
    /// is repeated or goes backwards.
    pub(in crate::hub) fn set_last_reported(
        &mut self,
        stage: Option<Stage>,
        progress: Option<ClusterTime>,
    ) {
        self.last_stage = stage;
        self.last_progress_time = progress;
    }

    /// Reads what comes next.
    pub(in crate::hub) fn read(&mut self) -> RingRead {
        for _ in 0..MAX_SCANS_PER_READ {
            let read = match self.find() {
                FindResult::Done(read) => read,
                FindResult::Scan(segment, first_seq, range) => {
                    let Some(evaluator) = &self.evaluator else {
                        return RingRead::Ended(Error::Internal);
                    };
                    if evaluator.may_take_long() {
                        let events = range.map(|index| (index as u32, None));
                        let events = UndecidedEvents::new(first_seq, events, evaluator);
                        return RingRead::Undecided(events);
                    }
                    match EventSelection::matching(&segment, first_seq, range, evaluator) {
                        Some(selection) => RingRead::Events(selection),
                        None => continue,
                    }
                }
            };
            match (read, self.not_before) {
                (RingRead::Events(selection), Some(_)) => {
                    if let Some(selection) = self.keep_new(selection) {
                        return RingRead::Events(selection);
                    }
                }
                (RingRead::Invalidated(it), Some(not_before))
                    if it.position.time() < not_before => {}
                (read, _) => return read,
            }
        }
        RingRead::Yield
    }

    /// Returns the decided events that match, if any, and those that are still to be decided. `None` if the ring has
    /// evicted the events.
    pub(in crate::hub) fn take(
        &mut self,
        decided: Decided,
    ) -> Option<(Option<EventSelection>, Option<UndecidedEvents>)> {
        let Decided {
            first_seq,
            passed,
            rest,
        } = decided;
        if passed.is_empty() {
            return Some((None, rest));
        }
        let segment = self.ring.segment(first_seq)?;
        let selection = EventSelection::list(segment, first_seq, passed);
        Some((self.keep_new(selection), rest))
    }

    pub(in crate::hub) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Leaves out the events from before the watcher's own start. `None` if no other is left.
    fn keep_new(&mut self, selection: EventSelection) -> Option<EventSelection> {
        let Some(not_before) = self.not_before else {
            return Some(selection);
        };
        let selection = selection.not_before(not_before)?;
        self.not_before = None;
        Some(selection)
    }

    /// Returns the events of a selection from `at` on to the ring: the next read yields them again.
    pub(in crate::hub) fn put_back(&mut self, selection: &EventSelection, at: usize) {
        self.at = selection.seq(at);
    }

    /// Returns the feed's position, if this watcher has read everything up to it and it is not before the
    /// watcher's own start.
    pub(in crate::hub) fn position_if_caught_up(&mut self) -> Option<FeedPosition> {
        let mut state = lock(&self.ring.state);
        if let Some(group) = self.subscriber_key.group {
            let head = state.head();
            let list = state.match_list_mut(group);
            list.forget_before(head);
            if list.next(self.at) == NextMatch::Nothing {
                self.at = state.next;
            }
        }
        if self.at < state.next {
            return None;
        }
        let position = state.position();
        let time = position.position.time();
        let is_before = |bound: Option<ClusterTime>| bound.is_some_and(|bound| time < bound);
        if is_before(self.not_before) || is_before(self.last_progress_time) {
            return None;
        }
        // `not_before` stays: the feed may still read a repeat.
        self.last_progress_time = None;
        Some(position)
    }

    fn find(&mut self) -> FindResult {
        let ring = Arc::clone(&self.ring);
        let mut state = lock(&ring.state);
        self.record_progress(&ring, &mut state);
        let (stage, reason) = state.stage;
        let last_stage = self.last_stage;
        // `CatchingUp` is reported at once; other stages when the watcher has read everything before.
        let stage_changed = last_stage != Some(stage) && stage != Stage::Opening;
        if stage_changed && stage == Stage::CatchingUp {
            self.last_stage = Some(stage);
            return FindResult::Done(RingRead::Stage(stage, reason));
        }
        let found = match self.subscriber_key.group {
            None => self.find_any(&state),
            Some(group) => {
                let head = state.head();
                state.match_list_mut(group).forget_before(head);
                self.find_match(&mut state, group)
            }
        };
        if let FindResult::Done(RingRead::Empty) = found {
            self.at = state.next;
            self.record_progress(&ring, &mut state);
            self.idle = Some(state.enter_idle(self.subscriber_key.group, self.idle));
            ring.wake_writer(&mut state);
            if stage_changed {
                self.last_stage = Some(stage);
                return FindResult::Done(RingRead::Stage(stage, reason));
            }
            if let Some(why) = &state.ended {
                return FindResult::Done(RingRead::Ended(why.clone()));
            }
        }
        found
    }

    /// Records that everything before the position has been read and not put back, so that the ring may
    /// evict it.
    fn record_progress(&self, ring: &Ring, state: &mut State) {
        if self.at > state.furthest {
            state.furthest = self.at;
            ring.wake_writer(state);
        }
    }

    /// Finds the next item, for a watcher that receives every event.
    fn find_any(&mut self, state: &State) -> FindResult {
        if self.at < state.head() {
            return FindResult::Done(RingRead::FellBehind);
        }
        let Some(item) = state.item_at(self.at).filter(|item| self.at < item.end()) else {
            return FindResult::Done(RingRead::Empty);
        };
        let from = (self.at - item.first) as usize;
        self.at = item.end();
        FindResult::Done(match &item.content {
            Content::Events(segment) => {
                let events = segment.events().len();
                RingRead::Events(EventSelection::range(
                    Arc::clone(segment),
                    item.first,
                    from,
                    events,
                ))
            }
            Content::Invalidated(invalidation) => RingRead::Invalidated(invalidation.clone()),
        })
    }

    /// Finds the next events that the watcher's group matches.
    fn find_match(&mut self, state: &mut State, group: GroupId) -> FindResult {
        let at = match state.match_list_mut(group).next(self.at) {
            NextMatch::Nothing => return FindResult::Done(RingRead::Empty),
            NextMatch::Unknown(_) if self.at < state.head() => {
                return FindResult::Done(RingRead::FellBehind);
            }
            NextMatch::Unknown(floor) => return self.scan(state, floor),
            NextMatch::From(at) => at,
        };
        let from = self.at;
        let ranges = || state.match_list(group).ranges_from(at);
        let first = ranges().next().map_or(from, |range| range.first.max(from));
        let Some(item) = state.item_at(first) else {
            return FindResult::Done(RingRead::FellBehind);
        };
        let read = match &item.content {
            Content::Invalidated(invalidation) => {
                self.at = item.end();
                RingRead::Invalidated(invalidation.clone())
            }
            Content::Events(segment) => {
                let mut indices = Vec::new();
                for range in ranges().take_while(|range| range.first < item.end()) {
                    let (start, end) = (range.first.max(from), range.end.min(item.end()));
                    indices.extend(
                        (start..end).map(|seq| ((seq - item.first) as u32, range.transition)),
                    );
                    self.at = end;
                }
                self.matched(segment, item.first, indices)
            }
        };
        FindResult::Done(read)
    }

    /// Selects events that match, with their indices and match transitions, or that may match, with `None`.
    fn matched(
        &self,
        segment: &Arc<Segment>,
        first_seq: Seq,
        events: Vec<(u32, Option<MatchTransition>)>,
    ) -> RingRead {
        let known = events
            .iter()
            .map(|(index, known)| Some((*index, (*known)?)));
        let known: Option<Vec<_>> = known.collect();
        match (known, &self.evaluator) {
            (Some(known), _) => {
                RingRead::Events(EventSelection::list(Arc::clone(segment), first_seq, known))
            }
            (None, Some(evaluator)) => {
                let events = UndecidedEvents::new(first_seq, events.into_iter(), evaluator);
                RingRead::Undecided(events)
            }
            (None, None) => RingRead::Ended(Error::Internal),
        }
    }

    /// Finds the next events before the start of the group's match list.
    fn scan(&mut self, state: &State, floor: Seq) -> FindResult {
        let Some(item) = state.item_at(self.at) else {
            return FindResult::Done(RingRead::FellBehind);
        };
        let from = self.at;
        match &item.content {
            Content::Events(segment) => {
                self.at = item.end().min(floor);
                let range = (from - item.first) as usize..(self.at - item.first) as usize;
                FindResult::Scan(Arc::clone(segment), item.first, range)
            }
            Content::Invalidated(invalidation) => {
                self.at = item.end();
                FindResult::Done(RingRead::Invalidated(invalidation.clone()))
            }
        }
    }
}

impl Drop for RingReader {
    fn drop(&mut self) {
        let mut subscribers = lock(&self.ring.subscribers);
        let removed_group = subscribers.remove(self.subscriber_key);
        let mut state = lock(&self.ring.state);
        state.leave_idle(self.subscriber_key.group, self.idle);
        if let Some(group) = removed_group {
            state.remove_match_list(group);
        }
        // The ring may have kept its oldest events for this watcher alone.
        self.ring.wake_writer(&mut state);
    }
}
