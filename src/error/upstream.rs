//! The errors that MongoDB's failures become.

use std::collections::HashMap;

use bytes::Bytes;

use crate::{
    error::Error,
    model::{FieldViolation, Scope},
    source::{ClusterTime, Failure, Refusal, SourceError},
};

/// MongoDB's code for an unknown field of a stage.
const UNKNOWN_FIELD: i32 = 40415;

/// The known facts of an event that MongoDB can't send.
#[derive(Debug, Clone, Default)]
pub struct UndeliverableEvent {
    /// The time of the last position before it.
    pub after: Option<ClusterTime>,
    /// Its own time.
    pub time: Option<ClusterTime>,
    /// The token of the position right after it, valid for the same request.
    pub next_token: Option<Bytes>,
}

/// Returns the client's error for a source failure that is not retried.
impl From<&SourceError> for Error {
    fn from(error: &SourceError) -> Self {
        match error.failure {
            Failure::Transient if error.is_read_preference_unmet() => Self::ReadPreferenceUnmet,
            Failure::Transient => Self::UpstreamUnavailable,
            Failure::Overloaded => Self::UpstreamOverloaded {
                refusal: error.refusal(),
                retry: error.retry_after(),
            },
            Failure::HistoryLost | Failure::TokenNotFound => Self::TokenExpired {
                time: None,
                oldest: None,
            },
            Failure::TokenInvalid => Self::TokenMalformed(
                "contains a token that MongoDB can't read: start without a token".to_owned(),
            ),
            Failure::ImageMissing => Self::ImageUnavailable(UndeliverableEvent::default()),
            Failure::EventTooLarge => Self::UpstreamEventTooLarge(UndeliverableEvent::default()),
            Failure::LookupAmbiguous => Self::LookupAmbiguous(UndeliverableEvent::default()),
            Failure::ShardRemoved => Self::ShardRemoved { time: None },
            Failure::Unsupported => Self::ChangeStreamsUnsupported(error.refusal()),
            Failure::AccessDenied | Failure::LoginFailed => Self::UpstreamAccessDenied,
            Failure::NotACollection => not_a_collection(None),
            Failure::InvalidName => invalid_name(None),
            Failure::PatternRefused => Self::PatternRefused { fields: Vec::new() },
            Failure::Refused => Self::UpstreamRefused {
                refusal: error.refusal(),
                time: None,
            },
            Failure::Unexpected => Self::Internal,
        }
    }
}

impl Error {
    /// Returns the client's error for a source failure of a stream of `scope` at a position of the time
    /// `at`. `oldest` is the oldest time that can be resumed from, where it is known.
    pub(crate) fn of_stream(
        error: &SourceError,
        scope: &Scope,
        at: Option<ClusterTime>,
        oldest: Option<ClusterTime>,
    ) -> Self {
        // MongoDB reports a position that the oplog has lost with another code than 280, which has several
        // causes. So it means that only where the oplog does not show otherwise.
        let history_is_there = match (at, oldest) {
            (None, _) => true,
            (Some(at), Some(oldest)) => oldest <= at,
            (Some(_), None) => false,
        };
        match error.failure {
            Failure::TokenNotFound if history_is_there => Self::UpstreamRefused {
                refusal: error.refusal(),
                time: at,
            },
            Failure::HistoryLost | Failure::TokenNotFound => {
                Self::TokenExpired { time: at, oldest }
            }
            Failure::Refused => Self::UpstreamRefused {
                refusal: error.refusal(),
                time: at,
            },
            Failure::ShardRemoved => Self::ShardRemoved { time: at },
            Failure::NotACollection => not_a_collection(Some(scope)),
            Failure::InvalidName => invalid_name(Some(scope)),
            _ => Self::from(error),
        }
    }
}

impl Error {
    /// Names the regular expressions of the request that MongoDB may have refused. Without any, MongoDB has
    /// refused one of the policy's.
    #[must_use]
    pub fn with_patterns(self, patterns: &[String]) -> Self {
        match self {
            Self::PatternRefused { .. } if patterns.is_empty() => Self::UpstreamRefused {
                refusal: None,
                time: None,
            },
            Self::PatternRefused { .. } => Self::PatternRefused {
                fields: patterns.to_vec(),
            },
            other => other,
        }
    }
}

fn not_a_collection(scope: Option<&Scope>) -> Error {
    let name = collection_of(scope).map_or("names".to_owned(), |name| format!("{name:?} is"));
    Error::InvalidRequest(vec![FieldViolation {
        field: "collections".to_owned(),
        description: format!(
            "{name} a view or a time-series collection, which has no change stream; name another collection"
        ),
    }])
}

fn invalid_name(scope: Option<&Scope>) -> Error {
    let (field, name) = match collection_of(scope) {
        Some(name) => ("collections", format!("{name:?} is")),
        None => ("database", "is".to_owned()),
    };
    Error::InvalidRequest(vec![FieldViolation {
        field: field.to_owned(),
        description: format!(
            "{name} a name that MongoDB has no change stream for; name a database and collections of your own"
        ),
    }])
}

fn collection_of(scope: Option<&Scope>) -> Option<&str> {
    match scope? {
        Scope::Collection { collection, .. } => Some(collection),
        _ => None,
    }
}

/// Returns what a deployment without change streams lacks, as the type and the description of a violated
/// precondition.
pub(super) fn requirement(refusal: Option<&Refusal>) -> (&'static str, String) {
    match refusal {
        Some(refusal) if refusal.code != 40573 => (
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
pub(super) fn remedy(refusal: &Refusal) -> &'static str {
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

/// Adds what MongoDB refused with to the facts for programs.
pub(super) fn put_refusal(facts: &mut HashMap<String, String>, refusal: Option<&Refusal>) {
    let Some(refusal) = refusal else { return };
    facts.insert("mongodb_code".to_owned(), refusal.code.to_string());
    if !refusal.name.is_empty() {
        facts.insert("mongodb_code_name".to_owned(), refusal.name.clone());
    }
    if let Some(about) = refusal.about {
        facts.insert("mongodb_about".to_owned(), about.to_owned());
    }
}

/// Adds a time to the facts for programs.
pub(super) fn put_time(facts: &mut HashMap<String, String>, key: &str, time: Option<ClusterTime>) {
    if let Some(time) = time {
        facts.insert(key.to_owned(), time.to_string());
    }
}
