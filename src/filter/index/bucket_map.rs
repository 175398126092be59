//! Sets of slots by bucket, in few bytes where most buckets have few slots.

use std::collections::{HashMap, HashSet};

use slab::Slab;

use super::bucket::Bucket;
use super::slot_set::Slot;

/// What a slot in a bucket takes, in bytes, with the free room of the tables: the most where all buckets have equally
/// many slots, whatever number that is. While the tables shrink, and where lists have just become sets, it may be half
/// as much again.
pub(super) const VALUE_BYTES: usize = 30;

/// The bit that tells the place of something else from a slot.
const IS_LINK: u32 = 1 << 31;
/// The end of a list of nodes.
const END: u32 = u32::MAX;
/// The most slots of a list. It is walked when a slot is added or removed.
const MAX_LIST: usize = 8;

/// Sets of slots by bucket. One slot is in the table itself, up to [`MAX_LIST`] are in a list, and more in a set.
#[derive(Debug, Default)]
pub(super) struct BucketMap {
    /// A slot, or [`IS_LINK`] and the place of the first node of a list.
    entries: HashMap<Bucket, u32>,
    nodes: Nodes,
    sets: Slab<HashSet<Slot>>,
}

/// The nodes of lists.
#[derive(Debug)]
struct Nodes {
    nodes: Vec<Node>,
    /// The first of the free nodes, which are a list too.
    free: u32,
    used: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// A slot, or, in a node alone, [`IS_LINK`] and the key of a set.
    slot: u32,
    /// The next node, or [`END`].
    next: u32,
}

impl BucketMap {
    pub(super) fn insert(&mut self, bucket: Bucket, slot: Slot) {
        let Some(entry) = self.entries.get_mut(&bucket) else {
            self.entries.insert(bucket, slot);
            return;
        };
        if *entry & IS_LINK == 0 {
            if *entry != slot {
                let last = self.nodes.add(*entry, END);
                *entry = IS_LINK | self.nodes.add(slot, last);
            }
            return;
        }
        let first = *entry ^ IS_LINK;
        if let Some(key) = self.nodes.key_of_set(first) {
            self.sets[key].insert(slot);
            return;
        }
        if self.nodes.list(first).any(|it| it == slot) {
            return;
        }
        if self.nodes.list(first).count() < MAX_LIST {
            *entry = IS_LINK | self.nodes.add(slot, first);
            return;
        }
        let mut set: HashSet<Slot> = self.nodes.list(first).collect();
        set.insert(slot);
        self.nodes.free(first);
        let key = u32::try_from(self.sets.insert(set)).expect("there are fewer sets than slots");
        *entry = IS_LINK | self.nodes.add(IS_LINK | key, END);
        self.compact_nodes();
    }

    pub(super) fn remove(&mut self, bucket: Bucket, slot: Slot) {
        let Some(&entry) = self.entries.get(&bucket) else {
            return;
        };
        let first = entry ^ IS_LINK;
        if entry & IS_LINK == 0 {
            if entry == slot {
                self.entries.remove(&bucket);
            }
        } else if let Some(key) = self.nodes.key_of_set(first) {
            let set = &mut self.sets[key];
            set.remove(&slot);
            if set.len() <= MAX_LIST / 2 {
                let rest = self.sets.remove(key);
                self.nodes.free(first);
                self.put(bucket, rest);
            } else if set.len() < set.capacity() / 4 {
                // Iteration takes time for the capacity, which a hash set keeps when it empties.
                set.shrink_to_fit();
            }
        } else {
            let rest: Vec<Slot> = self.nodes.list(first).filter(|it| *it != slot).collect();
            self.nodes.free(first);
            self.put(bucket, rest);
        }
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to_fit();
        }
        if self.sets.is_empty() && self.sets.capacity() > 0 {
            self.sets = Slab::new();
        }
        self.compact_nodes();
    }

    /// Gives the free nodes back, once they are most of all. Takes time for the entries, and so waits until at least
    /// that many nodes were freed.
    fn compact_nodes(&mut self) {
        let all = self.nodes.nodes.len();
        if self.nodes.used >= all / 4 || all < self.entries.len() {
            return;
        }
        let old = std::mem::take(&mut self.nodes);
        for entry in self.entries.values_mut().filter(|it| **it & IS_LINK != 0) {
            let slots = old.list(*entry ^ IS_LINK);
            let first = slots.fold(END, |next, slot| self.nodes.add(slot, next));
            *entry = IS_LINK | first;
        }
    }

    /// Replaces the slots of a bucket with at most [`MAX_LIST`].
    fn put(&mut self, bucket: Bucket, slots: impl IntoIterator<Item = Slot>) {
        let mut slots = slots.into_iter();
        let Some(slot) = slots.next() else {
            self.entries.remove(&bucket);
            return;
        };
        let mut entry = slot;
        for slot in slots {
            let next = match entry & IS_LINK {
                0 => self.nodes.add(entry, END),
                _ => entry ^ IS_LINK,
            };
            entry = IS_LINK | self.nodes.add(slot, next);
        }
        self.entries.insert(bucket, entry);
    }

    /// Calls `visit` with each slot of a bucket.
    pub(super) fn for_each(&self, bucket: Bucket, mut visit: impl FnMut(Slot)) {
        let Some(&entry) = self.entries.get(&bucket) else {
            return;
        };
        let first = entry ^ IS_LINK;
        if entry & IS_LINK == 0 {
            visit(entry);
        } else if let Some(key) = self.nodes.key_of_set(first) {
            self.sets[key].iter().copied().for_each(visit);
        } else {
            self.nodes.list(first).for_each(visit);
        }
    }
}

