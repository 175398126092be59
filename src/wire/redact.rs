//! Removal of hidden fields from raw BSON.
//!
//! All other fields are copied unchanged. Unreadable bytes are never shown: a document that is malformed
//! or nested too deeply is cut off at that point.

use bytes::{BufMut as _, BytesMut};

use crate::{
    model::{MaskNode, PathMatch},
    raw::{Element, ElementType, Elements},
};

/// The maximum nesting that is searched for hidden fields, the document itself being level 1; the same
/// limit as in the text formats. Anything deeper that may contain a hidden field is left out.
const MAX_DEPTH: u32 = 200;

/// Returns a document without the hidden fields of `node`.
pub(super) fn document(document: &[u8], node: &MaskNode) -> BytesMut {
    let mut out = BytesMut::with_capacity(document.len());
    put_document(&mut out, document, node, 1);
    out
}

/// Appends a document whose names are compared with the hidden paths.
fn put_document(out: &mut BytesMut, document: &[u8], node: &MaskNode, depth: u32) {
    put_elements(out, document, depth, |out, element| {
        match node.match_path(element.key) {
            PathMatch::Hidden => {}
            PathMatch::Visible => put_element(out, &element, |out| out.put_slice(element.value)),
            PathMatch::MayContainHidden(below) => put_partly_hidden(out, &element, below, depth),
        }
    });
}

/// Appends an array, whose names are indexes and not part of a path.
fn put_array(out: &mut BytesMut, array: &[u8], node: &MaskNode, depth: u32) {
    put_elements(out, array, depth, |out, element| {
        put_partly_hidden(out, &element, node, depth);
    });
}

/// Appends an element that may contain hidden fields.
fn put_partly_hidden(out: &mut BytesMut, element: &Element<'_>, node: &MaskNode, depth: u32) {
    put_element(out, element, |out| match element.kind {
        ElementType::EmbeddedDocument => put_document(out, element.value, node, depth + 1),
        ElementType::Array => put_array(out, element.value, node, depth + 1),
        ElementType::JavaScriptCodeWithScope => put_code(out, element, node, depth),
        // Other types have no fields.
        _ => out.put_slice(element.value),
    });
}

/// Appends code whose scope is a document: its length, the code as a string, the scope.
fn put_code(out: &mut BytesMut, element: &Element<'_>, node: &MaskNode, depth: u32) {
    let start = out.len();
    out.put_u32_le(0);
    let (code, scope) = match element.as_code_with_scope() {
        Some((code, scope)) => (code, scope),
        None => (&[][..], &[][..]),
    };
    // Code and scope are parts of a document, whose length fits in 31 bits.
    out.put_u32_le(u32::try_from(code.len() + 1).unwrap_or_default());
    out.put_slice(code);
    out.put_u8(0);
    put_document(out, scope, node, depth + 1);
    put_length(out, start);
}

fn put_element(out: &mut BytesMut, element: &Element<'_>, put_value: impl FnOnce(&mut BytesMut)) {
    out.put_u8(element.kind as u8);
    out.put_slice(element.key);
    out.put_u8(0);
    put_value(out);
}

/// Appends a document with the output of `put` for each element, up to the first malformed one.
fn put_elements<'a>(
    out: &mut BytesMut,
    document: &'a [u8],
    depth: u32,
    mut put: impl FnMut(&mut BytesMut, Element<'a>),
) {
    let start = out.len();
    out.put_u32_le(0);
    if depth <= MAX_DEPTH
        && let Ok(elements) = Elements::new(document)
    {
        for element in elements.map_while(Result::ok) {
            put(out, element);
        }
    }
    out.put_u8(0);
    put_length(out, start);
}

/// Fills in the length prefix of the document that begins at `start`.
fn put_length(out: &mut BytesMut, start: usize) {
    // A redacted document is not longer than the original, so its length fits.
    let length = u32::try_from(out.len() - start).unwrap_or_default();
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
pub(super) mod tests;
