//! What a status means for the person at the terminal: go on by itself, or what to do.

use std::path::PathBuf;
use std::time::Duration;

use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::documents::rfc3339;
use super::text::{escape_controls, root_causes};
use crate::error::code_name;

/// What the advice refers to.
#[derive(Debug, Clone, Default)]
pub struct AdviceContext {
    /// The server's address.
    pub server: String,
    /// The file of `--resume-file`.
    pub resume_file: Option<PathBuf>,
    /// The texts of `--where`, in order.
    pub conditions: Vec<String>,
}

/// What to do about a status that ended a watch, or kept it from opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again: after `after` at the earliest, where the server asked for that.
    Retry {
        /// What happened, in a line.
        why: String,
        /// The server's RetryInfo.
        retry_after: Option<Duration>,
    },
    /// Trying again would bring the same.
    Final,
}

/// The reason in a status that Weir itself made; `None` when something on the way made it.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// Whether to try again.
///
/// Weir gives every status a reason. Without one, the codes that proxies and broken connections
/// turn into tell of the way there and not of the watch.
pub fn decide_retry(status: &Status) -> RetryDecision {
    let made_on_the_way = reason(status).is_none()
        && matches!(
            status.code(),
            Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded
        );
    if status.code() != Code::Unavailable && !made_on_the_way {
        return RetryDecision::Final;
    }
    let retry_after = status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    let why = match std::error::Error::source(status) {
        Some(_) => root_causes(status),
        None => headline(status),
    };
    RetryDecision::Retry {
        why: escape_controls(&why).into_owned(),
        retry_after,
    }
}

/// The time to start at where a watch is to go on, but not from its last token.
pub fn replacement_start_time(status: &Status) -> Option<Timestamp> {
    time(status, "ACCESS_CHANGED", "after_time")
}

/// The second of a cluster time that a status with this reason tells.
fn time(status: &Status, reason: &str, key: &str) -> Option<Timestamp> {
    let info = status.get_details_error_info()?;
    let (seconds, _) = info.metadata.get(key)?.split_once('.')?;
    let seconds = seconds.parse().ok().filter(|_| info.reason == reason)?;
    Some(Timestamp { seconds, nanos: 0 })
}

/// "REASON: message", or the code's name in the reason's stead.
fn headline(status: &Status) -> String {
    let name = reason(status).unwrap_or_else(|| code_name(status.code()).to_owned());
    if status.message().is_empty() {
        name
    } else {
        format!("{name}: {}", status.message())
    }
}

/// What happened and what to do about it, in a few lines.
pub fn explain(status: &Status, facts: &AdviceContext) -> String {
    let mut lines = vec![format!(
        "the watch ended: {}",
        escape_controls(&headline(status))
    )];
    if let Some(bad) = status.get_details_bad_request() {
        for violation in &bad.field_violations {
            let described = escape_controls(&violation.description);
            lines.push(match flag_of(&violation.field, facts) {
                Some(flag) => format!("  {flag}: {described}"),
                None => format!("  {}: {described}", escape_controls(&violation.field)),
            });
        }
    }
    if let Some(advice) = advice(status, facts) {
        lines.push(advice);
    }
    lines.join("\n")
}

