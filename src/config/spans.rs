//! Where spans are sent.

use clap::Args;

use super::ConfigError;
use crate::spans::SpanSettings;

/// Which watches are traced, and where to.
#[derive(Debug, Clone, Args)]
pub struct SpanConfig {
    /// Send a span of each traced watch to this OpenTelemetry collector, by OTLP over gRPC, such as
    /// http://localhost:4317: see docs/tracing.md
    #[arg(long, env = "WEIR_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Which part of the watches to trace, 0 to 1, of those whose caller does not say so itself by
    /// traceparent
    #[arg(
        long,
        env = "WEIR_OTLP_SAMPLE_RATIO",
        value_name = "RATIO",
        default_value_t = 1.0
    )]
    pub otlp_sample_ratio: f64,
}

impl SpanConfig {
    /// Where spans go; `None` where none are made.
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
                problem: format!("{ratio} is outside 0 to 1"),
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
            problem: "is not a URL such as http://localhost:4317".to_owned(),
        })
    }
}
