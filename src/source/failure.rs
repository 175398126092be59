//! Classification of MongoDB's failures.
//!
//! Codes and labels follow "Resumable Error" in the drivers' change streams specification, and
//! `error_codes.yml` of the server.

use mongodb::error::{Error as DriverError, ErrorKind};

use crate::source::{EventError, Position};

/// The meaning of a failure for the stream that it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// MongoDB or this cursor is unavailable: open again at the same position after a pause.
    Transient,
    /// The position is no longer in the oplog (286, 136).
    HistoryLost,
    /// This pipeline did not find the token (280); the position itself may still be in the oplog.
    TokenNotFound,
    /// MongoDB can't parse the token.
    TokenInvalid,
    /// A required pre- or post-image is missing (47).
    ImageMissing,
    /// An event is larger than MongoDB can send (10334).
    EventTooLarge,
    /// The deployment has no change streams (40573).
    Unsupported,
    /// Weir's MongoDB user lacks a privilege.
    AccessDenied,
    /// Weir's MongoDB user could not log in. The password may be wrong, or MongoDB may be temporarily
    /// unable to check it, as in an election or while its users change.
    LoginFailed,
    /// The namespace is a view or a time-series collection, which has no change stream (166).
    NotACollection,
    /// Anything else: MongoDB rejected a command that Weir should not have sent.
    Unexpected,
}

impl Failure {
    /// Returns `true` when the failure concerns one event, so that the events before it can be read.
    #[must_use]
    pub fn concerns_one_event(self) -> bool {
        matches!(self, Self::ImageMissing | Self::EventTooLarge)
    }
}

/// A failure of a source, for the log and for the decision about the next step.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// Its meaning.
    pub failure: Failure,
    /// MongoDB's error code, if it sent one.
    pub code: Option<i32>,
    /// The message of the driver or the server. Only for logs: it may quote data.
    pub message: String,
}

impl SourceError {
    /// Returns a failure without a MongoDB code.
    pub(crate) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            code: None,
            message: message.into(),
        }
    }

    /// Returns a failure for a reply or an error that MongoDB should never send.
    pub(super) fn unexpected(message: impl Into<String>) -> Self {
        Self::new(Failure::Unexpected, message)
    }

    /// Reclassifies a failure to open a stream at a position. MongoDB has codes for tokens that it can't
    /// use, but reports a token of another format with the codes of a malformed command. The rest of the
    /// command is Weir's and is valid in every other call, so these codes mean the token.
    #[must_use]
    pub(super) fn when_opening_at(mut self, at: Option<&Position>) -> Self {
        let has_token = at.is_some_and(|at| !matches!(at, Position::Time(_)));
        if has_token && matches!(self.code, Some(2 | 9 | 14 | 40414)) {
            self.failure = Failure::TokenInvalid;
        }
        self
    }

    /// Returns the reason as the value of a metric label, one of a closed set.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match (self.failure, self.code) {
            (Failure::Transient, Some(43)) => "cursor_not_found",
            (Failure::Transient, Some(189 | 10107 | 13435 | 11602)) => "election",
            (Failure::Transient, Some(91 | 11600)) => "shutdown",
            (Failure::Transient, Some(_)) => "server",
            (Failure::Transient, None) => "network",
            (Failure::HistoryLost, _) => "history_lost",
            (Failure::TokenNotFound | Failure::TokenInvalid, _) => "token",
            (Failure::ImageMissing, _) => "image_missing",
            (Failure::EventTooLarge, _) => "event_too_large",
            (Failure::LoginFailed, _) => "login",
            (
                Failure::Unsupported
                | Failure::AccessDenied
                | Failure::NotACollection
                | Failure::Unexpected,
                _,
            ) => "other",
        }
    }
}

impl From<EventError> for SourceError {
    fn from(error: EventError) -> Self {
        Self::unexpected(error.to_string())
    }
}

