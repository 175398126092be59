//! Every error that a call can end with, and the gRPC status that the client receives for it.
//!
//! [`Error`] has the variants with their messages. The table below it has all that follows from a variant, with
//! one row for each: without its row, a new variant does not compile.

mod code_name;
mod details;
mod messages;
mod undeliverable;
mod upstream;

use std::time::Duration;

use tonic::{Code, Status};

use crate::{
    limit::Exceeded,
    model::{FieldViolation, Operation, RequestError, Scope},
    source::{ClusterTime, Refusal},
};

pub use code_name::code_name;
pub use details::DOMAIN;
use details::Details;
pub(crate) use details::truncate;
use messages::{
    join_violations, limit_reached, no_change_streams, pipeline_not_allowed, resume_from,
    token_expired, token_replacement, undeliverable_event, words,
};
pub use undeliverable::UndeliverableEvent;

/// The retry delay after a transient error.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// The maximum random addition to it, where many watches end at once.
const RETRY_JITTER: Duration = Duration::from_secs(4);
/// The retry delay after a limit was reached.
const RETRY_LATER: Duration = Duration::from_secs(5);

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
    /// A watch with stages of its own is not allowed.
    #[error("{}", pipeline_not_allowed(*by_policy))]
    PipelineNotAllowed {
        /// `true` if the policy is the reason, `false` if it is the server's setting.
        by_policy: bool,
    },
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
    /// The stages of the client's pipeline have changed an event's `_id`.
    #[error(
        "a stage of pipeline has removed or changed the _id of an event, which is its resume token: keep _id as it is, and call again with the corrected stages from the last token"
    )]
    PipelineChangedToken,
    /// MongoDB refuses the stages of the client's pipeline, or they fail on an event.
    #[error("MongoDB refuses the stages of pipeline with {}: correct them; try them in mongosh, whose message says more", words(.0.as_ref()))]
    StagesRefused(Option<Refusal>),
    /// A limit of the server is reached.
    #[error("{}", limit_reached(.0))]
    LimitExceeded(#[from] Exceeded),
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

/// The party that can fix an error. It decides the level at which the end of a watch is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The client: info.
    Client,
    /// Nobody, as it is transient: info.
    Transient,
    /// The operator: warn.
    Operator,
    /// A developer, as it is a defect: error.
    Bug,
}

/// What every error of one variant has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The gRPC code.
    pub code: Code,
    /// The stable reason for programs, which `ErrorInfo` carries. Several kinds may share one.
    pub reason: &'static str,
    /// The party that can fix it.
    pub class: Class,
}

macro_rules! table {
    ($($error:pat => $code:ident, $reason:literal, $class:ident, [$($details:tt)*];)*) => {
        /// The kinds of all variants of [`Error`].
        pub const KINDS: &[Kind] = &[
            $(Kind { code: Code::$code, reason: $reason, class: Class::$class },)*
        ];

        impl Error {
            /// Returns what the error has in common with all of its variant.
            #[must_use]
            #[allow(unused_variables, reason = "the values of a variant are for its details")]
            pub fn kind(&self) -> Kind {
                match self {
                    $($error => Kind { code: Code::$code, reason: $reason, class: Class::$class },)*
                }
            }

            /// Returns the details of the status, besides the reason. `watch_id` is the id of the watch in the log.
            fn details<'w>(&self, watch_id: &'w str) -> Details<'w> {
                let details = Details::new(self.to_string(), watch_id);
                match self {
                    $($error => details $($details)*,)*
                }
            }
        }
    };
}

