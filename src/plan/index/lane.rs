//! The residuals that ask for the same operations on documents.

use std::collections::HashMap;

use super::Slot;
use super::bucket::{Bucket, Hasher};
use super::equality::{Equality, Place};
use super::members::Members;
use crate::plan::Operation;
use crate::plan::judge::{Path, Subject};
use crate::plan::predicate::is_id_path;

/// Residuals by what leads to them.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Those that nothing leads to: without a filter, or with one that must be asked each time.
    others: Members,
    groups: HashMap<Place, Group>,
}

/// Residuals by the value at one path.
#[derive(Debug)]
struct Group {
    path: Path,
    on_key: bool,
    /// All of them, for where the value is not known.
    all: Members,
    buckets: HashMap<Bucket, Members>,
}

impl Lane {
    pub(super) fn insert(&mut self, slot: Slot, equality: Option<&Equality>) {
        let Some(equality) = equality else {
            self.others.insert(slot);
            return;
        };
        let place = &equality.place;
        let group = self.groups.entry(place.clone()).or_insert_with(|| Group {
            path: Path::new(&place.path),
            on_key: is_id_path(&place.path),
            all: Members::default(),
            buckets: HashMap::new(),
        });
        group.all.insert(slot);
        for bucket in &equality.buckets {
            group.buckets.entry(*bucket).or_default().insert(slot);
        }
    }

    pub(super) fn remove(&mut self, slot: Slot, equality: Option<&Equality>) {
        let Some(equality) = equality else {
            self.others.remove(slot);
            return;
        };
        let Some(group) = self.groups.get_mut(&equality.place) else {
            return;
        };
        group.all.remove(slot);
        for bucket in &equality.buckets {
            if let Some(members) = group.buckets.get_mut(bucket) {
                members.remove(slot);
                if members.is_empty() {
                    group.buckets.remove(bucket);
                }
            }
        }
        if group.all.is_empty() {
            self.groups.remove(&equality.place);
        }
    }

    /// Whether there is no residual.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.others.is_empty() && self.groups.is_empty()
    }

    /// Visits every residual that may pass the event, some of them several times.
    pub(super) fn candidates(
        &self,
        subject: &Subject<'_>,
        hasher: &Hasher,
        visit: &mut impl FnMut(Slot),
    ) {
        self.others.iter().for_each(&mut *visit);
        for (place, group) in &self.groups {
            if group.on_key {
                group.at(subject.key, hasher, visit);
                continue;
            }
            let before = subject.before.filter(|_| place.pre_images);
            if before.is_some() {
                group.at(before, hasher, visit);
            }
            if subject.after.is_some() {
                group.at(subject.after, hasher, visit);
            } else if before.is_none() || subject.operation != Operation::Delete {
                // The equality is unknown, and so is the whole, unless another part refuses.
                if place.takes_unknown {
                    group.all.iter().for_each(&mut *visit);
                }
            }
        }
    }
}

impl Group {
    /// Visits the residuals that ask for a value that the document has.
    fn at(&self, document: Option<&[u8]>, hasher: &Hasher, visit: &mut impl FnMut(Slot)) {
        let mut look_up = |value: Option<&_>| {
            if let Some(members) = self.buckets.get(&hasher.bucket(value)) {
                members.iter().for_each(&mut *visit);
            }
        };
        match document {
            None => look_up(None),
            Some(document) => {
                self.path.find(document, &mut |value| {
                    look_up(value.as_ref());
                    false
                });
            }
        }
    }
}