impl From<DriverError> for SourceError {
    fn from(error: DriverError) -> Self {
        let (code, message) = match &*error.kind {
            // The driver's message would contain the whole reply in hexadecimal.
            ErrorKind::Command(command) => (Some(command.code), command.to_string()),
            // The driver wraps every error that happens during authentication.
            kind @ ErrorKind::Authentication { .. } => {
                (command_code_behind(&error), kind.to_string())
            }
            _ => (None, error.to_string()),
        };
        Self {
            failure: classify(&error, code),
            code,
            message,
        }
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

fn classify(error: &DriverError, code: Option<i32>) -> Failure {
    if matches!(&*error.kind, ErrorKind::Authentication { .. }) {
        let cause = code.map(|code| classify_code(code, false, false));
        return cause
            .filter(|it| *it == Failure::Transient)
            .unwrap_or(Failure::LoginFailed);
    }
    if let Some(code) = code {
        // An overloaded server uses the last two to ask for a later retry.
        let resumable_labels = [
            "ResumableChangeStreamError",
            "RetryableError",
            "SystemOverloadedError",
        ];
        return classify_code(
            code,
            resumable_labels
                .iter()
                .any(|label| error.contains_label(label)),
            error.contains_label("NonResumableChangeStreamError"),
        );
    }
    match &*error.kind {
        ErrorKind::BsonSerialization(_)
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. }
        | ErrorKind::SessionsNotSupported => Failure::Unexpected,
        // Server selection, pools, sockets, DNS, truncated or unreadable replies (which the driver calls
        // an invalid argument): by the specification, every error that did not come from the server is
        // resumable.
        _ => Failure::Transient,
    }
}

/// Classifies MongoDB's error code, given the labels that came with it.
pub(super) fn classify_code(code: i32, resumable: bool, not_resumable: bool) -> Failure {
    match code {
        286 | 136 => Failure::HistoryLost,
        280 => Failure::TokenNotFound,
        260 | 50811 | 40576 | 40585 | 40615 | 40647 | 40648 | 40649 => Failure::TokenInvalid,
        47 => Failure::ImageMissing,
        10334 => Failure::EventTooLarge,
        40573 => Failure::Unsupported,
        13 => Failure::AccessDenied,
        18 | 8000 => Failure::LoginFailed,
        166 => Failure::NotACollection,
        // CursorNotFound, then the specification's list for servers that send no labels.
        43 | 6 | 7 | 89 | 91 | 189 | 262 | 9001 | 10107 | 11600 | 11602 | 13435 | 13436 | 63
        | 150 | 13388 | 234 | 133 => Failure::Transient,
        // Codes that mongod 8.2 labels as resumable or overload beyond that list. It labels only the
        // errors of change streams, but Weir sends other commands too.
        134 | 175 | 317 | 358 | 384 | 401 | 402 | 406 | 407 | 412 | 433 | 449 | 450 | 453 | 462
        | 50915 => Failure::Transient,
        // Temporary failures of any operation that no driver retries, so that no list has them: it was
        // interrupted or timed out (11601, 237, 279, 290, 50, 202), met a lock, a conflict or a shortage
        // (24, 112, 365), or the deployment was changing: keys not there yet (211), a removed shard (70),
        // a stale database version (249).
        11601 | 237 | 279 | 290 | 50 | 202 | 24 | 112 | 365 | 211 | 70 | 249 => Failure::Transient,
        // MongoDB's internal signals to restart a stream: after an invalidation or a change of shards,
        // and past the invalidation that it was started after. If one ever leaks, the position is still
        // valid.
        346 | 348 | 351 => Failure::Transient,
        _ if resumable && !not_resumable => Failure::Transient,
        _ => Failure::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code of the drivers' specification, and some that it does not list.
    #[test]
    fn codes_are_classified_as_the_specification_requires() {
        let transient = [
            43, 6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 63, 150, 13388,
            234, 133,
        ];
        for code in transient {
            assert_eq!(
                classify_code(code, false, false),
                Failure::Transient,
                "{code}"
            );
            assert_eq!(
                classify_code(code, true, false),
                Failure::Transient,
                "{code}"
            );
        }
        for (code, failure) in [
            (286, Failure::HistoryLost),
            (136, Failure::HistoryLost),
            (280, Failure::TokenNotFound),
            (260, Failure::TokenInvalid),
            (50811, Failure::TokenInvalid),
            (47, Failure::ImageMissing),
            (10334, Failure::EventTooLarge),
            (40573, Failure::Unsupported),
            (13, Failure::AccessDenied),
            (18, Failure::LoginFailed),
            (8000, Failure::LoginFailed),
            (166, Failure::NotACollection),
            (20, Failure::Unexpected),
            (40415, Failure::Unexpected),
            (464, Failure::Unexpected),
            (401, Failure::Transient),
            (462, Failure::Transient),
            (348, Failure::Transient),
        ] {
            assert_eq!(classify_code(code, false, false), failure, "{code}");
        }
    }

    #[test]
    fn an_unknown_code_is_transient_only_with_a_resumable_label() {
        assert_eq!(classify_code(4242, false, false), Failure::Unexpected);
        assert_eq!(classify_code(4242, true, false), Failure::Transient);
        assert_eq!(classify_code(4242, true, true), Failure::Unexpected);
    }

    #[test]
    fn a_resumable_label_does_not_override_a_lost_position() {
        for code in [280, 286, 136, 47, 10334] {
            assert_ne!(
                classify_code(code, true, false),
                Failure::Transient,
                "{code}"
            );
        }
    }
}
