//! The outcome of a watch, recorded when its stream is dropped; `cancelled` unless it was set.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::{Level, Span};

use crate::{
    auth::Principal,
    error::{Class, Error, code_name},
    limit::{LineKind, RepeatedLines},
    metrics::{Metrics, seconds},
    model,
    source::Event,
    spans::{Caller, SpanEnd, Spans, WatchSpan},
};

/// The message of the line about the end of a watch.
const ENDED: &str = "watch ended";

/// Counts, measures and logs one watch, however it ends.
#[derive(Debug)]
pub(super) struct Outcome {
    metrics: Arc<Metrics>,
    span: Span,
    traced: WatchSpan,
    id: String,
    started: Instant,
    code: Code,
    reason: &'static str,
    class: Option<Class>,
    /// The number of events delivered so far.
    events: u64,
    caller: model::Caller,
    lines: RepeatedLines,
}

impl Outcome {
    pub(super) fn begin(
        metrics: Arc<Metrics>,
        peer: Option<SocketAddr>,
        principal: &Principal,
        (spans, headers): (&Spans, &HeaderMap),
        lines: RepeatedLines,
    ) -> Self {
        metrics.watches_started.increment(1);
        let id = format!("{:016x}", fastrand::u64(..));
        let caller = principal.as_caller(peer);
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        let principal = principal.for_logs();
        let traced = spans.watch(
            headers,
            &Caller {
                watch_id: &id,
                peer: &peer,
                principal: &principal,
            },
        );
        // At error level, so that log lines of the watch carry the span at every log level.
        let span = tracing::error_span!("watch", id, peer, principal, trace_id = traced.trace_id());
        Self {
            span,
            traced,
            id,
            metrics,
            started: Instant::now(),
            code: Code::Cancelled,
            reason: "cancelled",
            class: None,
            events: 0,
            caller,
            lines,
        }
    }

    /// Returns the span for all log lines of this watch.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Returns the OpenTelemetry span.
    pub(super) fn traced(&mut self) -> &mut WatchSpan {
        &mut self.traced
    }

    /// Returns the identifier of the watch in the log.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Counts the events of a message.
    pub(super) fn count<'e>(&mut self, events: impl ExactSizeIterator<Item = &'e Event> + Clone) {
        let count = events.len();
        let Some(first) = events.clone().next() else {
            return;
        };
        let mut rest = events.peekable();
        while let Some(event) = rest.next() {
            // One increment per group of equal operations: all watches share the counter, which makes each
            // increment expensive.
            let operation = event.operation;
            let mut same = 1;
            while rest.next_if(|next| next.operation == operation).is_some() {
                same += 1;
            }
            self.metrics.events_sent.of(operation).increment(same);
        }
        // One sample per message: the histogram keeps every sample until its next upkeep.
        let wall_time = first.wall_time;
        if let Some(millis) = wall_time.and_then(|millis| u64::try_from(millis).ok()) {
            let written = UNIX_EPOCH + Duration::from_millis(millis);
            // The clocks of two machines may differ; a negative lag counts as none.
            let lag = SystemTime::now().duration_since(written);
            let lag = seconds(lag.unwrap_or_default());
            self.metrics.delivery_lag.record(lag);
        }
        self.events += count as u64;
    }

    /// Records that the watch reached its end time.
    pub(super) fn finish(&mut self) {
        self.code = Code::Ok;
        self.reason = "end_time";
    }

    /// Records that the watch failed. Returns the status for the client.
    pub(super) fn fail(&mut self, error: Error) -> Status {
        self.code = error.code();
        self.reason = error.reason();
        self.class = Some(error.class());
        if error.class() != Class::Client {
            self.span
                .in_scope(|| tracing::debug!(%error, "watch failed"));
        }
        error.into_status(&self.id)
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let lasted = self.started.elapsed();
        self.metrics.watch_duration.record(seconds(lasted));
        let code = code_name(self.code);
        let ended = &self.metrics.watches_ended;
        ended.of((code, self.reason)).increment(1);
        self.traced.end(SpanEnd {
            code: self.code.into(),
            reason: self.reason,
            // OpenTelemetry's convention for servers: client errors are not faults.
            is_fault: matches!(
                self.code,
                Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Unimplemented
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            ),
            events: self.events,
        });
        let (reason, events, lasted) = (self.reason, self.events, seconds(lasted));
        let level = match self.class {
            Some(Class::Bug) => Level::ERROR,
            Some(Class::Operator) => Level::WARN,
            Some(Class::Client | Class::Transient) | None => Level::INFO,
        };
        let kind = LineKind {
            level,
            message: ENDED,
            code,
            reason,
        };
        if !self.lines.admits(&self.caller, kind) {
            return;
        }
        self.span.in_scope(|| match level {
            Level::ERROR => tracing::error!(code, reason, events, lasted, "{ENDED}"),
            Level::WARN => tracing::warn!(code, reason, events, lasted, "{ENDED}"),
            _ => tracing::info!(code, reason, events, lasted, "{ENDED}"),
        });
    }
}
