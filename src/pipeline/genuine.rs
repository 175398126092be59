//! What a client's own stages leave of an event as MongoDB made it.

use bson::{Bson, Document};

/// What of a stream's events is certainly as MongoDB made it. A field may be missing all the same: a stage may
/// remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Genuine {
    /// Everything is: no stage changes events.
    pub everything: bool,
    /// `clusterTime` is, where an event has one.
    pub time: bool,
    /// It is, and every event has one.
    pub every_time: bool,
    /// `wallTime` is.
    pub wall_time: bool,
    /// The fields that name the transaction are.
    pub transaction: bool,
    /// The whole `_id` of the document key and that of the document after the change are.
    pub document_ids: bool,
}

impl Genuine {
    /// Of a stream without stages that change events.
    pub const EVERYTHING: Self = Self {
        everything: true,
        time: true,
        every_time: true,
        wall_time: true,
        transaction: true,
        document_ids: true,
    };

    /// Returns what is genuine after a client's stages.
    pub(super) fn after<'a>(stages: impl Iterator<Item = &'a Document> + Clone) -> Self {
        if stages.clone().next().is_none() {
            return Self::EVERYTHING;
        }
        let is_kept = |path: &str| stages.clone().all(|stage| !may_set(stage, path));
        let is_whole = |path: &str| is_kept(path) && stages.clone().all(|it| !may_cut(it, path));
        Self {
            everything: false,
            time: is_kept("clusterTime"),
            every_time: stages
                .clone()
                .all(|stage| !may_set(stage, "clusterTime") && !may_remove(stage, "clusterTime")),
            wall_time: is_kept("wallTime"),
            transaction: ["lsid", "txnNumber", "operationType"]
                .into_iter()
                .all(is_kept),
            document_ids: is_kept("operationType")
                && is_whole("documentKey._id")
                && is_whole("fullDocument._id"),
        }
    }
}

/// Returns whether an event may have a `splitEvent` behind a client's stages that is not MongoDB's, which splits
/// events behind all stages.
pub(super) fn may_look_split(stages: &[Document]) -> bool {
    stages.iter().any(|stage| may_set(stage, "splitEvent"))
}

/// Returns whether a stage may give the field at a path another value, or a part of it. To remove either is no
/// other value.
fn may_set(stage: &Document, field: &str) -> bool {
    let is_field = |path: &str| path == field || is_below(path, field) || is_below(field, path);
    let sets = |spec: &Bson, is_removal: fn(&Bson) -> bool| {
        // Of a form that no stage has, anything may be meant.
        spec.as_document().is_none_or(|spec| {
            spec.iter()
                .any(|(path, value)| is_field(path) && !is_removal(value))
        })
    };
    stage.iter().any(|(name, spec)| match name.as_str() {
        "$match" | "$redact" | "$unset" => false,
        "$addFields" | "$set" => sets(spec, |_| false),
        "$project" => sets(spec, is_inclusion_or_exclusion),
        _ => true,
    })
}

