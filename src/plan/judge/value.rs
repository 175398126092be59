//! BSON values in MongoDB's order.

use std::cmp::Ordering;

use bson::{Bson, Document};

use super::number::Number;
use crate::raw::{Element, ElementType, Elements};

/// A type and those that compare with it, by its place in MongoDB's order of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::plan) enum Class {
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

impl Class {
    pub(in crate::plan) const fn of(kind: ElementType) -> Class {
        match kind {
            ElementType::MinKey => Class::MinKey,
            ElementType::Undefined => Class::Undefined,
            ElementType::Null => Class::Null,
            ElementType::Double
            | ElementType::Int32
            | ElementType::Int64
            | ElementType::Decimal128 => Class::Number,
            ElementType::String | ElementType::Symbol => Class::Text,
            ElementType::EmbeddedDocument => Class::Document,
            ElementType::Array => Class::Array,
            ElementType::Binary => Class::Binary,
            ElementType::ObjectId => Class::ObjectId,
            ElementType::Boolean => Class::Boolean,
            ElementType::DateTime => Class::Date,
            ElementType::Timestamp => Class::Timestamp,
            ElementType::RegularExpression => Class::Regex,
            ElementType::DbPointer => Class::DbPointer,
            ElementType::JavaScriptCode => Class::Code,
            ElementType::JavaScriptCodeWithScope => Class::CodeWithScope,
            ElementType::MaxKey => Class::MaxKey,
        }
    }
}

/// The value of a filter as raw BSON.
#[derive(Clone, Debug)]
pub(in crate::plan) struct Literal {
    kind: ElementType,
    value: Box<[u8]>,
}

impl Literal {
    pub(in crate::plan) fn new(value: &Bson) -> Literal {
        let mut document = Document::new();
        document.insert("", value);
        let bytes = document
            .to_vec()
            .expect("validation keeps NUL out of every field name");
        let element = Elements::new(&bytes)
            .ok()
            .and_then(|mut elements| elements.next()?.ok())
            .expect("a document of one field was just made");
        Literal {
            kind: element.kind,
            value: element.value.into(),
        }
    }

    pub(in crate::plan) fn as_element(&self) -> Element<'_> {
        Element {
            kind: self.kind,
            key: b"",
            value: &self.value,
        }
    }

    pub(super) fn class(&self) -> Class {
        Class::of(self.kind)
    }

    pub(super) fn kind(&self) -> ElementType {
        self.kind
    }
}

/// MongoDB's order of all values. Goes as deep as the shallower of both, and a literal nests at
/// most 100 levels.
pub(super) fn compare(left: &Element<'_>, right: &Element<'_>) -> Ordering {
    let class = Class::of(left.kind);
    class
        .cmp(&Class::of(right.kind))
        .then_with(|| compare_within(class, left, right))
}

/// Both are of this class.
fn compare_within(class: Class, left: &Element<'_>, right: &Element<'_>) -> Ordering {
    match class {
        Class::MinKey | Class::Undefined | Class::Null | Class::MaxKey => Ordering::Equal,
        Class::Number => match (Number::of(left), Number::of(right)) {
            (Some(left), Some(right)) => left.compare(right),
            _ => Ordering::Equal,
        },
        Class::Text => text(left).cmp(text(right)),
        Class::Code => left.as_text_bytes().cmp(&right.as_text_bytes()),
        Class::Document => compare_fields(left.value, right.value, true),
        // The names of elements are their places, which are equal anyway.
        Class::Array => compare_fields(left.value, right.value, false),
        // Length, subtype, bytes: the length in front is in another byte order, and counts alone.
        Class::Binary => left
            .value
            .len()
            .cmp(&right.value.len())
            .then_with(|| left.value.get(4..).cmp(&right.value.get(4..))),
        Class::Date => left.as_datetime_millis().cmp(&right.as_datetime_millis()),
        Class::Timestamp => left.as_timestamp().cmp(&right.as_timestamp()),
        Class::Regex => left.as_regex().cmp(&right.as_regex()),
        Class::ObjectId | Class::Boolean => left.value.cmp(right.value),
        // No literal is of these types, so a definite order is enough.
        Class::DbPointer | Class::CodeWithScope => left.value.cmp(right.value),
    }
}

/// The bytes of a string or a symbol.
pub(super) fn text<'a>(element: &Element<'a>) -> &'a [u8] {
    element.as_text_bytes().unwrap_or_default()
}

/// Field by field in their order: class, then name, then value; then the shorter first. What is
/// malformed ends a document.
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
        let class = Class::of(left.kind);
        let order = class
            .cmp(&Class::of(right.kind))
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

/// The fields of a document or the elements of an array, up to where it is malformed.
pub(in crate::plan) fn fields(document: &[u8]) -> impl Iterator<Item = Element<'_>> {
    Elements::new(document)
        .into_iter()
        .flatten()
        .map_while(Result::ok)
}