// Each variant with its code, its reason, the party that can fix it, and its details, which are calls of `Details`.
table! {
    Self::InvalidRequest(violations) => InvalidArgument, "INVALID_REQUEST", Client,
        [.violations(violations)];
    Self::UnknownField { message, number } => Unimplemented, "NOT_IMPLEMENTED", Client,
        [.fact("field", number).fact("message", message)];
    Self::Unimplemented(_) => Unimplemented, "NOT_IMPLEMENTED", Client, [];
    Self::ServiceUnknown(_) => NotFound, "SERVICE_UNKNOWN", Client, [];
    Self::RequestTimeout(_) => DeadlineExceeded, "REQUEST_TIMEOUT", Client, [];
    Self::DeploymentNotAllowed => PermissionDenied, "NAMESPACE_ACCESS_DENIED", Client, [];
    Self::PipelineNotAllowed { .. } => PermissionDenied, "PIPELINE_NOT_ALLOWED", Client, [];
    Self::TokenMalformed(_) => InvalidArgument, "RESUME_TOKEN_MALFORMED", Client,
        [.message_about("resume_token")];
    Self::TokenMismatch { time, .. } => InvalidArgument, "RESUME_TOKEN_MISMATCH", Client,
        [.message_about("resume_token").time("token_time", *time)];
    Self::TokenExpired { time, oldest } => OutOfRange, "RESUME_TOKEN_EXPIRED", Client,
        [.time("token_time", *time).time("oldest_time", *oldest)];
    Self::Invalidated { scope, cause } => Aborted, "WATCH_INVALIDATED", Client,
        [.fact("cause", cause.map_or("unknown", Operation::name)).cut_fact("namespace", scope)];
    Self::UpstreamUnavailable => Unavailable, "UPSTREAM_UNAVAILABLE", Transient,
        [.retry(RETRY_SOON)];
    Self::ReadPreferenceUnmet => Unavailable, "UPSTREAM_UNAVAILABLE", Operator,
        [.retry(RETRY_SOON)];
    Self::UpstreamOverloaded { refusal, retry } => Unavailable, "UPSTREAM_OVERLOADED", Transient,
        [.refusal(refusal.as_ref()).retry(retry.unwrap_or(RETRY_LATER).max(RETRY_SOON))];
    Self::ChangeStreamsUnsupported(refusal) => FailedPrecondition, "CHANGE_STREAMS_UNSUPPORTED", Operator,
        [.refusal(refusal.as_ref()).requirement(messages::requirement(refusal.as_ref()))];
    Self::UpstreamRefused { refusal, time } => FailedPrecondition, "UPSTREAM_REFUSED", Operator,
        [.refusal(refusal.as_ref()).time("token_time", *time)];
    Self::ShardRemoved { time } => FailedPrecondition, "SHARD_REMOVED", Operator,
        [.time("token_time", *time)];
    Self::PatternRefused { fields } => InvalidArgument, "INVALID_REQUEST", Client,
        [.patterns(fields)];
    Self::UpstreamAccessDenied => FailedPrecondition, "UPSTREAM_ACCESS_DENIED", Operator, [];
    Self::ImageUnavailable(event) => FailedPrecondition, "IMAGE_UNAVAILABLE", Client,
        [.undeliverable(event)];
    Self::EventTooLarge { event_bytes, limit } => FailedPrecondition, "EVENT_TOO_LARGE", Client,
        [.fact("event_bytes", event_bytes).fact("max_message_bytes", limit)];
    Self::UpstreamEventTooLarge(event) => FailedPrecondition, "UPSTREAM_EVENT_TOO_LARGE", Operator,
        [.undeliverable(event)];
    Self::LookupAmbiguous(event) => FailedPrecondition, "LOOKUP_AMBIGUOUS", Operator,
        [.undeliverable(event)];
    Self::PipelineChangedToken => FailedPrecondition, "PIPELINE_CHANGED_TOKEN", Client, [];
    Self::StagesRefused(refusal) => InvalidArgument, "INVALID_REQUEST", Client,
        [.message_about("pipeline").refusal(refusal.as_ref())];
    Self::LimitExceeded(Exceeded { unit, max }) => ResourceExhausted, "WATCH_LIMIT_EXCEEDED", Transient,
        [.quota(unit, format!("at most {max} at once")).retry(RETRY_LATER)];
    Self::Quota { owner, limit, allowed, retry } => ResourceExhausted, "WATCH_LIMIT_EXCEEDED", Transient,
        [.quota(limit, format!("{owner}: {allowed}")).retry(*retry)];
    Self::CredentialsMissing(_) => Unauthenticated, "CREDENTIALS_MISSING", Client, [];
    Self::CredentialsInvalid(_) => Unauthenticated, "CREDENTIALS_INVALID", Client, [];
    Self::CredentialsExpired => Unauthenticated, "CREDENTIALS_EXPIRED", Client, [];
    Self::KeysUnavailable => Unavailable, "CREDENTIALS_UNCHECKED", Transient,
        [.retry(RETRY_SOON)];
    Self::AccessDenied(_) => PermissionDenied, "NAMESPACE_ACCESS_DENIED", Client, [];
    Self::AccessChanged { after } => Unavailable, "ACCESS_CHANGED", Transient,
        [.time("after_time", *after).retry(soon_with_jitter())];
    Self::MaxAge => Unavailable, "WATCH_MAX_AGE", Transient,
        [.retry(soon_with_jitter())];
    Self::Draining => Unavailable, "SERVER_DRAINING", Transient,
        [.retry(soon_with_jitter())];
    Self::DeadlineExceeded => DeadlineExceeded, "DEADLINE_EXCEEDED", Client, [];
    Self::Internal => Internal, "INTERNAL", Bug,
        [.watch_id()];
}

fn soon_with_jitter() -> Duration {
    RETRY_SOON + RETRY_JITTER.mul_f64(fastrand::f64())
}

impl Error {
    /// Returns the gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.kind().code
    }

    /// Returns the stable reason for programs, which `ErrorInfo` carries.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.kind().reason
    }

    /// Returns the party that can fix it.
    #[must_use]
    pub fn class(&self) -> Class {
        self.kind().class
    }

    /// Returns the status for the client: code, message and details for programs. `watch_id` is the id of
    /// the watch in the log.
    #[must_use]
    pub fn into_status(self, watch_id: &str) -> Status {
        let Kind { code, reason, .. } = self.kind();
        self.details(watch_id).into_status(code, reason)
    }
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Invalid(violations) => Self::InvalidRequest(violations),
            RequestError::DeploymentNotAllowed => Self::DeploymentNotAllowed,
            RequestError::PipelineNotAllowed => Self::PipelineNotAllowed { by_policy: false },
        }
    }
}

#[cfg(test)]
mod tests;
