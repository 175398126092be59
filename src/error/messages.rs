//! The words of errors that depend on what is known.

use super::{FieldViolation, UndeliverableEvent};
use crate::source::ClusterTime;

pub(super) fn resume_from(after: Option<ClusterTime>) -> String {
    after.map_or("the last token".to_owned(), |time| {
        let seconds = time.seconds;
        format!("the start_time {seconds}: the tokens of before are no longer for it")
    })
}

pub(super) fn undeliverable_event(event: &UndeliverableEvent) -> String {
    match (event.time, event.after) {
        (Some(time), _) => format!(": the event of {time}"),
        (None, Some(after)) => format!(": the event after {after}"),
        (None, None) => String::new(),
    }
}

pub(super) fn join_violations(violations: &[FieldViolation]) -> String {
    let mut words: Vec<String> = violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    words.truncate(4);
    words.join("; ")
}

pub(super) fn token_expired(asked: Option<ClusterTime>, oldest: Option<ClusterTime>) -> String {
    let asked = asked.map(|time| format!(" (time {})", time.seconds));
    let oldest = oldest.map(|time| format!("; the oldest entry is of time {}", time.seconds));
    format!(
        "the place to go on from{} is no longer in MongoDB's oplog{}",
        asked.unwrap_or_default(),
        oldest.unwrap_or_default()
    )
}
