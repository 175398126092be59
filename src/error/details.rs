//! The details of a status for programs, within the bounds of what every client accepts.

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::undeliverable::UndeliverableEvent;
use crate::{
    model::{FieldViolation, MAX_VIOLATIONS},
    source::{ClusterTime, Refusal},
};

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "weir";

/// The longest message of a status, in bytes. With the limits below and the overhead of encoding, a status
/// stays under the 8 KiB of trailers that every client accepts.
const MAX_MESSAGE_BYTES: usize = 700;
/// The longest text in the details, in bytes.
const MAX_DETAIL_BYTES: usize = 600;
/// The maximum number of bytes of all field violations together; further ones are left out.
const MAX_VIOLATION_BYTES: usize = 3_000;

/// The message and the details of one status, put together.
pub(super) struct Details<'w> {
    message: String,
    watch_id: &'w str,
    typed: ErrorDetails,
    /// The `metadata` of `ErrorInfo`.
    facts: HashMap<String, String>,
}

impl<'w> Details<'w> {
    /// Returns a status without details. `watch_id` is the id of the watch in the log.
    pub(super) fn new(message: String, watch_id: &'w str) -> Self {
        Self {
            message,
            watch_id,
            typed: ErrorDetails::new(),
            facts: HashMap::new(),
        }
    }

    /// Adds a fact.
    pub(super) fn fact(mut self, key: &str, value: impl ToString) -> Self {
        self.facts.insert(key.to_owned(), value.to_string());
        self
    }

    /// Adds a fact that a request makes as long as it likes.
    pub(super) fn cut_fact(self, key: &str, value: impl ToString) -> Self {
        self.fact(key, truncate(&value.to_string(), MAX_DETAIL_BYTES))
    }

    /// Adds a time as a fact, if it is known.
    pub(super) fn time(self, key: &str, time: Option<ClusterTime>) -> Self {
        match time {
            Some(time) => self.fact(key, time),
            None => self,
        }
    }

    /// Adds the id under which the log has the watch.
    pub(super) fn watch_id(self) -> Self {
        let id = self.watch_id;
        self.fact("watch_id", id)
    }

    /// Adds what MongoDB refused with.
    pub(super) fn refusal(mut self, refusal: Option<&Refusal>) -> Self {
        let Some(refusal) = refusal else { return self };
        self = self.fact("mongodb_code", refusal.code);
        if !refusal.name.is_empty() {
            self = self.fact("mongodb_code_name", &refusal.name);
        }
        match refusal.about {
            Some(about) => self.fact("mongodb_about", about),
            None => self,
        }
    }

    /// Adds what is known of an event that MongoDB can't send.
    pub(super) fn undeliverable(self, event: &UndeliverableEvent) -> Self {
        let times = self
            .time("after_time", event.after)
            .time("event_time", event.time);
        match &event.next_token {
            Some(token) => times.fact("next_token", STANDARD.encode(token)),
            None => times,
        }
    }

    /// Adds the delay before a retry.
    pub(super) fn retry(mut self, delay: Duration) -> Self {
        self.typed.set_retry_info(Some(delay));
        self
    }

    /// Adds the limit that is reached.
    pub(super) fn quota(mut self, limit: &str, description: String) -> Self {
        self.typed.add_quota_failure_violation(limit, description);
        self
    }

    /// Adds what MongoDB lacks, as the type and the description of a violated precondition.
    pub(super) fn requirement(mut self, (kind, description): (&str, String)) -> Self {
        self.typed
            .add_precondition_failure_violation(kind, "mongodb", description);
        self
    }

    /// Adds the invalid fields, as many as there is room for.
    pub(super) fn violations(mut self, violations: &[FieldViolation]) -> Self {
        let mut bytes = 0;
        for violation in violations {
            let field = truncate(&violation.field, MAX_DETAIL_BYTES);
            let description = truncate(&violation.description, MAX_DETAIL_BYTES);
            bytes += field.len() + description.len();
            if bytes > MAX_VIOLATION_BYTES {
                break;
            }
            self.typed.add_bad_request_violation(field, description);
        }
        self
    }

    /// Adds the message as the problem with one field.
    pub(super) fn message_about(mut self, field: &str) -> Self {
        self.typed.add_bad_request_violation(field, &self.message);
        self
    }

    /// Adds the fields whose regular expression MongoDB refuses; all filters, if they are not known.
    pub(super) fn patterns(mut self, fields: &[String]) -> Self {
        if fields.is_empty() {
            return self.message_about("filters");
        }
        let description = "MongoDB refuses this regular expression; use a simpler one";
        for field in fields.iter().take(MAX_VIOLATIONS) {
            self.typed.add_bad_request_violation(field, description);
        }
        self
    }

    /// Returns the status.
    pub(super) fn into_status(mut self, code: Code, reason: &str) -> Status {
        self.typed.set_error_info(reason, DOMAIN, self.facts);
        let message = truncate(&self.message, MAX_MESSAGE_BYTES);
        Status::with_error_details(code, message, self.typed)
    }
}

/// Returns `text` cut to at most `max` bytes, with "..." at the end if it was cut.
pub(crate) fn truncate(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    format!("{}...", &text[..text.floor_char_boundary(max - 3)])
}
