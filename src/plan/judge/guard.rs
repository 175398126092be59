//! The condition that every document which an event shows must meet.

use super::Node;
use super::changed::Changed;
use super::subject::Subject;
use crate::plan::pattern::Effort;
use crate::plan::predicate::is_id_path;
use crate::plan::{Operation, Predicate};

/// A guard, ready to be asked about events. What is not known is never let through.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    holds: Node,
    /// Whether an update touched a field that the guard is about.
    touched: Box<[Changed]>,
}

impl Guard {
    pub(super) fn new(predicate: &Predicate) -> Guard {
        let mut fields = Vec::new();
        push_fields(predicate, &mut fields);
        fields.sort_unstable();
        fields.dedup();
        Guard {
            holds: Node::new(predicate),
            touched: fields
                .into_iter()
                .map(|field| Changed::new(field, true))
                .collect(),
        }
    }

    /// Whether it surely holds for every document that the event carries, or by the key alone where it
    /// carries none.
    pub(super) fn admits(&self, subject: &Subject<'_>) -> bool {
        let (before, after) = (subject.before, subject.after);
        if before.is_none() && after.is_none() {
            return self.surely(subject, None);
        }
        let holds = |image: Option<&[u8]>| image.is_none_or(|it| self.surely(subject, Some(it)));
        holds(before) && holds(after) && (after.is_some() || self.stays(subject))
    }

    /// Whether what is known of the document before the change is true of the one after it, which is not
    /// there: what an update tells is of that one.
    fn stays(&self, subject: &Subject<'_>) -> bool {
        let is_untouched = |changed: &Changed| changed.holds(subject) == Some(false);
        subject.operation == Operation::Delete || self.touched.iter().all(is_untouched)
    }

    fn surely(&self, subject: &Subject<'_>, document: Option<&[u8]>) -> bool {
        // Work of its own, so that no filter can use it up.
        self.holds.holds(subject, document, &Effort::default()) == Some(true)
    }
}

/// The fields of a document's top that it is about and that may change. An update names what it touched
/// below them with places in arrays, so all of such a field counts.
fn push_fields<'p>(predicate: &'p Predicate, fields: &mut Vec<&'p str>) {
    match predicate {
        Predicate::Field { path, .. } if is_id_path(path) => {}
        Predicate::Field { path, .. } => fields.extend(path.split('.').next()),
        Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
            parts.iter().for_each(|part| push_fields(part, fields));
        }
    }
}
