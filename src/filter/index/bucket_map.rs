//! Sets of slots by bucket, in few bytes where most buckets have few slots.

use std::collections::{HashMap, HashSet};

use super::bucket::Bucket;
use super::slot_set::Slot;

/// What a slot in a bucket takes at most, in bytes, with the free room: however many slots the buckets have, if all have
/// equally many. While slots are removed it may be half as much again.
pub(super) const VALUE_BYTES: usize = 13;

/// The most entries of a page on average. A page is searched in halves, and entries are moved when one is added.
const PAGE: usize = 64;
/// The most slots of a bucket that are entries.
const MAX_ENTRIES: usize = 64;
/// In place of a slot: the slots of the bucket are in a set. No slot has this number.
const IN_SET: Slot = Slot::MAX;

/// Sets of slots by bucket. Buckets are evenly spread hashes, so that their first bits choose a page.
#[derive(Debug, Default)]
pub(super) struct BucketMap {
    /// A power of two of pages, or none.
    pages: Vec<Page>,
    /// The number of entries in all pages.
    len: usize,
    /// The sets of those buckets that have many slots.
    sets: HashMap<Bucket, HashSet<Slot>>,
}

/// A bucket in the upper half and a slot in the lower one, sorted.
type Page = Vec<u64>;

fn entry(bucket: Bucket, slot: Slot) -> u64 {
    (u64::from(bucket) << 32) | u64::from(slot)
}

fn bucket_of(entry: u64) -> Bucket {
    (entry >> 32) as Bucket
}

fn slot_of(entry: u64) -> Slot {
    entry as Slot
}

impl BucketMap {
    pub(super) fn insert(&mut self, bucket: Bucket, slot: Slot) {
        if self.pages.is_empty() {
            self.pages = vec![Page::new()];
        }
        let page = page_of(bucket, self.pages.len());
        let page = &mut self.pages[page];
        let from = page.partition_point(|it| *it < entry(bucket, 0));
        let entries = entries_of(&page[from..], bucket);
        if entries == [entry(bucket, IN_SET)] {
            self.sets.entry(bucket).or_default().insert(slot);
            return;
        }
        let Err(at) = entries.binary_search(&entry(bucket, slot)) else {
            return;
        };
        let count = entries.len();
        if count < MAX_ENTRIES {
            if page.len() == page.capacity() {
                page.reserve_exact(1 + page.len() / 8);
            }
            page.insert(from + at, entry(bucket, slot));
            self.len += 1;
        } else {
            let mut set: HashSet<Slot> = entries.iter().map(|it| slot_of(*it)).collect();
            set.insert(slot);
            page.splice(from..from + count, [entry(bucket, IN_SET)]);
            give_back_room(page);
            self.len -= count - 1;
            self.sets.insert(bucket, set);
        }
        self.resize();
    }

    pub(super) fn remove(&mut self, bucket: Bucket, slot: Slot) {
        let page = page_of(bucket, self.pages.len());
        let Some(page) = self.pages.get_mut(page) else {
            return;
        };
        let from = page.partition_point(|it| *it < entry(bucket, 0));
        let entries = entries_of(&page[from..], bucket);
        if entries == [entry(bucket, IN_SET)] {
            let Some(set) = self.sets.get_mut(&bucket) else {
                return;
            };
            set.remove(&slot);
            if set.len() > MAX_ENTRIES / 4 * 3 {
                if set.len() < set.capacity() / 8 * 3 {
                    // Iteration takes time for the capacity, which a hash set keeps when it empties.
                    set.shrink_to_fit();
                }
                return;
            }
            let mut rest: Vec<u64> = set.iter().map(|it| entry(bucket, *it)).collect();
            rest.sort_unstable();
            self.len += rest.len() - 1;
            page.splice(from..=from, rest);
            self.sets.remove(&bucket);
            if self.sets.is_empty() {
                self.sets = HashMap::new();
            } else if self.sets.len() < self.sets.capacity() / 4 {
                self.sets.shrink_to_fit();
            }
        } else if let Ok(at) = entries.binary_search(&entry(bucket, slot)) {
            page.remove(from + at);
            give_back_room(page);
            self.len -= 1;
        }
        self.resize();
    }

    /// Calls `visit` with each slot of a bucket.
    pub(super) fn for_each(&self, bucket: Bucket, mut visit: impl FnMut(Slot)) {
        let Some(page) = self.pages.get(page_of(bucket, self.pages.len())) else {
            return;
        };
        let from = page.partition_point(|it| *it < entry(bucket, 0));
        for it in &page[from..] {
            if bucket_of(*it) != bucket {
                return;
            }
            match slot_of(*it) {
                IN_SET => self.sets[&bucket].iter().copied().for_each(&mut visit),
                slot => visit(slot),
            }
        }
    }

