//! The one place that says what a failure of MongoDB means.
//!
//! Codes, labels and what the drivers' specification makes of them: "Change Streams",
//! "Resumable Error" in the MongoDB specifications, and `error_codes.yml` of the server.

use mongodb::error::{Error as DriverError, ErrorKind};

use crate::source::{EventError, Position};

/// What a failure means for the stream it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// MongoDB is away, or this cursor is: open again from the same place after a pause.
    Transient,
    /// The place is no longer in the oplog (286, 136).
    HistoryLost,
    /// The token was not found by this pipeline (280); the place itself may still be there.
    TokenNotFound,
    /// MongoDB can't read the token.
    TokenInvalid,
    /// A required pre- or post-image is not there (47).
    ImageMissing,
    /// An event is larger than MongoDB can send (10334).
    EventTooLarge,
    /// The deployment has no change streams (40573).
    Unsupported,
    /// Weir's own MongoDB user may not do this.
    AccessDenied,
    /// Weir's own MongoDB user was not let in. Nothing was asked yet: its password may be wrong, and
    /// MongoDB may be unable to tell for a moment, as in an election or while its users change.
    LoginFailed,
    /// What was named is a view or a time-series collection, which has no change stream (166).
    NotACollection,
    /// Anything else: MongoDB refused what Weir should not have sent.
    Unexpected,
}

impl Failure {
    /// Whether it is about one event, and those before it could be had.
    #[must_use]
    pub fn concerns_one_event(self) -> bool {
        matches!(self, Self::ImageMissing | Self::EventTooLarge)
    }
}

/// A failure of a source, for the log and for the decision what to do next.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// What it means.
    pub failure: Failure,
    /// MongoDB's error code, where it gave one.
    pub code: Option<i32>,
    /// The words of the driver or the server. For logs only: they may quote data.
    pub message: String,
}

impl SourceError {
    /// A failure that no MongoDB code stands for.
    pub(crate) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            code: None,
            message: message.into(),
        }
    }

    /// Something that MongoDB should never have sent.
    pub(super) fn unexpected(message: impl Into<String>) -> Self {
        Self::new(Failure::Unexpected, message)
    }

    /// What it means when a stream was to be opened at a place. MongoDB has codes of its own for a
    /// token that it can't use, and for one of another make those of any command that it can't read:
    /// the rest of the command is Weir's own, and is read everywhere else.
    #[must_use]
    pub(super) fn when_opening_at(mut self, at: Option<&Position>) -> Self {
        let has_token = at.is_some_and(|at| !matches!(at, Position::Time(_)));
        if has_token && matches!(self.code, Some(2 | 9 | 14 | 40414)) {
            self.failure = Failure::TokenInvalid;
        }
        self
    }

    /// MongoDB's reason as a label of a metric: a closed set.
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
            // The driver's own words would hold the whole reply in hexadecimal.
            ErrorKind::Command(command) => (Some(command.code), command.to_string()),
            // The driver wraps whatever went wrong while it logged in.
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

/// The code of the command that made another error.
fn command_code_behind(error: &DriverError) -> Option<i32> {
    let source = std::error::Error::source(error)?;
    // The driver keeps it in a box, and shows the box.
    let boxed = source.downcast_ref::<Box<DriverError>>().map(|it| &**it);
    match &*boxed.or_else(|| source.downcast_ref())?.kind {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

fn classify(error: &DriverError, code: Option<i32>) -> Failure {
    if matches!(&*error.kind, ErrorKind::Authentication { .. }) {
        let passes = code.map(|code| classify_code(code, false, false));
        return passes
            .filter(|it| *it == Failure::Transient)
            .unwrap_or(Failure::LoginFailed);
    }
    if let Some(code) = code {
        // The last two are how a server that is overloaded asks to be asked again later.
        let passes = [
            "ResumableChangeStreamError",
            "RetryableError",
            "SystemOverloadedError",
        ];
        return classify_code(
            code,
            passes.iter().any(|label| error.contains_label(label)),
            error.contains_label("NonResumableChangeStreamError"),
        );
    }
    match &*error.kind {
        ErrorKind::BsonSerialization(_)
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. }
        | ErrorKind::SessionsNotSupported => Failure::Unexpected,
        // Server selection, pools, sockets, DNS, replies cut short or not to be read (which the driver
        // calls an invalid argument): the specification calls every error that did not come from the
        // server resumable.
        _ => Failure::Transient,
    }
}

/// What MongoDB's error code means, with the labels that came beside it.
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
        // CursorNotFound, then the specification's list for servers without labels.
        43 | 6 | 7 | 89 | 91 | 189 | 262 | 9001 | 10107 | 11600 | 11602 | 13435 | 13436 | 63
        | 150 | 13388 | 234 | 133 => Failure::Transient,
        // What mongod 8.2 labels as resumable or overload beyond that list. It labels streams alone, and
        // Weir asks other questions too.
        134 | 175 | 317 | 358 | 384 | 401 | 402 | 406 | 407 | 412 | 433 | 449 | 450 | 453 | 462
        | 50915 => Failure::Transient,
        // What any operation may meet and no list names, as it is not a driver's to mend: it was
        // interrupted or ran out of time (11601, 237, 279, 290, 50, 202), it met a lock, a conflict or a
        // shortage (24, 112, 365), or the deployment was changing: keys that are not there yet (211), a
        // shard that has left (70), a stale version of a database (249).
        11601 | 237 | 279 | 290 | 50 | 202 | 24 | 112 | 365 | 211 | 70 | 249 => Failure::Transient,
        // What MongoDB throws within itself so that a stream is begun anew: after an invalidation or a
        // change of shards, and past the invalidation it was started after. Should one ever get out, the
        // place is as good as before.
        346 | 348 | 351 => Failure::Transient,
        _ if resumable && !not_resumable => Failure::Transient,
        _ => Failure::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T27, on the level of the table: every code of the drivers' specification.
    #[test]
    fn codes_mean_what_the_specification_says() {
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
    fn an_unknown_code_is_resumable_only_by_its_label() {
        assert_eq!(classify_code(4242, false, false), Failure::Unexpected);
        assert_eq!(classify_code(4242, true, false), Failure::Transient);
        assert_eq!(classify_code(4242, true, true), Failure::Unexpected);
    }

    #[test]
    fn a_label_never_makes_a_lost_place_resumable() {
        for code in [280, 286, 136, 47, 10334] {
            assert_ne!(
                classify_code(code, true, false),
                Failure::Transient,
                "{code}"
            );
        }
    }
}
