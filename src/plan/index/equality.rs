//! What a filter, or a guard, says a field must equal.

use std::collections::BTreeMap;

use bson::Bson;

use super::bucket::{Bucket, Hasher};
use crate::plan::judge::Literal;
use crate::plan::predicate::is_id_path;
use crate::plan::{Condition, MissingImage, Predicate, Residual};

/// What leads to a residual: a guard that holds only where the value at its path is in one of these
/// buckets, and a filter that does.
#[derive(Debug, Default)]
pub(super) struct Leads {
    pub(super) guard: Option<Equality<String>>,
    pub(super) filter: Option<Equality<Place>>,
}

/// A condition that holds only where the value at this place is in one of these buckets.
#[derive(Debug)]
pub(super) struct Equality<P> {
    pub(super) place: P,
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

impl Leads {
    pub(super) fn of(residual: &Residual, hasher: &Hasher) -> Leads {
        let guard = residual
            .guard
            .as_ref()
            .and_then(|guard| asked(guard, hasher));
        let filter = residual.filter.as_ref().and_then(|it| asked(it, hasher));
        Leads {
            guard: guard.map(|(path, buckets)| Equality {
                place: path.to_owned(),
                buckets,
            }),
            filter: filter.map(|(path, buckets)| Equality {
                place: Place {
                    path: path.to_owned(),
                    pre_images: residual.pre_images,
                    takes_unknown: residual.missing_image == MissingImage::Deliver,
                },
                buckets,
            }),
        }
    }
}

/// A path, and the buckets in one of which the value there must be; `None` when the predicate says no
/// such thing.
fn asked<'p>(predicate: &'p Predicate, hasher: &Hasher) -> Option<(&'p str, Vec<Bucket>)> {
    // The document key is always at hand; then the fewer values the better.
    let (path, values) = implied(predicate)
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
