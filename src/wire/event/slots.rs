//! The top-level fields of an event, in slots from which messages take them.

use std::borrow::Cow;

use bytes::BytesMut;

use crate::{
    model::Format,
    raw::{self, Element, Elements},
    source::EventError,
    wire::format::put_document,
};

use super::values::{is_text, text};

/// A documented field of change events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    OperationType,
    ClusterTime,
    WallTime,
    Ns,
    DocumentKey,
    FullDocument,
    FullDocumentBeforeChange,
    UpdateDescription,
    To,
    OperationDescription,
    StateBeforeChange,
    Lsid,
    TxnNumber,
    CollectionUuid,
    NsType,
    CommitTimestamp,
}

impl Slot {
    const COUNT: usize = Self::CommitTimestamp as usize + 1;

    fn of(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"operationType" => Self::OperationType,
            b"clusterTime" => Self::ClusterTime,
            b"wallTime" => Self::WallTime,
            b"ns" => Self::Ns,
            b"documentKey" => Self::DocumentKey,
            b"fullDocument" => Self::FullDocument,
            b"fullDocumentBeforeChange" => Self::FullDocumentBeforeChange,
            b"updateDescription" => Self::UpdateDescription,
            b"to" => Self::To,
            b"operationDescription" => Self::OperationDescription,
            b"stateBeforeChange" => Self::StateBeforeChange,
            b"lsid" => Self::Lsid,
            b"txnNumber" => Self::TxnNumber,
            b"collectionUUID" => Self::CollectionUuid,
            b"nsType" => Self::NsType,
            b"commitTimestamp" => Self::CommitTimestamp,
            _ => return None,
        })
    }
}

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
    known: [Option<Element<'a>>; Slot::COUNT],
    pub(super) unknown: Vec<Element<'a>>,
}

impl<'a> Slots<'a> {
    pub(super) fn read(event: &'a [u8]) -> Result<Self, EventError> {
        let mut slots = Self {
            known: [None; Slot::COUNT],
            unknown: Vec::new(),
        };
        for field in Elements::new(event)? {
            let field = field?;
            if matches!(field.key, b"_id" | b"splitEvent") {
                continue;
            }
            match Slot::of(field.key).map(|slot| &mut slots.known[slot as usize]) {
                Some(slot @ None) => *slot = Some(field),
                // An undocumented or a repeated name.
                _ => slots.unknown.push(field),
            }
        }
        Ok(slots)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<Element<'a>> {
        self.known[slot as usize]
    }

    pub(super) fn get_document(&self, slot: Slot) -> Option<&'a [u8]> {
        self.get(slot)?.as_document()
    }

    pub(super) fn take(&mut self, slot: Slot) -> Option<Element<'a>> {
        self.known[slot as usize].take()
    }

    /// Takes a field that is a document or null. A field of another type stays and becomes unknown.
    pub(super) fn take_document_field(&mut self, slot: Slot) -> DocumentField<'a> {
        match self.get(slot) {
            Some(element) if element.is_null() => {
                self.take(slot);
                DocumentField::Null
            }
            Some(element) => match element.as_document() {
                Some(document) => {
                    self.take(slot);
                    DocumentField::Present(document)
                }
                None => DocumentField::Absent,
            },
            None => DocumentField::Absent,
        }
    }

    pub(super) fn take_document(&mut self, slot: Slot) -> Option<Element<'a>> {
        self.get_document(slot)?;
        self.take(slot)
    }

    pub(super) fn take_text(&mut self, slot: Slot) -> Option<Cow<'a, str>> {
        let element = self.get(slot).filter(is_text)?;
        self.take(slot);
        Some(text(&element))
    }

    pub(super) fn clear(&mut self) {
        self.known = [None; Slot::COUNT];
        self.unknown.clear();
    }

    /// Drops the descriptions, which may name hidden fields in ways that can't be filtered.
    pub(super) fn drop_descriptions(&mut self) {
        self.take(Slot::OperationDescription);
        self.take(Slot::StateBeforeChange);
    }

    /// Drops documents and descriptions of updates, which no message has taken as they have another type, so
    /// that a mask can't be applied to them.
    pub(super) fn drop_documents(&mut self) {
        self.take(Slot::FullDocument);
        self.take(Slot::FullDocumentBeforeChange);
        self.take(Slot::UpdateDescription);
    }

    /// Appends the fields that no message has taken as one document.
    pub(super) fn put_unclaimed(self, out: &mut BytesMut, number: u32, format: Format) {
        let unclaimed: Vec<Element<'_>> = self
            .known
            .into_iter()
            .flatten()
            .chain(self.unknown)
            .collect();
        if unclaimed.is_empty() {
            return;
        }
        put_document(out, number, &raw::document(unclaimed), format);
    }
}
