//! Spans of watches, for an OpenTelemetry collector.
//!
//! They are made of the watch itself and not of the log, so that the log's level does not decide what is
//! traced, and a watch costs nothing where no collector is given.

#[cfg(feature = "otlp")]
mod otlp;

use std::time::Duration;

use http::HeaderMap;

/// Where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanSettings {
    /// The collector, which takes OTLP over gRPC.
    pub endpoint: String,
    /// Which part of the watches is traced whose callers do not say, 0 to 1.
    pub sample_ratio: f64,
}

/// Makes the spans of watches, and sends them. Clones are cheap, and send to the same place.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    #[cfg(feature = "otlp")]
    pipeline: Option<std::sync::Arc<otlp::SpanPipeline>>,
}

impl Spans {
    /// Sends spans to a collector, which need not be there; without settings, makes none. Must be called
    /// within a runtime.
    ///
    /// # Errors
    /// In words, when the endpoint can't be used, or this program was built without the feature `otlp`.
    #[cfg(feature = "otlp")]
    pub fn new(settings: Option<&SpanSettings>) -> Result<Self, String> {
        let pipeline = settings.map(otlp::SpanPipeline::new).transpose()?;
        Ok(Self {
            pipeline: pipeline.map(std::sync::Arc::new),
        })
    }

    /// Makes no spans.
    ///
    /// # Errors
    /// When a collector is given: this program was built without the feature `otlp`.
    #[cfg(not(feature = "otlp"))]
    pub fn new(settings: Option<&SpanSettings>) -> Result<Self, String> {
        match settings {
            Some(_) => Err("this weir was built without the feature otlp".to_owned()),
            None => Ok(Self::default()),
        }
    }

    /// A call of Watch has come, with these headers. Its span ends with what this gives.
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

    /// Sends what has not been sent, for at most `limit`. Spans that end later are lost.
    #[cfg_attr(not(feature = "otlp"), allow(clippy::unused_async, unused_variables))]
    pub async fn close(&self, limit: Duration) {
        #[cfg(feature = "otlp")]
        if let Some(pipeline) = &self.pipeline {
            pipeline.close(limit).await;
        }
    }
}

/// Who opened a watch.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The watch's id, as its log has it.
    pub watch_id: &'a str,
    /// Where the call comes from; empty when that is not known.
    pub peer: &'a str,
    /// Who calls, as logs name it.
    pub principal: &'a str,
}

/// What became of a watch.
#[derive(Debug, Clone, Copy)]
pub struct SpanEnd {
    /// The number of its gRPC code.
    pub code: i32,
    /// Why it ended.
    pub reason: &'static str,
    /// Whether that is a fault of the server's, or of what it stands on.
    pub is_fault: bool,
    /// Events handed over.
    pub events: u64,
}

/// The span of one watch, which may be none.
#[derive(Debug, Default)]
pub struct WatchSpan {
    #[cfg(feature = "otlp")]
    spans: Option<Box<otlp::ActiveSpans>>,
}

#[cfg_attr(not(feature = "otlp"), allow(clippy::unused_self, unused_variables))]
impl WatchSpan {
    /// The trace that it belongs to, in hexadecimal; `None` when it is not spans.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        #[cfg(feature = "otlp")]
        return self.spans.as_ref().map(|it| it.trace_id());
        #[cfg(not(feature = "otlp"))]
        None
    }

    /// What is watched has been understood.
    pub fn set_scope(&mut self, scope: &dyn std::fmt::Display) {
        #[cfg(feature = "otlp")]
        if let Some(spans) = &mut self.traced {
            spans.set_scope(scope);
        }
    }

    /// The watch is open, on a feed of this mode. A span of its own tells of the opening now: the watch's is
    /// sent when the watch ends, which may be in a month.
    pub fn opened(&mut self, feed_mode: &'static str) {
        #[cfg(feature = "otlp")]
        if let Some(spans) = &mut self.traced {
            spans.opened(feed_mode);
        }
    }

    /// The watch has ended.
    pub fn end(&mut self, end: SpanEnd) {
        #[cfg(feature = "otlp")]
        if let Some(spans) = self.spans.take() {
            spans.end(end);
        }
    }
}
