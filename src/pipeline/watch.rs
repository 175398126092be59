//! The validation of a `WatchRequest`, field by field.

mod fields;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::View;
use super::client_stages::{ClientStages, check_combination, client_stages};
use crate::filter::{Filter, parse};
use crate::model::{
    BeforeChange, Caller, EndTime, FeedMode, Findings, Format, FullDocument, Invalidate,
    MissingImage, Operation, Oversize, Rendering, RequestError, Scope, Shard, Start,
};
use crate::pb;
use crate::pb::watch_request;

mod shard;

/// The largest `google.protobuf.Duration`, about 10,000 years.
const MAX_DURATION_SECONDS: i64 = 315_576_000_000;

/// The bounds and defaults that the server's configuration sets for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// The progress interval of a request that sets none.
    pub default_progress_interval: Duration,
    /// The shortest progress interval; shorter ones are raised to it.
    pub min_progress_interval: Duration,
    /// The longest progress interval; longer ones are lowered to it.
    pub max_progress_interval: Duration,
    /// The `max_message_bytes` of a request that sets none.
    pub default_max_message_bytes: u32,
    /// The smallest `max_message_bytes` of a request.
    pub min_max_message_bytes: u32,
    /// The largest `max_message_bytes` of a request.
    pub max_max_message_bytes: u32,
    /// `true` if a request may watch the whole deployment.
    pub allow_deployment: bool,
    /// `true` if a request may have stages of its own.
    pub allow_pipeline: bool,
}

impl Default for RequestLimits {
    fn default() -> RequestLimits {
        RequestLimits {
            default_progress_interval: Duration::from_secs(15),
            min_progress_interval: Duration::from_secs(1),
            max_progress_interval: Duration::from_secs(60),
            default_max_message_bytes: 3 * 1024 * 1024,
            min_max_message_bytes: 64 * 1024,
            max_max_message_bytes: 64 * 1024 * 1024,
            allow_deployment: false,
            allow_pipeline: false,
        }
    }
}

impl RequestLimits {
    /// Checks that the server allows what the request asks for, whatever else is wrong with it.
    ///
    /// # Errors
    /// `DeploymentNotAllowed` or `PipelineNotAllowed`.
    pub fn permit(&self, request: &pb::WatchRequest) -> Result<(), RequestError> {
        let deployment = request.database.is_empty() && request.collections.is_empty();
        if deployment && !self.allow_deployment {
            return Err(RequestError::DeploymentNotAllowed);
        }
        if !request.pipeline.is_empty() && !self.allow_pipeline {
            return Err(RequestError::PipelineNotAllowed);
        }
        Ok(())
    }
}

/// A valid request, with defaults filled in and every value within its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// The part of the deployment to watch.
    pub scope: Scope,
    /// The operations to deliver, at least one; `None` means all.
    pub operations: Option<BTreeSet<Operation>>,
    /// The policy's condition, which must certainly hold for every document that an event carries.
    pub row_filter: Option<Filter>,
    /// The condition on documents: all filters of the request combined.
    pub filter: Option<Filter>,
    /// The paths of the regular expressions in the request's filters, in order.
    pub pattern_fields: Vec<String>,
    /// The result of the filter where it is unknown for lack of a document.
    pub missing_image: MissingImage,
    /// The start position.
    pub start: Start,
    /// The end of the last second to deliver.
    pub end_time: Option<EndTime>,
    /// The document after the change in update events.
    pub full_document: FullDocument,
    /// The document before the change in events.
    pub before_change: BeforeChange,
    /// `true` if expanded events are delivered.
    pub expanded: bool,
    /// What is shown of an event.
    pub rendering: Arc<Rendering>,
    /// The longest time without a message.
    pub progress_interval: Duration,
    /// The largest message, in bytes.
    pub max_message_bytes: u32,
    /// The handling of events that do not fit into a message.
    pub oversize: Oversize,
    /// The handling of the end of the watched collection or database.
    pub invalidate: Invalidate,
    /// The kind of feed that serves the watch.
    pub feed_mode: FeedMode,
    /// The share of the documents to deliver; `None` means all.
    pub shard: Option<Shard>,
    /// The client's own stages, valid, in order.
    pub client_stages: ClientStages,
    /// Whose watch it is. A request does not say; the server sets it.
    pub caller: Caller,
}

