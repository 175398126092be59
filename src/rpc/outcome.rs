//! What became of a watch: recorded when its stream is dropped, `cancelled` unless said otherwise.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::Span;

use crate::{
    auth::Principal,
    error::{Class, Error, code_name},
    metrics::{Metrics, seconds},
    source::Event,
    spans::{Caller, SpanEnd, Spans, WatchSpan},
};

/// Counts, times and logs one watch, whichever way it ends.
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
    /// Events handed over so far.
    events: u64,
}

impl Outcome {
    pub(super) fn begin(
        metrics: Arc<Metrics>,
        peer: Option<SocketAddr>,
        principal: &Principal,
        (spans, headers): (&Spans, &HeaderMap),
    ) -> Self {
        metrics.watches_started.increment(1);
        let id = format!("{:016x}", fastrand::u64(..));
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
        // An error's, so that whatever is logged about the watch has it at any level.
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
        }
    }

    /// The span that everything about this watch is logged in.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// The span that is sent to a collector.
    pub(super) fn traced(&mut self) -> &mut WatchSpan {
        &mut self.traced
    }

    /// Names the watch in the log.
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
            // Mostly all are of one kind, and a counter that all watches move is dear.
            let operation = event.operation;
            let mut same = 1;
            while rest.next_if(|next| next.operation == operation).is_some() {
                same += 1;
            }
            self.metrics.events_sent(operation).increment(same);
        }
        // One sample a message, as the histogram keeps every sample until its next upkeep.
        let wall_time = first.wall_time;
        if let Some(millis) = wall_time.and_then(|millis| u64::try_from(millis).ok()) {
            let written = UNIX_EPOCH + Duration::from_millis(millis);
            // The clocks of two machines may disagree; less than nothing is no lag.
            let lag = SystemTime::now().duration_since(written);
            let lag = seconds(lag.unwrap_or_default());
            self.metrics.delivery_lag.record(lag);
        }
        self.events += count as u64;
    }

    /// The watch has ended as it should.
    pub(super) fn finish(&mut self) {
        self.code = Code::Ok;
        self.reason = "end_time";
    }

    /// The watch has failed; gives what the client is told.
    pub(super) fn fail(&mut self, error: Error) -> Status {
        self.code = error.code();
        self.reason = error.reason();
        self.class = Some(error.class());
        if error.class() != Class::Client {
            self.span
                .in_scope(|| tracing::debug!(%error, "watch fails"));
        }
        error.into_status(&self.id)
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let lasted = self.started.elapsed();
        self.metrics.watch_duration.record(seconds(lasted));
        self.metrics
            .count_watch_end(code_name(self.code), self.reason);
        let code = code_name(self.code);
        self.traced.end(SpanEnd {
            code: self.code.into(),
            reason: self.reason,
            // As OpenTelemetry has it for a server: what the client did wrong is none.
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
        self.span.in_scope(|| match self.class {
            Some(Class::Bug) => tracing::error!(code, reason, events, lasted, "watch ended"),
            Some(Class::Operator) => tracing::warn!(code, reason, events, lasted, "watch ended"),
            Some(Class::Client | Class::Transient) | None => {
                tracing::info!(code, reason, events, lasted, "watch ended");
            }
        });
    }
}
