//! One event as filters see it.

use super::value::fields;
use crate::plan::Operation;
use crate::raw::ElementType;

/// What filters look at in one event, found once for all of them. Tolerant: what can't be read is
/// absent.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub(in crate::plan) operation: Operation,
    /// The document key.
    pub(in crate::plan) key: Option<&'a [u8]>,
    /// The document after the change.
    pub(in crate::plan) after: Option<&'a [u8]>,
    /// The document before the change.
    pub(in crate::plan) before: Option<&'a [u8]>,
    /// What an update changed.
    pub(in crate::plan) description: Option<&'a [u8]>,
}

impl<'a> Subject<'a> {
    /// Looks at `event`, which is a whole raw event as MongoDB sends it.
    pub fn read(operation: Operation, event: &'a [u8]) -> Self {
        let mut subject = Subject {
            operation,
            key: None,
            after: None,
            before: None,
            description: None,
        };
        // Events about anything else hold nothing that a filter looks at.
        if !operation.is_document() {
            return subject;
        }
        for element in fields(event) {
            let place = match element.key {
                b"documentKey" => &mut subject.key,
                b"fullDocument" => &mut subject.after,
                b"fullDocumentBeforeChange" => &mut subject.before,
                b"updateDescription" => &mut subject.description,
                _ => continue,
            };
            if element.kind == ElementType::EmbeddedDocument && place.is_none() {
                *place = Some(element.value);
            }
        }
        subject
    }
}
