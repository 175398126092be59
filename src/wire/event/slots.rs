//! The top-level fields of an event, each in its slot until a message takes it.

use std::borrow::Cow;

use bytes::BytesMut;

use crate::{
    plan::Format,
    raw::{self, Element, Elements},
    source::EventError,
    wire::format::put_document,
};

use super::{is_text, text};

/// A field that MongoDB documents for change events.
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
}

impl Slot {
    const COUNT: usize = Self::NsType as usize + 1;

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
            _ => return None,
        })
    }
}

/// A document that an event may carry.
#[derive(Debug, Clone, Copy)]
pub(super) enum DocumentField<'a> {
    /// MongoDB sent none.
    Absent,
    /// MongoDB looked for one and found none.
    Null,
    /// Raw BSON.
    Present(&'a [u8]),
}

/// The top-level fields of an event that the message for its operation may take, each at most once.
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
                // A name that MongoDB adds, or one that comes twice.
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

    /// Takes a field that is a document or null; one of another type stays, to go out as unknown.
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

    /// Drops what may tell of fields in ways that can't be judged.
    pub(super) fn drop_descriptions(&mut self) {
        self.take(Slot::OperationDescription);
        self.take(Slot::StateBeforeChange);
    }

    /// Writes what no message took as one document.
    pub(super) fn put_unclaimed(self, out: &mut BytesMut, number: u32, format: Format) {
        let rest: Vec<Element<'_>> = self
            .known
            .into_iter()
            .flatten()
            .chain(self.unknown)
            .collect();
        if rest.is_empty() {
            return;
        }
        put_document(out, number, &raw::document(rest), format);
    }
}
