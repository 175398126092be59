//! The index keys of a residual: the values that its filters require at a path.

use std::collections::BTreeMap;

use bson::Bson;

use super::bucket::{Bucket, BucketHasher};
use crate::filter::evaluator::Literal;
use crate::filter::is_id_path;
use crate::filter::{Clauses, Condition, Predicate};
use crate::model::{MissingImage, Shard};

/// The index keys of one residual; `None` for a part that requires no particular value.
#[derive(Debug, Default)]
pub(super) struct IndexKeys {
    pub(super) shard: Option<Shard>,
    pub(super) row_filter: Option<IndexKey<String>>,
    pub(super) filter: Option<IndexKey<LookupField>>,
}

/// A condition that can hold only if a value at `field` is in one of `buckets`.
#[derive(Debug)]
pub(super) struct IndexKey<F> {
    pub(super) field: F,
    /// Sorted, without duplicates.
    pub(super) buckets: Vec<Bucket>,
}

/// The path of a filter's index key, and the options of the filter that decide when it is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LookupField {
    pub(super) path: String,
    /// `true` if the filter also applies to the document before the change.
    pub(super) pre_images: bool,
    /// `true` if an event passes when the value is unknown.
    pub(super) passes_unknown: bool,
}

impl IndexKeys {
    pub(super) fn new(residual: &Clauses, hasher: &BucketHasher) -> IndexKeys {
        let row_filter = residual
            .row_filter
            .as_ref()
            .and_then(|row_filter| best_key(row_filter, hasher));
        let filter = residual.filter.as_ref().and_then(|it| best_key(it, hasher));
        IndexKeys {
            shard: residual.shard,
            row_filter: row_filter.map(|(path, buckets)| IndexKey {
                field: path.to_owned(),
                buckets,
            }),
            filter: filter.map(|(path, buckets)| IndexKey {
                field: LookupField {
                    path: path.to_owned(),
                    pre_images: residual.pre_images,
                    passes_unknown: residual.missing_image == MissingImage::Deliver,
                },
                buckets,
            }),
        }
    }
}

/// Returns a path and the buckets that a value there must be in one of; `None` if the predicate
/// requires no particular value at any path.
fn best_key<'p>(predicate: &'p Predicate, hasher: &BucketHasher) -> Option<(&'p str, Vec<Bucket>)> {
    // The document key is in every event. Among other paths, fewer values select better.
    let (path, values) = required_values(predicate)
        .into_iter()
        .min_by_key(|(path, values)| (!is_id_path(path), values.len()))?;
    let mut buckets: Vec<Bucket> = values
        .into_iter()
        .map(|value| hasher.bucket(Some(&Literal::new(value).as_element())))
        .collect();
    buckets.sort_unstable();
    buckets.dedup();
    Some((path, buckets))
}

/// Returns the paths at which the filter requires one of a list of values, each with that list.
fn required_values(filter: &Predicate) -> BTreeMap<&str, Vec<&Bson>> {
    match filter {
        Predicate::Field { path, op } => match op {
            Condition::Eq(value) => [(path.as_str(), vec![value])].into(),
            Condition::In(values) => [(path.as_str(), values.iter().collect())].into(),
            _ => BTreeMap::new(),
        },
        // All parts must hold, so the shortest list for a path is enough.
        Predicate::AllOf(parts) => {
            let mut all: BTreeMap<&str, Vec<&Bson>> = BTreeMap::new();
            for (path, values) in parts.iter().flat_map(required_values) {
                let shortest = all.get(path);
                if shortest.is_none_or(|shortest| values.len() < shortest.len()) {
                    all.insert(path, values);
                }
            }
            all
        }
        // Any part may hold, so a path counts only if every part requires a value there.
        Predicate::AnyOf(parts) => {
            let mut parts = parts.iter().map(required_values);
            let mut any = parts.next().unwrap_or_default();
            for mut part in parts {
                any.retain(|path, values| match part.remove(path) {
                    Some(more) => {
                        values.extend(more);
                        true
                    }
                    None => false,
                });
            }
            any
        }
        Predicate::NoneOf(_) => BTreeMap::new(),
    }
}
