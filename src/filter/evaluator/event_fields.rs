//! The fields of an event that filters use.

use std::cell::OnceCell;

use super::canonical::id_hash;
use crate::model::{EventField, EventIndex, Operation};

/// The fields of one event that filters use, found once for all evaluators. A field of another type than a
/// document counts as absent.
#[derive(Clone, Debug)]
pub struct EventFields<'a> {
    pub(in crate::filter) operation: Operation,
    /// The document key of any event that has one.
    document_key: Option<&'a [u8]>,
    /// The hash of the `_id` in it, from the first time that a shard needs it.
    id_hash: OnceCell<Option<u64>>,
    /// The document key, if the operation is one on a document.
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
        // Filters apply to document operations only, and shards to every event about a document.
        let of_document = |document: Option<&'a [u8]>| document.filter(|_| operation.is_document());
        let get = |field| of_document(index.get_document(event, field));
        let document_key = index.get_document(event, EventField::DocumentKey);
        EventFields {
            operation,
            document_key,
            id_hash: OnceCell::new(),
            key: of_document(document_key),
            after: get(EventField::FullDocument),
            before: get(EventField::FullDocumentBeforeChange),
            update_description: get(EventField::UpdateDescription),
        }
    }

    /// Returns the hash of the `_id` in the document key, which decides the shard; `None` for an event without one,
    /// which belongs to every shard.
    pub(in crate::filter) fn id_hash(&self) -> Option<u64> {
        *self.id_hash.get_or_init(|| id_hash(self.document_key?))
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
