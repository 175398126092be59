//! A set of slots, optimised for the common case of a single slot.

use std::collections::HashSet;

/// An index into the slots of a [`FilterIndex`](super::FilterIndex).
pub(super) type Slot = u32;

/// An unordered set of slots.
#[derive(Debug, Default)]
pub(super) enum SlotSet {
    #[default]
    None,
    One(Slot),
    Many(HashSet<Slot>),
}

impl SlotSet {
    pub(super) fn insert(&mut self, slot: Slot) {
        match self {
            SlotSet::None => *self = SlotSet::One(slot),
            SlotSet::One(one) => *self = SlotSet::Many([*one, slot].into()),
            SlotSet::Many(many) => {
                many.insert(slot);
            }
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        match self {
            SlotSet::One(one) if *one == slot => *self = SlotSet::None,
            SlotSet::None | SlotSet::One(_) => {}
            SlotSet::Many(many) => {
                many.remove(&slot);
                // Iteration takes time for the capacity, which a hash set keeps when it empties.
                if many.len() < many.capacity() / 8 {
                    many.shrink_to_fit();
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            SlotSet::None => true,
            SlotSet::One(_) => false,
            SlotSet::Many(many) => many.is_empty(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let (one, many) = match self {
            SlotSet::None => (None, None),
            SlotSet::One(one) => (Some(*one), None),
            SlotSet::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }
}
