//! The settings of the export of spans.

/// The collector of spans and the sampling ratio.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanSettings {
    /// The URL of the collector, which receives OTLP over gRPC.
    pub endpoint: String,
    /// The share of watches to trace, 0 to 1, where the caller sends no `traceparent`.
    pub sample_ratio: f64,
}
