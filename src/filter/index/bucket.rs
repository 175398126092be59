//! Hash buckets of BSON values: equal values share a bucket, whatever their types.

use std::hash::{BuildHasher as _, Hash as _, RandomState};

use crate::filter::evaluator::{Number, TypeClass, fields};
use crate::raw::{Element, ElementType};

/// The number of levels of a document that are hashed. The evaluator compares the rest.
const DEPTH: u32 = 3;
/// The number of fields of a document that are hashed.
const FIELDS: usize = 16;

const NULL: Element<'static> = Element {
    kind: ElementType::Null,
    key: b"",
    value: b"",
};

/// The number of a bucket. Different values may share one, so the evaluator checks every residual
/// found in it.
pub(super) type Bucket = u32;

/// Assigns values to buckets. The hash is random for each index, so no client can fill one bucket on
/// purpose.
#[derive(Debug, Default)]
pub(super) struct BucketHasher(RandomState);

impl BucketHasher {
    /// Returns the bucket of a value; `None` is a missing field, which equals null.
    pub(super) fn bucket(&self, value: Option<&Element<'_>>) -> Bucket {
        let mut state = self.0.build_hasher();
        push(&mut state, value.unwrap_or(&NULL), DEPTH);
        // Half of the hash is enough: two of ten million values share a bucket with one of 400 others.
        (std::hash::Hasher::finish(&state) >> 32) as Bucket
    }
}

fn push(state: &mut impl std::hash::Hasher, value: &Element<'_>, depth: u32) {
    let class = TypeClass::of(value.kind);
    class.hash(state);
    match class {
        TypeClass::Number => {
            if let Some(number) = Number::of(value) {
                state.write_u64(number.nearest_double().to_bits());
            }
        }
        TypeClass::Document | TypeClass::Array => {
            if depth == 0 {
                return;
            }
            for field in fields(value.value).take(FIELDS) {
                if class == TypeClass::Document {
                    field.key.hash(state);
                }
                push(state, &field, depth - 1);
            }
        }
        _ => value.value.hash(state),
    }
}
