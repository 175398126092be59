//! The residuals that ask for the same operations on documents.

use std::collections::HashMap;

use super::Slot;
use super::bucket::{Bucket, Hasher};
use super::equality::{Equality, Leads, Place};
use super::members::Members;
use crate::plan::Operation;
use crate::plan::judge::{Path, Subject};
use crate::plan::predicate::is_id_path;

/// Residuals by what leads to them: first by what their guards say, then by what their filters say. So
/// an event of one tenant costs nothing for the others, however alike their filters are.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Those whose guard leads to nothing, if they have one.
    open: Filtered,
    guarded: HashMap<String, Guarded>,
}

/// Residuals by the value that their guard asks for at one path.
#[derive(Debug)]
struct Guarded {
    field: Field,
    buckets: HashMap<Bucket, Filtered>,
}

/// Residuals by what leads to their filters.
#[derive(Debug, Default)]
struct Filtered {
    /// Those that nothing leads to: without a filter, or with one that must be asked each time.
    others: Members,
    groups: HashMap<Place, Group>,
}

/// Residuals by the value at one path.
#[derive(Debug)]
struct Group {
    field: Field,
    /// All of them, for where the value is not known.
    all: Members,
    buckets: HashMap<Bucket, Members>,
}

/// Where values are looked up.
#[derive(Debug)]
struct Field {
    path: Path,
    on_key: bool,
}

impl Lane {
    pub(super) fn insert(&mut self, slot: Slot, leads: &Leads) {
        let filter = leads.filter.as_ref();
        let Some(guard) = &leads.guard else {
            return self.open.insert(slot, filter);
        };
        let guarded = self.guarded.entry(guard.place.clone());
        let guarded = guarded.or_insert_with(|| Guarded {
            field: Field::new(&guard.place),
            buckets: HashMap::new(),
        });
        for bucket in &guard.buckets {
            guarded
                .buckets
                .entry(*bucket)
                .or_default()
                .insert(slot, filter);
        }
    }

    pub(super) fn remove(&mut self, slot: Slot, leads: &Leads) {
        let filter = leads.filter.as_ref();
        let Some(guard) = &leads.guard else {
            return self.open.remove(slot, filter);
        };
        let Some(guarded) = self.guarded.get_mut(&guard.place) else {
            return;
        };
        for bucket in &guard.buckets {
            if let Some(filtered) = guarded.buckets.get_mut(bucket) {
                filtered.remove(slot, filter);
                if filtered.is_empty() {
                    guarded.buckets.remove(bucket);
                }
            }
        }
        if guarded.buckets.is_empty() {
            self.guarded.remove(&guard.place);
        }
    }

    /// Whether there is no residual.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.guarded.is_empty()
    }

    /// Visits every residual that may pass the event, some of them several times.
    pub(super) fn candidates(
        &self,
        subject: &Subject<'_>,
        hasher: &Hasher,
        visit: &mut impl FnMut(Slot),
    ) {
        self.open.candidates(subject, hasher, visit);
        for guarded in self.guarded.values() {
            let image = if guarded.field.on_key {
                subject.key
            } else {
                // It must hold for every image there is, so any one will do; and without one it is not
                // known, and so not worth anything.
                match subject.after.or(subject.before) {
                    Some(image) => Some(image),
                    None => continue,
                }
            };
            guarded.field.values(image, hasher, &mut |bucket| {
                if let Some(filtered) = guarded.buckets.get(&bucket) {
                    filtered.candidates(subject, hasher, visit);
                }
            });
        }
    }
}

impl Filtered {
    fn insert(&mut self, slot: Slot, equality: Option<&Equality<Place>>) {
        let Some(equality) = equality else {
            self.others.insert(slot);
            return;
        };
        let place = &equality.place;
        let group = self.groups.entry(place.clone()).or_insert_with(|| Group {
            field: Field::new(&place.path),
            all: Members::default(),
            buckets: HashMap::new(),
        });
        group.all.insert(slot);
        for bucket in &equality.buckets {
            group.buckets.entry(*bucket).or_default().insert(slot);
        }
    }

    fn remove(&mut self, slot: Slot, equality: Option<&Equality<Place>>) {
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

    fn is_empty(&self) -> bool {
        self.others.is_empty() && self.groups.is_empty()
    }

    fn candidates(&self, subject: &Subject<'_>, hasher: &Hasher, visit: &mut impl FnMut(Slot)) {
        self.others.iter().for_each(&mut *visit);
        for (place, group) in &self.groups {
            let mut look = |document| {
                let is_known = group.at(document, hasher, visit);
                if !is_known && place.takes_unknown {
                    group.all.iter().for_each(&mut *visit);
                }
            };
            if group.field.on_key {
                look(subject.key);
                continue;
            }
            let before = subject.before.filter(|_| place.pre_images);
            if before.is_some() {
                look(before);
            }
            if subject.after.is_some() {
                look(subject.after);
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
    /// Visits the residuals that ask for a value that the document has. Tells whether these were all.
    fn at(&self, document: Option<&[u8]>, hasher: &Hasher, visit: &mut impl FnMut(Slot)) -> bool {
        self.field.values(document, hasher, &mut |bucket| {
            if let Some(members) = self.buckets.get(&bucket) {
                members.iter().for_each(&mut *visit);
            }
        })
    }
}

impl Field {
    fn new(path: &str) -> Self {
        Field {
            path: Path::new(path),
            on_key: is_id_path(path),
        }
    }

    /// The buckets of all values that a document has here; without a document that of a missing field.
    /// Tells whether these were all, as a walk may be given up.
    fn values(
        &self,
        document: Option<&[u8]>,
        hasher: &Hasher,
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
