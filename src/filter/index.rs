//! An index over many residuals that finds the ones an event passes.
//!
//! A filter that requires a field to equal one of some values is indexed by those values
//! (`index_key`): the event's own values at that path select the filters to evaluate. Other filters
//! (ranges, prefixes, patterns, negations, `changed`) are evaluated one by one. Row filters are indexed
//! in the same way and are looked up before, so an event of one tenant costs nothing for the others. A shard is
//! looked up before both, by the hash of the event's `_id`, once for each number of consumers.
//!
//! If an event lacks the document that a filter needs, all filters that deliver such events are
//! evaluated. Most of them pass the event, so little of that work is wasted.

mod bucket;
mod bucket_map;
mod index_key;
mod partition;
mod slot_set;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use index_key::IndexKeys;
pub use index_key::index_bytes;
use partition::Partition;
use slot_set::{Slot, SlotSet};

use super::Clauses;
use super::evaluator::{Evaluator, EventFields, MatchTransition, Verdict};
use crate::model::{Operation, OperationSet};

/// An index of residuals, each under a key that the caller chooses.
///
/// The cost of inserting or removing a residual depends on the number of its values, not on the size
/// of the index.
#[derive(Debug)]
pub struct FilterIndex<K> {
    slots: Vec<Option<IndexedResidual<K>>>,
    free: Vec<Slot>,
    slots_by_key: HashMap<K, Slot>,
    /// Residuals by the document operations that they select. An event of another operation skips the
    /// whole partition.
    partitions: Vec<(OperationSet, Partition)>,
    /// Residuals by the other operations that they select; filters do not apply to those.
    by_other_operations: HashMap<OperationSet, SlotSet>,
    hasher: bucket::BucketHasher,
    /// The number of events so far; it numbers them, so that no residual sees an event twice.
    events: u64,
}

#[derive(Debug)]
struct IndexedResidual<K> {
    key: K,
    evaluator: Arc<Evaluator>,
    /// The number of the last event that was evaluated.
    last_event: u64,
}

fn document_operations() -> OperationSet {
    Operation::DOCUMENT.into_iter().collect()
}

fn non_document_operations() -> OperationSet {
    Operation::ALL
        .into_iter()
        .filter(|operation| !operation.is_document())
        .collect()
}

impl<K: Copy + Eq + Hash> FilterIndex<K> {
    /// Creates an empty index.
    pub fn new() -> Self {
        FilterIndex {
            slots: Vec::new(),
            free: Vec::new(),
            slots_by_key: HashMap::new(),
            partitions: Vec::new(),
            by_other_operations: HashMap::new(),
            hasher: bucket::BucketHasher::default(),
            events: 0,
        }
    }

    /// Returns the number of residuals.
    pub fn len(&self) -> usize {
        self.slots_by_key.len()
    }

    /// Returns whether the index holds no residual.
    pub fn is_empty(&self) -> bool {
        self.slots_by_key.is_empty()
    }

    /// Inserts a residual; it replaces the one with this key, if any.
    pub fn insert(&mut self, key: K, residual: &Clauses) {
        self.insert_with(key, Arc::new(Evaluator::new(residual)));
    }

    /// Inserts the residual of an evaluator, for callers that share an evaluator.
    pub fn insert_with(&mut self, key: K, evaluator: Arc<Evaluator>) {
        self.remove(key);
        let index_keys = IndexKeys::new(&evaluator, &self.hasher);
        let operations = evaluator.operations();
        let indexed = IndexedResidual {
            key,
            evaluator,
            last_event: 0,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).expect("fewer than 2^31 watches are open at once")
        });
        let named = operations.and(non_document_operations());
        if !named.is_empty() {
            self.by_other_operations
                .entry(named)
                .or_default()
                .insert(slot);
        }
        let documents = operations.and(document_operations());
        if !documents.is_empty() {
            let partition = match self
                .partitions
                .iter()
                .position(|(operations, _)| *operations == documents)
            {
                Some(partition) => partition,
                None => {
                    self.partitions.push((documents, Partition::default()));
                    self.partitions.len() - 1
                }
            };
            self.partitions[partition].1.insert(slot, &index_keys);
        }
        self.slots[slot as usize] = Some(indexed);
        self.slots_by_key.insert(key, slot);
    }

    /// Removes the residual with this key, if any.
    pub fn remove(&mut self, key: K) {
        let Some(slot) = self.slots_by_key.remove(&key) else {
            return;
        };
        let Some(indexed) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(slot);
        let operations = indexed.evaluator.operations();
        let named = operations.and(non_document_operations());
        if let Some(slots) = self.by_other_operations.get_mut(&named) {
            slots.remove(slot);
            if slots.is_empty() {
                self.by_other_operations.remove(&named);
            }
        }
        let documents = operations.and(document_operations());
        // There are at most 15 partitions, so an empty one may stay.
        if let Some((_, partition)) = self
            .partitions
            .iter_mut()
            .find(|(operations, _)| *operations == documents)
        {
            // Not kept for this: they may take as much as the filter.
            let index_keys = IndexKeys::new(&indexed.evaluator, &self.hasher);
            partition.remove(slot, &index_keys);
        }
    }

    /// Calls `on_match` once for each residual that passes the event, in no particular order.
    pub fn matches(
        &mut self,
        event: &EventFields<'_>,
        mut on_match: impl FnMut(K, MatchTransition),
    ) {
        self.for_each_candidate(event, |key, evaluator| {
            if let Some(transition) = evaluator.evaluate(event) {
                on_match(key, transition);
            }
        });
    }

    /// Calls `on_match` once for each residual that passes the event, and, with `None`, for each that takes long to
    /// decide, in no particular order.
    pub fn matches_briefly(
        &mut self,
        event: &EventFields<'_>,
        mut on_match: impl FnMut(K, Option<MatchTransition>),
    ) {
        self.for_each_candidate(event, |key, evaluator| {
            match evaluator.evaluate_briefly(event) {
                Verdict::Passes(transition) => on_match(key, Some(transition)),
                Verdict::Fails => {}
                Verdict::Undecided => on_match(key, None),
            }
        });
    }

    /// Calls `visit` once for each residual that may pass the event.
    fn for_each_candidate(
        &mut self,
        event: &EventFields<'_>,
        mut visit_one: impl FnMut(K, &Evaluator),
    ) {
        self.events += 1;
        let event_number = self.events;
        let slots = &mut self.slots;
        let mut visit = |slot: Slot| {
            let Some(Some(indexed)) = slots.get_mut(slot as usize) else {
                return;
            };
            if indexed.last_event == event_number {
                return;
            }
            indexed.last_event = event_number;
            visit_one(indexed.key, &indexed.evaluator);
        };
        if !event.operation.is_document() {
            for (operations, slots) in &self.by_other_operations {
                if operations.contains(event.operation) {
                    slots.iter().for_each(&mut visit);
                }
            }
            return;
        }
        for (operations, partition) in &self.partitions {
            if operations.contains(event.operation) {
                partition.candidates(event, &self.hasher, &mut visit);
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
