//! The order of values.
//!
//! MongoDB's source: `canonicalizeBSONTypeUnsafeLookup` in src/mongo/bson/bsontypes.h orders the types,
//! `BSONElement::compareElements` in src/mongo/bson/bsonelement.cpp two values of a type, and
//! `BSONElement::woCompare` there and `compareObjects` in src/mongo/bson/bsonobj.cpp the fields of two documents.

use std::cmp::Ordering;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, Regex, doc};

use super::number::Exact;

/// The place of a value's type in the order of types. Values of one place compare by value.
pub fn canonical_type(value: &Bson) -> i32 {
    match value {
        Bson::MinKey => -1,
        Bson::Undefined => 0,
        Bson::Null => 5,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => 10,
        Bson::String(_) | Bson::Symbol(_) => 15,
        Bson::Document(_) => 20,
        Bson::Array(_) => 25,
        Bson::Binary(_) => 30,
        Bson::ObjectId(_) => 35,
        Bson::Boolean(_) => 40,
        Bson::DateTime(_) => 45,
        Bson::Timestamp(_) => 47,
        Bson::RegularExpression(_) => 50,
        Bson::DbPointer(_) => 55,
        Bson::JavaScriptCode(_) => 60,
        Bson::JavaScriptCodeWithScope(_) => 65,
        Bson::MaxKey => 127,
    }
}

/// Compares two values of any types.
pub fn compare(left: &Bson, right: &Bson) -> Ordering {
    canonical_type(left)
        .cmp(&canonical_type(right))
        .then_with(|| compare_within_type(left, right))
}

fn compare_within_type(left: &Bson, right: &Bson) -> Ordering {
    if let (Some(left), Some(right)) = (Exact::of(left), Exact::of(right)) {
        return left.cmp(&right);
    }
    match (left, right) {
        (Bson::MinKey, _) | (Bson::Undefined, _) | (Bson::Null, _) | (Bson::MaxKey, _) => {
            Ordering::Equal
        }
        // Bytes without signs, and then the length.
        (Bson::String(left) | Bson::Symbol(left), Bson::String(right) | Bson::Symbol(right)) => {
            left.as_bytes().cmp(right.as_bytes())
        }
        (Bson::JavaScriptCode(left), Bson::JavaScriptCode(right)) => {
            left.as_bytes().cmp(right.as_bytes())
        }
        (Bson::Document(left), Bson::Document(right)) => compare_documents(left, right),
        (Bson::Array(left), Bson::Array(right)) => compare_arrays(left, right),
        (Bson::Binary(left), Bson::Binary(right)) => binary_key(left).cmp(&binary_key(right)),
        (Bson::ObjectId(left), Bson::ObjectId(right)) => left.bytes().cmp(&right.bytes()),
        (Bson::Boolean(left), Bson::Boolean(right)) => left.cmp(right),
        // A date has a sign, a timestamp has none.
        (Bson::DateTime(left), Bson::DateTime(right)) => {
            left.timestamp_millis().cmp(&right.timestamp_millis())
        }
        (Bson::Timestamp(left), Bson::Timestamp(right)) => {
            (left.time, left.increment).cmp(&(right.time, right.increment))
        }
        (Bson::RegularExpression(left), Bson::RegularExpression(right)) => {
            let key = |it: &Regex| [&it.pattern, &it.options].map(|part| part.as_str().to_owned());
            key(left).cmp(&key(right))
        }
        (Bson::JavaScriptCodeWithScope(left), Bson::JavaScriptCodeWithScope(right)) => left
            .code
            .as_bytes()
            .cmp(right.code.as_bytes())
            .then_with(|| compare_documents(&left.scope, &right.scope)),
        // The length, then the bytes.
        (Bson::DbPointer(_), Bson::DbPointer(_)) => {
            let key = |it: &Bson| {
                let bytes = doc! {"": it}.to_vec().expect("BSON");
                (bytes.len(), bytes)
            };
            key(left).cmp(&key(right))
        }
        _ => panic!("{left} and {right} have the same place in the order of types"),
    }
}

/// Field by field: the type, then the name, then the value. Of two that begin alike, the shorter one is less.
fn compare_documents(left: &Document, right: &Document) -> Ordering {
    for ((left_name, left), (right_name, right)) in left.iter().zip(right) {
        let order = canonical_type(left)
            .cmp(&canonical_type(right))
            .then_with(|| left_name.as_bytes().cmp(right_name.as_bytes()))
            .then_with(|| compare_within_type(left, right));
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

/// As documents whose names are the indexes.
fn compare_arrays(left: &[Bson], right: &[Bson]) -> Ordering {
    for (left, right) in left.iter().zip(right) {
        let order = compare(left, right);
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

/// The length, the subtype and the bytes. The old subtype 2 has a second length before its bytes, which counts too.
fn binary_key(binary: &Binary) -> (usize, u8, &[u8]) {
    let second_length = match binary.subtype {
        BinarySubtype::BinaryOld => 4,
        _ => 0,
    };
    (
        binary.bytes.len() + second_length,
        binary.subtype.into(),
        &binary.bytes,
    )
}
