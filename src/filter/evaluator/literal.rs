//! The literals of a filter, as raw BSON.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use bson::{Bson, Document};

use super::number::Number;
use super::value::{TypeClass, compare};
use crate::raw::{self, Element, ElementType, Elements};

/// What an allocation takes beside its bytes, on average.
pub(in crate::filter) const ALLOCATION: usize = 16;

/// A literal of a filter.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::filter) struct Literal {
    kind: ElementType,
    value: Box<[u8]>,
}

impl Literal {
    pub(in crate::filter) fn new(value: &Bson) -> Literal {
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

    pub(in crate::filter) fn as_element(&self) -> Element<'_> {
        Element {
            kind: self.kind,
            key: b"",
            value: &self.value,
        }
    }

    pub(super) fn class(&self) -> TypeClass {
        TypeClass::of(self.kind)
    }

    pub(super) fn kind(&self) -> ElementType {
        self.kind
    }

    /// Returns the literal decoded.
    pub(super) fn to_bson(&self) -> Bson {
        decode(std::iter::once(self.as_element()))
            .pop()
            .unwrap_or(Bson::Null)
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.value.len() + ALLOCATION
    }
}

impl Hash for Literal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.kind as u8);
        self.value.hash(state);
    }
}

/// The literals of a list, in the order in which the client named them.
///
/// A value takes its BSON bytes, one for its type and two or four for its place in the order of values.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::filter) struct LiteralList {
    /// Of each value the number of its type, then its BSON bytes.
    bytes: Box<[u8]>,
    /// Where each value starts, in MongoDB's order of values.
    sorted: Starts,
    has_null: bool,
}

/// Places in the bytes of a list.
#[derive(Clone, Debug, PartialEq)]
enum Starts {
    /// In at most 64 KiB.
    Short(Box<[u16]>),
    Long(Box<[u32]>),
}

impl LiteralList {
    pub(super) fn new(values: &[Bson]) -> LiteralList {
        let mut bytes = Vec::new();
        let mut starts = Vec::with_capacity(values.len());
        for value in values {
            starts.push(bytes.len());
            let literal = Literal::new(value);
            bytes.push(literal.kind as u8);
            bytes.extend_from_slice(&literal.value);
        }
        starts.sort_by(
            |left, right| match (at(&bytes, *left), at(&bytes, *right)) {
                (Some(left), Some(right)) => compare(&left, &right),
                // Not reached: an element starts at each place.
                _ => Ordering::Equal,
            },
        );
        let places = starts.iter().map(|start| u16::try_from(*start));
        let sorted = match places.collect::<Result<_, _>>() {
            Ok(starts) => Starts::Short(starts),
            Err(_) => Starts::Long(
                starts
                    .into_iter()
                    .map(|start| u32::try_from(start).expect("a request is far below 4 GiB"))
                    .collect(),
            ),
        };
        let mut list = LiteralList {
            bytes: bytes.into(),
            sorted,
            has_null: false,
        };
        let has_null = list
            .elements()
            .any(|element| TypeClass::of(element.kind) == TypeClass::Null);
        list.has_null = has_null;
        list
    }

    /// Returns whether a value equals one of the list.
    pub(super) fn contains(&self, value: &Element<'_>) -> bool {
        // A number is read once, and those of the list without a walk over their type's size.
        let number = Number::of(value);
        let order = |start: usize| {
            if let Some(number) = number
                && let Some(literal) = number_at(&self.bytes, start)
            {
                return literal.compare(number);
            }
            match at(&self.bytes, start) {
                Some(literal) => compare(&literal, value),
                // Not reached: an element starts at each place.
                None => Ordering::Less,
            }
        };
        match &self.sorted {
            Starts::Short(starts) => starts.binary_search_by(|it| order(usize::from(*it))),
            Starts::Long(starts) => starts.binary_search_by(|it| order(*it as usize)),
        }
        .is_ok()
    }

    pub(super) fn has_null(&self) -> bool {
        self.has_null
    }

    pub(in crate::filter) fn len(&self) -> usize {
        match &self.sorted {
            Starts::Short(starts) => starts.len(),
            Starts::Long(starts) => starts.len(),
        }
    }

    /// Returns the values as the client named them.
    pub(in crate::filter) fn elements(&self) -> impl Iterator<Item = Element<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let element = Element::typed(rest)?;
            rest = rest.get(1 + element.value.len()..)?;
            Some(element)
        })
    }

    /// Returns the values decoded.
    pub(super) fn to_bson(&self) -> Vec<Bson> {
        decode(self.elements())
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let starts = match &self.sorted {
            Starts::Short(starts) => size_of_val(&**starts),
            Starts::Long(starts) => size_of_val(&**starts),
        };
        self.bytes.len() + starts + 2 * ALLOCATION
    }
}

impl Hash for LiteralList {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

fn at(bytes: &[u8], start: usize) -> Option<Element<'_>> {
    Element::typed(bytes.get(start..)?)
}

/// Returns the number that starts there, unless it is a decimal or no number.
fn number_at(bytes: &[u8], start: usize) -> Option<Number> {
    let (&kind, value) = bytes.get(start..)?.split_first()?;
    Some(match ElementType::from(kind)? {
        ElementType::Int32 => Number::Integer(i32::from_le_bytes(*value.first_chunk()?).into()),
        ElementType::Int64 => Number::Integer(i64::from_le_bytes(*value.first_chunk()?)),
        ElementType::Double => Number::Double(f64::from_le_bytes(*value.first_chunk()?)),
        _ => return None,
    })
}

/// Decodes values, which were made from decoded ones.
fn decode<'a>(values: impl Iterator<Item = Element<'a>>) -> Vec<Bson> {
    // The names of array elements are not read.
    let array = raw::document(values.map(|value| Element { key: b"0", ..value }));
    let values = Element {
        kind: ElementType::Array,
        key: b"",
        value: &array,
    };
    let document = Document::from_reader(&*raw::document([values])).unwrap_or_default();
    match document.into_iter().next() {
        Some((_, Bson::Array(values))) => values,
        _ => Vec::new(),
    }
}
