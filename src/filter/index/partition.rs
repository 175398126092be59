//! The residuals that select the same set of document operations.

use std::collections::HashMap;

use super::bucket::{Bucket, BucketHasher};
use super::bucket_map::BucketMap;
use super::index_key::{IndexKey, IndexKeys, LookupField};
use super::slot_set::{Slot, SlotSet};
use crate::filter::evaluator::{EventFields, Path};
use crate::filter::is_id_path;
use crate::model::{Operation, Shard};

/// Residuals grouped by their shard, then by the index key of their row filter, then by the index key of their
/// filter.
///
/// The shard comes first, so an event costs one look-up for all shards of one count, whatever else they require.
#[derive(Debug, Default)]
pub(super) struct Partition {
    without_shard: RowFilterGroups,
    /// Residuals by the number of consumers, then by their index.
    by_shard_count: HashMap<u16, HashMap<u16, RowFilterGroups>>,
}

/// Residuals by the index key of their row filter, then by the index key of their filter.
///
/// The row filter comes before the filter, so an event of one tenant costs nothing for the other tenants, even if all
/// of them use the same filters.
#[derive(Debug, Default)]
struct RowFilterGroups {
    /// Residuals without a row filter, or with one that has no index key.
    without_row_key: FilterGroups,
    /// Residuals by the path of their row filter's index key.
    by_row_filter: HashMap<String, RowFilterGroup>,
}

/// Residuals by the value that their row filter requires at one path.
#[derive(Debug)]
struct RowFilterGroup {
    field: IndexedField,
    buckets: HashMap<Bucket, FilterGroups>,
}

/// Residuals by the index key of their filter.
#[derive(Debug, Default)]
struct FilterGroups {
    /// Residuals without a filter, or with one that has no index key: each event is checked against them.
    unindexed: SlotSet,
    /// In boxes, as a table has room for more groups than most have.
    groups: HashMap<LookupField, Box<FilterGroup>>,
}

/// Residuals by the value that their filter requires at one path.
#[derive(Debug)]
struct FilterGroup {
    field: IndexedField,
    /// All residuals of the group, for events whose value is unknown.
    all: SlotSet,
    buckets: BucketMap,
}

/// The path at which values are looked up.
#[derive(Debug)]
struct IndexedField {
    path: Path,
    /// `true` if the path is part of the document key.
    on_key: bool,
}

impl Partition {
    pub(super) fn insert(&mut self, slot: Slot, keys: &IndexKeys) {
        let groups = match keys.shard {
            None => &mut self.without_shard,
            Some(shard) => {
                let shards = self.by_shard_count.entry(shard.count()).or_default();
                shards.entry(shard.index()).or_default()
            }
        };
        groups.insert(slot, keys);
    }

    pub(super) fn remove(&mut self, slot: Slot, keys: &IndexKeys) {
        let Some(shard) = keys.shard else {
            return self.without_shard.remove(slot, keys);
        };
        let Some(shards) = self.by_shard_count.get_mut(&shard.count()) else {
            return;
        };
        if let Some(groups) = shards.get_mut(&shard.index()) {
            groups.remove(slot, keys);
            if groups.is_empty() {
                shards.remove(&shard.index());
            }
        }
        if shards.is_empty() {
            self.by_shard_count.remove(&shard.count());
        }
    }

    /// Returns whether the partition holds no residual.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.without_shard.is_empty() && self.by_shard_count.is_empty()
    }

    /// Calls `visit` for every residual that may pass the event, for some of them more than once.
    pub(super) fn candidates(
        &self,
        event: &EventFields<'_>,
        hasher: &BucketHasher,
        visit: &mut impl FnMut(Slot),
    ) {
        self.without_shard.candidates(event, hasher, visit);
        for (count, shards) in &self.by_shard_count {
            let Some(hash) = event.id_hash() else {
                // An event without a document key belongs to every shard.
                for groups in shards.values() {
                    groups.candidates(event, hasher, visit);
                }
                continue;
            };
            let index = Shard::index_of(hash, *count);
            if let Some(groups) = index.and_then(|index| shards.get(&index)) {
                groups.candidates(event, hasher, visit);
            }
        }
    }
}

impl RowFilterGroups {
    fn insert(&mut self, slot: Slot, keys: &IndexKeys) {
        let filter_key = keys.filter.as_ref();
        let Some(row_key) = &keys.row_filter else {
            return self.without_row_key.insert(slot, filter_key);
        };
        let group = self.by_row_filter.entry(row_key.field.clone());
        let group = group.or_insert_with(|| RowFilterGroup {
            field: IndexedField::new(&row_key.field),
            buckets: HashMap::new(),
        });
        for bucket in &row_key.buckets {
            let filter_groups = group.buckets.entry(*bucket).or_default();
            filter_groups.insert(slot, filter_key);
        }
    }

    fn remove(&mut self, slot: Slot, keys: &IndexKeys) {
        let filter_key = keys.filter.as_ref();
        let Some(row_key) = &keys.row_filter else {
            return self.without_row_key.remove(slot, filter_key);
        };
        let Some(group) = self.by_row_filter.get_mut(&row_key.field) else {
            return;
        };
        for bucket in &row_key.buckets {
            if let Some(filter_groups) = group.buckets.get_mut(bucket) {
                filter_groups.remove(slot, filter_key);
                if filter_groups.is_empty() {
                    group.buckets.remove(bucket);
                }
            }
        }
        if group.buckets.is_empty() {
            self.by_row_filter.remove(&row_key.field);
        }
    }

