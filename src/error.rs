//! Every error that a call can end with, and the gRPC status that the client receives for it.

mod code_name;
mod messages;
mod upstream;

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    model::{FieldViolation, MAX_VIOLATIONS, Operation, RequestError, Scope},
    source::{ClusterTime, Refusal},
};

pub use code_name::code_name;
use messages::{
    join_violations, limit_reached, no_change_streams, resume_from, token_expired,
    token_replacement, undeliverable_event, words,
};
pub use upstream::UndeliverableEvent;
use upstream::{put_refusal, put_time};

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "weir";

/// The retry delay after a transient error.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// The maximum random addition to it, where many watches end at once.
const RETRY_JITTER: Duration = Duration::from_secs(4);
/// The retry delay after a limit was reached.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// The longest message of a status, in bytes. With the limits below and the overhead of encoding, a status
/// stays under the 8 KiB of trailers that every client accepts.
const MAX_MESSAGE_BYTES: usize = 700;
/// The longest text in the details, in bytes.
const MAX_DETAIL_BYTES: usize = 600;
/// The maximum number of bytes of all field violations together; further ones are left out.
const MAX_VIOLATION_BYTES: usize = 3_000;

/// The reason for which a call ended, unless it succeeded or the client cancelled it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Fields of the request are invalid.
    #[error("{}", join_violations(.0))]
    InvalidRequest(Vec<FieldViolation>),
    /// The request has a field that this version does not know.
    #[error(
        "field {number} of {message} is not known to this version of the server: leave it out, or use a later version"
    )]
    UnknownField {
        /// The path of the message that has the field; `WatchRequest` for the request itself.
        message: String,
        /// The field's number.
        number: u32,
    },
    /// This version does not know the method or the encoding of the call.
    #[error("{0}")]
    Unimplemented(String),
    /// The health of a service was asked for that this server does not have.
    #[error(
        "this server has no service {0:?}: ask for weir.v1.WatchService, or for the empty name of the whole server"
    )]
    ServiceUnknown(String),
    /// The request did not arrive in time.
    #[error(
        "the request did not arrive within {}: send the message and half-close the call at once",
        humantime::format_duration(*.0)
    )]
    RequestTimeout(Duration),
    /// Watching the whole deployment is not allowed.
    #[error(
        "this server does not allow watching the whole deployment: set database, or ask the operator to set --allow-deployment-watch"
    )]
    DeploymentNotAllowed,
    /// The resume token can't be read.
    #[error("resume_token {0}")]
    TokenMalformed(String),
    /// The resume token belongs to another deployment, scope or view.
    #[error("resume_token belongs to {belongs_to}: {}", token_replacement(*time))]
    TokenMismatch {
        /// The owner of the token, in words.
        belongs_to: &'static str,
        /// The time of its position, if the watch may start there instead.
        time: Option<ClusterTime>,
    },
    /// The requested or reached position is no longer in the oplog.
    #[error("{}", token_expired(*time, *oldest))]
    TokenExpired {
        /// The time of the position.
        time: Option<ClusterTime>,
        /// The oldest time that can be resumed from, if known.
        oldest: Option<ClusterTime>,
    },
    /// The watched collection or database no longer exists.
    #[error(
        "{scope} no longer exists{}: resume from the last token to watch its successor, or use INVALIDATE_POLICY_CONTINUE",
        cause.map(|it| format!(" ({})", it.name())).unwrap_or_default()
    )]
    Invalidated {
        /// The watched scope.
        scope: Scope,
        /// The operation that removed it, if known.
        cause: Option<Operation>,
    },
    /// MongoDB does not answer.
    #[error("MongoDB does not answer: try again from the last token")]
    UpstreamUnavailable,
    /// MongoDB answers, but no server matches the read preference of `--mongodb-uri`.
    #[error("no server matches the readPreference of --mongodb-uri: the operator must change it")]
    ReadPreferenceUnmet,
    /// MongoDB lacks memory, or limits the rate.
    #[error("MongoDB is overloaded, {}: try again later, from the last token", words(.refusal.as_ref()))]
    UpstreamOverloaded {
        /// MongoDB's error.
        refusal: Option<Refusal>,
        /// The delay before a retry that MongoDB asks for.
        retry: Option<Duration>,
    },
    /// The deployment has no change streams, or does not know something that Weir asks for.
    #[error("{}", no_change_streams(.0.as_ref()))]
    ChangeStreamsUnsupported(Option<Refusal>),
    /// MongoDB refuses to open the stream or to go on with it, and no retry is known to help.
    #[error(
        "MongoDB refuses with {}, for which no retry is known to help: the server's log has its message",
        words(.refusal.as_ref())
    )]
    UpstreamRefused {
        /// MongoDB's error.
        refusal: Option<Refusal>,
        /// The time of the position, if there is one.
        time: Option<ClusterTime>,
    },
    /// A shard that has events after the position was removed from the cluster.
    #[error(
        "a shard that the position needs was removed from the cluster: read the data again and watch from now, or ask the operator to set --ignore-removed-shards (MongoDB 9.0)"
    )]
    ShardRemoved {
        /// The time of the position, if there is one.
        time: Option<ClusterTime>,
    },
    /// MongoDB does not compile a regular expression of the filter.
    #[error("MongoDB refuses a regular expression of the filter: use a simpler one")]
    PatternRefused {
        /// The paths of the regular expressions in the request, as far as they are known.
        fields: Vec<String>,
    },
    /// Weir's MongoDB user lacks a right.
    #[error(
        "Weir's MongoDB user lacks a right: the operator must grant it find and changeStream on the watched namespace"
    )]
    UpstreamAccessDenied,
    /// A required pre- or post-image does not exist.
    #[error("a required pre- or post-image does not exist{}: enable changeStreamPreAndPostImages, or use WHEN_AVAILABLE", undeliverable_event(.0))]
    ImageUnavailable(UndeliverableEvent),
    /// An event is larger than the client's limit, and the client chose to end the watch then.
    #[error(
        "an event of {event_bytes} bytes is larger than max_message_bytes, {limit}: raise it, or choose another oversize_policy"
    )]
    EventTooLarge {
        /// The size of the encoded event.
        event_bytes: u64,
        /// The limit in force.
        limit: u32,
    },
    /// An event is larger than MongoDB can send.
    #[error("an event is larger than MongoDB can send{}: request fewer pre- and post-images", undeliverable_event(.0))]
    UpstreamEventTooLarge(UndeliverableEvent),
    /// A look-up found several documents with the key of an event.
    #[error("several shards have a document with the key of an event{}, so that MongoDB can't look it up: request no look-up, or delete all but one", undeliverable_event(.0))]
    LookupAmbiguous(UndeliverableEvent),
    /// A limit of the server is reached.
    #[error("{}", limit_reached(limit, *max))]
    LimitExceeded {
        /// The limit: "watches", "feeds", "calls", "checks" or "KiB of patterns".
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// A limit of one principal, or a rate, is reached.
    #[error("{owner} is limited to {allowed}: try again in {}", humantime::format_duration(*retry))]
    Quota {
        /// The owner of the limit: "this principal" or "the server".
        owner: &'static str,
        /// The limit, as the label of `weir_limit_rejections_total`.
        limit: &'static str,
        /// The allowed amount, in words.
        allowed: String,
        /// The delay before a retry.
        retry: Duration,
    },
    /// The call has no credentials.
    #[error("{0}")]
    CredentialsMissing(&'static str),
    /// The credentials are invalid. The message gives no detail that would help an attacker.
    #[error("the credentials are not valid: {0}")]
    CredentialsInvalid(&'static str),
    /// The credentials are no longer valid.
    #[error(
        "the credentials have expired or were revoked: call again with new ones, from the last token"
    )]
    CredentialsExpired,
    /// The credentials can't be checked, as the keys could not be fetched.
    #[error("the credentials can't be checked now: try again later")]
    KeysUnavailable,
    /// The caller may not do this. The message does not reveal whether the namespace exists.
    #[error("not allowed for this principal: {0}")]
    AccessDenied(String),
    /// The caller's view of the namespace has changed since the watch began.
    #[error("the access of this principal has changed: resume from {}", resume_from(*after))]
    AccessChanged {
        /// The time to start at, if the principal can no longer use its last token.
        after: Option<ClusterTime>,
    },
    /// The watch has reached `--watch-max-age`.
    #[error("the watch has reached its maximum age: resume from the last token")]
    MaxAge,
    /// The server is shutting down.
    #[error("the server is shutting down: resume from the last token, on another replica")]
    Draining,
    /// The client's deadline has passed.
    #[error("the call's deadline has passed: resume from the last token")]
    DeadlineExceeded,
    /// A defect. The log has the details, with the watch's id.
    #[error(
        "an internal error ended the watch: report it with the server's log lines of the watch_id in the details"
    )]
    Internal,
}

