//! The part of a watch's request that is evaluated in process.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use super::evaluator::Filter;
use crate::model::{MissingImage, Operation, OperationSet, Shard};

/// The conditions that the events of a feed must still meet in process, for one watch.
///
/// Residuals are equal if the same events pass, as far as their clauses tell. Clones share the filters.
#[derive(Clone)]
pub struct Residual {
    clauses: Clauses,
}

/// The clauses of a residual. By default every event passes.
#[derive(Clone, Debug, Default)]
pub struct Clauses {
    /// The policy's condition, which must certainly hold for every document that an event carries.
    pub row_filter: Option<Filter>,
    /// The operations that pass; `None` means all.
    pub operations: Option<BTreeSet<Operation>>,
    /// The client's condition on documents.
    pub filter: Option<Filter>,
    /// The result of the filter where it is unknown for lack of a document.
    pub missing_image: MissingImage,
    /// `true` if the filter also applies to the document before the change.
    pub pre_images: bool,
    /// The share of the documents; `None` means all.
    pub shard: Option<Shard>,
}

impl Residual {
    /// Returns the residual of these clauses.
    pub fn new(clauses: Clauses) -> Residual {
        Residual { clauses }
    }

    /// Returns the residual that every event passes.
    pub fn pass_all() -> Residual {
        Residual::new(Clauses::default())
    }
}

impl Clauses {
    /// Returns whether every event passes.
    pub fn passes_everything(&self) -> bool {
        let Clauses {
            row_filter,
            operations,
            filter,
            shard,
            // These have no effect without a filter.
            missing_image: _,
            pre_images: _,
        } = self;
        row_filter.is_none() && operations.is_none() && filter.is_none() && shard.is_none()
    }

    pub(crate) fn operation_set(&self) -> OperationSet {
        match &self.operations {
            None => OperationSet::ALL,
            Some(operations) => operations.iter().copied().collect(),
        }
    }

    /// Returns all that decides which events pass: options that have no effect without a filter are left out.
    fn identity(&self) -> impl Eq + Hash + '_ {
        // A clause that is forgotten here does not compile.
        let Clauses {
            row_filter,
            operations,
            filter,
            missing_image,
            pre_images,
            shard,
        } = self;
        let filter = filter.as_ref();
        (
            operations.as_ref().map(|_| self.operation_set().bits()),
            filter.map(|it| (it, *missing_image == MissingImage::Drop, *pre_images)),
            shard,
            row_filter,
        )
    }
}

impl Deref for Residual {
    type Target = Clauses;

    fn deref(&self) -> &Clauses {
        &self.clauses
    }
}

impl fmt::Debug for Residual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clauses.fmt(f)
    }
}

impl PartialEq for Residual {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Residual {}

impl Hash for Residual {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

#[cfg(test)]
mod tests;