fn advice(status: &Status, facts: &AdviceContext) -> Option<String> {
    let file = facts
        .resume_file
        .as_ref()
        .map(|path| path.display().to_string());
    let token_time = time(status, "RESUME_TOKEN_MISMATCH", "token_time");
    let text = match (reason(status).as_deref(), status.code()) {
        (Some("RESUME_TOKEN_EXPIRED"), _) => {
            let anew = match &file {
                Some(file) => format!("Delete {file} to start from now; with --since 10m as well"),
                None => "Leave --resume-token and --since out to start from now; with --since 10m"
                    .to_owned(),
            };
            format!(
                "MongoDB's oplog no longer reaches back to that place, so changes since then are \
                 lost to this watch.\n{anew} it starts as far back as you say, if the oplog \
                 reaches there."
            )
        }
        (Some("RESUME_TOKEN_MISMATCH"), _) if let Some(time) = token_time => {
            let first = match &file {
                Some(file) => format!("delete {file} and use "),
                None => String::new(),
            };
            format!(
                "You may see something else of it than when the token was given to you. To go on at \
                 its place: {first}--since {}",
                rfc3339(&time)
            )
        }
        (Some("RESUME_TOKEN_MALFORMED" | "RESUME_TOKEN_MISMATCH"), _) => match &file {
            Some(file) => format!(
                "{file} keeps the place in another deployment or scope. Name another file, or \
                 delete it to start anew."
            ),
            None => "A token goes with the database and the collections it came from.".to_owned(),
        },
        (Some("WATCH_INVALIDATED"), _) => {
            let again = match &file {
                Some(_) => "Run the same command again to watch",
                None => "Use --resume-file to go on with",
            };
            format!(
                "What was watched has been dropped or renamed. {again} what is created under its \
                 name later; --on-invalidate continue does so without ending."
            )
        }
        (Some("IMAGE_UNAVAILABLE"), _) => {
            let text = "MongoDB keeps no image of that change. Use --full-document when-available \
                        or --before when-available, or enable changeStreamPreAndPostImages on the \
                        collection.";
            text.to_owned() + &skip_event_advice(status, file.as_deref())
        }
        (Some("EVENT_TOO_LARGE"), _) => {
            "Use --oversize chunk to receive it in pieces, --oversize omit to see its key, or a \
             larger --max-message-bytes."
                .to_owned()
        }
        (Some("UPSTREAM_EVENT_TOO_LARGE"), _) => {
            let text = "MongoDB cannot send that event. Leave --before and --full-document out, or \
                        start after it with --since.";
            text.to_owned() + &skip_event_advice(status, file.as_deref())
        }
        (Some("CHANGE_STREAMS_UNSUPPORTED"), _) => {
            "Change streams need a replica set; a single mongod can be one of its own.".to_owned()
        }
        (Some("UPSTREAM_ACCESS_DENIED"), _) => {
            "The server's MongoDB user lacks the rights `find` and `changeStream` there; the \
             server's log says more."
                .to_owned()
        }
        (Some("WATCH_LIMIT_EXCEEDED"), _) => {
            "The server has as many watches as it allows. Try again later.".to_owned()
        }
        (Some("CREDENTIALS_MISSING"), _) => {
            "Show who you are with --token-file, --api-key-file, or --tls-cert-file and \
             --tls-key-file; the server's operator knows which of them it takes."
                .to_owned()
        }
        (Some("CREDENTIALS_INVALID"), _) => {
            "The server does not take what --token-file, --api-key-file or --tls-cert-file holds: it \
             may be meant for another server, or have been withdrawn."
                .to_owned()
        }
        (Some("CREDENTIALS_EXPIRED"), _) => {
            "Put new credentials into the file; the same command goes on with them.".to_owned()
        }
        (_, Code::PermissionDenied) => {
            "The server does not allow this watch to you. A whole deployment (--all) must be \
             allowed in the server's configuration."
                .to_owned()
        }
        (_, Code::Unauthenticated) => "The server wants credentials.".to_owned(),
        (None, Code::Unimplemented) => format!(
            "{} has no weir.v1.WatchService; --server names another.",
            facts.server
        ),
        (_, Code::Unimplemented) => "This server does not have that yet.".to_owned(),
        (None, Code::OutOfRange | Code::ResourceExhausted) => {
            "A message was larger than a limit on the way; a smaller --max-message-bytes may help."
                .to_owned()
        }
        (Some("INTERNAL"), _) => {
            "This is a fault in the server; its log says more about this watch.".to_owned()
        }
        _ => return None,
    };
    Some(text)
}

/// How to go on without an event that MongoDB can't send, where the server tells.
fn skip_event_advice(status: &Status, file: Option<&str>) -> String {
    let info = status.get_details_error_info();
    let Some(token) = info.and_then(|mut info| info.metadata.remove("next_token")) else {
        return String::new();
    };
    let first = match file {
        Some(file) => format!("delete {file}, which keeps the place before it, and use "),
        None => String::new(),
    };
    let token = escape_controls(&token);
    format!("\nTo go on right after that event, without it: {first}--resume-token {token}")
}

/// The part of the command line that a field of the request came from.
fn flag_of(field: &str, facts: &AdviceContext) -> Option<String> {
    let name = field.split(['.', '[']).next().unwrap_or(field);
    let flag = match name {
        "database" | "collections" => "SCOPE",
        "operations" => "--op",
        "resume_token" if facts.resume_file.is_some() => "--resume-file",
        "resume_token" => "--resume-token",
        "start_time" => "--since",
        "end_time" => "--until",
        "full_document" => "--full-document",
        "full_document_before_change" => "--before",
        "show_expanded_events" => "--expanded",
        "progress_interval" => "--progress-interval",
        "max_message_bytes" => "--max-message-bytes",
        "filters" => {
            let index = field
                .strip_prefix("filters[")
                .and_then(|rest| rest.split_once(']'))
                .and_then(|(index, _)| index.parse::<usize>().ok());
            let text = index.and_then(|index| facts.conditions.get(index))?;
            return Some(format!("--where '{}'", escape_controls(text)));
        }
        _ => return None,
    };
    Some(flag.to_owned())
}

#[cfg(test)]
mod tests;