    fn is_empty(&self) -> bool {
        self.without_row_key.is_empty() && self.by_row_filter.is_empty()
    }

    /// Calls `visit` for every residual that may pass the event.
    fn candidates(
        &self,
        event: &EventFields<'_>,
        hasher: &BucketHasher,
        visit: &mut impl FnMut(Slot),
    ) {
        self.without_row_key.candidates(event, hasher, visit);
        for group in self.by_row_filter.values() {
            let image = if group.field.on_key {
                event.key
            } else {
                // A row filter must hold for every image of the event, so looking at one is enough.
                // Without an image it is unknown, and an unknown row filter passes nothing.
                match event.after.or(event.before) {
                    Some(image) => Some(image),
                    None => continue,
                }
            };
            group.field.for_each_bucket(image, hasher, &mut |bucket| {
                if let Some(filter_groups) = group.buckets.get(&bucket) {
                    filter_groups.candidates(event, hasher, visit);
                }
            });
        }
    }
}

impl FilterGroups {
    fn insert(&mut self, slot: Slot, key: Option<&IndexKey<LookupField>>) {
        let Some(key) = key else {
            self.unindexed.insert(slot);
            return;
        };
        let group = self.groups.entry(key.field.clone());
        let group = group.or_insert_with(|| {
            Box::new(FilterGroup {
                field: IndexedField::new(&key.field.path),
                all: SlotSet::default(),
                buckets: BucketMap::default(),
            })
        });
        group.all.insert(slot);
        for bucket in &key.buckets {
            group.buckets.insert(*bucket, slot);
        }
    }

    fn remove(&mut self, slot: Slot, key: Option<&IndexKey<LookupField>>) {
        let Some(key) = key else {
            self.unindexed.remove(slot);
            return;
        };
        let Some(group) = self.groups.get_mut(&key.field) else {
            return;
        };
        group.all.remove(slot);
        for bucket in &key.buckets {
            group.buckets.remove(*bucket, slot);
        }
        if group.all.is_empty() {
            self.groups.remove(&key.field);
        }
    }

    fn is_empty(&self) -> bool {
        self.unindexed.is_empty() && self.groups.is_empty()
    }

    fn candidates(
        &self,
        event: &EventFields<'_>,
        hasher: &BucketHasher,
        visit: &mut impl FnMut(Slot),
    ) {
        self.unindexed.iter().for_each(&mut *visit);
        for (field, group) in &self.groups {
            let mut visit_document = |document| {
                let is_complete = group.visit_matching(document, hasher, visit);
                if !is_complete && field.passes_unknown {
                    group.all.iter().for_each(&mut *visit);
                }
            };
            if group.field.on_key {
                visit_document(event.key);
                continue;
            }
            let before = event.before.filter(|_| field.pre_images);
            if before.is_some() {
                visit_document(before);
            }
            if event.after.is_some() {
                visit_document(event.after);
            } else if before.is_none() || event.operation != Operation::Delete {
                // The value is unknown, so the filter is too, unless another of its parts is false.
                if field.passes_unknown {
                    group.all.iter().for_each(&mut *visit);
                }
            }
        }
    }
}

impl FilterGroup {
    /// Visits the residuals that require a value of the document. Returns `false` if the search for
    /// values was given up, so that some may be missing.
    fn visit_matching(
        &self,
        document: Option<&[u8]>,
        hasher: &BucketHasher,
        visit: &mut impl FnMut(Slot),
    ) -> bool {
        self.field.for_each_bucket(document, hasher, &mut |bucket| {
            self.buckets.for_each(bucket, &mut *visit);
        })
    }
}

impl IndexedField {
    fn new(path: &str) -> Self {
        IndexedField {
            path: Path::new(path),
            on_key: is_id_path(path),
        }
    }

    /// Calls `found` with the bucket of each value at the path; no document counts as a missing field.
    /// Returns `false` if the search was given up, so that some buckets may be missing.
    fn for_each_bucket(
        &self,
        document: Option<&[u8]>,
        hasher: &BucketHasher,
        found: &mut impl FnMut(Bucket),
    ) -> bool {
        let Some(document) = document else {
            found(hasher.bucket(None));
            return true;
        };
        let walk = self.path.find(document, &mut |value| {
            found(hasher.bucket(value.as_ref()));
            false
        });
        walk.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::index_key::{GROUP_BYTES, ROW_VALUE_BYTES};
    use super::*;

    /// What an allocation takes beside its bytes, and a table behind its entries.
    const ALLOCATION: usize = 16;

    #[test]
    fn a_group_takes_no_more_than_is_charged() {
        // A table may be not half full.
        let row_value = (size_of::<(Bucket, FilterGroups)>() + 1) * 16 / 7;
        assert!(row_value <= ROW_VALUE_BYTES, "{row_value} bytes");
        // The smallest table has room for four.
        let table = 4 * (size_of::<(LookupField, Box<FilterGroup>)>() + 1) + 2 * ALLOCATION;
        // Of the first page its place and the first entry. The table of pages has room for one.
        let page = size_of::<Vec<u64>>() + size_of::<u64>() + 2 * ALLOCATION;
        let group = table + size_of::<FilterGroup>() + ALLOCATION + page;
        assert!(group <= GROUP_BYTES, "{group} bytes");
        assert!(group > GROUP_BYTES - 64, "{group} bytes");
    }
}
