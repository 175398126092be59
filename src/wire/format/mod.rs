//! Encoding of raw BSON documents as `weir.v1.Document`, in the format that a watch requested.
//!
//! Documents are never decoded: [`json`] and [`protobuf_struct`] write while [`raw`](crate::raw) walks over MongoDB's
//! bytes. A document that a format can't represent without loss falls back to another format, as
//! `message Document` in the API describes; BSON can represent anything.

mod error;
mod field_names;
mod json;
pub mod protobuf;
mod protobuf_struct;
#[cfg(test)]
mod tests;
mod text;

use bytes::BytesMut;

use crate::model::Format;

use error::FormatError;
use field_names::Place;
use json::Style;
use protobuf::{
    WireType, len_field_len, put_bytes_field, put_message_with_estimate, put_message_with_len,
    put_tag, put_varint, put_varint_field,
};
use protobuf_struct::OUTERMOST_STRUCT_LEVEL;

/// Field numbers of `weir.v1.Document`.
mod field {
    pub(super) const BSON: u32 = 1;
    pub(super) const JSON: u32 = 2;
    pub(super) const STRUCT: u32 = 3;
    pub(super) const NULL: u32 = 4;
}

/// Appends message field `field`, with tag and length: a `weir.v1.Document` of `document`, which is raw
/// BSON.
///
/// There are no errors. `Struct` falls back to relaxed JSON when the document is nested too deeply for
/// protobuf parsers. `Struct` and JSON fall back to BSON, which may be any bytes, when the document is
/// malformed, has invalid UTF-8, is nested deeper than 95 levels, repeats a field name, or has one that Extended
/// JSON gives a meaning. Time and memory are linear in the length of `document`, except that the names of a
/// document with over 30,000 fields, or with two whose hashes are equal, are sorted.
pub fn put_document(out: &mut BytesMut, field: u32, document: &[u8], format: Format) {
    let start = out.len();
    let written = match format {
        Format::Bson => {
            put_bson(out, field, document);
            Ok(())
        }
        Format::Json => put_json(out, field, document, Style::Relaxed),
        Format::CanonicalJson => put_json(out, field, document, Style::Canonical),
        Format::Struct => match put_struct(out, field, document) {
            Err(FormatError::TooDeep) => {
                out.truncate(start);
                put_json(out, field, document, Style::Relaxed)
            }
            written => written,
        },
    };
    if written.is_err() {
        out.truncate(start);
        put_bson(out, field, document);
    }
}

/// As [`put_document`], of the raw BSON that `write` appends, of about `expected` bytes. In BSON it is written in
/// place and not copied again.
pub fn put_written_document<R>(
    out: &mut BytesMut,
    field: u32,
    expected: usize,
    format: Format,
    write: impl FnOnce(&mut BytesMut) -> R,
) -> R {
    if format == Format::Bson {
        return put_message_with_estimate(out, field, expected, |out| {
            put_message_with_estimate(out, field::BSON, expected, write)
        });
    }
    let mut document = BytesMut::with_capacity(expected);
    let result = write(&mut document);
    put_document(out, field, &document, format);
    result
}

/// Appends message field `field`, with tag and length: a `weir.v1.Document` that is null, for a document
/// that MongoDB looked for and did not find.
pub fn put_null_document(out: &mut BytesMut, field: u32) {
    put_message_with_len(out, field, 2, |out| put_varint_field(out, field::NULL, 0));
}

fn put_bson(out: &mut BytesMut, field: u32, document: &[u8]) {
    let len = len_field_len(field::BSON, document.len());
    out.reserve(len_field_len(field, len));
    put_tag(out, field, WireType::Len);
    put_varint(out, len as u64);
    put_bytes_field(out, field::BSON, document);
}

fn put_json(
    out: &mut BytesMut,
    field: u32,
    document: &[u8],
    style: Style,
) -> Result<(), FormatError> {
    // Relaxed JSON is about as long as BSON, canonical JSON longer.
    let expected = match style {
        Style::Relaxed => document.len(),
        Style::Canonical => document.len() + document.len() / 2,
    };
    out.reserve(expected + 16);
    put_message_with_estimate(out, field, expected, |out| {
        put_message_with_estimate(out, field::JSON, expected, |out| {
            json::put_document(out, document, style)
        })
    })
}

fn put_struct(out: &mut BytesMut, field: u32, document: &[u8]) -> Result<(), FormatError> {
    // Each field costs about eight bytes more than in BSON.
    let expected = document.len() + document.len() / 2;
    out.reserve(expected + 16);
    put_message_with_estimate(out, field, expected, |out| {
        put_message_with_estimate(out, field::STRUCT, expected, |out| {
            protobuf_struct::put_struct(out, document, OUTERMOST_STRUCT_LEVEL, Place::Top)
        })
    })
}
