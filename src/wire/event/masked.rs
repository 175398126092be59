//! Documents as a rendering shows them.

use bytes::BytesMut;

use crate::{
    model::{MaskNode, PathMatch, Rendering},
    wire::{format::put_document as put_whole_document, redact},
};

/// Appends the fields of a document that the rendering shows.
pub(super) fn put_document(
    out: &mut BytesMut,
    number: u32,
    document: &[u8],
    rendering: &Rendering,
) {
    put_redacted(
        (out, number),
        document,
        rendering,
        rendering.mask.root(),
        redact::document,
    );
}

/// Appends a document that is always included, without its hidden fields.
pub(super) fn put_included_document(
    out: &mut BytesMut,
    number: u32,
    document: &[u8],
    rendering: &Rendering,
) {
    put_redacted(
        (out, number),
        document,
        rendering,
        rendering.mask.hidden_root(),
        redact::document,
    );
}

/// Appends those of `updatedFields` that the rendering shows.
pub(super) fn put_updated_fields(
    out: &mut BytesMut,
    number: u32,
    fields: &[u8],
    rendering: &Rendering,
) {
    put_redacted(
        (out, number),
        fields,
        rendering,
        rendering.mask.root(),
        redact::updated_fields,
    );
}

/// Returns whether nothing is shown at the dotted path of an update description.
pub(super) fn hides_path(rendering: &Rendering, path: &[u8]) -> bool {
    let mask = rendering.mask.root();
    mask.is_some_and(|mask| mask.match_path(path) == PathMatch::Hidden)
}

fn put_redacted(
    (out, number): (&mut BytesMut, u32),
    document: &[u8],
    rendering: &Rendering,
    mask: Option<MaskNode<'_>>,
    redact: impl FnOnce(&[u8], MaskNode<'_>) -> BytesMut,
) {
    match mask {
        None => put_whole_document(out, number, document, rendering.format),
        Some(mask) => put_whole_document(out, number, &redact(document, mask), rendering.format),
    }
}
