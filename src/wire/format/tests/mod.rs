//! Tests of the document formats.

mod compare;
mod fallbacks;
mod properties;
mod protobuf;
mod strategy;
mod types;

use bson::{Bson, Document, doc, oid::ObjectId};
use bytes::BytesMut;
use prost::Message;

use super::{Format, put_document};
use crate::pb;

pub(super) const FORMATS: [Format; 4] = [
    Format::Bson,
    Format::Json,
    Format::CanonicalJson,
    Format::Struct,
];

/// Appends raw BSON in a format to other bytes, and decodes the result.
pub(super) fn write(raw: &[u8], format: Format) -> pb::document::Value {
    const BEFORE: &[u8] = b"existing bytes";
    let mut out = BytesMut::from(BEFORE);
    // A second field after it shows that the length is right.
    put_document(&mut out, 2, raw, format);
    super::put_null_document(&mut out, 3);
    assert_eq!(&out[..BEFORE.len()], BEFORE);
    let update = pb::Update::decode(&out[BEFORE.len()..]).expect("the output decodes");
    let null = update
        .full_document_before_change
        .expect("the second field is there");
    assert_eq!(null.value, Some(pb::document::Value::Null(0)));
    assert_eq!(update.update_description, None);
    let document = update.full_document.expect("the field is there");
    document.value.expect("the oneof is set")
}

pub(super) fn to_raw(document: &Document) -> Vec<u8> {
    document.to_vec().expect("the document can be encoded")
}

/// Returns the JSON text of a document.
pub(super) fn json_text(raw: &[u8], format: Format) -> String {
    match write(raw, format) {
        pb::document::Value::Json(text) => text,
        other => panic!("expected JSON, found {other:?}"),
    }
}

/// Returns the JSON text of a document with the one field `v`.
pub(super) fn json_of(value: impl Into<Bson>, format: Format) -> String {
    json_text(&to_raw(&doc! { "v": value.into() }), format)
}

/// Returns a DBPointer, which `bson` can only create by parsing.
pub(super) fn db_pointer(namespace: &str, id: ObjectId) -> Bson {
    let json = serde_json::json!({
        "$dbPointer": { "$ref": namespace, "$id": { "$oid": id.to_hex() } }
    });
    json.try_into().expect("Extended JSON of a DBPointer")
}

/// Returns a document whose only field has the given type and value bytes, which may be malformed.
pub(super) fn raw_field(kind: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    raw_document(&[&[kind], key, &[0], value].concat())
}

/// Returns a document around encoded elements.
pub(super) fn raw_document(elements: &[u8]) -> Vec<u8> {
    let length = i32::try_from(elements.len() + 5).expect("the document is small");
    [&length.to_le_bytes(), elements, &[0]].concat()
}

/// Returns an empty document inside `depth - 1` documents (kind 3) or arrays (kind 4). The outermost is
/// always a document.
pub(super) fn nested(depth: usize, kind: u8) -> Vec<u8> {
    (1..depth).fold(raw_document(&[]), |inner, _| raw_field(kind, b"0", &inner))
}
