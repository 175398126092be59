//! Every way in which a call can fail, and what the client is told: one table, in one place.

mod messages;

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    plan::{FieldViolation, Operation, RequestError, Scope},
    source::{ClusterTime, Failure, SourceError},
};

use messages::{join_violations, resume_from, token_expired, undeliverable_event};

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "weir";

/// When to try again after something that passes by itself.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// How much later at most, each at a moment of its own, where many are sent away at once.
const RETRY_JITTER: Duration = Duration::from_secs(4);
/// When to try again after a limit was met.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// The most of a status's words that goes out, in bytes. Together with what follows, and with what
/// encoding adds, it stays below the 8 KiB of trailers that every client takes.
const MAX_MESSAGE_BYTES: usize = 700;
/// The most of one text among the details, in bytes.
const MAX_DETAIL_BYTES: usize = 600;
/// The most of all bad fields together, in bytes; further ones are left out.
const MAX_VIOLATION_BYTES: usize = 3_000;

/// Why a call ended, other than by success or by the client's own doing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Fields of the request can't be used.
    #[error("{}", join_violations(.0))]
    InvalidRequest(Vec<FieldViolation>),
    /// The request holds a field that this version does not know.
    #[error(
        "field {number} of {message} is not known to this version of the server, which does not pass over it: leave it out, or use a later version"
    )]
    UnknownField {
        /// The path of the message that holds it; `WatchRequest` for that itself.
        message: String,
        /// The field's number.
        number: u32,
    },
    /// The call is of a method, or in an encoding, that this version does not know.
    #[error("{0}")]
    Unimplemented(String),
    /// The request did not come in time.
    #[error(
        "the request did not come within {}: a call sends its message, and ends its half, at once",
        humantime::format_duration(*.0)
    )]
    RequestTimeout(Duration),
    /// The whole deployment may not be watched.
    #[error(
        "watching the whole deployment is not allowed on this server: name a database, or have the operator start it with --allow-deployment-watch"
    )]
    DeploymentNotAllowed,
    /// The resume token can't be read.
    #[error("resume_token {0}")]
    TokenMalformed(String),
    /// The resume token is of another place, or for another view.
    #[error("resume_token is of {belongs_to}")]
    TokenMismatch {
        /// What it is of.
        belongs_to: &'static str,
        /// The time of its place, where a watch may start at that in its stead.
        time: Option<ClusterTime>,
    },
    /// The place asked for, or reached, is no longer in the oplog.
    #[error("{}", token_expired(*asked, *oldest))]
    TokenExpired {
        /// The time of the place.
        asked: Option<ClusterTime>,
        /// The oldest time that can be resumed from, where MongoDB tells.
        oldest: Option<ClusterTime>,
    },
    /// The watched collection or database is gone.
    #[error("{scope} is gone{}", cause.map(|it| format!(" ({})", it.name())).unwrap_or_default())]
    Invalidated {
        /// What it happened to.
        scope: Scope,
        /// What did it, where MongoDB told.
        cause: Option<Operation>,
    },
    /// MongoDB does not answer.
    #[error("MongoDB does not answer: try again, from the last token")]
    UpstreamUnavailable,
    /// The deployment has no change streams.
    #[error(
        "MongoDB has no change streams here: it must run as a replica set or a sharded cluster"
    )]
    ChangeStreamsUnsupported,
    /// Weir's own MongoDB user lacks a right.
    #[error(
        "Weir's own MongoDB user may not do this: the operator must grant it find and changeStream on the watched namespace"
    )]
    UpstreamAccessDenied,
    /// A required image is not there.
    #[error("a required pre- or post-image is not there{}", undeliverable_event(.0))]
    ImageUnavailable(UndeliverableEvent),
    /// An event does not fit the client's limit, and the client wants the watch to end then.
    #[error("an event of {event_bytes} bytes does not fit max_message_bytes, {limit}")]
    EventTooLarge {
        /// The size of the encoded event.
        event_bytes: u64,
        /// The limit in force.
        limit: u32,
    },
    /// An event is larger than MongoDB can send.
    #[error("an event is larger than MongoDB can send{}", undeliverable_event(.0))]
    UpstreamEventTooLarge(UndeliverableEvent),
    /// A limit of the server was met.
    #[error("the server's limit of {max} {limit} is reached")]
    LimitExceeded {
        /// What is limited: "watches", "feeds", "calls", "checks" or "KiB of patterns".
        limit: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// A limit of one principal, or a rate, was met.
    #[error("{owner} is limited to {allowed}: try again in {}", humantime::format_duration(*retry))]
    Quota {
        /// Whose limit it is: "this principal" or "the server".
        owner: &'static str,
        /// What is limited, as `weir_limit_rejections_total` names it.
        limit: &'static str,
        /// How much there may be, in words.
        allowed: String,
        /// When to try again.
        retry: Duration,
    },
    /// The caller does not show who it is.
    #[error("{0}")]
    CredentialsMissing(&'static str),
    /// What the caller shows is not worth anything here. Says no more than that: who tries is not helped.
    #[error("the credentials are not valid here: {0}")]
    CredentialsInvalid(&'static str),
    /// What the caller showed is no longer worth anything.
    #[error(
        "the credentials have expired or were withdrawn: call again with new ones, from the last token"
    )]
    CredentialsExpired,
    /// What the caller shows can't be judged, as the keys for that could not be fetched.
    #[error("the credentials can't be checked for now: try again")]
    KeysUnavailable,
    /// The caller may not do this. Nothing about the namespace is told, not even whether it is there.
    #[error("not allowed for this principal: {0}")]
    AccessDenied(String),
    /// The caller may see something else of the namespace than when the watch began.
    #[error("what this principal may see has changed: go on from {}", resume_from(*after))]
    AccessChanged {
        /// Where the last token is no longer for this principal: the time of its place, to start at in its
        /// stead.
        after: Option<ClusterTime>,
    },
    /// The watch has become as old as the server lets it.
    #[error("the watch has reached its maximum age: go on from the last token, perhaps elsewhere")]
    MaxAge,
    /// The server is shutting down.
    #[error("the server is shutting down: go on from the last token elsewhere")]
    Draining,
    /// The deadline that the client set has passed.
    #[error("the call's deadline has passed: go on from the last token")]
    DeadlineExceeded,
    /// Something that should not happen did. The log has the details under the watch's id.
    #[error("an internal error ended the watch; the server's log says more under its id")]
    Internal,
}

