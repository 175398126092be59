//! Classification of MongoDB's failures.
//!
//! Codes and labels follow "Resumable Error" in the drivers' change streams specification, and
//! `error_codes.yml` of the server.

mod codes;
mod kind;
mod refusal;

use std::time::Duration;

use mongodb::error::{Error as DriverError, ErrorKind};

use crate::source::{EventError, Position};

use codes::{ErrorReply, classify, exceeds_memory_limit, reclassify_opening, refuses_a_stage};
pub use kind::Failure;
pub use refusal::Refusal;
use refusal::names_option;

/// The point at which a call to MongoDB failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FailedAt {
    /// The DNS did not resolve the name in the connection string.
    Dns,
    /// No server could be selected.
    ServerSelection,
    /// The same, and for the read preference alone: MongoDB's primary answers.
    ReadPreference,
    /// The connection broke, or the driver had just given it up.
    Connection,
    /// Anything else, above all the server's reply.
    #[default]
    Reply,
}

/// A failure of a source, for the log and for the decision about the next step.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// Its meaning.
    pub failure: Failure,
    /// MongoDB's error code, if it sent one.
    pub code: Option<i32>,
    /// MongoDB's name of that code; empty if it sent none.
    code_name: String,
    /// The pause that the server asks for before the next attempt.
    retry_after: Option<Duration>,
    /// MongoDB's message alone; empty if it sent no code.
    said: String,
    /// The point at which the call failed.
    pub(super) failed_at: FailedAt,
    /// The message of the driver or the server. Only for logs: it may quote data.
    pub message: String,
}

impl SourceError {
    /// Returns a failure without a MongoDB code.
    pub(crate) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            code: None,
            code_name: String::new(),
            retry_after: None,
            said: String::new(),
            failed_at: FailedAt::default(),
            message: message.into(),
        }
    }

    /// Returns a failure with MongoDB's code and message.
    #[cfg(test)]
    pub(super) fn with_reply(failure: Failure, code: i32, said: &str) -> Self {
        Self {
            code: Some(code),
            said: said.to_owned(),
            ..Self::new(failure, said)
        }
    }

    /// Returns a failure for a reply or an error that MongoDB should never send.
    pub(crate) fn unexpected(message: impl Into<String>) -> Self {
        Self::new(Failure::Unexpected, message)
    }

    /// Returns the failure with the point at which the call failed.
    #[must_use]
    pub(super) fn at(self, failed_at: FailedAt) -> Self {
        Self { failed_at, ..self }
    }

    /// Returns whether MongoDB answers, but no server matches the read preference of the connection string.
    #[must_use]
    pub fn is_read_preference_unmet(&self) -> bool {
        self.failed_at == FailedAt::ReadPreference
    }

    /// Returns whether the connection string is the reason: the DNS does not resolve its name, or no server
    /// matches its read preference. The message is Weir's then. It may be shown to anyone, unless it names the
    /// tags of the read preference.
    #[must_use]
    pub fn is_about_the_uri(&self) -> bool {
        self.code.is_none() && matches!(self.failed_at, FailedAt::Dns | FailedAt::ReadPreference)
    }

    /// Reclassifies a failure to open a stream at a position: a code may mean the token, an option or the
    /// namespace then. `one_collection` is `true` if the stream is of a single collection.
    #[must_use]
    pub(super) fn when_opening_at(mut self, at: Option<&Position>, one_collection: bool) -> Self {
        let has_token = at.is_some_and(|at| at.token().is_some());
        if let Some(code) = self.code {
            let reply = ErrorReply {
                code,
                name: &self.code_name,
                message: &self.said,
                ..ErrorReply::default()
            };
            self.failure = reclassify_opening(reply, self.failure, has_token, one_collection);
        }
        self
    }

    /// Reclassifies a failure of a stream with stages of a client: what MongoDB refuses there is one of them, as
    /// the rest of the command is valid in every other call. Its message then has only the code: MongoDB's may quote
    /// what the stages have computed.
    #[must_use]
    pub(super) fn of_client_stages(self) -> Self {
        let is_about_weirs = || {
            let about = self.refusal().and_then(|it| it.about);
            // The client may have a `$match` as well.
            about.is_some_and(|about| about != "$match")
        };
        let is_refusal = match (self.failure, self.code) {
            (Failure::Refused | Failure::PatternRefused | Failure::Unexpected, Some(_)) => true,
            (Failure::Overloaded, Some(code)) => exceeds_memory_limit(code),
            (Failure::Unsupported, Some(code)) => refuses_a_stage(code) && !is_about_weirs(),
            _ => false,
        };
        let failure = if is_refusal {
            Failure::StagesRefused
        } else {
            self.failure
        };
        let message = match self.code {
            Some(code) if self.code_name.is_empty() => format!("mongodb's error {code}"),
            Some(code) => format!("mongodb's error {code} ({})", self.code_name),
            None => self.message,
        };
        Self {
            failure,
            message,
            ..self
        }
    }

    /// Returns MongoDB's error in words that may be shown to a client; `None` if MongoDB sent no code.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let code = self.code?;
        Some(Refusal::new(code, &self.code_name, &self.said))
    }

    /// Returns whether the failure of an opening may be the refusal of an option of `$changeStream`: the
    /// server refuses something, and names the option or does not say what.
    pub(super) fn may_refuse(&self, option: &str) -> bool {
        // Not every server has a code for unknown options. A standalone one has no change streams at all.
        let refuses = match self.failure {
            Failure::Unsupported => self.code != Some(40573),
            Failure::TokenInvalid => matches!(self.code, Some(2 | 9 | 14 | 40414)),
            _ => false,
        };
        match self.refusal().and_then(|it| it.about) {
            None | Some("$changeStream") => refuses,
            Some(about) => {
                let refuses = refuses
                    || matches!(
                        self.failure,
                        Failure::Refused | Failure::NotACollection | Failure::Unexpected
                    );
                refuses && about == option && names_option(&self.said, option)
            }
        }
    }

    /// Returns the pause that the server asks for before the next attempt, at most a minute.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the reason as the value of a metric label, one of a closed set.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match (self.failure, self.code) {
            (Failure::Transient, Some(43)) => "cursor_not_found",
            (
                Failure::Transient,
                Some(95 | 135 | 189 | 216 | 281 | 10058 | 10107 | 11602 | 13435 | 13436),
            ) => "election",
            (Failure::Transient, Some(91 | 11600)) => "shutdown",
            (Failure::Transient, Some(_)) => "server",
            (Failure::Transient, None) => "network",
            (Failure::Overloaded, _) => "overload",
            (Failure::HistoryLost, _) => "history_lost",
            // A stream is opened again after a denial only if the token may be its cause.
            (Failure::TokenNotFound | Failure::TokenInvalid | Failure::AccessDenied, _) => "token",
            (Failure::ImageMissing, _) => "image_missing",
            (Failure::EventTooLarge, _) => "event_too_large",
            (Failure::LookupAmbiguous, _) => "lookup_ambiguous",
            (Failure::LoginFailed, _) => "login",
            (
                Failure::ShardRemoved
                | Failure::Unsupported
                | Failure::NotACollection
                | Failure::InvalidName
                | Failure::PatternRefused
                | Failure::PipelineChangedToken
                | Failure::StagesRefused
                | Failure::Refused
                | Failure::Unexpected,
                _,
            ) => "other",
        }
    }
}