impl Watch {
    /// Validates a request and fills in defaults.
    ///
    /// # Errors
    ///
    /// `Invalid` names every invalid field, up to [`MAX_VIOLATIONS`](crate::model::MAX_VIOLATIONS).
    /// `DeploymentNotAllowed` and `PipelineNotAllowed` come first: a client that may not do this learns nothing
    /// more.
    pub fn from_request(
        request: pb::WatchRequest,
        limits: &RequestLimits,
    ) -> Result<Watch, RequestError> {
        limits.permit(&request)?;
        let has_pipeline = !request.pipeline.is_empty();
        let mut findings = Findings::default();
        let f = &mut findings;
        let expanded = request.show_expanded_events;
        let scope = Scope::from_names(request.database, request.collections, f);
        let operations = operations(&request.operations, expanded, f);
        let (filter, patterns) = parse::predicate(request.filters, f);
        let start = start(request.start, f);
        let end_time = request
            .end_time
            .and_then(|time| seconds("end_time", &time, f));
        if let (Start::Time(start), Some(end)) = (&start, end_time)
            && EndTime::after_second(end).is_past(*start)
        {
            f.invalid(
                "end_time",
                format!("is {end} seconds since 1970, before start_time, which is {start}; use the same or a later second"),
            );
        }
        let feed_mode = feed_mode(request.feed_mode, f);
        if has_pipeline {
            check_combination(filter.as_ref(), feed_mode, f);
        }
        let filter = filter.as_ref().map(Filter::new);
        let watch = Watch {
            // Without a scope there is a violation, and this watch is dropped below.
            scope: scope.unwrap_or(Scope::Deployment),
            operations,
            row_filter: None,
            filter,
            pattern_fields: patterns.fields,
            missing_image: missing_image(request.missing_image_policy, f),
            start,
            end_time: end_time.map(EndTime::after_second),
            full_document: full_document(request.full_document, f),
            before_change: before_change(request.full_document_before_change, f),
            expanded,
            rendering: Arc::new(Rendering {
                mask: fields::field_mask(&request.fields, f),
                ..Rendering::unrestricted(format(request.document_format, f))
            }),
            progress_interval: progress_interval(request.progress_interval, limits, f),
            max_message_bytes: max_message_bytes(request.max_message_bytes, limits, f),
            oversize: oversize(request.oversize_policy, f),
            invalidate: invalidate(request.invalidate_policy, f),
            feed_mode,
            shard: shard::shard(request.shard, has_pipeline, f),
            client_stages: client_stages(request.pipeline, f),
            caller: Caller::default(),
        };
        findings.into_result().map(|()| watch)
    }

    /// Restricts the watch to what a policy lets its client see, in place of what another view did.
    pub fn restrict_to(&mut self, view: &View) {
        self.row_filter.clone_from(&view.row_filter);
        self.rendering = Arc::new(Rendering {
            format: self.rendering.format,
            mask: self.rendering.mask.with_hidden_fields_of(&view.field_mask),
            audience: view.token_audience,
        });
    }

    /// Returns whether a policy restricts what the client sees, or its tokens.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.row_filter.is_some()
            || self.rendering.audience.is_some()
            || self.rendering.mask.hides_fields()
    }

    /// Returns whether any operation that changes a document is selected. Filters apply to these only.
    pub(crate) fn selects_documents(&self) -> bool {
        let operations = self.operations.as_ref();
        operations.is_none_or(|operations| operations.iter().any(|it| it.is_document()))
    }
}

fn operations(
    numbers: &[i32],
    expanded: bool,
    findings: &mut Findings,
) -> Option<BTreeSet<Operation>> {
    let mut operations = BTreeSet::new();
    for (index, &number) in numbers.iter().enumerate() {
        if findings.is_full() {
            break;
        }
        let field = format!("operations[{index}]");
        let Some(value) = enum_value(number, &field, pb::OperationType::as_str_name, findings)
        else {
            continue;
        };
        match Operation::from_pb(value) {
            None => findings.invalid(
                field,
                "is OPERATION_TYPE_UNSPECIFIED; name an operation, or leave operations empty for all",
            ),
            Some(operation) if operation.needs_expanded() && !expanded => findings.invalid(
                field,
                format!(
                    "is {}, which is delivered only with show_expanded_events; set it, or leave the operation out",
                    value.as_str_name()
                ),
            ),
            Some(operation) => {
                operations.insert(operation);
            }
        }
    }
    (!operations.is_empty()).then_some(operations)
}

fn start(start: Option<watch_request::Start>, findings: &mut Findings) -> Start {
    match start {
        None => Start::Now,
        // Parsed later: an invalid token has an error reason of its own. Copied, as the bytes of a request are slices
        // of its buffer, which would be kept whole.
        Some(watch_request::Start::ResumeToken(token)) => {
            Start::Token(Bytes::copy_from_slice(&token))
        }
        Some(watch_request::Start::StartTime(time)) => {
            seconds("start_time", &time, findings).map_or(Start::Now, Start::Time)
        }
    }
}

/// Returns the seconds of a timestamp, which MongoDB stores in 32 bits.
fn seconds(field: &str, time: &prost_types::Timestamp, findings: &mut Findings) -> Option<u32> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        findings.invalid(
            field,
            format!("has {} nanos; nanos must be 0 to 999999999", time.nanos),
        );
        return None;
    }
    let seconds = u32::try_from(time.seconds).ok();
    if seconds.is_none() {
        findings.invalid(
            field,
            format!(
                "is {} seconds since 1970; MongoDB stores times of 0 to {} (the year 2106)",
                time.seconds,
                u32::MAX
            ),
        );
    }
    seconds
}

