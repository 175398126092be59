//! The reaction to a status: retry, or advice for the user.

use std::path::PathBuf;
use std::time::Duration;

use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::documents::rfc3339;
use super::request;
use super::text::{escape_controls, root_causes};
use crate::error::{code_name, truncate};

/// The longest text of a stage that is repeated, in bytes.
const MAX_STAGE_BYTES: usize = 100;

/// The parts of the command line that advice refers to.
#[derive(Debug, Clone, Default)]
pub struct AdviceContext {
    /// The URL of the server.
    pub server: String,
    /// The file of `--resume-file`.
    pub resume_file: Option<PathBuf>,
    /// The texts of `--where`, in order.
    pub conditions: Vec<String>,
    /// The texts of `--stage`, in order.
    pub stages: Vec<String>,
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

/// The statuses that a row of [`ADVICE`] is about.
#[derive(Debug, Clone, Copy)]
enum When {
    /// With this reason.
    Reason(&'static str),
    /// With this code, and any reason or none.
    Code(Code),
    /// With this code and no reason: a proxy or the client library created it.
    CodeWithoutReason(Code),
}

#[derive(Debug, Clone, Copy)]
enum Advice {
    Text(&'static str),
    /// A text that depends on the command line or on the details of the status.
    From(fn(&Situation<'_>) -> String),
}

/// A status with the parts of the command line that advice about it names.
struct Situation<'a> {
    status: &'a Status,
    server: &'a str,
    /// The resume file.
    file: Option<String>,
}

/// What to do about a status. The first row that is about it holds.
const ADVICE: &[(When, Advice)] = &[
    (
        When::Reason("RESUME_TOKEN_EXPIRED"),
        Advice::From(of_expired_token),
    ),
    (
        When::Reason("RESUME_TOKEN_MISMATCH"),
        Advice::From(of_token_of_another_watch),
    ),
    (
        When::Reason("RESUME_TOKEN_MALFORMED"),
        Advice::From(of_foreign_token),
    ),
    (
        When::Reason("WATCH_INVALIDATED"),
        Advice::From(of_invalidated_watch),
    ),
    (
        When::Reason("IMAGE_UNAVAILABLE"),
        Advice::From(|it| {
            it.without_event(
        "MongoDB has no image of that change. Use --full-document when-available or --before \
         when-available, or enable changeStreamPreAndPostImages on the collection.",
    )
        }),
    ),
    (
        When::Reason("EVENT_TOO_LARGE"),
        Advice::Text(
            "Use --oversize chunk to receive it in chunks, --oversize omit to see only its key, or a larger \
         --max-message-bytes.",
        ),
    ),
    (
        When::Reason("UPSTREAM_EVENT_TOO_LARGE"),
        Advice::From(|it| {
            it.without_event(
        "MongoDB can't send that event. Omit --before and --full-document, or start after it with --since.",
    )
        }),
    ),
    (
        When::Reason("LOOKUP_AMBIGUOUS"),
        Advice::From(|it| {
            it.without_event(
        "Two shards have a document with that key. Omit --full-document lookup, or delete the one that \
         should not exist.",
    )
        }),
    ),
    (
        When::Reason("CHANGE_STREAMS_UNSUPPORTED"),
        Advice::Text(
            "Change streams need a replica set, of which one mongod is enough, or a sharded cluster. If the \
         message names something else, a later version of MongoDB may have it.",
        ),
    ),
    (
        When::Reason("UPSTREAM_REFUSED"),
        Advice::Text("The server's log has MongoDB's message. Your last token stays valid."),
    ),
    (
        When::Reason("SHARD_REMOVED"),
        Advice::Text(
            "Events of that shard are lost to this watch. Start without a token, or ask the operator of the \
         server for --ignore-removed-shards.",
        ),
    ),
    (
        When::Reason("UPSTREAM_ACCESS_DENIED"),
        Advice::Text(
            "The MongoDB user of the server needs `find` and `changeStream` on that namespace; the server's \
         log has the details.",
        ),
    ),
    (
        When::Reason("WATCH_LIMIT_EXCEEDED"),
        Advice::Text("Try again later, or ask the operator of the server to raise the limit."),
    ),
    (
        When::Reason("CREDENTIALS_MISSING"),
        Advice::Text(
            "Use --token-file, --api-key-file, or --tls-cert-file and --tls-key-file; ask the operator of the \
         server which of them it accepts.",
        ),
    ),
    (
        When::Reason("CREDENTIALS_INVALID"),
        Advice::Text(
            "The server does not accept the content of --token-file, --api-key-file or --tls-cert-file: it \
         may be for another server, or revoked.",
        ),
    ),
    (
        When::Reason("CREDENTIALS_EXPIRED"),
        Advice::Text("Put new credentials into the file and run the same command again."),
    ),
    (
        When::Reason("PIPELINE_NOT_ALLOWED"),
        Advice::Text(
            "Omit --stage, or ask the operator of the server for --allow-pipeline. Where the policy limits which \
         documents or fields you may see, no stage is allowed; use --where.",
        ),
    ),
    (
        When::Reason("PIPELINE_CHANGED_TOKEN"),
        Advice::Text(
            "Keep _id in every --stage: it is the event's resume token. A $replaceRoot or $replaceWith needs \
         \"_id\": \"$_id\".",
        ),
    ),
    (
        When::Code(Code::PermissionDenied),
        Advice::Text(
            "The server does not allow you this watch. For a whole deployment (--all), it must run with \
         --allow-deployment-watch.",
        ),
    ),
    (
        When::Code(Code::Unauthenticated),
        Advice::Text("The server requires credentials: use --token-file or --api-key-file."),
    ),
    (
        When::CodeWithoutReason(Code::Unimplemented),
        Advice::From(|it| {
            format!(
                "{} has no weir.v1.WatchService: name another server with --server.",
                it.server
            )
        }),
    ),
    (
        When::Code(Code::Unimplemented),
        Advice::Text(
            "This version of the server does not support the request: use a later version of the server.",
        ),
    ),
    (
        When::CodeWithoutReason(Code::OutOfRange),
        Advice::Text(TOO_LARGE_FOR_THE_PATH),
    ),
    (
        When::CodeWithoutReason(Code::ResourceExhausted),
        Advice::Text(TOO_LARGE_FOR_THE_PATH),
    ),
    (
        When::Reason("INTERNAL"),
        Advice::Text("This is a defect of the server; its log has the details of this watch."),
    ),
];

const TOO_LARGE_FOR_THE_PATH: &str =
    "A message was larger than a limit on the network path; use a smaller --max-message-bytes.";

fn advice(status: &Status, context: &AdviceContext) -> Option<String> {
    let found = reason(status);
    let (_, advice) = ADVICE.iter().find(|(when, _)| match *when {
        When::Reason(reason) => found.as_deref() == Some(reason),
        When::Code(code) => status.code() == code,
        When::CodeWithoutReason(code) => found.is_none() && status.code() == code,
    })?;
    Some(match advice {
        Advice::Text(text) => (*text).to_owned(),
        Advice::From(text) => text(&Situation {
            status,
            server: &context.server,
            file: context
                .resume_file
                .as_ref()
                .map(|path| path.display().to_string()),
        }),
    })
}

fn of_expired_token(it: &Situation<'_>) -> String {
    let restart = match &it.file {
        Some(file) => format!("Delete {file} to start from now; with --since 10m too,"),
        None => "Omit --resume-token and --since to start from now; with --since 10m".to_owned(),
    };
    format!(
        "MongoDB's oplog no longer contains that position, so this watch has lost changes.\n\
         {restart} it starts that far back, if the oplog reaches there."
    )
}

fn of_token_of_another_watch(it: &Situation<'_>) -> String {
    let Some(time) = time(it.status, "RESUME_TOKEN_MISMATCH", "token_time") else {
        return of_foreign_token(it);
    };
    let first = match &it.file {
        Some(file) => format!("delete {file} and use "),
        None => String::new(),
    };
    format!(
        "Your access has changed since you received the token. To continue at its time: {first}--since {}",
        rfc3339(&time)
    )
}

fn of_foreign_token(it: &Situation<'_>) -> String {
    match &it.file {
        Some(file) => format!(
            "{file} stores a token of another deployment or scope. Use another file, or delete it to start \
             without a token."
        ),
        None => {
            "A token is valid only for the deployment, database and collections that it came from."
                .to_owned()
        }
    }
}

fn of_invalidated_watch(it: &Situation<'_>) -> String {
    let advice = match &it.file {
        Some(_) => "Run the same command again to watch",
        None => "Use --resume-file to continue with",
    };
    format!(
        "The watched collection or database has been dropped or renamed. {advice} one created later under \
         the same name; --on-invalidate continue does so without exiting."
    )
}

impl Situation<'_> {
    /// Returns `advice` and how to continue without an event that MongoDB can't send, if the server sent a
    /// token after it.
    fn without_event(&self, advice: &str) -> String {
        let info = self.status.get_details_error_info();
        let Some(token) = info.and_then(|mut info| info.metadata.remove("next_token")) else {
            return advice.to_owned();
        };
        let first = match &self.file {
            Some(file) => format!("delete {file}, whose token is before it, and use "),
            None => String::new(),
        };
        let token = escape_controls(&token);
        format!("{advice}\nTo continue after that event, without it: {first}--resume-token {token}")
    }
}

/// Returns the part of the command line that a field of the request came from.
fn flag_of(field: &str, context: &AdviceContext) -> Option<String> {
    let name = field.split(['.', '[']).next().unwrap_or(field);
    let flag = match name {
        "resume_token" if context.resume_file.is_some() => "--resume-file",
        "resume_token" => "--resume-token",
        "filters" => {
            let text = context.conditions.get(index_in(field)?)?;
            return Some(format!("--where '{}'", escape_controls(text)));
        }
        "pipeline" if let Some(text) = index_in(field).and_then(|at| context.stages.get(at)) => {
            let text = truncate(text, MAX_STAGE_BYTES);
            return Some(format!("--stage '{}'", escape_controls(&text)));
        }
        name => request::flag_of(name)?,
    };
    Some(flag.to_owned())
}

/// Returns the first index in the path of a field.
fn index_in(field: &str) -> Option<usize> {
    let (_, rest) = field.split_once('[')?;
    let (index, _) = rest.split_once(']')?;
    index.parse().ok()
}

#[cfg(test)]
mod tests;
