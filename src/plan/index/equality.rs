//! What a filter says a field must equal.

use std::collections::BTreeMap;

use bson::Bson;

use super::bucket::{Bucket, Hasher};
use crate::plan::judge::Literal;
use crate::plan::predicate::is_id_path;
use crate::plan::{Condition, MissingImage, Predicate, Residual};

/// A filter holds only where the value at this path is in one of these buckets.
#[derive(Debug)]
pub(super) struct Equality {
    pub(super) place: Place,
    /// Sorted, each once.
    pub(super) buckets: Vec<Bucket>,
}

/// Where the values are, and when they are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) path: String,
    /// Whether the document before the change is judged too.
    pub(super) pre_images: bool,
    /// Whether the filter takes what may match where the value is not known.
    pub(super) takes_unknown: bool,
}

impl Equality {
    /// `None` when the filter says no such thing.
    pub(super) fn of(filter: &Predicate, residual: &Residual, hasher: &Hasher) -> Option<Equality> {
        // The document key is always at hand; then the fewer values the better.
        let (path, values) = implied(filter)
            .into_iter()
            .min_by_key(|(path, values)| (!is_id_path(path), values.len()))?;
        let mut buckets: Vec<Bucket> = values
            .into_iter()
            .map(|value| hasher.bucket(Some(&Literal::new(value).as_element())))
            .collect();
        buckets.sort_unstable();
        buckets.dedup();
        Some(Equality {
            place: Place {
                path: path.to_owned(),
                pre_images: residual.pre_images,
                takes_unknown: residual.missing_image == MissingImage::Deliver,
            },
            buckets,
        })
    }
}

/// For each path of which the filter says so: the values of which it must hold one.
fn implied(filter: &Predicate) -> BTreeMap<&str, Vec<&Bson>> {
    match filter {
        Predicate::Field { path, op } => match op {
            Condition::Eq(value) => [(path.as_str(), vec![value])].into(),
            Condition::In(values) => [(path.as_str(), values.iter().collect())].into(),
            _ => BTreeMap::new(),
        },
        // One part is enough.
        Predicate::AllOf(parts) => {
            let mut all: BTreeMap<&str, Vec<&Bson>> = BTreeMap::new();
            for (path, values) in parts.iter().flat_map(implied) {
                let known = all.get(path);
                if known.is_none_or(|known| values.len() < known.len()) {
                    all.insert(path, values);
                }
            }
            all
        }
        // Every part must say it of the same path.
        Predicate::AnyOf(parts) => {
            let mut parts = parts.iter().map(implied);
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
