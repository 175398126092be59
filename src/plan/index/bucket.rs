//! The bucket of a value: equal values share one, whatever their types.

use std::hash::{BuildHasher as _, Hash as _, RandomState};

use crate::plan::judge::{Class, Number, fields};
use crate::raw::{Element, ElementType};

/// How deep a document is looked at. What lies deeper is left to the judge.
const DEPTH: u32 = 3;
/// How many fields of a document are looked at.
const FIELDS: usize = 16;

const NULL: Element<'static> = Element {
    kind: ElementType::Null,
    key: b"",
    value: b"",
};

/// The number of a bucket. Different values may share one: whoever is found in it is judged.
pub(super) type Bucket = u64;

/// Numbers buckets, differently in each index, so that nobody can fill one on purpose.
#[derive(Debug, Default)]
pub(super) struct Hasher(RandomState);

impl Hasher {
    /// The bucket of a value; `None` is a missing field, which equals null.
    pub(super) fn bucket(&self, value: Option<&Element<'_>>) -> Bucket {
        let mut state = self.0.build_hasher();
        push(&mut state, value.unwrap_or(&NULL), DEPTH);
        std::hash::Hasher::finish(&state)
    }
}

fn push(state: &mut impl std::hash::Hasher, value: &Element<'_>, depth: u32) {
    let class = Class::of(value.kind);
    class.hash(state);
    match class {
        Class::Number => {
            if let Some(number) = Number::of(value) {
                state.write_u64(number.nearest_double().to_bits());
            }
        }
        Class::Document | Class::Array => {
            if depth == 0 {
                return;
            }
            for field in fields(value.value).take(FIELDS) {
                if class == Class::Document {
                    field.key.hash(state);
                }
                push(state, &field, depth - 1);
            }
        }
        _ => value.value.hash(state),
    }
}
