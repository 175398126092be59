//! Where the fields of a change event are.

use crate::raw::{self, Element, Elements};

/// Defines the documented fields with their names.
macro_rules! event_fields {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// A documented top-level field of change events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventField {
            $($(#[$doc])* $field,)*
        }

        impl EventField {
            /// All fields.
            pub const ALL: [Self; [$(Self::$field),*].len()] = [$(Self::$field),*];

            /// Returns MongoDB's name of the field.
            #[must_use]
            pub const fn name(self) -> &'static [u8] {
                match self {
                    $(Self::$field => $name,)*
                }
            }

            fn of(name: &[u8]) -> Option<Self> {
                match name {
                    $($name => Some(Self::$field),)*
                    _ => None,
                }
            }
        }
    };
}

event_fields! {
    /// The resume token.
    Id = b"_id",
    /// The number of a fragment, in those of a split event.
    SplitEvent = b"splitEvent",
    /// The name of the operation.
    OperationType = b"operationType",
    /// The time in the oplog.
    ClusterTime = b"clusterTime",
    /// The time of the server's clock.
    WallTime = b"wallTime",
    /// The database and the collection.
    Ns = b"ns",
    /// The shard key and `_id` of the changed document.
    DocumentKey = b"documentKey",
    /// The document after the change.
    FullDocument = b"fullDocument",
    /// The document before the change.
    FullDocumentBeforeChange = b"fullDocumentBeforeChange",
    /// What an update changed.
    UpdateDescription = b"updateDescription",
    /// The new namespace of a rename.
    To = b"to",
    /// What an operation that is not about a document did.
    OperationDescription = b"operationDescription",
    /// The options of a collection before `modify`.
    StateBeforeChange = b"stateBeforeChange",
    /// The session of a transaction.
    Lsid = b"lsid",
    /// The number of a transaction in its session.
    TxnNumber = b"txnNumber",
    /// The UUID of the collection.
    CollectionUuid = b"collectionUUID",
    /// What was created: a collection, a view or a time series.
    NsType = b"nsType",
    /// The time at which a transaction was committed.
    CommitTimestamp = b"commitTimestamp",
}

/// Where the documented fields of one event begin, found in a single walk over its top level. Of a repeated
/// field, which MongoDB never sends, the first counts.
///
/// 76 bytes, whatever the event holds. It belongs to the bytes that it was read from; with others it may
/// find nothing, or fields that are none.
#[derive(Clone, Debug, Default)]
pub struct EventIndex {
    /// The offset of each field in the event, in bytes; 0 if the event does not have it, since a document begins
    /// with its length.
    starts: [u32; EventField::ALL.len()],
    /// The offset of the first field that is undocumented or repeats another one, in bytes; 0 if there is none.
    first_other: u32,
}

impl EventIndex {
    /// Reads the top level of `event`, a whole raw BSON document.
    ///
    /// # Errors
    /// It is not well-formed.
    pub fn read(event: &[u8]) -> Result<Self, raw::Error> {
        Self::read_each(event, |_, _| {})
    }

    /// As [`read`](Self::read), and calls `found` with each documented field on the way.
    ///
    /// # Errors
    /// It is not well-formed.
    pub fn read_each<'a>(
        event: &'a [u8],
        mut found: impl FnMut(EventField, Element<'a>),
    ) -> Result<Self, raw::Error> {
        let mut index = Self::default();
        let mut elements = Elements::new(event)?;
        loop {
            let start = elements.offset_in(event);
            let Some(element) = elements.next() else {
                return Ok(index);
            };
            let element = element?;
            // BSON's lengths have 31 bits.
            let start = start as u32;
            match EventField::of(element.key) {
                Some(field) if index.starts[field as usize] == 0 => {
                    index.starts[field as usize] = start;
                    found(field, element);
                }
                _ if index.first_other == 0 => index.first_other = start,
                _ => {}
            }
        }
    }

