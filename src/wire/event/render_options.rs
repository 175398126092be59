//! The rendering options of events: document format and view.

use bytes::BytesMut;

use crate::{
    model::{Format, MaskNode, PathMatch},
    pipeline::View,
    wire::{format::put_document, redact},
};

/// The options that determine an event's encoding.
#[derive(Debug, Clone, Copy)]
pub struct RenderOptions<'v> {
    /// The format of documents.
    pub format: Format,
    /// The view, with the field mask and the token audience.
    pub view: &'v View,
}

impl RenderOptions<'_> {
    /// Returns the tree of hidden fields, from the top of a document.
    pub(super) fn field_mask(&self) -> Option<&MaskNode> {
        self.view.field_mask.tree()
    }

    /// Returns whether the field with this dotted path is hidden.
    pub(super) fn hides_path(&self, path: &[u8]) -> bool {
        self.field_mask()
            .is_some_and(|tree| tree.match_path(path) == PathMatch::Hidden)
    }

    /// Appends a document without its hidden fields.
    pub(super) fn put_document(&self, out: &mut BytesMut, number: u32, document: &[u8]) {
        match self.field_mask() {
            None => put_document(out, number, document, self.format),
            Some(tree) => put_document(out, number, &redact::document(document, tree), self.format),
        }
    }
}