    /// Keeps the pages from growing large, or many and small.
    fn resize(&mut self) {
        let pages = self.pages.len();
        if self.len > PAGE * pages {
            // One more bit of the buckets, by which each page is sorted.
            let bit = 1 << (31 - pages.trailing_zeros());
            let mut all = Vec::with_capacity(2 * pages);
            for mut low in std::mem::take(&mut self.pages) {
                let high = low.partition_point(|it| bucket_of(*it) & bit == 0);
                let high = low.split_off(high);
                low.shrink_to_fit();
                all.extend([low, high]);
            }
            self.pages = all;
        } else if self.len == 0 {
            self.pages = Vec::new();
        } else if self.len < PAGE / 4 * (pages - 1) {
            let mut all = Vec::with_capacity(pages / 2);
            let mut old = std::mem::take(&mut self.pages).into_iter();
            while let (Some(mut low), Some(high)) = (old.next(), old.next()) {
                low.reserve_exact(high.len());
                low.extend(high);
                low.shrink_to_fit();
                all.push(low);
            }
            self.pages = all;
        }
    }
}

fn give_back_room(page: &mut Page) {
    if page.len() < page.capacity() / 4 * 3 {
        page.shrink_to(page.len() + page.len() / 8);
    }
}

/// Returns the place of a bucket's page among this number of pages.
fn page_of(bucket: Bucket, pages: usize) -> usize {
    // Of 32 bits, those beyond the bits of the number of pages are cut off. There are fewer than 2^32 pages.
    ((u64::from(bucket) * pages as u64) >> 32) as usize
}

/// Returns those of the entries that are of a bucket, which come first.
fn entries_of(entries: &[u64], bucket: Bucket) -> &[u64] {
    let others = entries.iter().position(|it| bucket_of(*it) != bucket);
    &entries[..others.unwrap_or(entries.len())]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// What an allocation takes beside its bytes.
    const ALLOCATION: usize = 16;

    /// The memory of a hash table with entries of this size, in bytes.
    fn table_bytes(capacity: usize, entry: usize) -> usize {
        match capacity {
            0 => 0,
            1..=3 => 4 * (entry + 1) + 2 * ALLOCATION,
            _ => (capacity / 7 * 8) * (entry + 1) + 2 * ALLOCATION,
        }
    }

    fn vec_bytes<T>(vec: &Vec<T>) -> usize {
        match vec.capacity() {
            0 => 0,
            capacity => capacity * size_of::<T>() + ALLOCATION,
        }
    }

    fn heap_bytes(map: &BucketMap) -> usize {
        let pages = map.pages.iter().map(vec_bytes);
        let sets = map.sets.values();
        let sets = sets.map(|set| table_bytes(set.capacity(), size_of::<Slot>()));
        let set_entry = size_of::<(Bucket, HashSet<Slot>)>();
        vec_bytes(&map.pages)
            + pages.sum::<usize>()
            + table_bytes(map.sets.capacity(), set_entry)
            + sets.sum::<usize>()
    }

    /// Buckets are hashes.
    fn bucket(number: u32) -> Bucket {
        number.wrapping_mul(0x9E37_79B9)
    }

    /// However many filters share a value, and right after something has grown.
    #[test]
    fn a_slot_takes_no_more_than_is_charged() {
        for sharing in (1..=40).chain([64, 65, 66, 100, 113, 128, 225, 300]) {
            for buckets in [500, 897, 1_025, 1_793] {
                let mut map = BucketMap::default();
                for slot in 0..sharing {
                    (0..buckets).for_each(|it| map.insert(bucket(it), slot));
                }
                let slots = (buckets * sharing) as usize;
                let taken = heap_bytes(&map);
                assert!(
                    taken <= slots * VALUE_BYTES,
                    "{sharing} in {buckets}: {taken} bytes for {slots} slots"
                );
                for slot in 0..sharing {
                    (0..buckets).for_each(|it| map.remove(bucket(it), slot));
                    let left = slots - (slot as usize + 1) * buckets as usize;
                    let taken = heap_bytes(&map);
                    assert!(
                        taken <= left * VALUE_BYTES * 3 / 2,
                        "{sharing} in {buckets}: {taken} bytes for {left} slots"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_of_sets(
            steps in prop::collection::vec((any::<bool>(), 0..3_u32, 0..200_u32), 0..1_500),
            spread in any::<bool>(),
        ) {
            let mut map = BucketMap::default();
            let mut model: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            let mut steps = steps;
            // To the sizes at which sets begin and end.
            let many = (0..200).map(|slot| (true, 1, slot));
            let fewer = (0..200).map(|slot| (false, 1, slot));
            steps.extend(many.chain(fewer));
            for (insert, number, slot) in steps {
                // Few buckets with many slots, or many with few.
                let bucket = if spread { bucket(number * 200 + slot) } else { bucket(number) };
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
            for (bucket, slots) in model {
                let mut found = Vec::new();
                map.for_each(bucket, |slot| found.push(slot));
                found.sort_unstable();
                prop_assert!(found.iter().eq(slots.iter()), "{found:?} {slots:?}");
                slots.into_iter().for_each(|slot| map.remove(bucket, slot));
            }
            prop_assert_eq!(heap_bytes(&map), 0);
        }
    }
}
