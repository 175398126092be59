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
    /// The fields that name the transaction are.
    pub transaction: bool,
    /// The document key and the document after the change are.
    pub document: bool,
}

impl Genuine {
    /// Of a stream without stages that change events.
    pub const EVERYTHING: Self = Self {
        everything: true,
        time: true,
        every_time: true,
        transaction: true,
        document: true,
    };

    /// Returns what is genuine after a client's stages.
    pub(super) fn after<'a>(stages: impl Iterator<Item = &'a Document> + Clone) -> Self {
        if stages.clone().next().is_none() {
            return Self::EVERYTHING;
        }
        let is_kept = |field: &str| stages.clone().all(|stage| !may_set(stage, field));
        let are_kept = |fields: &[&str]| fields.iter().all(|field| is_kept(field));
        Self {
            everything: false,
            time: is_kept("clusterTime"),
            every_time: stages
                .clone()
                .all(|stage| !may_set(stage, "clusterTime") && !may_remove(stage, "clusterTime")),
            transaction: are_kept(&["lsid", "txnNumber", "operationType"]),
            document: are_kept(&["documentKey", "fullDocument", "operationType"]),
        }
    }
}

/// Returns whether a stage may give a top-level field another value, or a part of it. To remove either is no
/// other value.
fn may_set(stage: &Document, field: &str) -> bool {
    let is_field = |path: &str| path.split('.').next() == Some(field);
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

    fn genuine(stages: &[Document]) -> [bool; 5] {
        let Genuine {
            everything,
            time,
            every_time,
            transaction,
            document,
        } = Genuine::after(stages.iter());
        [everything, time, every_time, transaction, document]
    }

    #[test]
    fn only_what_no_stage_can_set_is_genuine() {
        let all = [false, true, true, true, true];
        let missing = [false, true, false, true, true];
        let untimed = [false, false, false, true, true];
        for (stage, expected) in [
            (doc! { "$match": { "clusterTime": 1 } }, all),
            (doc! { "$redact": "$$KEEP" }, all),
            (doc! { "$unset": ["clusterTime", "lsid"] }, missing),
            (doc! { "$unset": "clusterTime" }, missing),
            (doc! { "$unset": ["ns", "wallTime"] }, all),
            (
                doc! { "$project": { "fullDocument.a": 1, "ns": 1 } },
                missing,
            ),
            (
                doc! { "$project": { "fullDocument.a": 1, "clusterTime": 1 } },
                all,
            ),
            (
                doc! { "$project": { "_id": 1, "fullDocument.a": 0, "ns": false } },
                all,
            ),
            (
                doc! { "$project": { "fullDocument": { "a": 0 } } },
                [false, true, false, true, false],
            ),
            (
                doc! { "$project": { "clusterTime": false, "lsid.id": 0_i64 } },
                missing,
            ),
            (doc! { "$project": { "clusterTime": "$wallTime" } }, untimed),
            (doc! { "$project": { "clusterTime": { "a": 1 } } }, untimed),
            (doc! { "$set": { "clusterTime": 1 } }, untimed),
            (doc! { "$addFields": { "clusterTime.t": 1 } }, untimed),
            (
                doc! { "$addFields": { "lsid.id": 1 } },
                [false, true, true, false, true],
            ),
            (
                doc! { "$set": { "operationType": "x" } },
                [false, true, true, false, false],
            ),
            (
                doc! { "$set": { "fullDocument._id": 1 } },
                [false, true, true, true, false],
            ),
            (doc! { "$set": { "total": 1, "clusterTimes": 1 } }, all),
            (doc! { "$replaceRoot": { "newRoot": "$$ROOT" } }, [false; 5]),
            (doc! { "$replaceWith": "$$ROOT" }, [false; 5]),
            (doc! { "$set": "odd" }, [false, false, false, false, false]),
        ] {
            assert_eq!(genuine(std::slice::from_ref(&stage)), expected, "{stage}");
        }
        assert_eq!(genuine(&[]), [true; 5]);
        let two = [doc! { "$match": {} }, doc! { "$set": { "clusterTime": 1 } }];
        assert_eq!(genuine(&two), untimed);
    }
}
