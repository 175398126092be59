//! The fields of an event that filters use.

use super::value::fields;
use crate::model::Operation;
use crate::raw::ElementType;

/// The fields of one event that filters use, found once for all evaluators. A malformed field counts
/// as absent.
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
    /// Finds the fields in `event`, a whole raw change event as MongoDB sends it.
    pub fn read(operation: Operation, event: &'a [u8]) -> Self {
        let mut found = EventFields {
            operation,
            key: None,
            after: None,
            before: None,
            update_description: None,
        };
        // Filters apply to document operations only.
        if !operation.is_document() {
            return found;
        }
        for element in fields(event) {
            let slot = match element.key {
                b"documentKey" => &mut found.key,
                b"fullDocument" => &mut found.after,
                b"fullDocumentBeforeChange" => &mut found.before,
                b"updateDescription" => &mut found.update_description,
                _ => continue,
            };
            if element.kind == ElementType::EmbeddedDocument && slot.is_none() {
                *slot = Some(element.value);
            }
        }
        found
    }
}
