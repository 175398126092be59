//! A set of slots that is most often of one.

use std::collections::HashSet;

use super::Slot;

/// Slots without an order.
#[derive(Debug, Default)]
pub(super) enum Members {
    #[default]
    None,
    One(Slot),
    Many(HashSet<Slot>),
}

impl Members {
    pub(super) fn insert(&mut self, slot: Slot) {
        match self {
            Members::None => *self = Members::One(slot),
            Members::One(one) => *self = Members::Many([*one, slot].into()),
            Members::Many(many) => {
                many.insert(slot);
            }
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        match self {
            Members::One(one) if *one == slot => *self = Members::None,
            Members::None | Members::One(_) => {}
            Members::Many(many) => {
                many.remove(&slot);
                // A set keeps its room, and walking over it takes time for that.
                if many.len() < many.capacity() / 8 {
                    many.shrink_to_fit();
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Members::None => true,
            Members::One(_) => false,
            Members::Many(many) => many.is_empty(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let (one, many) = match self {
            Members::None => (None, None),
            Members::One(one) => (Some(*one), None),
            Members::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }
}
