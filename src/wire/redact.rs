//! Removal of the fields that a mask does not show from raw BSON.
//!
//! All other fields are copied unchanged. Unreadable bytes are never shown: a document that is malformed
//! or nested too deeply is cut off at that point.

use bytes::{BufMut as _, BytesMut};

use crate::{
    model::{MaskNode, PathMatch, UpdatePathComponent},
    raw::{Element, ElementType, Elements},
};

/// The maximum nesting that is searched for fields, the document itself being level 1; the same limit as in
/// the text formats. Anything deeper that a mask may not show whole is left out.
const MAX_DEPTH: u32 = 200;

/// Appends the fields of a document that a mask shows.
pub(super) fn put_document(out: &mut BytesMut, document: &[u8], mask: MaskNode<'_>) {
    put_fields(out, document, mask, 1);
}

/// Appends the part of `updatedFields` that a mask shows. Its names are dotted paths, of which `components` says
/// how to read them where that is known. Returns the paths at which the projected document has nothing any
/// more: a value without fields took the place of documents or arrays above an included path. If that may be
/// an element of an array, the value is appended, since the elements after it keep their index.
pub(super) fn put_updated_fields<'a, 'p, C: Iterator<Item = UpdatePathComponent<'p>>>(
    out: &mut BytesMut,
    fields: &'a [u8],
    mask: MaskNode<'_>,
    components: impl Fn(&[u8]) -> Option<C>,
) -> Vec<&'a [u8]> {
    let mut gone = Vec::new();
    put_elements(out, fields, 1, |out, element| {
        let key = element.key;
        mask.match_path(key, components(key), |path_match| match path_match {
            PathMatch::Hidden => {}
            PathMatch::Visible => put_whole(out, &element),
            PathMatch::Partly(below) if !below.includes_only_fields() || has_fields(&element) => {
                put_partly(out, key, &element, below, 1);
            }
            PathMatch::Partly(below) => {
                let last = components(key).map(Iterator::last);
                let is_field = match last {
                    Some(last) => !matches!(last, Some(UpdatePathComponent::Index)),
                    None => !may_be_index(key),
                };
                match below.hidden_only() {
                    _ if is_field => gone.push(key),
                    Some(hidden) => put_partly(out, key, &element, hidden, 1),
                    None => put_whole(out, &element),
                }
            }
        });
    });
    gone
}

/// Returns whether a dotted path may lead to an element of an array.
fn may_be_index(path: &[u8]) -> bool {
    let last = path.rsplit(|byte| *byte == b'.').next();
    last.is_some_and(|last| {
        last.len() < path.len() && !last.is_empty() && last.iter().all(u8::is_ascii_digit)
    })
}

/// Appends the fields of a document that a mask shows.
fn put_fields(out: &mut BytesMut, document: &[u8], mask: MaskNode<'_>, depth: u32) {
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
        ElementType::EmbeddedDocument => put_fields(out, element.value, mask, depth + 1),
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
    put_fields(out, scope, mask, depth + 1);
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
