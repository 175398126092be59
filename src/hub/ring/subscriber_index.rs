//! The subscribers of a ring, in groups with equal residual filters, and an index that finds the groups
//! an event matches.

use std::{collections::HashMap, sync::Arc};

use slab::Slab;

use crate::{
    filter::{Evaluator, FilterIndex, Residual},
    hub::{segment::Segment, subscriber::Subscriber},
    source::ClusterTime,
};

use super::{
    end_waits::{EndKey, EndWaits},
    match_list::MatchRange,
    position::Seq,
};

/// Identifies a group of subscribers with equal residuals: an event is evaluated once per group.
pub(super) type GroupId = usize;

/// Finds the subscribers that an event matches.
#[derive(Debug, Default)]
pub(super) struct SubscriberIndex {
    /// Subscribers that receive every event.
    unfiltered: Slab<Arc<Subscriber>>,
    groups: Slab<Group>,
    by_residual: HashMap<Residual, GroupId>,
    index: FilterIndex<GroupId>,
    /// By group, the index of its last entry in [`SegmentMatches::matches`]. Kept to reuse its memory.
    last_match: Vec<usize>,
    end_waits: EndWaits,
}

#[derive(Debug)]
struct Group {
    residual: Residual,
    evaluator: Arc<Evaluator>,
    subscribers: Slab<Arc<Subscriber>>,
}

/// Identifies a subscriber in the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct SubscriberKey {
    /// `None`: the subscriber receives every event.
    pub group: Option<GroupId>,
    slot: usize,
    /// Set while the subscriber waits for the end of its watch.
    end: Option<EndKey>,
}

/// Consecutive events that a group matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupMatch {
    pub group: GroupId,
    pub range: MatchRange,
}

/// The matches of a segment's events.
#[derive(Debug, Default)]
pub(super) struct SegmentMatches {
    pub matches: Vec<GroupMatch>,
    /// The number of events that at least one group matches.
    pub events: usize,
}

impl SubscriberIndex {
    /// Returns the evaluator of the group with this residual, if there is one.
    pub(super) fn evaluator_for(&self, residual: &Residual) -> Option<Arc<Evaluator>> {
        let group = self.by_residual.get(residual)?;
        Some(Arc::clone(&self.groups[*group].evaluator))
    }

    /// Adds a subscriber. `evaluator` is that of `residual`, or `None` if the residual passes every
    /// event. `not_before` is the time up to which it skips events. The second value returned is whether the
    /// subscriber's group is new.
    pub(super) fn insert(
        &mut self,
        residual: &Residual,
        evaluator: Option<&Arc<Evaluator>>,
        subscriber: Arc<Subscriber>,
        not_before: Option<ClusterTime>,
    ) -> (SubscriberKey, bool) {
        let end = self.wait_for_end(&subscriber, not_before);
        let Some(evaluator) = evaluator else {
            let slot = self.unfiltered.insert(subscriber);
            let group = None;
            return (SubscriberKey { group, slot, end }, false);
        };
        // Residuals are compared by value, so a hash collision cannot merge two groups.
        let existing = self.by_residual.get(residual).copied();
        let group = existing.unwrap_or_else(|| {
            let group = self.groups.insert(Group {
                residual: residual.clone(),
                evaluator: Arc::clone(evaluator),
                subscribers: Slab::new(),
            });
            self.by_residual.insert(residual.clone(), group);
            self.index.insert_with(group, Arc::clone(evaluator));
            group
        });
        let slot = self.groups[group].subscribers.insert(subscriber);
        let key = SubscriberKey {
            group: Some(group),
            slot,
            end,
        };
        (key, existing.is_none())
    }

    /// Has a subscriber woken when the stream passes its end: a position before `not_before` says nothing about
    /// what it reads.
    fn wait_for_end(
        &mut self,
        subscriber: &Arc<Subscriber>,
        not_before: Option<ClusterTime>,
    ) -> Option<EndKey> {
        let past = subscriber.first_time_past_end()?;
        let due = not_before.map_or(past, |not_before| past.max(not_before));
        Some(self.end_waits.insert(due, Arc::clone(subscriber)))
    }

    /// The earliest time at which a subscriber is due.
    pub(super) fn first_end(&self) -> Option<ClusterTime> {
        self.end_waits.first_due()
    }

    /// Wakes the subscribers whose end the stream has passed with a position of this time.
    pub(super) fn wake_at_end(&mut self, reached: ClusterTime) {
        self.end_waits.wake_due(reached);
    }

    /// Removes a subscriber. Returns its group if that is now empty and was removed too.
    pub(super) fn remove(&mut self, key: SubscriberKey) -> Option<GroupId> {
        if let Some(end) = key.end {
            self.end_waits.remove(end);
        }
        let Some(id) = key.group else {
            self.unfiltered.remove(key.slot);
            return None;
        };
        self.groups[id].subscribers.remove(key.slot);
        if !self.groups[id].subscribers.is_empty() {
            return None;
        }
        let group = self.groups.remove(id);
        self.by_residual.remove(&group.residual);
        self.index.remove(id);
        Some(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unfiltered.is_empty() && self.groups.is_empty()
    }

    /// Returns whether any subscriber receives every event.
    pub(super) fn has_unfiltered(&self) -> bool {
        !self.unfiltered.is_empty()
    }

    /// Matches a segment's events against all groups. `first` is the sequence number of the first event.
    pub(super) fn match_segment(&mut self, segment: &Segment, first: Seq) -> SegmentMatches {
        let mut found = SegmentMatches::default();
        if self.groups.is_empty() {
            return found;
        }
        // An index left from another segment does no harm: the entry there is compared before use.
        let last = &mut self.last_match;
        last.resize(self.groups.capacity().max(last.len()), 0);
        for (at, index) in (first..).zip(0..segment.events().len()) {
            let fields = segment.event_fields(index);
            let mut any = false;
            self.index.matches_briefly(&fields, |group, transition| {
                any = true;
                if let Some(last_range) = found.matches.get_mut(last[group])
                    && last_range.group == group
                    && last_range.range.end == at
                    && last_range.range.transition == transition
                {
                    last_range.range.end += 1;
                    return;
                }
                last[group] = found.matches.len();
                found.matches.push(GroupMatch {
                    group,
                    range: MatchRange {
                        first: at,
                        end: at + 1,
                        transition,
                    },
                });
            });
            found.events += usize::from(any);
        }
        found
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.iter().map(|(group, _)| group)
    }

    pub(super) fn wake_unfiltered(&self) {
        self.unfiltered
            .iter()
            .for_each(|(_, subscriber)| subscriber.wake());
    }

    pub(super) fn wake_group(&self, group: GroupId) {
        let subscribers = &self.groups[group].subscribers;
        subscribers
            .iter()
            .for_each(|(_, subscriber)| subscriber.wake());
    }
}
