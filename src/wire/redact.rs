//! Removal of the fields that a mask does not show from raw BSON.
//!
//! All other fields are copied unchanged. Unreadable bytes are never shown: a document that is malformed
//! or nested too deeply is cut off at that point.

use bytes::{BufMut as _, BytesMut};

use crate::{
    model::{MaskNode, PathMatch},
    raw::{Element, ElementType, Elements},
};

/// The maximum nesting that is searched for fields, the document itself being level 1; the same limit as in
/// the text formats. Anything deeper that a mask may not show whole is left out.
const MAX_DEPTH: u32 = 200;

/// Returns the fields of a document that a mask shows.
pub(super) fn document(document: &[u8], mask: MaskNode<'_>) -> BytesMut {
    let mut out = BytesMut::with_capacity(document.len());
    put_document(&mut out, document, mask, 1);
    out
}

/// Returns the part of `updatedFields` that a mask shows. Its names are dotted paths. A new value in the place
/// of documents or arrays above an included path is kept, because it replaces what was at the path.
pub(super) fn updated_fields(fields: &[u8], mask: MaskNode<'_>) -> BytesMut {
    let mut out = BytesMut::with_capacity(fields.len());
    put_elements(&mut out, fields, 1, |out, element| {
        let key = element.key;
        match mask.match_path(key) {
            PathMatch::Hidden => {}
            PathMatch::Visible => put_whole(out, &element),
            PathMatch::Partly(below) if has_fields(&element) => {
                put_partly(out, key, &element, below, 1);
            }
            PathMatch::Partly(below) => match below.hidden_only() {
                Some(hidden) => put_partly(out, key, &element, hidden, 1),
                None => put_whole(out, &element),
            },
        }
    });
    out
}

/// Appends the fields of a document that a mask shows.
fn put_document(out: &mut BytesMut, document: &[u8], mask: MaskNode<'_>, depth: u32) {
    put_elements(out, document, depth, |out, element| {
        match mask.match_name(element.key) {
            PathMatch::Hidden => {}
            PathMatch::Visible => put_whole(out, &element),
            PathMatch::Partly(below) => put_partly(out, element.key, &element, below, depth),
        }
    });
}

/// Appends an array, whose names are indexes and not part of a path. They are counted anew where values are
/// left out.
fn put_array(out: &mut BytesMut, array: &[u8], mask: MaskNode<'_>, depth: u32) {
    let mut count = 0_u32;
    let mut index = itoa::Buffer::new();
    put_elements(out, array, depth, |out, element| {
        if !mask.includes_only_fields() {
            put_partly(out, element.key, &element, mask, depth);
        } else if has_fields(&element) {
            put_partly(out, index.format(count).as_bytes(), &element, mask, depth);
            count += 1;
        }
    });
}

/// Returns whether a value is a document or an array, into which an included path may lead.
fn has_fields(element: &Element<'_>) -> bool {
    matches!(
        element.kind,
        ElementType::EmbeddedDocument | ElementType::Array
    )
}

/// Appends an element under the name `key` with the fields in it that a mask shows. Without any field it is
/// left out if the mask includes only fields.
fn put_partly(
    out: &mut BytesMut,
    key: &[u8],
    element: &Element<'_>,
    mask: MaskNode<'_>,
    depth: u32,
) {
    if mask.includes_only_fields() && !has_fields(element) {
        return;
    }
    put_element(out, key, element, |out| match element.kind {
        ElementType::EmbeddedDocument => put_document(out, element.value, mask, depth + 1),
        ElementType::Array => put_array(out, element.value, mask, depth + 1),
        ElementType::JavaScriptCodeWithScope => put_code(out, element, mask, depth),
        // Other types have no fields.
        _ => out.put_slice(element.value),
    });
}

/// Appends code whose scope is a document: its length, the code as a string, the scope.
fn put_code(out: &mut BytesMut, element: &Element<'_>, mask: MaskNode<'_>, depth: u32) {
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
    put_document(out, scope, mask, depth + 1);
    put_length(out, start);
}

fn put_whole(out: &mut BytesMut, element: &Element<'_>) {
    put_element(out, element.key, element, |out| {
        out.put_slice(element.value);
    });
}

/// Appends the type of an element, the name `key`, and the value that `put_value` appends.
fn put_element(
    out: &mut BytesMut,
    key: &[u8],
    element: &Element<'_>,
    put_value: impl FnOnce(&mut BytesMut),
) {
    out.put_u8(element.kind as u8);
    out.put_slice(key);
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
    // A redacted document is not longer than the original, so its length fits. New indexes of an array may be
    // longer than wrong ones, but not by as much as would leave 31 bits.
    let length = u32::try_from(out.len() - start).unwrap_or_default();
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
pub(super) mod tests;
