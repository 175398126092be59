//! Values of raw BSON as fields of messages.

use std::borrow::Cow;

use bytes::BytesMut;

use crate::{
    raw::{Element, ElementType, Elements},
    wire::format::protobuf::{WireType, put_string_field, put_tag, put_varint},
};

/// Appends a number, unless it is zero.
pub(super) fn put_number(out: &mut BytesMut, number: u32, value: u64) {
    if value != 0 {
        put_tag(out, number, WireType::Varint);
        put_varint(out, value);
    }
}

/// Appends the element if it is a string, and returns whether it is one.
pub(super) fn put_text(out: &mut BytesMut, number: u32, element: &Element<'_>) -> bool {
    if is_text(element) {
        put_string_field(out, number, &text(element));
    }
    is_text(element)
}

/// Returns the elements of a document or an array, up to the first malformed one.
pub(super) fn elements(document: &[u8]) -> impl Iterator<Item = Element<'_>> + Clone {
    Elements::new(document)
        .ok()
        .into_iter()
        .flatten()
        .map_while(Result::ok)
}

pub(super) fn find<'a>(document: &'a [u8], key: &[u8]) -> Option<Element<'a>> {
    elements(document).find(|element| element.key == key)
}

pub(super) fn is_array(element: &Element<'_>) -> bool {
    element.kind == ElementType::Array
}

pub(super) fn is_text(element: &Element<'_>) -> bool {
    element.kind == ElementType::String
}

/// Returns a string's text. Invalid UTF-8 becomes U+FFFD, since protobuf strings must be UTF-8.
pub(super) fn text<'a>(element: &Element<'a>) -> Cow<'a, str> {
    String::from_utf8_lossy(element.as_str_bytes().unwrap_or_default())
}
