//! Many residuals, little work: which of them pass an event.
//!
//! A filter that holds only where a field equals one of some values is found through those values:
//! the event's own values at that path lead to the filters that ask for them, and only these are
//! judged. `equality` says which filters are of that kind. The others (ranges, prefixes, patterns,
//! negations, `changed`) are judged one by one. Guards lead in the same way, before filters do: an event
//! of one tenant costs nothing for those of others.
//!
//! A filter is also looked at where its document is not in the event and it takes what may match.
//! An event then reaches everyone it reaches, so that is no waste.

mod bucket;
mod equality;
mod lane;
mod members;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use equality::Leads;
use lane::Lane;
use members::Members;

use super::judge::{Crossing, Judge, Subject};
use super::residual::Operations;
use super::{Operation, Residual};

/// A place in [`FilterIndex::slots`].
type Slot = u32;

/// Residuals under keys of the caller's. Inserting and removing one takes time for its values, and
/// none for how many there are.
#[derive(Debug)]
pub struct FilterIndex<K> {
    slots: Vec<Option<Entry<K>>>,
    free: Vec<Slot>,
    places: HashMap<K, Slot>,
    /// By the operations on documents that its residuals ask for: one of the others is not even
    /// looked at.
    lanes: Vec<(Operations, Lane)>,
    /// By the other operations that they ask for, which nothing but their name chooses.
    by_name: HashMap<Operations, Members>,
    hasher: bucket::Hasher,
    /// Counts the events, so that none meets a residual twice.
    event: u64,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    judge: Arc<Judge>,
    operations: Operations,
    leads: Leads,
    /// The last event that was judged.
    event: u64,
}

fn on_documents() -> Operations {
    Operation::DOCUMENT.into_iter().collect()
}

fn by_name() -> Operations {
    Operation::ALL
        .into_iter()
        .filter(|operation| !operation.is_document())
        .collect()
}

impl<K: Copy + Eq + Hash> FilterIndex<K> {
    /// An index of nothing.
    pub fn new() -> Self {
        FilterIndex {
            slots: Vec::new(),
            free: Vec::new(),
            places: HashMap::new(),
            lanes: Vec::new(),
            by_name: HashMap::new(),
            hasher: bucket::Hasher::default(),
            event: 0,
        }
    }

    /// The number of residuals.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Puts in a residual, in the place of one that had this key.
    pub fn insert(&mut self, key: K, residual: &Residual) {
        self.insert_with(key, residual, Arc::new(Judge::new(residual)));
    }

    /// The same with a judge of that residual that was made before, since making one takes a while.
    pub fn insert_with(&mut self, key: K, residual: &Residual, judge: Arc<Judge>) {
        self.remove(key);
        let entry = Entry {
            key,
            judge,
            operations: residual.operation_set(),
            leads: Leads::of(residual, &self.hasher),
            event: 0,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).expect("fewer than 2^32 watches are open at once")
        });
        let named = entry.operations.and(by_name());
        if !named.is_empty() {
            self.by_name.entry(named).or_default().insert(slot);
        }
        let documents = entry.operations.and(on_documents());
        if !documents.is_empty() {
            let lane = match self.lanes.iter().position(|(asked, _)| *asked == documents) {
                Some(lane) => lane,
                None => {
                    self.lanes.push((documents, Lane::default()));
                    self.lanes.len() - 1
                }
            };
            self.lanes[lane].1.insert(slot, &entry.leads);
        }
        self.slots[slot as usize] = Some(entry);
        self.places.insert(key, slot);
    }

    /// Takes out the residual with this key, if there is one.
    pub fn remove(&mut self, key: K) {
        let Some(slot) = self.places.remove(&key) else {
            return;
        };
        let Some(entry) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(slot);
        let named = entry.operations.and(by_name());
        if let Some(members) = self.by_name.get_mut(&named) {
            members.remove(slot);
            if members.is_empty() {
                self.by_name.remove(&named);
            }
        }
        let documents = entry.operations.and(on_documents());
        // There are at most 15 lanes, so an empty one may stay.
        if let Some((_, lane)) = self.lanes.iter_mut().find(|(asked, _)| *asked == documents) {
            lane.remove(slot, &entry.leads);
        }
    }

    /// Calls `hit` once for each residual that passes the event, in no particular order.
    pub fn matches(&mut self, subject: &Subject<'_>, mut hit: impl FnMut(K, Crossing)) {
        self.event += 1;
        let event = self.event;
        let slots = &mut self.slots;
        let mut visit = |slot: Slot| {
            let Some(Some(entry)) = slots.get_mut(slot as usize) else {
                return;
            };
            if entry.event == event {
                return;
            }
            entry.event = event;
            if let Some(crossing) = entry.judge.judge(subject) {
                hit(entry.key, crossing);
            }
        };
        if !subject.operation.is_document() {
            for (operations, members) in &self.by_name {
                if operations.contains(subject.operation) {
                    members.iter().for_each(&mut visit);
                }
            }
            return;
        }
        for (operations, lane) in &self.lanes {
            if operations.contains(subject.operation) {
                lane.candidates(subject, &self.hasher, &mut visit);
            }
        }
    }
}

impl<K: Copy + Eq + Hash> Default for FilterIndex<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