    /// Returns a field of the event.
    #[inline]
    #[must_use]
    pub fn get<'a>(&self, event: &'a [u8], field: EventField) -> Option<Element<'a>> {
        match self.starts[field as usize] {
            0 => None,
            start => Element::at(event, start as usize, field.name().len()),
        }
    }

    /// Returns a field of the event that is a document.
    #[inline]
    #[must_use]
    pub fn get_document<'a>(&self, event: &'a [u8], field: EventField) -> Option<&'a [u8]> {
        self.get(event, field)?.as_document()
    }

    /// Returns the fields that are not documented, and repetitions of documented ones, in their order. This
    /// walks over the event again, from the first of them.
    pub fn others<'a>(&'a self, event: &'a [u8]) -> impl Iterator<Item = Element<'a>> {
        let first = (self.first_other != 0).then_some(self.first_other as usize);
        let mut elements = first.and_then(|start| Elements::starting_at(event, start));
        std::iter::from_fn(move || {
            loop {
                let elements = elements.as_mut()?;
                let start = elements.offset_in(event);
                let element = elements.next()?.ok()?;
                match EventField::of(element.key) {
                    Some(EventField::Id | EventField::SplitEvent) => {}
                    Some(field) if self.starts[field as usize] as usize == start => {}
                    _ => return Some(element),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};
    use proptest::prelude::*;

    use super::*;

    fn names<'a>(elements: impl Iterator<Item = Element<'a>>) -> Vec<String> {
        let name = |it: Element<'_>| String::from_utf8_lossy(it.key).into_owned();
        elements.map(name).collect()
    }

    /// Appends fields to a document, whose names it may have already.
    fn with_more(event: &Document, more: &Document) -> Vec<u8> {
        let (event, more) = (event.to_vec().unwrap(), more.to_vec().unwrap());
        let mut whole = [&event[..event.len() - 1], &more[4..]].concat();
        let length = u32::try_from(whole.len()).unwrap();
        whole[..4].copy_from_slice(&length.to_le_bytes());
        whole
    }

    #[test]
    fn each_field_is_found_with_its_name_and_value() {
        let name = |field: EventField| String::from_utf8(field.name().to_vec()).unwrap();
        let event: Document = EventField::ALL
            .into_iter()
            .rev()
            .map(|field| (name(field), name(field).into()))
            .collect();
        let event = event.to_vec().unwrap();
        let index = EventIndex::read(&event).unwrap();
        for field in EventField::ALL {
            let element = index.get(&event, field).unwrap();
            assert_eq!(element.key, field.name());
            assert_eq!(element.as_str_bytes(), Some(field.name()));
            assert_eq!(EventField::of(field.name()), Some(field));
        }
        assert_eq!(names(index.others(&event)), [""; 0]);
        let empty = doc! {}.to_vec().unwrap();
        let index = EventIndex::read(&empty).unwrap();
        assert!(
            EventField::ALL
                .iter()
                .all(|it| index.get(&empty, *it).is_none())
        );
    }

    #[test]
    fn other_fields_and_repeated_ones_keep_their_order() {
        let event = doc! { "z": 1, "_id": {}, "ns": 1, "a": 2, "splitEvent": {} };
        let more = doc! { "ns": 2, "to": 1, "_id": 1, "b": 3, "splitEvent": 1 };
        let event = with_more(&event, &more);
        let index = EventIndex::read(&event).unwrap();
        assert_eq!(names(index.others(&event)), ["z", "a", "ns", "b"]);
        let ns = index.get(&event, EventField::Ns).unwrap();
        assert_eq!(ns.as_i32(), Some(1), "the first counts");
    }

    #[test]
    fn an_index_of_other_bytes_finds_something_or_nothing() {
        let event = doc! { "_id": { "a": 1 }, "ns": { "db": "x" }, "fullDocument": { "_id": 1 } };
        let event = event.to_vec().unwrap();
        let index = EventIndex::read(&event).unwrap();
        for length in 0..event.len() {
            for field in EventField::ALL {
                let _ = index.get(&event[..length], field);
            }
            let _ = index.others(&event[..length]).count();
        }
    }

    proptest! {
        /// The model is a plain walk.
        #[test]
        fn the_index_finds_what_a_walk_finds(
            fields in prop::collection::vec((0..24_usize, any::<i32>(), any::<bool>()), 0..30),
            damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut event = vec![0; 4];
            for (field, value, nested) in fields {
                let other = format!("other{field}");
                let name = EventField::ALL.get(field).map_or(other.as_bytes(), |it| it.name());
                let value = if nested { doc! { "ns": value } } else { doc! { "": value } };
                let value = value.to_vec().unwrap();
                event.push(if nested { 3 } else { 16 });
                event.extend([name, b"\0"].concat());
                event.extend(if nested { &value[..] } else { &value[6..10] });
            }
            event.push(0);
            let length = u32::try_from(event.len()).unwrap();
            event[..4].copy_from_slice(&length.to_le_bytes());
            if let Some((at, byte)) = damage {
                let at = at.index(event.len());
                event[at] = byte;
            }
            let walked: Result<Vec<Element<'_>>, raw::Error> =
                Elements::new(&event).and_then(Iterator::collect);
            let index = EventIndex::read(&event);
            prop_assert_eq!(index.as_ref().err(), walked.as_ref().err());
            let (Ok(index), Ok(walked)) = (index, walked) else { return Ok(()); };
            for field in EventField::ALL {
                let expected = walked.iter().find(|it| it.key == field.name());
                let found = index.get(&event, field);
                prop_assert_eq!(
                    found.map(|it| (it.kind, it.key, it.value)),
                    expected.map(|it| (it.kind, it.key, it.value))
                );
            }
            let mut seen = std::collections::HashSet::new();
            let expected = walked.iter().filter(|it| {
                let known = EventField::of(it.key);
                let is_first = seen.insert(it.key);
                !matches!(known, Some(EventField::Id | EventField::SplitEvent))
                    && (known.is_none() || !is_first)
            });
            prop_assert_eq!(names(index.others(&event)), names(expected.copied()));
        }
    }
}
