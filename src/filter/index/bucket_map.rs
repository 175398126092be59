//! Sets of slots by bucket, in few bytes where most buckets have one slot.

use std::collections::{HashMap, HashSet};

use slab::Slab;

use super::bucket::Bucket;
use super::slot_set::Slot;

/// The bit of an entry that tells a set of slots from one slot.
const IS_SET: u32 = 1 << 31;

/// Sets of slots by bucket. A bucket of one slot takes 9 bytes and the free room of a hash table, 20 at most.
#[derive(Debug, Default)]
pub(super) struct BucketMap {
    /// A slot, or [`IS_SET`] and the key of a set.
    entries: HashMap<Bucket, u32>,
    sets: Slab<HashSet<Slot>>,
}

impl BucketMap {
    pub(super) fn insert(&mut self, bucket: Bucket, slot: Slot) {
        let Some(entry) = self.entries.get_mut(&bucket) else {
            self.entries.insert(bucket, slot);
            return;
        };
        if *entry & IS_SET != 0 {
            self.sets[(*entry ^ IS_SET) as usize].insert(slot);
        } else if *entry != slot {
            let key = self.sets.insert([*entry, slot].into());
            *entry = IS_SET | u32::try_from(key).expect("there are fewer sets than slots");
        }
    }

    pub(super) fn remove(&mut self, bucket: Bucket, slot: Slot) {
        let Some(&entry) = self.entries.get(&bucket) else {
            return;
        };
        if entry & IS_SET == 0 {
            if entry == slot {
                self.entries.remove(&bucket);
            }
        } else {
            let key = (entry ^ IS_SET) as usize;
            let set = &mut self.sets[key];
            set.remove(&slot);
            if set.is_empty() {
                self.sets.remove(key);
                self.entries.remove(&bucket);
            } else if set.len() < set.capacity() / 8 {
                // Iteration takes time for the capacity, which a hash set keeps when it empties.
                set.shrink_to_fit();
            }
        }
        if self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to_fit();
        }
    }

    /// Calls `visit` with each slot of a bucket.
    pub(super) fn for_each(&self, bucket: Bucket, mut visit: impl FnMut(Slot)) {
        let Some(&entry) = self.entries.get(&bucket) else {
            return;
        };
        if entry & IS_SET == 0 {
            visit(entry);
        } else if let Some(set) = self.sets.get((entry ^ IS_SET) as usize) {
            set.iter().copied().for_each(visit);
        }
    }
}