impl From<EventError> for SourceError {
    fn from(error: EventError) -> Self {
        let failure = match error {
            EventError::Malformed(_) | EventError::NoToken => Failure::Unexpected,
            EventError::ChangedToken => Failure::PipelineChangedToken,
        };
        Self::new(failure, error.to_string())
    }
}

impl From<DriverError> for SourceError {
    fn from(error: DriverError) -> Self {
        let command = match &*error.kind {
            ErrorKind::Command(command) => Some(command),
            _ => None,
        };
        let (code, message) = match (&*error.kind, command) {
            // The driver's message would contain the whole reply in hexadecimal.
            (_, Some(command)) => (Some(command.code), command.to_string()),
            // The driver wraps every error that happens during authentication.
            (kind @ ErrorKind::Authentication { .. }, _) => {
                (command_code_behind(&error), kind.to_string())
            }
            _ => (None, error.to_string()),
        };
        let code_name = command.map_or(String::new(), |it| it.code_name.clone());
        let said = command.map_or(String::new(), |it| it.message.clone());
        Self {
            failure: classify_error(&error, code, &code_name, &said),
            code,
            code_name,
            retry_after: command
                .and_then(|it| it.base_backoff.or_else(|| wait_in(&it.message)))
                .map(|wait| wait.min(LONGEST_WAIT)),
            said,
            failed_at: failed_at(&error),
            message,
        }
    }
}

/// The longest wait before the next attempt that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Returns the wait that the message of an error 16500 of Azure Cosmos DB asks for.
fn wait_in(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("RetryAfterMs=")?;
    let digits = rest
        .find(|it: char| !it.is_ascii_digit())
        .map_or(rest, |end| &rest[..end]);
    digits.parse().ok().map(Duration::from_millis)
}

fn failed_at(error: &DriverError) -> FailedAt {
    match &*error.kind {
        ErrorKind::ServerSelection { .. } => FailedAt::ServerSelection,
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => FailedAt::Connection,
        _ => FailedAt::Reply,
    }
}

/// Returns the error code of the command that caused another error.
fn command_code_behind(error: &DriverError) -> Option<i32> {
    let source = std::error::Error::source(error)?;
    // The driver exposes the source as a box.
    let boxed = source.downcast_ref::<Box<DriverError>>().map(|it| &**it);
    match &*boxed.or_else(|| source.downcast_ref())?.kind {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

fn classify_error(error: &DriverError, code: Option<i32>, name: &str, message: &str) -> Failure {
    let with_code = |code| ErrorReply {
        code,
        name,
        message,
        ..ErrorReply::default()
    };
    if matches!(&*error.kind, ErrorKind::Authentication { .. }) {
        let cause = code.map(|code| classify(with_code(code)));
        return cause
            .filter(|cause| cause.is_passing())
            .unwrap_or(Failure::LoginFailed);
    }
    if let Some(code) = code {
        let has = |label| error.contains_label(label);
        return classify(ErrorReply {
            resumable: has("ResumableChangeStreamError") || has("RetryableError"),
            not_resumable: has("NonResumableChangeStreamError"),
            overloaded: has("SystemOverloadedError"),
            ..with_code(code)
        });
    }
    match &*error.kind {
        ErrorKind::BsonSerialization(_)
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::SessionsNotSupported => Failure::Unexpected,
        ErrorKind::IncompatibleServer { .. } => Failure::Unsupported,
        // Server selection, pools, sockets, DNS, truncated or unreadable replies (which the driver calls
        // an invalid argument): by the specification, every error that did not come from the server is
        // resumable.
        _ => Failure::Transient,
    }
}
