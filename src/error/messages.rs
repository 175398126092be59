//! Error messages whose text depends on the known facts.

use super::undeliverable::UndeliverableEvent;
use crate::{
    limit::Exceeded,
    model::FieldViolation,
    source::{ClusterTime, Refusal},
};

/// MongoDB's code for a deployment that is no replica set.
const NO_REPLICA_SET: i32 = 40573;

/// MongoDB's code for an unknown field of a stage.
const UNKNOWN_FIELD: i32 = 40415;

pub(super) fn resume_from(after: Option<ClusterTime>) -> String {
    after.map_or_else(
        || "the last token".to_owned(),
        |time| {
            let seconds = time.seconds;
            format!("start_time {seconds}, as earlier tokens are no longer valid")
        },
    )
}

pub(super) fn undeliverable_event(event: &UndeliverableEvent) -> String {
    match (event.time, event.after) {
        (Some(time), _) => format!(" (the event of {time})"),
        (None, Some(after)) => format!(" (the event after {after})"),
        (None, None) => String::new(),
    }
}

pub(super) fn pipeline_not_allowed(by_policy: bool) -> &'static str {
    if by_policy {
        "pipeline is not allowed for this principal, as the policy limits the documents or fields that it may see: leave pipeline out"
    } else {
        "this server does not allow pipeline: leave it out, or ask the operator to set --allow-pipeline"
    }
}

/// Returns the advice for a token that belongs to another watch. `time` is set if the watch may start there.
pub(super) fn token_replacement(time: Option<ClusterTime>) -> String {
    time.map_or_else(
        || "send it with the request that it came from, or start without a token".to_owned(),
        |time| format!("continue with start_time {}", time.seconds),
    )
}

/// Returns MongoDB's error in words.
pub(super) fn words(refusal: Option<&Refusal>) -> String {
    refusal.map_or_else(|| "an unnamed error".to_owned(), Refusal::to_string)
}

pub(super) fn no_change_streams(refusal: Option<&Refusal>) -> String {
    match refusal {
        Some(refusal) if refusal.code != NO_REPLICA_SET => format!(
            "this MongoDB deployment does not support this change stream: it refuses with {refusal}{}",
            remedy(refusal)
        ),
        _ => "this MongoDB deployment has no change streams: run it as a replica set or a sharded cluster"
            .to_owned(),
    }
}

/// Returns what a deployment without change streams lacks, as the type and the description of a violated
/// precondition.
pub(super) fn requirement(refusal: Option<&Refusal>) -> (&'static str, String) {
    match refusal {
        Some(refusal) if refusal.code != NO_REPLICA_SET => (
            "FEATURE",
            format!("MongoDB refuses with {refusal}{}", remedy(refusal)),
        ),
        _ => (
            "TOPOLOGY",
            "MongoDB must run as a replica set or a sharded cluster".to_owned(),
        ),
    }
}

/// Returns what to do about a refusal, as the end of a sentence.
fn remedy(refusal: &Refusal) -> &'static str {
    match (refusal.about, refusal.code) {
        (Some("ignoreRemovedShards"), _) => {
            "; this MongoDB does not know the option (9.0 and later do): start Weir without --ignore-removed-shards"
        }
        (_, 148) => "; turn on enableMajorityReadConcern",
        (_, 376) => "; enable change streams in this deployment",
        (_, UNKNOWN_FIELD) => "; this MongoDB is too old for the request",
        _ => "",
    }
}

pub(super) fn limit_reached(exceeded: &Exceeded) -> String {
    let Exceeded { unit, max } = *exceeded;
    if unit == "checks" {
        return "too many requests wait until their filters are compiled: try again later"
            .to_owned();
    }
    if unit == "KiB of filters" {
        return format!(
            "open watches use all of the {} MiB for filters, patterns, fields and stages (a quarter of --memory-limit): \
             use smaller ones or the same in several watches, or try again later",
            max / 1024
        );
    }
    let what = match unit {
        "watches" => format!("{max} open watches (--max-watches)"),
        "feeds" => format!("{max} feeds (--max-feeds)"),
        "calls" => format!("{max} concurrent calls"),
        "openings" => format!("{max} change streams that MongoDB opens at once"),
        other => format!("{max} {other}"),
    };
    format!("the server's limit of {what} is reached: try again later")
}

pub(super) fn join_violations(violations: &[FieldViolation]) -> String {
    let mut texts: Vec<String> = violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    texts.truncate(4);
    texts.join("; ")
}

pub(super) fn token_expired(time: Option<ClusterTime>, oldest: Option<ClusterTime>) -> String {
    let time = time.map(|time| format!(" (time {})", time.seconds));
    let oldest = oldest.map(|time| format!(", whose oldest entry is of time {}", time.seconds));
    format!(
        "the position to resume from{} is no longer in MongoDB's oplog{}: read the data again and \
         watch from now",
        time.unwrap_or_default(),
        oldest.unwrap_or_default()
    )
}