/// The party that can fix an error. It decides the log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The client.
    Client,
    /// Nobody: it is transient.
    Transient,
    /// The operator.
    Operator,
    /// A developer: it is a defect.
    Bug,
}

impl Error {
    /// Returns the gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidRequest(_)
            | Self::PatternRefused { .. }
            | Self::TokenMalformed(_)
            | Self::TokenMismatch { .. } => Code::InvalidArgument,
            Self::UnknownField { .. } | Self::Unimplemented(_) => Code::Unimplemented,
            Self::ServiceUnknown(_) => Code::NotFound,
            Self::CredentialsMissing(_)
            | Self::CredentialsInvalid(_)
            | Self::CredentialsExpired => Code::Unauthenticated,
            Self::DeploymentNotAllowed | Self::AccessDenied(_) => Code::PermissionDenied,
            Self::TokenExpired { .. } => Code::OutOfRange,
            Self::Invalidated { .. } => Code::Aborted,
            Self::UpstreamUnavailable
            | Self::ReadPreferenceUnmet
            | Self::UpstreamOverloaded { .. }
            | Self::KeysUnavailable
            | Self::AccessChanged { .. }
            | Self::MaxAge
            | Self::Draining => Code::Unavailable,
            Self::ChangeStreamsUnsupported(_)
            | Self::UpstreamRefused { .. }
            | Self::ShardRemoved { .. }
            | Self::LookupAmbiguous(_)
            | Self::UpstreamAccessDenied
            | Self::ImageUnavailable(_)
            | Self::EventTooLarge { .. }
            | Self::UpstreamEventTooLarge(_) => Code::FailedPrecondition,
            Self::LimitExceeded { .. } | Self::Quota { .. } => Code::ResourceExhausted,
            Self::DeadlineExceeded | Self::RequestTimeout(_) => Code::DeadlineExceeded,
            Self::Internal => Code::Internal,
        }
    }

    /// Returns the stable reason for programs, which `ErrorInfo` carries.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) | Self::PatternRefused { .. } => "INVALID_REQUEST",
            Self::UnknownField { .. } | Self::Unimplemented(_) => "NOT_IMPLEMENTED",
            Self::ServiceUnknown(_) => "SERVICE_UNKNOWN",
            Self::RequestTimeout(_) => "REQUEST_TIMEOUT",
            Self::DeploymentNotAllowed => "NAMESPACE_ACCESS_DENIED",
            Self::TokenMalformed(_) => "RESUME_TOKEN_MALFORMED",
            Self::TokenMismatch { .. } => "RESUME_TOKEN_MISMATCH",
            Self::TokenExpired { .. } => "RESUME_TOKEN_EXPIRED",
            Self::Invalidated { .. } => "WATCH_INVALIDATED",
            Self::UpstreamUnavailable | Self::ReadPreferenceUnmet => "UPSTREAM_UNAVAILABLE",
            Self::UpstreamOverloaded { .. } => "UPSTREAM_OVERLOADED",
            Self::ChangeStreamsUnsupported(_) => "CHANGE_STREAMS_UNSUPPORTED",
            Self::UpstreamRefused { .. } => "UPSTREAM_REFUSED",
            Self::ShardRemoved { .. } => "SHARD_REMOVED",
            Self::UpstreamAccessDenied => "UPSTREAM_ACCESS_DENIED",
            Self::ImageUnavailable(_) => "IMAGE_UNAVAILABLE",
            Self::EventTooLarge { .. } => "EVENT_TOO_LARGE",
            Self::UpstreamEventTooLarge(_) => "UPSTREAM_EVENT_TOO_LARGE",
            Self::LookupAmbiguous(_) => "LOOKUP_AMBIGUOUS",
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

    /// Returns the party that can fix it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::InvalidRequest(_)
            | Self::PatternRefused { .. }
            | Self::UnknownField { .. }
            | Self::Unimplemented(_)
            | Self::ServiceUnknown(_)
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
            | Self::UpstreamOverloaded { .. }
            | Self::KeysUnavailable
            | Self::LimitExceeded { .. }
            | Self::Quota { .. }
            | Self::AccessChanged { .. }
            | Self::MaxAge
            | Self::Draining => Class::Transient,
            Self::ChangeStreamsUnsupported(_)
            | Self::ReadPreferenceUnmet
            | Self::UpstreamRefused { .. }
            | Self::ShardRemoved { .. }
            | Self::UpstreamAccessDenied
            | Self::LookupAmbiguous(_)
            | Self::UpstreamEventTooLarge(_) => Class::Operator,
            Self::Internal => Class::Bug,
        }
    }

    /// Returns the status for the client: code, message and details for programs. `watch_id` is the id of
    /// the watch in the log.
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
            Self::PatternRefused { fields } => {
                let description = "MongoDB refuses this regular expression; use a simpler one";
                for field in fields.iter().take(MAX_VIOLATIONS) {
                    details.add_bad_request_violation(field, description);
                }
                if fields.is_empty() {
                    details.add_bad_request_violation("filters", self.to_string());
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
            Self::TokenExpired { time, oldest } => {
                put_time(&mut facts, "token_time", *time);
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
            Self::UpstreamUnavailable | Self::ReadPreferenceUnmet | Self::KeysUnavailable => {
                details.set_retry_info(Some(RETRY_SOON));
            }
            Self::UpstreamOverloaded { refusal, retry } => {
                put_refusal(&mut facts, refusal.as_ref());
                details.set_retry_info(Some(retry.unwrap_or(RETRY_LATER).max(RETRY_SOON)));
            }
            Self::UpstreamRefused { refusal, time } => {
                put_refusal(&mut facts, refusal.as_ref());
                put_time(&mut facts, "token_time", *time);
            }
            Self::ShardRemoved { time } => put_time(&mut facts, "token_time", *time),
            Self::AccessChanged { .. } | Self::MaxAge | Self::Draining => {
                if let Self::AccessChanged { after } = &self {
                    put_time(&mut facts, "after_time", *after);
                }
                details.set_retry_info(Some(RETRY_SOON + RETRY_JITTER.mul_f64(fastrand::f64())));
            }
            Self::ChangeStreamsUnsupported(refusal) => {
                put_refusal(&mut facts, refusal.as_ref());
                let (kind, description) = upstream::requirement(refusal.as_ref());
                details.add_precondition_failure_violation(kind, "mongodb", description);
            }
            Self::ImageUnavailable(event)
            | Self::UpstreamEventTooLarge(event)
            | Self::LookupAmbiguous(event) => {
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
                let description = format!("{owner}: {allowed}");
                details.add_quota_failure_violation(*limit, description);
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
            | Self::ServiceUnknown(_)
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

/// Returns `text` cut to at most `max` bytes, with "..." at the end if it was cut.
pub(crate) fn truncate(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    format!("{}...", &text[..text.floor_char_boundary(max - 3)])
}