/// Returns whether a stage may remove a part of the field at a path.
fn may_cut(stage: &Document, field: &str) -> bool {
    stage
        .iter()
        .any(|(name, spec)| match (name.as_str(), spec) {
            ("$unset", Bson::String(path)) => is_below(path, field),
            ("$unset", Bson::Array(paths)) => paths
                .iter()
                .any(|path| path.as_str().is_none_or(|path| is_below(path, field))),
            ("$project", Bson::Document(spec)) => spec.keys().any(|path| is_below(path, field)),
            ("$match" | "$addFields" | "$set", _) => false,
            // `$redact` decides for each document within the event.
            _ => true,
        })
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// Returns whether a stage may remove a top-level field that has no fields of its own.
fn may_remove(stage: &Document, field: &str) -> bool {
    let is_field = |path: &str| path.split('.').next() == Some(field);
    stage
        .iter()
        .any(|(name, spec)| match (name.as_str(), spec) {
            ("$match" | "$redact" | "$addFields" | "$set", _) => false,
            ("$unset", Bson::String(path)) => is_field(path),
            ("$unset", Bson::Array(paths)) => {
                paths.iter().any(|path| path.as_str().is_none_or(is_field))
            }
            ("$project", Bson::Document(spec)) => {
                // Without it, a projection that includes others removes it.
                spec.get(field).map_or_else(
                    || {
                        let mut others = spec.iter().filter(|(path, _)| *path != "_id");
                        others.any(|(path, value)| is_field(path) || !is_exclusion(value))
                    },
                    is_exclusion,
                )
            }
            _ => true,
        })
}

fn is_exclusion(value: &Bson) -> bool {
    match value {
        Bson::Boolean(value) => !value,
        Bson::Int32(value) => *value == 0,
        Bson::Int64(value) => *value == 0,
        Bson::Double(value) => *value == 0.0,
        // It may be a zero.
        Bson::Decimal128(_) => true,
        _ => false,
    }
}

fn is_inclusion_or_exclusion(value: &Bson) -> bool {
    matches!(
        value,
        Bson::Boolean(_) | Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_)
    )
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    /// Returns the names of what is not genuine, without `everything`.
    fn doubtful(stages: &[Document]) -> Vec<&'static str> {
        let Genuine {
            everything,
            time,
            every_time,
            wall_time,
            transaction,
            document_ids,
        } = Genuine::after(stages.iter());
        assert_eq!(everything, stages.is_empty());
        let each = [
            ("time", time),
            ("every_time", every_time),
            ("wall_time", wall_time),
            ("transaction", transaction),
            ("document_ids", document_ids),
        ];
        let names = each.into_iter().filter(|(_, is_genuine)| !is_genuine);
        names.map(|(name, _)| name).collect()
    }

    #[test]
    fn only_what_no_stage_can_set_is_genuine() {
        const ALL: [&str; 5] = [
            "time",
            "every_time",
            "wall_time",
            "transaction",
            "document_ids",
        ];
        let none: &[&str] = &[];
        let missing: &[&str] = &["every_time"];
        let untimed: &[&str] = &["time", "every_time"];
        let ids: &[&str] = &["document_ids"];
        let missing_ids: &[&str] = &["every_time", "document_ids"];
        for (stage, expected) in [
            (doc! { "$match": { "clusterTime": 1 } }, none),
            (doc! { "$redact": "$$KEEP" }, ids),
            (doc! { "$unset": ["clusterTime", "lsid"] }, missing),
            (doc! { "$unset": "clusterTime" }, missing),
            (doc! { "$unset": ["ns", "wallTime"] }, none),
            (doc! { "$unset": ["fullDocument", "documentKey._id"] }, none),
            (doc! { "$unset": ["ns", "fullDocument._id.region"] }, ids),
            (doc! { "$unset": "documentKey._id.region" }, ids),
            (
                doc! { "$project": { "fullDocument.a": 1, "ns": 1 } },
                missing,
            ),
            (
                doc! { "$project": { "fullDocument.a": 1, "clusterTime": 1 } },
                none,
            ),
            (
                doc! { "$project": { "_id": 1, "fullDocument.a": 0, "ns": false } },
                none,
            ),
            (doc! { "$project": { "fullDocument._id.region": 0 } }, ids),
            (
                doc! { "$project": { "documentKey._id.n": 1, "fullDocument": 1 } },
                missing_ids,
            ),
            (
                doc! { "$project": { "fullDocument": { "_id": { "a": 0 } } } },
                missing_ids,
            ),
            (
                doc! { "$project": { "fullDocument": { "a": 0 } } },
                missing_ids,
            ),
            (
                doc! { "$project": { "clusterTime": false, "lsid.id": 0_i64 } },
                missing,
            ),
            (
                doc! { "$project": { "clusterTime": "0".parse::<bson::Decimal128>().unwrap() } },
                missing,
            ),
            (doc! { "$project": { "clusterTime": "$wallTime" } }, untimed),
            (doc! { "$project": { "clusterTime": { "a": 1 } } }, untimed),
            (doc! { "$set": { "clusterTime": 1 } }, untimed),
            (doc! { "$addFields": { "clusterTime.t": 1 } }, untimed),
            (doc! { "$addFields": { "lsid.id": 1 } }, &["transaction"]),
            (doc! { "$set": { "wallTime": 1 } }, &["wall_time"]),
            (
                doc! { "$set": { "operationType": "x" } },
                &["transaction", "document_ids"],
            ),
            (doc! { "$set": { "fullDocument._id": 1 } }, ids),
            (doc! { "$set": { "fullDocument": { "a": 1 } } }, ids),
            (doc! { "$set": { "fullDocument.gross": 1 } }, none),
            (doc! { "$set": { "total": 1, "clusterTimes": 1 } }, none),
            (doc! { "$replaceRoot": { "newRoot": "$$ROOT" } }, &ALL),
            (doc! { "$replaceWith": "$$ROOT" }, &ALL),
            (doc! { "$set": "odd" }, &ALL),
        ] {
            assert_eq!(doubtful(std::slice::from_ref(&stage)), expected, "{stage}");
        }
        assert_eq!(doubtful(&[]), none);
        let two = [doc! { "$match": {} }, doc! { "$set": { "clusterTime": 1 } }];
        assert_eq!(doubtful(&two), untimed);
    }

    #[test]
    fn only_stages_that_set_a_field_make_events_look_split() {
        for (stage, expected) in [
            (doc! { "$match": { "splitEvent": 1 } }, false),
            (doc! { "$project": { "splitEvent": 1 } }, false),
            (doc! { "$set": { "split": 1 } }, false),
            (doc! { "$set": { "splitEvent.of": 1 } }, true),
            (
                doc! { "$project": { "splitEvent": "$fullDocument.s" } },
                true,
            ),
            (doc! { "$replaceWith": "$fullDocument" }, true),
        ] {
            assert_eq!(
                may_look_split(std::slice::from_ref(&stage)),
                expected,
                "{stage}"
            );
        }
    }
}
