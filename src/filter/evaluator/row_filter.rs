//! The policy's condition, which every document that an event carries must meet.

use super::changed::ChangedCondition;
use super::event_fields::EventFields;
use super::filter::Filter;
use crate::filter::is_id_path;
use crate::filter::pattern::WorkBudget;
use crate::model::Operation;

/// A row filter. An event for which it is unknown does not pass.
#[derive(Clone, Debug)]
pub(super) struct RowFilter {
    filter: Filter,
    /// Conditions that hold if an update touched a field that the row filter uses.
    touched: Box<[ChangedCondition]>,
}

impl RowFilter {
    pub(super) fn new(filter: &Filter) -> RowFilter {
        // Whole top-level fields count, because an update description names what it touched below them with array
        // indexes. The `_id` never changes.
        let paths = filter.paths();
        let fields = paths.iter().filter(|path| !is_id_path(path));
        let mut fields: Vec<&str> = fields.filter_map(|path| path.split('.').next()).collect();
        fields.sort_unstable();
        fields.dedup();
        RowFilter {
            filter: filter.clone(),
            touched: fields
                .into_iter()
                .map(|field| ChangedCondition::new(field, true))
                .collect(),
        }
    }

    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Returns whether the row filter certainly holds for every document that the event carries; if it
    /// carries none, for its document key alone.
    pub(super) fn admits(&self, event: &EventFields<'_>) -> bool {
        let (before, after) = (event.before, event.after);
        if before.is_none() && after.is_none() {
            return self.certainly_holds(event, None);
        }
        let holds =
            |image: Option<&[u8]>| image.is_none_or(|it| self.certainly_holds(event, Some(it)));
        holds(before) && holds(after) && (after.is_some() || self.is_unaffected(event))
    }

    /// Returns whether the row filter has the same result for the document before the change and for the
    /// one after it. The latter is not in the event, but the update description shows parts of it.
    fn is_unaffected(&self, event: &EventFields<'_>) -> bool {
        let is_untouched = |changed: &ChangedCondition| changed.holds(event) == Some(false);
        event.operation == Operation::Delete || self.touched.iter().all(is_untouched)
    }

    fn certainly_holds(&self, event: &EventFields<'_>, document: Option<&[u8]>) -> bool {
        // A budget of its own, so that the client's filter cannot use it up.
        let budget = &WorkBudget::default();
        self.filter.root().holds(event, document, budget) == Some(true)
    }
}
