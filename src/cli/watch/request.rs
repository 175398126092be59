//! Builds the request from the command line. The server checks everything that only it can check.

use std::time::SystemTime;

use super::args::{
    BeforeImage, FullDocument, MissingImage, Moment, OnInvalidate, Oversize, WatchArgs,
};
use crate::pb;
use crate::pb::watch_request::Start;

/// Returns the request for `args`, or an error for an invalid combination.
pub(super) fn build(args: &WatchArgs) -> Result<pb::WatchRequest, String> {
    if let Some(operation) = args.operations.iter().find(|op| op.needs_expanded())
        && !args.expanded
    {
        let name = operation.name();
        return Err(format!(
            "--op {name} needs --expanded, without which MongoDB does not send {name} events"
        ));
    }
    if let (Some(Moment(since)), Some(Moment(until))) = (args.since, args.until)
        && until < since
    {
        return Err("--until is earlier than --since: use a later time".to_owned());
    }
    let scope = args.scope();
    let start = match (&args.resume_token, args.since) {
        (Some(token), _) => Some(Start::ResumeToken(token.0.clone())),
        (None, Some(Moment(since))) => Some(Start::StartTime(timestamp(since)?)),
        (None, None) => None,
    };
    let end_time = args
        .until
        .map(|Moment(until)| timestamp(until))
        .transpose()?;
    Ok(pb::WatchRequest {
        database: scope.database,
        collections: scope.collections,
        operations: args
            .operations
            .iter()
            .map(|operation| operation.to_pb().into())
            .collect(),
        filters: args
            .conditions
            .iter()
            .map(|condition| condition.filter.clone())
            .collect(),
        end_time,
        full_document: match args.full_document {
            FullDocument::Default => pb::FullDocument::Default,
            FullDocument::Lookup => pb::FullDocument::UpdateLookup,
            FullDocument::WhenAvailable => pb::FullDocument::WhenAvailable,
            FullDocument::Required => pb::FullDocument::Required,
        }
        .into(),
        full_document_before_change: match args.before {
            BeforeImage::Off => pb::FullDocumentBeforeChange::Off,
            BeforeImage::WhenAvailable => pb::FullDocumentBeforeChange::WhenAvailable,
            BeforeImage::Required => pb::FullDocumentBeforeChange::Required,
        }
        .into(),
        // Both output formats insert the text unchanged.
        document_format: pb::DocumentFormat::Json.into(),
        show_expanded_events: args.expanded,
        progress_interval: args
            .progress_interval
            .map(prost_types::Duration::try_from)
            .transpose()
            .map_err(|_| "--progress-interval is too long: use 1s to 60s".to_owned())?,
        max_message_bytes: args.max_message_bytes.unwrap_or(0),
        oversize_policy: match args.oversize {
            Oversize::Chunk => pb::OversizePolicy::Chunk,
            Oversize::Omit => pb::OversizePolicy::Omit,
            Oversize::Fail => pb::OversizePolicy::Fail,
        }
        .into(),
        missing_image_policy: match args.missing_image {
            MissingImage::Deliver => pb::MissingImagePolicy::Deliver,
            MissingImage::Drop => pb::MissingImagePolicy::Drop,
        }
        .into(),
        invalidate_policy: match args.on_invalidate {
            OnInvalidate::End => pb::InvalidatePolicy::End,
            OnInvalidate::Continue => pb::InvalidatePolicy::Continue,
        }
        .into(),
        feed_mode: pb::FeedMode::Auto.into(),
        start,
    })
}

fn timestamp(time: SystemTime) -> Result<prost_types::Timestamp, String> {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since_1970) if since_1970.as_secs() <= u64::from(u32::MAX) => {
            Ok(prost_types::Timestamp {
                seconds: i64::try_from(since_1970.as_secs()).expect("checked to fit u32"),
                nanos: i32::try_from(since_1970.subsec_nanos()).expect("below 10^9"),
            })
        }
        _ => Err("--since and --until must be between 1970 and 2106".to_owned()),
    }
}

#[cfg(test)]
mod tests;
