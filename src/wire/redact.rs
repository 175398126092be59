//! Leaves hidden fields out of raw BSON.
//!
//! What is kept is copied as it stands. What can't be read is not shown: a document that is broken, or
//! nested too deeply, ends where that begins.

use bytes::{BufMut as _, BytesMut};

use crate::{
    plan::{Branch, Led},
    raw::{Element, ElementType, Elements},
};

/// The deepest nesting that is looked into, where the document itself is the first level; as deep as
/// documents are written in any format. What lies deeper below a name of a hidden path is left out.
const MAX_DEPTH: u32 = 200;

/// A document without what is hidden from `branch` on.
pub(super) fn document(document: &[u8], branch: &Branch) -> BytesMut {
    let mut out = BytesMut::with_capacity(document.len());
    put_document(&mut out, document, branch, 1);
    out
}

/// Appends a document, or an array, in which names are judged.
fn put_document(out: &mut BytesMut, document: &[u8], branch: &Branch, depth: u32) {
    put_elements(out, document, depth, |out, element| {
        match branch.led_to(element.key) {
            Led::Hidden => {}
            Led::Clear => put_element(out, &element, |out| out.put_slice(element.value)),
            Led::Above(below) => put_partly_hidden(out, &element, below, depth),
        }
    });
}

/// Appends an array, in which names are places.
fn put_array(out: &mut BytesMut, array: &[u8], branch: &Branch, depth: u32) {
    put_elements(out, array, depth, |out, element| {
        put_partly_hidden(out, &element, branch, depth);
    });
}

/// Appends an element in which something may be hidden.
fn put_partly_hidden(out: &mut BytesMut, element: &Element<'_>, branch: &Branch, depth: u32) {
    put_element(out, element, |out| match element.kind {
        ElementType::EmbeddedDocument => put_document(out, element.value, branch, depth + 1),
        ElementType::Array => put_array(out, element.value, branch, depth + 1),
        ElementType::JavaScriptCodeWithScope => put_code(out, element, branch, depth),
        // It has no fields.
        _ => out.put_slice(element.value),
    });
}

/// Appends code whose scope is a document: its length, the code as a string, the scope.
fn put_code(out: &mut BytesMut, element: &Element<'_>, branch: &Branch, depth: u32) {
    let start = out.len();
    out.put_u32_le(0);
    let (code, scope) = match element.as_code_with_scope() {
        Some((code, scope)) => (code, scope),
        None => (&[][..], &[][..]),
    };
    // Both lie in a document whose length is a number of 31 bits.
    out.put_u32_le(u32::try_from(code.len() + 1).unwrap_or_default());
    out.put_slice(code);
    out.put_u8(0);
    put_document(out, scope, branch, depth + 1);
    put_length(out, start);
}

fn put_element(out: &mut BytesMut, element: &Element<'_>, put_value: impl FnOnce(&mut BytesMut)) {
    out.put_u8(element.kind as u8);
    out.put_slice(element.key);
    out.put_u8(0);
    put_value(out);
}

/// Appends a document of what `put` makes of each element, up to the first that can't be read.
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

/// Writes the length of what begins at `start`, in the room at its beginning.
fn put_length(out: &mut BytesMut, start: usize) {
    // What is left of a document that MongoDB sent is no longer than that.
    let length = u32::try_from(out.len() - start).unwrap_or_default();
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
pub(super) mod tests;
