//! Settings of tracing.

use clap::{Args, builder::NonEmptyStringValueParser};

use super::checks::ConfigError;
use crate::spans::SpanSettings;

/// The collector of spans and the sampling ratio.
#[derive(Debug, Clone, Args)]
pub struct SpanConfig {
    /// Send a span for each traced watch to the OpenTelemetry collector at this URL, such as
    /// http://localhost:4317, as OTLP over gRPC: see docs/tracing.md
    #[arg(long, env = "WEIR_OTLP_ENDPOINT", value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub otlp_endpoint: Option<String>,

    /// The share of watches to trace, 0 to 1. Applies to calls without a traceparent header; with one, the
    /// caller decides
    #[arg(
        long,
        env = "WEIR_OTLP_SAMPLE_RATIO",
        value_name = "RATIO",
        default_value_t = 1.0
    )]
    pub otlp_sample_ratio: f64,
}

impl SpanConfig {
    /// Returns the settings of tracing, or `None` if it is off.
    #[must_use]
    pub fn settings(&self) -> Option<SpanSettings> {
        Some(SpanSettings {
            endpoint: self.otlp_endpoint.clone()?,
            sample_ratio: self.otlp_sample_ratio,
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let ratio = self.otlp_sample_ratio;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(ConfigError {
                flag: "otlp-sample-ratio",
                problem: format!("{ratio} is out of range: use 0 to 1"),
            });
        }
        let Some(endpoint) = &self.otlp_endpoint else {
            return Ok(());
        };
        let is_url = endpoint
            .parse::<http::Uri>()
            .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        if is_url {
            return Ok(());
        }
        Err(ConfigError {
            flag: "otlp-endpoint",
            problem: "is not a URL: use one such as http://localhost:4317".to_owned(),
        })
    }
}
