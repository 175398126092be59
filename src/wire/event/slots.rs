//! The top-level fields of an event, in slots from which messages take them.

use std::borrow::Cow;

use bytes::BytesMut;

use crate::{
    model::{EventField, EventIndex, Format},
    raw::{self, Element},
    wire::format::put_document,
};

use super::values::{is_text, text};

/// The value of a field that is a document or null.
#[derive(Debug, Clone, Copy)]
pub(super) enum DocumentField<'a> {
    /// The event does not have the field.
    Absent,
    /// MongoDB looked for a document and found none.
    Null,
    /// A raw BSON document.
    Present(&'a [u8]),
}

/// The top-level fields of an event. Each can be taken once.
pub(super) struct Slots<'a> {
    event: &'a [u8],
    index: &'a EventIndex,
    /// The fields taken, a bit for each.
    taken: u32,
    /// The fields that are not documented, and others that no message has a field for.
    pub(super) unknown: Vec<Element<'a>>,
}

impl<'a> Slots<'a> {
    pub(super) fn new(event: &'a [u8], index: &'a EventIndex) -> Self {
        Self {
            event,
            index,
            taken: bit(EventField::Id) | bit(EventField::SplitEvent),
            unknown: index.others(event).collect(),
        }
    }

    pub(super) fn get(&self, field: EventField) -> Option<Element<'a>> {
        if self.taken & bit(field) != 0 {
            return None;
        }
        self.index.get(self.event, field)
    }

    pub(super) fn get_document(&self, field: EventField) -> Option<&'a [u8]> {
        self.get(field)?.as_document()
    }

    pub(super) fn take(&mut self, field: EventField) -> Option<Element<'a>> {
        let element = self.get(field);
        self.drop(field);
        element
    }

    pub(super) fn drop(&mut self, field: EventField) {
        self.taken |= bit(field);
    }

    /// Takes a field that is a document or null. A field of another type stays and becomes unknown.
    pub(super) fn take_document_field(&mut self, field: EventField) -> DocumentField<'a> {
        match self.get(field) {
            Some(element) if element.is_null() => {
                self.drop(field);
                DocumentField::Null
            }
            Some(element) => match element.as_document() {
                Some(document) => {
                    self.drop(field);
                    DocumentField::Present(document)
                }
                None => DocumentField::Absent,
            },
            None => DocumentField::Absent,
        }
    }

    pub(super) fn take_document(&mut self, field: EventField) -> Option<Element<'a>> {
        let element = self.get(field).filter(|it| it.as_document().is_some())?;
        self.drop(field);
        Some(element)
    }

    pub(super) fn take_text(&mut self, field: EventField) -> Option<Cow<'a, str>> {
        let element = self.get(field).filter(is_text)?;
        self.drop(field);
        Some(text(&element))
    }

    pub(super) fn clear(&mut self) {
        self.taken = u32::MAX;
        self.unknown.clear();
    }

    /// Drops the descriptions, which may name hidden fields in ways that can't be filtered.
    pub(super) fn drop_descriptions(&mut self) {
        self.drop(EventField::OperationDescription);
        self.drop(EventField::StateBeforeChange);
    }

    /// Appends the fields that no message has taken as one document.
    pub(super) fn put_unclaimed(self, out: &mut BytesMut, number: u32, format: Format) {
        let known = EventField::ALL.into_iter().filter_map(|it| self.get(it));
        let unclaimed: Vec<Element<'_>> = known.chain(self.unknown.iter().copied()).collect();
        if unclaimed.is_empty() {
            return;
        }
        put_document(out, number, &raw::document(unclaimed), format);
    }
}

/// Returns the bit of a field in a set.
fn bit(field: EventField) -> u32 {
    1 << field as u32
}
