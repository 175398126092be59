//! The encodings of a segment's events, one for each rendering.

use std::{collections::HashMap, sync::Arc};

use crate::{model::Rendering, wire::EncodedEvent};

/// The most encodings that are compared one by one. That is faster than a hash while there are few.
const MAX_COMPARED: usize = 8;

/// The encodings of a segment, in the order in which they were first asked for. Each has an index that stays.
/// There are at most as many as watches that read the segment.
#[derive(Debug, Default)]
pub(super) struct Encodings {
    all: Vec<Encoding>,
    /// The index of each, once there are more than [`MAX_COMPARED`].
    index: HashMap<Arc<Rendering>, usize>,
}

/// A cache of a segment's events in one rendering. Each event is encoded on first use.
#[derive(Debug)]
pub(super) struct Encoding {
    /// Compared by value: equal renderings share an encoding, and different ones never do.
    rendering: Arc<Rendering>,
    /// Pairs of an event's index in the segment and its encoding, by index. Sparse, because most watches
    /// get few of a segment's events.
    events: Vec<(u32, EncodedEvent)>,
}

impl Encodings {
    /// Returns the index of a rendering's encoding.
    pub(super) fn find(&self, rendering: &Arc<Rendering>) -> Option<usize> {
        if self.all.len() <= MAX_COMPARED {
            return self.all.iter().position(|it| it.rendering == *rendering);
        }
        self.index.get(rendering).copied()
    }

    /// Returns the index of a rendering's encoding, which is added if there is none.
    pub(super) fn find_or_add(&mut self, rendering: &Arc<Rendering>) -> usize {
        if let Some(at) = self.find(rendering) {
            return at;
        }
        let at = self.all.len();
        self.all.push(Encoding {
            rendering: Arc::clone(rendering),
            events: Vec::new(),
        });
        if self.all.len() > MAX_COMPARED {
            let new = self.all.iter().enumerate().skip(self.index.len());
            self.index
                .extend(new.map(|(at, it)| (Arc::clone(&it.rendering), at)));
        }
        at
    }

    pub(super) fn get(&self, at: usize) -> &Encoding {
        &self.all[at]
    }

    pub(super) fn get_mut(&mut self, at: usize) -> &mut Encoding {
        &mut self.all[at]
    }
}

impl Encoding {
    pub(super) fn get(&self, index: usize) -> Option<&EncodedEvent> {
        let at = |entry: &(u32, EncodedEvent)| entry.0 as usize;
        // When every event is encoded, each is at its own index.
        let found = match self.events.get(index).filter(|it| at(it) == index) {
            Some(found) => found,
            None => &self.events[self.events.binary_search_by_key(&index, at).ok()?],
        };
        Some(&found.1)
    }

    pub(super) fn insert(&mut self, new: impl Iterator<Item = (u32, EncodedEvent)>) {
        self.events.extend(new);
        self.events.sort_unstable_by_key(|it| it.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FieldMask, Format};

    fn rendering(field: usize) -> Arc<Rendering> {
        Arc::new(Rendering {
            mask: FieldMask::including([format!("f{field}")]).unwrap(),
            ..Rendering::unrestricted(Format::Json)
        })
    }

    #[test]
    fn equal_renderings_share_an_encoding_however_many_there_are() {
        let mut encodings = Encodings::default();
        for round in 0..2 {
            for field in 0..100 {
                assert_eq!(encodings.find_or_add(&rendering(field)), field, "{round}");
                for earlier in [0, field / 2, field] {
                    assert_eq!(encodings.find(&rendering(earlier)), Some(earlier));
                }
            }
            assert_eq!(encodings.find(&rendering(100)), None);
        }
        assert_eq!(encodings.index.len(), 100);
        let other = Rendering {
            format: Format::Bson,
            ..Rendering::clone(&rendering(50))
        };
        assert_eq!(encodings.find(&Arc::new(other)), None);
    }
}
