//! The errors that MongoDB's failures become.

use super::{Error, undeliverable::UndeliverableEvent};
use crate::{
    model::{FieldViolation, Scope},
    source::{ClusterTime, Failure, SourceError},
};

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
            Failure::PipelineChangedToken => Self::PipelineChangedToken,
            Failure::StagesRefused => Self::StagesRefused(error.refusal()),
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