/// What is known of an event that MongoDB can't send.
#[derive(Debug, Clone, Default)]
pub struct UndeliverableEvent {
    /// The time of the last place before it.
    pub after: Option<ClusterTime>,
    /// Its own time.
    pub time: Option<ClusterTime>,
    /// The token of the place right after it, for the same request.
    pub next_token: Option<Bytes>,
}

/// Whose doing a failure is, which decides how loudly it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The client can mend it.
    Client,
    /// It passes by itself.
    Transient,
    /// The operator can mend it.
    Operator,
    /// It is a defect.
    Bug,
}

impl Error {
    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidRequest(_) | Self::TokenMalformed(_) | Self::TokenMismatch { .. } => {
                Code::InvalidArgument
            }
            Self::UnknownField { .. } | Self::Unimplemented(_) => Code::Unimplemented,
            Self::CredentialsMissing(_)
            | Self::CredentialsInvalid(_)
            | Self::CredentialsExpired => Code::Unauthenticated,
            Self::DeploymentNotAllowed | Self::AccessDenied(_) => Code::PermissionDenied,
            Self::TokenExpired { .. } => Code::OutOfRange,
            Self::Invalidated { .. } => Code::Aborted,
            Self::UpstreamUnavailable
            | Self::KeysUnavailable
            | Self::AccessChanged { .. }
            | Self::MaxAge
            | Self::Draining => Code::Unavailable,
            Self::ChangeStreamsUnsupported
            | Self::UpstreamAccessDenied
            | Self::ImageUnavailable(_)
            | Self::EventTooLarge { .. }
            | Self::UpstreamEventTooLarge(_) => Code::FailedPrecondition,
            Self::LimitExceeded { .. } | Self::Quota { .. } => Code::ResourceExhausted,
            Self::DeadlineExceeded | Self::RequestTimeout(_) => Code::DeadlineExceeded,
            Self::Internal => Code::Internal,
        }
    }

    /// The stable reason that a program can read, from `ErrorInfo`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "INVALID_REQUEST",
            Self::UnknownField { .. } | Self::Unimplemented(_) => "NOT_IMPLEMENTED",
            Self::RequestTimeout(_) => "REQUEST_TIMEOUT",
            Self::DeploymentNotAllowed => "NAMESPACE_ACCESS_DENIED",
            Self::TokenMalformed(_) => "RESUME_TOKEN_MALFORMED",
            Self::TokenMismatch { .. } => "RESUME_TOKEN_MISMATCH",
            Self::TokenExpired { .. } => "RESUME_TOKEN_EXPIRED",
            Self::Invalidated { .. } => "WATCH_INVALIDATED",
            Self::UpstreamUnavailable => "UPSTREAM_UNAVAILABLE",
            Self::ChangeStreamsUnsupported => "CHANGE_STREAMS_UNSUPPORTED",
            Self::UpstreamAccessDenied => "UPSTREAM_ACCESS_DENIED",
            Self::ImageUnavailable(_) => "IMAGE_UNAVAILABLE",
            Self::EventTooLarge { .. } => "EVENT_TOO_LARGE",
            Self::UpstreamEventTooLarge(_) => "UPSTREAM_EVENT_TOO_LARGE",
            Self::LimitExceeded { .. } | Self::Quota { .. } => "WATCH_LIMIT_EXCEEDED",
            Self::CredentialsMissing(_) => "CREDENTIALS_MISSING",
            Self::CredentialsInvalid(_) => "CREDENTIALS_INVALID",
            Self::CredentialsExpired => "CREDENTIALS_EXPIRED",
            Self::KeysUnavailable => "CREDENTIALS_UNCHECKED",
            Self::AccessDenied(_) => "NAMESPACE_ACCESS_DENIED",
            Self::AccessChanged { .. } => "ACCESS_CHANGED",
            Self::MaxAge => "WATCH_MAX_AGE",
            Self::Draining => "SERVER_DRAINING",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal => "INTERNAL",
        }
    }

    /// Whose doing it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::InvalidRequest(_)
            | Self::UnknownField { .. }
            | Self::Unimplemented(_)
            | Self::RequestTimeout(_)
            | Self::DeploymentNotAllowed
            | Self::TokenMalformed(_)
            | Self::TokenMismatch { .. }
            | Self::TokenExpired { .. }
            | Self::Invalidated { .. }
            | Self::ImageUnavailable(_)
            | Self::EventTooLarge { .. }
            | Self::CredentialsMissing(_)
            | Self::CredentialsInvalid(_)
            | Self::CredentialsExpired
            | Self::AccessDenied(_)
            | Self::DeadlineExceeded => Class::Client,
            Self::UpstreamUnavailable
            | Self::KeysUnavailable
            | Self::LimitExceeded { .. }
            | Self::Quota { .. }
            | Self::AccessChanged { .. }
            | Self::MaxAge
            | Self::Draining => Class::Transient,
            Self::ChangeStreamsUnsupported
            | Self::UpstreamAccessDenied
            | Self::UpstreamEventTooLarge(_) => Class::Operator,
            Self::Internal => Class::Bug,
        }
    }

    /// What goes out: code, words, and details that a program can read. `watch_id` names the watch
    /// in the log.
    #[must_use]
    pub fn into_status(self, watch_id: &str) -> Status {
        let mut details = ErrorDetails::new();
        let mut facts: HashMap<String, String> = HashMap::new();
        match &self {
            Self::InvalidRequest(violations) => {
                let mut bytes = 0;
                for violation in violations {
                    let field = truncate(&violation.field, MAX_DETAIL_BYTES);
                    let description = truncate(&violation.description, MAX_DETAIL_BYTES);
                    bytes += field.len() + description.len();
                    if bytes > MAX_VIOLATION_BYTES {
                        break;
                    }
                    details.add_bad_request_violation(field, description);
                }
            }
            Self::TokenMalformed(_) => {
                details.add_bad_request_violation("resume_token", self.to_string());
            }
            Self::TokenMismatch { time, .. } => {
                details.add_bad_request_violation("resume_token", self.to_string());
                put_time(&mut facts, "token_time", *time);
            }
            Self::UnknownField { message, number } => {
                facts.insert("field".to_owned(), number.to_string());
                facts.insert("message".to_owned(), message.clone());
            }
            Self::TokenExpired { asked, oldest } => {
                put_time(&mut facts, "token_time", *asked);
                put_time(&mut facts, "oldest_time", *oldest);
            }
            Self::Invalidated { scope, cause } => {
                let cause = cause.map_or("unknown", Operation::name);
                facts.insert("cause".to_owned(), cause.to_owned());
                facts.insert(
                    "namespace".to_owned(),
                    truncate(&scope.to_string(), MAX_DETAIL_BYTES),
                );
            }
            Self::UpstreamUnavailable | Self::KeysUnavailable => {
                details.set_retry_info(Some(RETRY_SOON));
            }
            Self::AccessChanged { .. } | Self::MaxAge | Self::Draining => {
                if let Self::AccessChanged { after } = &self {
                    put_time(&mut facts, "after_time", *after);
                }
                details.set_retry_info(Some(RETRY_SOON + RETRY_JITTER.mul_f64(fastrand::f64())));
            }
            Self::ChangeStreamsUnsupported => {
                details.add_precondition_failure_violation(
                    "TOPOLOGY",
                    "mongodb",
                    "a replica set or a sharded cluster is needed",
                );
            }
            Self::ImageUnavailable(event) | Self::UpstreamEventTooLarge(event) => {
                put_time(&mut facts, "after_time", event.after);
                put_time(&mut facts, "event_time", event.time);
                if let Some(token) = &event.next_token {
                    facts.insert("next_token".to_owned(), STANDARD.encode(token));
                }
            }
            Self::EventTooLarge { event_bytes, limit } => {
                facts.insert("event_bytes".to_owned(), event_bytes.to_string());
                facts.insert("max_message_bytes".to_owned(), limit.to_string());
            }
            Self::LimitExceeded { limit, max } => {
                details.add_quota_failure_violation(*limit, format!("at most {max} at once"));
                details.set_retry_info(Some(RETRY_LATER));
            }
            Self::Quota {
                owner,
                limit,
                allowed,
                retry,
            } => {
                let words = format!("{owner}: {allowed}");
                details.add_quota_failure_violation(*limit, words);
                details.set_retry_info(Some(*retry));
            }
            Self::Internal => {
                facts.insert("watch_id".to_owned(), watch_id.to_owned());
            }
            Self::DeploymentNotAllowed
            | Self::CredentialsMissing(_)
            | Self::CredentialsInvalid(_)
            | Self::CredentialsExpired
            | Self::AccessDenied(_)
            | Self::UpstreamAccessDenied
            | Self::DeadlineExceeded
            | Self::RequestTimeout(_)
            | Self::Unimplemented(_) => {}
        }
        details.set_error_info(self.reason(), DOMAIN, facts);
        let message = truncate(&self.to_string(), MAX_MESSAGE_BYTES);
        Status::with_error_details(self.code(), message, details)
    }
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Invalid(violations) => Self::InvalidRequest(violations),
            RequestError::DeploymentNotAllowed => Self::DeploymentNotAllowed,
        }
    }
}

