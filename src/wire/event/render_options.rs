//! How an event looks to those who may not see all of it.

use bytes::BytesMut;

use crate::{
    plan::{Branch, Format, Led, View},
    wire::{format::put_document, redact},
};

/// How events look: in which format, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct RenderOptions<'v> {
    /// How documents are written.
    pub format: Format,
    /// What is left out of them, and whose the tokens are.
    pub view: &'v View,
}

impl RenderOptions<'_> {
    /// What is hidden, from the top of a document on.
    pub(super) fn field_mask(&self) -> Option<&Branch> {
        self.view.hidden.tree()
    }

    /// Whether a field, by its dotted path, is not to be named.
    pub(super) fn hides_path(&self, path: &[u8]) -> bool {
        self.field_mask()
            .is_some_and(|tree| tree.led_to(path) == Led::Hidden)
    }

    /// Appends a document, without what is hidden in it.
    pub(super) fn put_document(&self, out: &mut BytesMut, number: u32, document: &[u8]) {
        match self.field_mask() {
            None => put_document(out, number, document, self.format),
            Some(tree) => put_document(out, number, &redact::document(document, tree), self.format),
        }
    }
}