fn progress_interval(
    requested: Option<prost_types::Duration>,
    limits: &RequestLimits,
    findings: &mut Findings,
) -> Duration {
    let mut interval = limits.default_progress_interval;
    if let Some(requested) = requested {
        match (
            u64::try_from(requested.seconds),
            u32::try_from(requested.nanos),
        ) {
            (Ok(seconds), Ok(nanos))
                if requested.seconds <= MAX_DURATION_SECONDS && nanos < 1_000_000_000 =>
            {
                interval = Duration::new(seconds, nanos);
            }
            _ => findings.invalid(
                "progress_interval",
                format!(
                    "is {} seconds and {} nanos; neither may be negative, seconds must be at most \
                     {MAX_DURATION_SECONDS}, and nanos at most 999999999",
                    requested.seconds, requested.nanos
                ),
            ),
        }
    }
    interval
        .min(limits.max_progress_interval)
        .max(limits.min_progress_interval)
}

fn max_message_bytes(requested: u32, limits: &RequestLimits, findings: &mut Findings) -> u32 {
    if requested == 0 {
        return limits.default_max_message_bytes;
    }
    if !(limits.min_max_message_bytes..=limits.max_max_message_bytes).contains(&requested) {
        findings.invalid(
            "max_message_bytes",
            format!(
                "is {requested}; use 0 for the default of {}, or {} to {} bytes",
                limits.default_max_message_bytes,
                limits.min_max_message_bytes,
                limits.max_max_message_bytes
            ),
        );
    }
    requested
}

/// Returns the enum value of a number; notes an unknown number as a violation.
fn enum_value<E: TryFrom<i32> + Copy>(
    number: i32,
    field: &str,
    name: fn(&E) -> &'static str,
    findings: &mut Findings,
) -> Option<E> {
    if let Ok(value) = E::try_from(number) {
        return Some(value);
    }
    // The API numbers its enums from 0 without gaps.
    let known: Vec<E> = (0..).map_while(|number| E::try_from(number).ok()).collect();
    let last = known.last().map_or("", name);
    findings.invalid(
        field,
        format!(
            "is {number}, which this version does not know; use 0 to {} ({last})",
            known.len().saturating_sub(1)
        ),
    );
    None
}

fn full_document(number: i32, findings: &mut Findings) -> FullDocument {
    use pb::FullDocument as Pb;
    match enum_value(number, "full_document", Pb::as_str_name, findings) {
        None | Some(Pb::Unspecified | Pb::Default) => FullDocument::Default,
        Some(Pb::UpdateLookup) => FullDocument::UpdateLookup,
        Some(Pb::WhenAvailable) => FullDocument::WhenAvailable,
        Some(Pb::Required) => FullDocument::Required,
    }
}

fn before_change(number: i32, findings: &mut Findings) -> BeforeChange {
    use pb::FullDocumentBeforeChange as Pb;
    let field = "full_document_before_change";
    match enum_value(number, field, Pb::as_str_name, findings) {
        None | Some(Pb::Unspecified | Pb::Off) => BeforeChange::Off,
        Some(Pb::WhenAvailable) => BeforeChange::WhenAvailable,
        Some(Pb::Required) => BeforeChange::Required,
    }
}

fn format(number: i32, findings: &mut Findings) -> Format {
    use pb::DocumentFormat as Pb;
    match enum_value(number, "document_format", Pb::as_str_name, findings) {
        None | Some(Pb::Unspecified | Pb::Bson) => Format::Bson,
        Some(Pb::Json) => Format::Json,
        Some(Pb::CanonicalJson) => Format::CanonicalJson,
        Some(Pb::Struct) => Format::Struct,
    }
}

fn oversize(number: i32, findings: &mut Findings) -> Oversize {
    use pb::OversizePolicy as Pb;
    match enum_value(number, "oversize_policy", Pb::as_str_name, findings) {
        None | Some(Pb::Unspecified | Pb::Chunk) => Oversize::Chunk,
        Some(Pb::Omit) => Oversize::Omit,
        Some(Pb::Fail) => Oversize::Fail,
    }
}

fn missing_image(number: i32, findings: &mut Findings) -> MissingImage {
    use pb::MissingImagePolicy as Pb;
    match enum_value(number, "missing_image_policy", Pb::as_str_name, findings) {
        None | Some(Pb::Unspecified | Pb::Deliver) => MissingImage::Deliver,
        Some(Pb::Drop) => MissingImage::Drop,
    }
}

fn invalidate(number: i32, findings: &mut Findings) -> Invalidate {
    use pb::InvalidatePolicy as Pb;
    match enum_value(number, "invalidate_policy", Pb::as_str_name, findings) {
        None | Some(Pb::Unspecified | Pb::End) => Invalidate::End,
        Some(Pb::Continue) => Invalidate::Continue,
    }
}

fn feed_mode(number: i32, findings: &mut Findings) -> FeedMode {
    use pb::FeedMode as Pb;
    match enum_value(number, "feed_mode", Pb::as_str_name, findings) {
        None | Some(Pb::Unspecified | Pb::Auto) => FeedMode::Auto,
        Some(Pb::Dedicated) => FeedMode::Dedicated,
        Some(Pb::Shared) => FeedMode::Shared,
    }
}

#[cfg(test)]
mod tests;
