//! Export of spans with OpenTelemetry's SDK.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span,
        SpanData, SpanExporter,
    },
};
use tokio::time::Instant;

use crate::model::escape_controls;

use super::{
    facts::{Caller, SpanEnd},
    settings::SpanSettings,
};

/// The maximum number of spans that wait to be sent; further ones are dropped.
const MAX_QUEUED_SPANS: usize = 4_096;

/// The maximum number of spans in one export.
const MAX_BATCH_SPANS: usize = 512;

/// The time that spans are collected before an export.
const BATCH_DELAY: Duration = Duration::from_secs(2);

/// The time that the collector may take for one export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest time between two log messages about lost spans.
const LOSS_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The tracer and its exporter.
#[derive(Debug)]
pub(super) struct SpanPipeline {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl SpanPipeline {
    pub(super) fn new(settings: &SpanSettings) -> Result<Self, String> {
        let exporter = LossReportingExporter {
            exporter: exporter(settings)?,
            losses: Mutex::default(),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_QUEUED_SPANS)
            .with_max_export_batch_size(MAX_BATCH_SPANS)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let ratio = Sampler::TraceIdRatioBased(settings.sample_ratio);
        let instance = format!("{:032x}", fastrand::u128(..));
        // These override OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, which the builder reads.
        let resource = Resource::builder()
            .with_service_name("weir")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", instance),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(resource)
            .build();
        Ok(Self {
            tracer: provider.tracer("weir"),
            provider,
        })
    }

    /// Starts the spans of a watch; returns `None` if it is not sampled.
    pub(super) fn watch(
        &self,
        headers: &HeaderMap,
        caller: &Caller<'_>,
    ) -> Option<Box<ActiveSpans>> {
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let mut attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", "weir.v1.WatchService"),
            KeyValue::new("rpc.method", "Watch"),
            KeyValue::new("weir.watch.id", caller.watch_id.to_owned()),
            KeyValue::new("enduser.id", caller.principal.to_owned()),
        ];
        if !caller.peer.is_empty() {
            attributes.push(KeyValue::new("client.address", caller.peer.to_owned()));
        }
        let span = self
            .tracer
            .span_builder("weir.v1.WatchService/Watch")
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &parent);
        if !span.is_recording() {
            return None;
        }
        let within = Context::new().with_remote_span_context(span.span_context().clone());
        let opening = self.tracer.span_builder("open watch");
        let opening =
            opening.with_attributes([KeyValue::new("weir.watch.id", caller.watch_id.to_owned())]);
        let opening = opening.start_with_context(&self.tracer, &within);
        Some(Box::new(ActiveSpans {
            span,
            opening: Some(opening),
        }))
    }

    pub(super) async fn close(&self, limit: Duration) {
        let provider = self.provider.clone();
        let closing = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit));
        if !matches!(closing.await, Ok(Ok(()))) {
            tracing::warn!("the last spans could not be sent; they are lost");
        }
    }
}

/// Returns an exporter, which connects with its first export.
///
/// # Errors
/// A message, if the endpoint can't be used.
pub(super) fn exporter(settings: &SpanSettings) -> Result<OtlpExporter, String> {
    let exporter = OtlpExporter::builder()
        .with_tonic()
        .with_endpoint(&settings.endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build();
    exporter.map_err(|error| error.to_string())
}

/// The spans of a traced watch.
#[derive(Debug)]
pub(super) struct ActiveSpans {
    span: Span,
    opening: Option<Span>,
}

impl ActiveSpans {
    pub(super) fn trace_id(&self) -> String {
        self.span.span_context().trace_id().to_string()
    }

    pub(super) fn set_scope(&mut self, scope: &dyn fmt::Display) {
        let scope = scope.to_string();
        let scope = escape_controls(&scope).into_owned();
        for span in [Some(&mut self.span), self.opening.as_mut()]
            .into_iter()
            .flatten()
        {
            span.set_attribute(KeyValue::new("weir.scope", scope.clone()));
        }
    }

    pub(super) fn opened(&mut self, feed_mode: &'static str) {
        self.span
            .set_attribute(KeyValue::new("weir.feed_mode", feed_mode));
        if let Some(mut opening) = self.opening.take() {
            opening.set_attribute(KeyValue::new("weir.feed_mode", feed_mode));
            opening.end();
        }
    }

    pub(super) fn end(mut self, end: SpanEnd) {
        let events = i64::try_from(end.events).unwrap_or(i64::MAX);
        let outcome = [
            KeyValue::new("rpc.grpc.status_code", i64::from(end.code)),
            KeyValue::new("weir.reason", end.reason),
        ];
        if let Some(mut opening) = self.opening.take() {
            opening.set_attributes(outcome.clone());
            if end.is_fault {
                opening.set_status(Status::error(end.reason));
            }
            opening.end();
        }
        self.span.set_attributes(outcome);
        self.span
            .set_attribute(KeyValue::new("weir.events", events));
        if end.is_fault {
            self.span
                .set_attribute(KeyValue::new("error.type", end.reason));
            self.span.set_status(Status::error(end.reason));
        }
        self.span.end();
    }
}

/// Adapts the headers of a call for OpenTelemetry.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// An exporter that logs its failures at a limited rate.
#[derive(Debug)]
struct LossReportingExporter {
    exporter: OtlpExporter,
    losses: Mutex<Losses>,
}

#[derive(Debug, Default)]
struct Losses {
    /// Spans lost since the last log message.
    spans: usize,
    last_logged: Option<Instant>,
}

impl SpanExporter for LossReportingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.exporter.export(batch).await;
        if let Err(error) = &sent {
            let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
            losses.spans += spans;
            if losses
                .last_logged
                .is_none_or(|last_logged| last_logged.elapsed() >= LOSS_LOG_INTERVAL)
            {
                tracing::warn!(spans = losses.spans, %error, "spans could not be sent; they are lost");
                losses.spans = 0;
                losses.last_logged = Some(Instant::now());
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
