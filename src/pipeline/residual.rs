//! The conditions of a watch that are evaluated in process.

use super::Watch;
use crate::filter::{Clauses, Residual};
use crate::model::{BeforeChange, Operation};

impl Watch {
    /// Returns all conditions of the watch, for a feed of [`Plan::shared`](super::Plan::shared).
    pub fn shared_residual(&self) -> Residual {
        Residual::new(self.clauses())
    }

    /// Returns the conditions that MongoDB does not cover on a feed of
    /// [`Plan::dedicated`](super::Plan::dedicated).
    ///
    /// The whole filter is among them if it uses `changed`, which a pipeline cannot express, or if
    /// pre-images allow a match transition. The row filter always is, so that access does not depend on
    /// the pipeline alone, and the shard always is, as MongoDB has no function that computes it.
    ///
    /// Behind a client's own stages nothing is left to evaluate: an event may have no field that a condition
    /// reads. Validation admits no such condition, and no row filter.
    pub fn dedicated_residual(&self) -> Residual {
        if !self.client_stages.is_empty() {
            return Residual::new(Clauses::default());
        }
        let clauses = self.clauses();
        Residual::new(match &clauses.filter {
            Some(filter) if clauses.pre_images || filter.uses_changed() => clauses,
            _ => Clauses {
                row_filter: clauses.row_filter,
                shard: clauses.shard,
                ..Clauses::default()
            },
        })
    }

    fn clauses(&self) -> Clauses {
        let operations = self.operations.clone();
        if !self.selects_documents() {
            // Only an unknown operation may still be about a document.
            let any_key = operations
                .as_ref()
                .is_some_and(|it| it.contains(&Operation::Other));
            return Clauses {
                operations,
                shard: self.shard.filter(|_| any_key),
                ..Clauses::default()
            };
        }
        Clauses {
            row_filter: self.row_filter.clone(),
            operations,
            filter: self.filter.clone(),
            missing_image: self.missing_image,
            pre_images: self.before_change != BeforeChange::Off,
            shard: self.shard,
        }
    }
}

#[cfg(test)]
mod tests;