/// What a source's failure means to a client when nothing is left to try.
impl From<&SourceError> for Error {
    fn from(error: &SourceError) -> Self {
        match error.failure {
            Failure::Transient => Self::UpstreamUnavailable,
            Failure::HistoryLost | Failure::TokenNotFound => Self::TokenExpired {
                asked: None,
                oldest: None,
            },
            Failure::TokenInvalid => {
                Self::TokenMalformed("holds a token that MongoDB can't read".to_owned())
            }
            Failure::ImageMissing => Self::ImageUnavailable(UndeliverableEvent::default()),
            Failure::EventTooLarge => Self::UpstreamEventTooLarge(UndeliverableEvent::default()),
            Failure::Unsupported => Self::ChangeStreamsUnsupported,
            Failure::AccessDenied | Failure::LoginFailed => Self::UpstreamAccessDenied,
            Failure::NotACollection => Self::InvalidRequest(vec![FieldViolation {
                field: "collections".to_owned(),
                description: "holds a view or a time-series collection, which has no change stream"
                    .to_owned(),
            }]),
            Failure::Unexpected => Self::Internal,
        }
    }
}

/// A gRPC code's name, as the specification spells it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn put_time(facts: &mut HashMap<String, String>, key: &str, time: Option<ClusterTime>) {
    if let Some(time) = time {
        facts.insert(key.to_owned(), time.to_string());
    }
}

/// A text of at most this many bytes.
pub(crate) fn truncate(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    format!("{}...", &text[..text.floor_char_boundary(max - 3)])
}