impl Nodes {
    /// Adds a node in front of `next`, and returns its place.
    fn add(&mut self, slot: u32, next: u32) -> u32 {
        let node = Node { slot, next };
        self.used += 1;
        if let Some(free) = self.nodes.get_mut(self.free as usize) {
            let place = std::mem::replace(&mut self.free, free.next);
            *free = node;
            return place;
        }
        let place = u32::try_from(self.nodes.len()).ok();
        let place = place.filter(|place| *place < IS_LINK);
        self.nodes.push(node);
        place.expect("the values of all filters are fewer than 2^31")
    }

    /// Frees a list.
    fn free(&mut self, first: u32) {
        let mut place = first;
        while let Some(node) = self.nodes.get_mut(place as usize) {
            let next = std::mem::replace(&mut node.next, self.free);
            self.free = std::mem::replace(&mut place, next);
            self.used -= 1;
        }
        if self.used == 0 {
            *self = Self::default();
        }
    }

    /// Returns the key of the set that the node stands for, if it does.
    fn key_of_set(&self, place: u32) -> Option<usize> {
        let slot = self.nodes[place as usize].slot;
        (slot & IS_LINK != 0).then_some((slot ^ IS_LINK) as usize)
    }

    fn list(&self, first: u32) -> impl Iterator<Item = Slot> + '_ {
        let mut place = first;
        std::iter::from_fn(move || {
            let node = self.nodes.get(place as usize)?;
            place = node.next;
            Some(node.slot)
        })
    }
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            free: END,
            used: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// The memory of a hash table with entries of this size, in bytes.
    fn table_bytes(capacity: usize, entry: usize) -> usize {
        match capacity {
            0 => 0,
            1..=3 => 4 * (entry + 1) + 32,
            _ => (capacity / 7 * 8) * (entry + 1) + 32,
        }
    }

    fn heap_bytes(map: &BucketMap) -> usize {
        let sets = map
            .sets
            .iter()
            .map(|(_, set)| table_bytes(set.capacity(), 4));
        table_bytes(map.entries.capacity(), 8)
            + map.nodes.nodes.capacity() * size_of::<Node>()
            + map.sets.capacity() * size_of::<HashSet<Slot>>()
            + sets.sum::<usize>()
    }

    /// However many filters share a value, and right after the tables have grown.
    #[test]
    fn a_slot_takes_no_more_than_is_charged() {
        for sharing in 1..=40 {
            for buckets in [500, 897, 1_025, 1_793] {
                let mut map = BucketMap::default();
                for slot in 0..sharing {
                    (0..buckets).for_each(|bucket| map.insert(bucket, slot));
                }
                let charged = (buckets * sharing) as usize * VALUE_BYTES;
                let taken = heap_bytes(&map);
                assert!(
                    taken <= charged + 256,
                    "{sharing} in {buckets}: {taken} bytes for {charged}"
                );
                for slot in 0..sharing {
                    (0..buckets).for_each(|bucket| map.remove(bucket, slot));
                }
                assert!(heap_bytes(&map) <= table_bytes(3, 8));
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_of_sets(
            steps in prop::collection::vec((any::<bool>(), 0..3_u32, 0..24_u32), 0..400),
        ) {
            let mut map = BucketMap::default();
            let mut model: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for (insert, bucket, slot) in steps {
                let slots = model.entry(bucket).or_default();
                if insert {
                    map.insert(bucket, slot);
                    slots.insert(slot);
                } else {
                    map.remove(bucket, slot);
                    slots.remove(&slot);
                }
                let mut found = Vec::new();
                map.for_each(bucket, |slot| found.push(slot));
                found.sort_unstable();
                prop_assert!(found.iter().eq(slots.iter()), "{found:?} {slots:?}");
            }
        }
    }
}
