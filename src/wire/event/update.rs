//! Encoding of an update's description.

use bytes::BytesMut;

use super::{
    masked::DescriptionMask,
    values::{elements, is_array, is_text, put_number, put_text},
};
use crate::{
    model::{MaskNode, PathMatch, Rendering},
    raw::{Element, Elements},
    wire::format::protobuf::{WireType, put_message, put_string_field, put_tag, put_varint},
};

/// Appends `updateDescription` as field 1 of an update. Returns `false` when the description has
/// something that could not be encoded; fields that are not shown do not count.
pub(super) fn put_description(
    out: &mut BytesMut,
    description: &[u8],
    rendering: &Rendering,
) -> bool {
    let mask = DescriptionMask::new(description, rendering);
    put_message(out, 1, |out| {
        all_elements(description, |field| match field.key {
            b"updatedFields" if field.as_document().is_some() => {
                for path in mask.put_updated_fields(out, 1, field.value) {
                    put_string_field(out, 2, &String::from_utf8_lossy(path));
                }
                true
            }
            b"removedFields" if is_array(&field) => all_elements(field.value, |name| {
                is_hidden(&name, &mask) || put_text(out, 2, &name)
            }),
            b"truncatedArrays" if is_array(&field) => {
                all_elements(field.value, |array| put_truncated_array(out, &array, &mask))
            }
            b"disambiguatedPaths" if field.as_document().is_some() => {
                all_elements(field.value, |path| {
                    put_disambiguated_path(out, &path, &mask, rendering)
                })
            }
            _ => false,
        })
    })
}

/// Returns whether an element is a path at which nothing is shown.
fn is_hidden(path: &Element<'_>, mask: &DescriptionMask<'_>) -> bool {
    path.as_str_bytes().is_some_and(|path| mask.hides(path))
}

fn put_truncated_array(
    out: &mut BytesMut,
    array: &Element<'_>,
    mask: &DescriptionMask<'_>,
) -> bool {
    let Some(array) = array.as_document() else {
        return false;
    };
    if !mask.shows_everything() {
        let mut paths = elements(array).filter(|field| field.key == b"field" && is_text(field));
        // Without a path nothing says what it tells of.
        if paths.clone().next().is_none() || paths.any(|path| is_hidden(&path, mask)) {
            return true;
        }
    }
    put_message(out, 3, |out| {
        all_elements(array, |field| match (field.key, field.as_int()) {
            (b"field", _) => put_text(out, 1, &field),
            (b"newSize", Some(size)) => {
                put_number(out, 2, size.cast_unsigned());
                true
            }
            _ => false,
        })
    })
}

fn put_disambiguated_path(
    out: &mut BytesMut,
    path: &Element<'_>,
    mask: &DescriptionMask<'_>,
    rendering: &Rendering,
) -> bool {
    if !is_array(path) {
        return false;
    }
    let hidden = rendering.mask.hidden_root();
    if mask.hides(path.key) || hidden.is_some_and(|hidden| reaches_hidden_field(path.value, hidden))
    {
        return true;
    }
    put_message(out, 4, |out| {
        put_string_field(out, 1, &String::from_utf8_lossy(path.key));
        all_elements(path.value, |component| {
            // An unreadable component stays unset, so that the components after it keep their index.
            put_message(out, 2, |out| match component.as_int() {
                Some(index) => {
                    // The index is a member of a oneof, so zero is written too.
                    put_tag(out, 2, WireType::Varint);
                    put_varint(out, index.cast_unsigned());
                    true
                }
                None => put_text(out, 1, &component),
            })
        })
    })
}

/// Returns whether the path with these components leads to a hidden field or is unreadable.
fn reaches_hidden_field(parts: &[u8], hidden: MaskNode<'_>) -> bool {
    let mut path_match = PathMatch::Partly(hidden);
    let readable = all_elements(parts, |part| {
        if let (PathMatch::Partly(node), Some(name)) = (path_match, part.as_str_bytes()) {
            path_match = node.match_name(name);
        }
        is_text(&part) || part.as_int().is_some()
    });
    path_match == PathMatch::Hidden || !readable
}

/// Calls `put` for every element of a document or an array. Returns whether all were well-formed and
/// `put` returned `true` for each.
fn all_elements<'a>(document: &'a [u8], mut put: impl FnMut(Element<'a>) -> bool) -> bool {
    let Ok(elements) = Elements::new(document) else {
        return false;
    };
    let mut complete = true;
    for element in elements {
        complete &= element.is_ok_and(&mut put);
    }
    complete
}
