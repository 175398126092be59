//! Who reads a ring: watchers in groups of equal residuals, found by what an event holds.

use std::{collections::HashMap, sync::Arc};

use slab::Slab;

use crate::{
    hub::{hits::HitRun, ring::Seq, seat::Seat, segment::Segment},
    plan::{FilterIndex, Judge, Residual},
};

/// Watchers whose residuals are equal: an event is judged once for all of them.
pub(super) type GroupId = usize;

/// Who is to be woken by which event.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Those who take every event.
    everyone: Slab<Arc<Seat>>,
    groups: Slab<Group>,
    by_key: HashMap<Arc<[u8]>, GroupId>,
    index: FilterIndex<GroupId>,
    last_runs: Vec<usize>,
}

#[derive(Debug)]
struct Group {
    key: Arc<[u8]>,
    judge: Arc<Judge>,
    seats: Slab<Arc<Seat>>,
}

/// A watcher's place in the audience.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// `None`: takes every event.
    pub group: Option<GroupId>,
    seat: usize,
}

/// Consecutive events that one group takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupHit {
    pub group: GroupId,
    pub run: HitRun,
}

/// Who takes what of a segment.
#[derive(Debug, Default)]
pub(super) struct SegmentHits {
    pub hits: Vec<GroupHit>,
    /// How many of its events any group takes.
    pub events: usize,
}

impl Audience {
    /// The judge of those who ask for the same, if there are any.
    pub(super) fn known(&self, key: &[u8]) -> Option<Arc<Judge>> {
        let group = self.by_key.get(key)?;
        Some(Arc::clone(&self.groups[*group].judge))
    }

    /// Seats a watcher; `judge` is its residual's, unless that passes everything. Tells whether its
    /// group is new.
    pub(super) fn join(
        &mut self,
        residual: &Residual,
        judge: Option<&Arc<Judge>>,
        seat: Arc<Seat>,
    ) -> (Member, bool) {
        let Some(judge) = judge else {
            let seat = self.everyone.insert(seat);
            return (Member { group: None, seat }, false);
        };
        let key: Arc<[u8]> = residual.key().into();
        // By value: keys that merely share a hash are not equal.
        let known = self.by_key.get(&key).copied();
        let group = known.unwrap_or_else(|| {
            let group = self.groups.insert(Group {
                key: Arc::clone(&key),
                judge: Arc::clone(judge),
                seats: Slab::new(),
            });
            self.by_key.insert(key, group);
            self.index.insert_with(group, residual, Arc::clone(judge));
            group
        });
        let seat = self.groups[group].seats.insert(seat);
        let member = Member {
            group: Some(group),
            seat,
        };
        (member, known.is_none())
    }

    /// Takes a watcher out. Gives its group when it was the last of it.
    pub(super) fn leave(&mut self, member: Member) -> Option<GroupId> {
        let Some(id) = member.group else {
            self.everyone.remove(member.seat);
            return None;
        };
        self.groups[id].seats.remove(member.seat);
        if !self.groups[id].seats.is_empty() {
            return None;
        }
        let group = self.groups.remove(id);
        self.by_key.remove(&group.key);
        self.index.remove(id);
        Some(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.everyone.is_empty() && self.groups.is_empty()
    }

    /// Whether some take every event.
    pub(super) fn has_everyone(&self) -> bool {
        !self.everyone.is_empty()
    }

    /// Who takes which of a segment's events, the first of which is at `first`.
    pub(super) fn hits(&mut self, segment: &Segment, first: Seq) -> SegmentHits {
        let mut taken = SegmentHits::default();
        if self.groups.is_empty() {
            return taken;
        }
        // Where each group's last run is; what stands there of another segment is found out by a look.
        let last = &mut self.last_runs;
        last.resize(self.groups.capacity().max(last.len()), 0);
        for (at, index) in (first..).zip(0..segment.events().len()) {
            let subject = segment.subject(index);
            let mut any = false;
            self.index.matches(&subject, |group, crossing| {
                any = true;
                if let Some(hit) = taken.hits.get_mut(last[group])
                    && hit.group == group
                    && hit.run.end == at
                    && hit.run.crossing == crossing
                {
                    hit.run.end += 1;
                    return;
                }
                last[group] = taken.hits.len();
                taken.hits.push(GroupHit {
                    group,
                    run: HitRun {
                        first: at,
                        end: at + 1,
                        crossing,
                    },
                });
            });
            taken.events += usize::from(any);
        }
        taken
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.iter().map(|(group, _)| group)
    }

    pub(super) fn wake_everyone(&self) {
        self.everyone.iter().for_each(|(_, seat)| seat.wake());
    }

    pub(super) fn wake_group(&self, group: GroupId) {
        let seats = &self.groups[group].seats;
        seats.iter().for_each(|(_, seat)| seat.wake());
    }
}
