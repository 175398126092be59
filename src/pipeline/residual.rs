//! The conditions of a watch that are evaluated in process.

use super::Watch;
use crate::filter::Residual;
use crate::model::BeforeChange;

impl Residual {
    /// Returns all conditions of the watch, for a feed of [`Plan::shared`](crate::pipeline::Plan::shared).
    pub fn for_shared(watch: &Watch) -> Residual {
        let operations = watch.operations.clone();
        let on_documents = watch.selects_documents();
        let row_filter = watch.row_filter.clone().filter(|_| on_documents);
        match &watch.filter {
            Some(filter) if on_documents => Residual {
                row_filter,
                operations,
                filter: Some(filter.clone()),
                missing_image: watch.missing_image,
                pre_images: watch.before_change != BeforeChange::Off,
            },
            _ => Residual {
                row_filter,
                operations,
                ..Residual::pass_all()
            },
        }
    }

    /// Returns the conditions that MongoDB does not cover on a feed of
    /// [`Plan::dedicated`](crate::pipeline::Plan::dedicated).
    ///
    /// The whole filter is among them if it uses `changed`, which a pipeline cannot express, or if
    /// pre-images allow a match transition. The row filter always is, so that access does not depend on
    /// the pipeline alone.
    pub fn for_dedicated(watch: &Watch) -> Residual {
        let all_conditions = Residual::for_shared(watch);
        match &all_conditions.filter {
            Some(filter) if all_conditions.pre_images || filter.uses_changed() => all_conditions,
            _ => Residual {
                row_filter: all_conditions.row_filter,
                ..Residual::pass_all()
            },
        }
    }
}
