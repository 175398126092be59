//! The index keys of a residual: the values that its filters require at a path.

use std::collections::BTreeMap;

use super::bucket::{Bucket, BucketHasher};
use super::bucket_map::VALUE_BYTES;
use crate::filter::evaluator::{Evaluator, Filter, Literal, LiteralList, Node, ValueTest};
use crate::filter::{Clauses, is_id_path};
use crate::model::Shard;

/// The most values of a row filter times those of a filter that are indexed together: each value of the row filter
/// has an index of the filter's values.
const MAX_PAIRS: usize = 4_096;
/// What a value of a row filter takes, in bytes, with the free room of its table.
pub(super) const ROW_VALUE_BYTES: usize = 260;
/// What the index of a filter takes beside its path and its values, in bytes, with the page of the first one.
pub(super) const GROUP_BYTES: usize = 456;
/// What a component of a path takes beside its name, in bytes.
const COMPONENT_BYTES: usize = 48;

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
    pub(super) fn new(evaluator: &Evaluator, hasher: &BucketHasher) -> IndexKeys {
        let (row_filter, filter) = best_keys(evaluator.row_filter(), evaluator.filter());
        IndexKeys {
            shard: evaluator.shard(),
            row_filter: row_filter.map(|required| IndexKey {
                field: required.path.to_owned(),
                buckets: required.buckets(hasher),
            }),
            filter: filter.map(|required| IndexKey {
                field: LookupField {
                    path: required.path.to_owned(),
                    pre_images: evaluator.pre_images(),
                    passes_unknown: evaluator.passes_unknown(),
                },
                buckets: required.buckets(hasher),
            }),
        }
    }
}

/// Returns the memory that an index takes for a residual, in bytes.
pub fn index_bytes(residual: &Clauses) -> usize {
    let (row_filter, filter) = best_keys(residual.row_filter.as_ref(), residual.filter.as_ref());
    let group = filter.map_or(0, |it| {
        GROUP_BYTES + path_bytes(it.path) + it.len * VALUE_BYTES
    });
    // Each value of a row filter has an index of its own.
    row_filter.map_or(group, |it| {
        path_bytes(it.path) + it.len * (ROW_VALUE_BYTES + group)
    })
}

/// Returns what an index keeps of a path: its text twice, and its components.
fn path_bytes(path: &str) -> usize {
    3 * path.len() + COMPONENT_BYTES * (1 + path.split('.').count())
}

/// The values of which a predicate requires one at a path.
struct Required<'f> {
    path: &'f str,
    values: Vec<Values<'f>>,
    /// How many values there are.
    len: usize,
}

/// The values of one condition.
#[derive(Clone, Copy)]
enum Values<'f> {
    One(&'f Literal),
    List(&'f LiteralList),
}

impl Required<'_> {
    fn buckets(&self, hasher: &BucketHasher) -> Vec<Bucket> {
        let mut buckets = Vec::with_capacity(self.len);
        for values in &self.values {
            match values {
                Values::One(literal) => buckets.push(hasher.bucket(Some(&literal.as_element()))),
                Values::List(list) => {
                    buckets.extend(list.elements().map(|it| hasher.bucket(Some(&it))));
                }
            }
        }
        buckets.sort_unstable();
        buckets.dedup();
        buckets
    }
}

/// Returns what a row filter and a filter are indexed by; `None` for one that requires no particular value at any
/// path, or too many of them together with the other.
fn best_keys<'f>(
    row_filter: Option<&'f Filter>,
    filter: Option<&'f Filter>,
) -> (Option<Required<'f>>, Option<Required<'f>>) {
    let row_filter = row_filter.and_then(|it| best_key(it.root()));
    let rows = row_filter.as_ref().map_or(1, |it| it.len);
    let filter = filter.and_then(|it| best_key(it.root()));
    let filter = filter.filter(|it| rows == 1 || rows.saturating_mul(it.len) <= MAX_PAIRS);
    (row_filter, filter)
}

fn best_key(root: &Node) -> Option<Required<'_>> {
    // The document key is in every event. Among other paths, fewer values select better.
    required_values(root)
        .into_values()
        .min_by_key(|it| (!is_id_path(it.path), it.len))
}

/// Returns the paths at which the filter requires one of a list of values, each with that list.
fn required_values(node: &Node) -> BTreeMap<&str, Required<'_>> {
    match node {
        Node::Field {
            path,
            test,
            negated: false,
            ..
        } => {
            let (values, len) = match test {
                ValueTest::Equal(literal) => (Values::One(literal), 1),
                ValueTest::OneOf(list) => (Values::List(list), list.len()),
                _ => return BTreeMap::new(),
            };
            let path = path.text();
            let values = vec![values];
            [(path, Required { path, values, len })].into()
        }
        // All parts must hold, so the shortest list for a path is enough.
        Node::AllOf(parts) => {
            let mut all: BTreeMap<&str, Required<'_>> = BTreeMap::new();
            for (path, required) in parts.iter().flat_map(required_values) {
                let shortest = all.get(path);
                if shortest.is_none_or(|shortest| required.len < shortest.len) {
                    all.insert(path, required);
                }
            }
            all
        }
        // Any part may hold, so a path counts only if every part requires a value there.
        Node::AnyOf(parts) => {
            let mut parts = parts.iter().map(required_values);
            let mut any = parts.next().unwrap_or_default();
            for mut part in parts {
                any.retain(|path, required| match part.remove(path) {
                    Some(more) => {
                        required.values.extend(more.values);
                        required.len += more.len;
                        true
                    }
                    None => false,
                });
            }
            any
        }
        Node::Field { .. } | Node::Changed(_) | Node::NoneOf(_) => BTreeMap::new(),
    }
}
