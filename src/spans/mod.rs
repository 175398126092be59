//! Spans of watches for an OpenTelemetry collector.
//!
//! They are independent of the log, so that the log level does not affect traces, and a watch has no cost
//! without a collector.

#[cfg(feature = "otlp")]
mod otlp;

mod facts;
mod settings;

use std::time::Duration;

use http::HeaderMap;

pub use facts::{Caller, SpanEnd};
pub use settings::SpanSettings;

/// Creates the spans of watches and exports them. Clones are cheap and share one exporter.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    #[cfg(feature = "otlp")]
    pipeline: Option<std::sync::Arc<otlp::SpanPipeline>>,
}

impl Spans {
    /// Exports spans to a collector, which may be down; without settings, creates no spans. Must be called
    /// within an async runtime.
    ///
    /// # Errors
    /// A message, if the endpoint can't be used.
    #[cfg(feature = "otlp")]
    pub fn new(settings: Option<&SpanSettings>) -> Result<Self, String> {
        let pipeline = settings.map(otlp::SpanPipeline::new).transpose()?;
        Ok(Self {
            pipeline: pipeline.map(std::sync::Arc::new),
        })
    }

    /// Checks settings as [`new`](Self::new) does, and starts nothing. Must be called within an async runtime.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn check(settings: Option<&SpanSettings>) -> Result<(), String> {
        #[cfg(feature = "otlp")]
        return settings.map(otlp::exporter).transpose().map(drop);
        #[cfg(not(feature = "otlp"))]
        Self::new(settings).map(drop)
    }

    /// Creates no spans.
    ///
    /// # Errors
    /// A message, if there are settings: this program was built without the feature `otlp`.
    #[cfg(not(feature = "otlp"))]
    pub fn new(settings: Option<&SpanSettings>) -> Result<Self, String> {
        match settings {
            Some(_) => Err("this program was built without the feature otlp: build it with --features otlp, or remove the flag".to_owned()),
            None => Ok(Self::default()),
        }
    }

    /// Starts the span of a Watch call with these headers. The span ends with the returned value.
    #[must_use]
    #[cfg_attr(not(feature = "otlp"), allow(unused_variables))]
    pub fn watch(&self, headers: &HeaderMap, caller: &Caller<'_>) -> WatchSpan {
        WatchSpan {
            #[cfg(feature = "otlp")]
            spans: self
                .pipeline
                .as_ref()
                .and_then(|it| it.watch(headers, caller)),
        }
    }

    /// Sends the remaining spans within `limit`. Spans that end later are lost.
    #[cfg_attr(not(feature = "otlp"), allow(clippy::unused_async, unused_variables))]
    pub async fn close(&self, limit: Duration) {
        #[cfg(feature = "otlp")]
        if let Some(pipeline) = &self.pipeline {
            pipeline.close(limit).await;
        }
    }
}

/// The span of one watch, or nothing if the watch is not traced.
#[derive(Debug, Default)]
pub struct WatchSpan {
    #[cfg(feature = "otlp")]
    spans: Option<Box<otlp::ActiveSpans>>,
}

#[cfg_attr(not(feature = "otlp"), allow(clippy::unused_self, unused_variables))]
impl WatchSpan {
    /// Returns the trace id in hexadecimal, or `None` if the watch is not traced.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        #[cfg(feature = "otlp")]
        return self.spans.as_ref().map(|it| it.trace_id());
        #[cfg(not(feature = "otlp"))]
        None
    }

    /// Records the scope, once the request has been read.
    pub fn set_scope(&mut self, scope: &dyn std::fmt::Display) {
        #[cfg(feature = "otlp")]
        if let Some(spans) = &mut self.spans {
            spans.set_scope(scope);
        }
    }

    /// Records that the watch is open, and ends the span of the opening. The opening has its own span because
    /// the span of the watch is sent only when the watch ends, which may be after weeks.
    pub fn opened(&mut self, feed_mode: &'static str) {
        #[cfg(feature = "otlp")]
        if let Some(spans) = &mut self.spans {
            spans.opened(feed_mode);
        }
    }

    /// Ends the span with the outcome of the watch.
    pub fn end(&mut self, end: SpanEnd) {
        #[cfg(feature = "otlp")]
        if let Some(spans) = self.spans.take() {
            spans.end(end);
        }
    }
}
