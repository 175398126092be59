//! The fields of an event that filters use.

use crate::model::{EventField, EventIndex, Operation};

/// The fields of one event that filters use, found once for all evaluators. A field of another type than a
/// document counts as absent.
#[derive(Clone, Copy, Debug)]
pub struct EventFields<'a> {
    pub(in crate::filter) operation: Operation,
    /// The document key.
    pub(in crate::filter) key: Option<&'a [u8]>,
    /// The document after the change.
    pub(in crate::filter) after: Option<&'a [u8]>,
    /// The document before the change.
    pub(in crate::filter) before: Option<&'a [u8]>,
    /// The `updateDescription` of an update.
    pub(in crate::filter) update_description: Option<&'a [u8]>,
}

impl<'a> EventFields<'a> {
    /// Finds the fields in `event`, a whole raw change event as MongoDB sends it, by its index.
    pub fn new(operation: Operation, event: &'a [u8], index: &EventIndex) -> Self {
        // Filters apply to document operations only.
        let get = |field| {
            let document = index.get_document(event, field);
            document.filter(|_| operation.is_document())
        };
        EventFields {
            operation,
            key: get(EventField::DocumentKey),
            after: get(EventField::FullDocument),
            before: get(EventField::FullDocumentBeforeChange),
            update_description: get(EventField::UpdateDescription),
        }
    }

    /// As [`new`](Self::new), for an event that has no index yet. A malformed event has no fields.
    pub fn read(operation: Operation, event: &'a [u8]) -> Self {
        Self::new(
            operation,
            event,
            &EventIndex::read(event).unwrap_or_default(),
        )
    }
}
