//! Builds the request from the command line. The server checks everything that only it can check.

use std::time::SystemTime;

use super::args::{
    BeforeImage, FullDocument, MissingImage, Moment, OnInvalidate, Oversize, WatchArgs,
};
use crate::pb;
use crate::pb::watch_request::Start;

/// The flag of each field of the request that the server may refuse. That of a filter or a stage has its text
/// too, and that of a token is where it came from.
const FLAGS: [(&str, &str); 13] = [
    ("database", "SCOPE"),
    ("collections", "SCOPE"),
    ("operations", "--op"),
    ("pipeline", "--stage"),
    ("start_time", "--since"),
    ("end_time", "--until"),
    ("full_document", "--full-document"),
    ("full_document_before_change", "--before"),
    ("fields", "--fields"),
    ("show_expanded_events", "--expanded"),
    ("progress_interval", "--progress-interval"),
    ("max_message_bytes", "--max-message-bytes"),
    ("shard", "--shard"),
];

/// Returns the flag that sets a field of the request.
pub(super) fn flag_of(field: &str) -> Option<&'static str> {
    let (_, flag) = FLAGS.iter().find(|(name, _)| *name == field)?;
    Some(flag)
}

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
        full_document: pb::FullDocument::from(args.full_document).into(),
        full_document_before_change: pb::FullDocumentBeforeChange::from(args.before).into(),
        // Both output formats insert the text unchanged.
        document_format: pb::DocumentFormat::Json.into(),
        show_expanded_events: args.expanded,
        progress_interval: args
            .progress_interval
            .map(prost_types::Duration::try_from)
            .transpose()
            .map_err(|_| "--progress-interval is too long: use 1s to 60s".to_owned())?,
        max_message_bytes: args.max_message_bytes.unwrap_or(0),
        oversize_policy: pb::OversizePolicy::from(args.oversize).into(),
        missing_image_policy: pb::MissingImagePolicy::from(args.missing_image).into(),
        invalidate_policy: pb::InvalidatePolicy::from(args.on_invalidate).into(),
        feed_mode: pb::FeedMode::Auto.into(),
        fields: args.fields.clone(),
        shard: args.shard.map(pb::ConsumerShard::from),
        pipeline: args
            .stages
            .iter()
            .map(|stage| pb::PipelineStage {
                // As text, so that keys keep their order.
                kind: Some(pb::pipeline_stage::Kind::Json(stage.clone())),
            })
            .collect(),
        start: start(args)?,
        end_time: args
            .until
            .map(|Moment(until)| timestamp(until))
            .transpose()?,
    })
}

/// Returns where the watch starts; `None` for now.
fn start(args: &WatchArgs) -> Result<Option<Start>, String> {
    Ok(match (&args.resume_token, args.since) {
        (Some(token), _) => Some(Start::ResumeToken(token.0.clone())),
        (None, Some(Moment(since))) => Some(Start::StartTime(timestamp(since)?)),
        (None, None) => None,
    })
}

impl From<FullDocument> for pb::FullDocument {
    fn from(choice: FullDocument) -> Self {
        match choice {
            FullDocument::Default => Self::Default,
            FullDocument::Lookup => Self::UpdateLookup,
            FullDocument::WhenAvailable => Self::WhenAvailable,
            FullDocument::Required => Self::Required,
        }
    }
}

impl From<BeforeImage> for pb::FullDocumentBeforeChange {
    fn from(choice: BeforeImage) -> Self {
        match choice {
            BeforeImage::Off => Self::Off,
            BeforeImage::WhenAvailable => Self::WhenAvailable,
            BeforeImage::Required => Self::Required,
        }
    }
}

impl From<Oversize> for pb::OversizePolicy {
    fn from(choice: Oversize) -> Self {
        match choice {
            Oversize::Chunk => Self::Chunk,
            Oversize::Omit => Self::Omit,
            Oversize::Fail => Self::Fail,
        }
    }
}

impl From<MissingImage> for pb::MissingImagePolicy {
    fn from(choice: MissingImage) -> Self {
        match choice {
            MissingImage::Deliver => Self::Deliver,
            MissingImage::Drop => Self::Drop,
        }
    }
}

impl From<OnInvalidate> for pb::InvalidatePolicy {
    fn from(choice: OnInvalidate) -> Self {
        match choice {
            OnInvalidate::End => Self::End,
            OnInvalidate::Continue => Self::Continue,
        }
    }
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
