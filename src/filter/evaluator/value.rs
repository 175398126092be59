//! Comparison of BSON values in MongoDB's order.

use std::cmp::Ordering;

use super::number::Number;
use crate::raw::{Element, ElementType, Elements};

/// A class of BSON types that compare with each other, in MongoDB's order of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::filter) enum TypeClass {
    MinKey,
    Undefined,
    Null,
    Number,
    Text,
    Document,
    Array,
    Binary,
    ObjectId,
    Boolean,
    Date,
    Timestamp,
    Regex,
    DbPointer,
    Code,
    CodeWithScope,
    MaxKey,
}

impl TypeClass {
    pub(in crate::filter) const fn of(kind: ElementType) -> TypeClass {
        match kind {
            ElementType::MinKey => TypeClass::MinKey,
            ElementType::Undefined => TypeClass::Undefined,
            ElementType::Null => TypeClass::Null,
            ElementType::Double
            | ElementType::Int32
            | ElementType::Int64
            | ElementType::Decimal128 => TypeClass::Number,
            ElementType::String | ElementType::Symbol => TypeClass::Text,
            ElementType::EmbeddedDocument => TypeClass::Document,
            ElementType::Array => TypeClass::Array,
            ElementType::Binary => TypeClass::Binary,
            ElementType::ObjectId => TypeClass::ObjectId,
            ElementType::Boolean => TypeClass::Boolean,
            ElementType::DateTime => TypeClass::Date,
            ElementType::Timestamp => TypeClass::Timestamp,
            ElementType::RegularExpression => TypeClass::Regex,
            ElementType::DbPointer => TypeClass::DbPointer,
            ElementType::JavaScriptCode => TypeClass::Code,
            ElementType::JavaScriptCodeWithScope => TypeClass::CodeWithScope,
            ElementType::MaxKey => TypeClass::MaxKey,
        }
    }
}

/// Compares two values in MongoDB's order. The recursion is as deep as the shallower value; a literal
/// nests at most 100 levels.
pub(super) fn compare(left: &Element<'_>, right: &Element<'_>) -> Ordering {
    let class = TypeClass::of(left.kind);
    class
        .cmp(&TypeClass::of(right.kind))
        .then_with(|| compare_within(class, left, right))
}

/// Compares two values that are both of this class.
fn compare_within(class: TypeClass, left: &Element<'_>, right: &Element<'_>) -> Ordering {
    match class {
        TypeClass::MinKey | TypeClass::Undefined | TypeClass::Null | TypeClass::MaxKey => {
            Ordering::Equal
        }
        TypeClass::Number => match (Number::of(left), Number::of(right)) {
            (Some(left), Some(right)) => left.compare(right),
            _ => Ordering::Equal,
        },
        TypeClass::Text => text(left).cmp(text(right)),
        TypeClass::Code => left.as_text_bytes().cmp(&right.as_text_bytes()),
        TypeClass::Document => compare_fields(left.value, right.value, true),
        // The names of array elements are their indexes, so they are equal.
        TypeClass::Array => compare_fields(left.value, right.value, false),
        // Length first, then subtype, then bytes. The encoded length is little-endian, so it is skipped.
        TypeClass::Binary => left
            .value
            .len()
            .cmp(&right.value.len())
            .then_with(|| left.value.get(4..).cmp(&right.value.get(4..))),
        TypeClass::Date => left.as_datetime_millis().cmp(&right.as_datetime_millis()),
        TypeClass::Timestamp => left.as_timestamp().cmp(&right.as_timestamp()),
        TypeClass::Regex => left.as_regex().cmp(&right.as_regex()),
        TypeClass::ObjectId | TypeClass::Boolean => left.value.cmp(right.value),
        TypeClass::CodeWithScope => match (left.as_code_with_scope(), right.as_code_with_scope()) {
            (Some((left_code, left_scope)), Some((right_code, right_scope))) => left_code
                .cmp(right_code)
                .then_with(|| compare_fields(left_scope, right_scope, true)),
            _ => left.value.cmp(right.value),
        },
        // The encoded length is little-endian; no literal has this type, so any fixed order will do.
        TypeClass::DbPointer => left.value.cmp(right.value),
    }
}

/// Returns the text of a string or a symbol.
pub(super) fn text<'a>(element: &Element<'a>) -> &'a [u8] {
    element.as_text_bytes().unwrap_or_default()
}

/// Compares field by field: type class, then name, then value; a document that ends first is less.
/// Malformed BSON counts as the end.
fn compare_fields(left: &[u8], right: &[u8], names: bool) -> Ordering {
    let mut left = fields(left);
    let mut right = fields(right);
    loop {
        let (left, right) = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(left), Some(right)) => (left, right),
        };
        let class = TypeClass::of(left.kind);
        let order = class
            .cmp(&TypeClass::of(right.kind))
            .then_with(|| {
                if names {
                    left.key.cmp(right.key)
                } else {
                    Ordering::Equal
                }
            })
            .then_with(|| compare_within(class, &left, &right));
        if order.is_ne() {
            return order;
        }
    }
}

/// Iterates over the fields of a document or the elements of an array, up to the first malformed one.
pub(in crate::filter) fn fields(document: &[u8]) -> impl Iterator<Item = Element<'_>> {
    Elements::new(document)
        .into_iter()
        .flatten()
        .map_while(Result::ok)
}
