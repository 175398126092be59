//! The reaction to a status: retry, or advice for the user.

use std::path::PathBuf;
use std::time::Duration;

use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::documents::rfc3339;
use super::text::{escape_controls, root_causes};
use crate::error::code_name;

/// The parts of the command line that advice refers to.
#[derive(Debug, Clone, Default)]
pub struct AdviceContext {
    /// The URL of the server.
    pub server: String,
    /// The file of `--resume-file`.
    pub resume_file: Option<PathBuf>,
    /// The texts of `--where`, in order.
    pub conditions: Vec<String>,
}

/// The reaction to a status that ended a watch or refused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again.
    Retry {
        /// The problem, in one line.
        why: String,
        /// The delay in the server's RetryInfo.
        retry_after: Option<Duration>,
    },
    /// A retry would fail the same way.
    Final,
}

/// Returns the reason in a status from Weir; `None` if a proxy or the client library created the status.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// Decides whether to try again.
///
/// Every status from Weir has a reason. Without one, the codes below come from a proxy or a broken
/// connection.
pub fn decide_retry(status: &Status) -> RetryDecision {
    let from_network = reason(status).is_none()
        && matches!(
            status.code(),
            Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded
        );
    if status.code() != Code::Unavailable && !from_network {
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

/// Returns the time to start at, if the watch must continue from a time instead of its last token.
pub fn replacement_start_time(status: &Status) -> Option<Timestamp> {
    time(status, "ACCESS_CHANGED", "after_time")
}

/// Returns the second of the cluster time under `key` in a status with this reason.
fn time(status: &Status, reason: &str, key: &str) -> Option<Timestamp> {
    let info = status.get_details_error_info()?;
    let (seconds, _) = info.metadata.get(key)?.split_once('.')?;
    let seconds = seconds.parse().ok().filter(|_| info.reason == reason)?;
    Some(Timestamp { seconds, nanos: 0 })
}

/// Returns "REASON: message", or with the name of the code if there is no reason.
fn headline(status: &Status) -> String {
    let name = reason(status).unwrap_or_else(|| code_name(status.code()).to_owned());
    if status.message().is_empty() {
        name
    } else {
        format!("{name}: {}", status.message())
    }
}

/// Returns the problem and what to do about it, in a few lines.
pub fn explain(status: &Status, context: &AdviceContext) -> String {
    let mut lines = vec![format!(
        "the watch ended: {}",
        escape_controls(&headline(status))
    )];
    if let Some(bad) = status.get_details_bad_request() {
        for violation in &bad.field_violations {
            let described = escape_controls(&violation.description);
            lines.push(match flag_of(&violation.field, context) {
                Some(flag) => format!("  {flag}: {described}"),
                None => format!("  {}: {described}", escape_controls(&violation.field)),
            });
        }
    }
    if let Some(advice) = advice(status, context) {
        lines.push(advice);
    }
    lines.join("\n")
}

fn advice(status: &Status, context: &AdviceContext) -> Option<String> {
    let file = context
        .resume_file
        .as_ref()
        .map(|path| path.display().to_string());
    let token_time = time(status, "RESUME_TOKEN_MISMATCH", "token_time");
    let text = match (reason(status).as_deref(), status.code()) {
        (Some("RESUME_TOKEN_EXPIRED"), _) => {
            let restart = match &file {
                Some(file) => format!("Delete {file} to start from now; with --since 10m too,"),
                None => "Omit --resume-token and --since to start from now; with --since 10m"
                    .to_owned(),
            };
            format!(
                "MongoDB's oplog no longer contains that position, so this watch has lost changes.\n\
                 {restart} it starts that far back, if the oplog reaches there."
            )
        }
        (Some("RESUME_TOKEN_MISMATCH"), _) if let Some(time) = token_time => {
            let first = match &file {
                Some(file) => format!("delete {file} and use "),
                None => String::new(),
            };
            format!(
                "Your access has changed since you received the token. To continue at its time: \
                 {first}--since {}",
                rfc3339(&time)
            )
        }
        (Some("RESUME_TOKEN_MALFORMED" | "RESUME_TOKEN_MISMATCH"), _) => match &file {
            Some(file) => format!(
                "{file} stores a token of another deployment or scope. Use another file, or delete it \
                 to start without a token."
            ),
            None => "A token is valid only for the deployment, database and collections that it came from.".to_owned(),
        },
        (Some("WATCH_INVALIDATED"), _) => {
            let advice = match &file {
                Some(_) => "Run the same command again to watch",
                None => "Use --resume-file to continue with",
            };
            format!(
                "The watched collection or database has been dropped or renamed. {advice} one created \
                 later under the same name; --on-invalidate continue does so without exiting."
            )
        }
        (Some("IMAGE_UNAVAILABLE"), _) => {
            let text = "MongoDB has no image of that change. Use --full-document when-available \
                        or --before when-available, or enable changeStreamPreAndPostImages on the \
                        collection.";
            text.to_owned() + &skip_event_advice(status, file.as_deref())
        }
        (Some("EVENT_TOO_LARGE"), _) => {
            "Use --oversize chunk to receive it in chunks, --oversize omit to see only its key, or a \
             larger --max-message-bytes."
                .to_owned()
        }
        (Some("UPSTREAM_EVENT_TOO_LARGE"), _) => {
            let text = "MongoDB can't send that event. Omit --before and --full-document, or start \
                        after it with --since.";
            text.to_owned() + &skip_event_advice(status, file.as_deref())
        }
        (Some("LOOKUP_AMBIGUOUS"), _) => {
            let text = "Two shards have a document with that key. Omit --full-document lookup, or delete \
                        the one that should not exist.";
            text.to_owned() + &skip_event_advice(status, file.as_deref())
        }
        (Some("CHANGE_STREAMS_UNSUPPORTED"), _) => {
            "Change streams need a replica set, of which one mongod is enough, or a sharded cluster. If the \
             message names something else, a later version of MongoDB may have it."
                .to_owned()
        }
        (Some("UPSTREAM_REFUSED"), _) => {
            "The server's log has MongoDB's message. Your last token stays valid.".to_owned()
        }
        (Some("SHARD_REMOVED"), _) => {
            "Events of that shard are lost to this watch. Start without a token, or ask the operator of \
             the server for --ignore-removed-shards."
                .to_owned()
        }
        (Some("UPSTREAM_ACCESS_DENIED"), _) => {
            "The MongoDB user of the server needs `find` and `changeStream` on that namespace; the \
             server's log has the details."
                .to_owned()
        }
        (Some("WATCH_LIMIT_EXCEEDED"), _) => {
            "Try again later, or ask the operator of the server to raise the limit.".to_owned()
        }
        (Some("CREDENTIALS_MISSING"), _) => {
            "Use --token-file, --api-key-file, or --tls-cert-file and --tls-key-file; ask the operator \
             of the server which of them it accepts."
                .to_owned()
        }
        (Some("CREDENTIALS_INVALID"), _) => {
            "The server does not accept the content of --token-file, --api-key-file or --tls-cert-file: \
             it may be for another server, or revoked."
                .to_owned()
        }
        (Some("CREDENTIALS_EXPIRED"), _) => {
            "Put new credentials into the file and run the same command again.".to_owned()
        }
        (_, Code::PermissionDenied) => {
            "The server does not allow you this watch. For a whole deployment (--all), it must run \
             with --allow-deployment-watch."
                .to_owned()
        }
        (_, Code::Unauthenticated) => "The server requires credentials: use --token-file or --api-key-file.".to_owned(),
        (None, Code::Unimplemented) => format!(
            "{} has no weir.v1.WatchService: name another server with --server.",
            context.server
        ),
        (_, Code::Unimplemented) => "This version of the server does not support the request: use a later version of the server.".to_owned(),
        (None, Code::OutOfRange | Code::ResourceExhausted) => {
            "A message was larger than a limit on the network path; use a smaller --max-message-bytes."
                .to_owned()
        }
        (Some("INTERNAL"), _) => {
            "This is a defect of the server; its log has the details of this watch.".to_owned()
        }
        _ => return None,
    };
    Some(text)
}

/// Returns how to continue without an event that MongoDB can't send, if the server sent a token after it.
fn skip_event_advice(status: &Status, file: Option<&str>) -> String {
    let info = status.get_details_error_info();
    let Some(token) = info.and_then(|mut info| info.metadata.remove("next_token")) else {
        return String::new();
    };
    let first = match file {
        Some(file) => format!("delete {file}, whose token is before it, and use "),
        None => String::new(),
    };
    let token = escape_controls(&token);
    format!("\nTo continue after that event, without it: {first}--resume-token {token}")
}

/// Returns the part of the command line that a field of the request came from.
fn flag_of(field: &str, context: &AdviceContext) -> Option<String> {
    let name = field.split(['.', '[']).next().unwrap_or(field);
    let flag = match name {
        "database" | "collections" => "SCOPE",
        "operations" => "--op",
        "resume_token" if context.resume_file.is_some() => "--resume-file",
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
            let text = index.and_then(|index| context.conditions.get(index))?;
            return Some(format!("--where '{}'", escape_controls(text)));
        }
        _ => return None,
    };
    Some(flag.to_owned())
}

#[cfg(test)]
mod tests;
