//! Settings of tracing.

use clap::{Args, builder::NonEmptyStringValueParser};

use super::checks::ConfigError;
use crate::spans::SpanSettings;

/// The collector of spans and the sampling ratio.
#[derive(Debug, Clone, Args)]
pub struct SpanConfig {
    /// Send a span for each traced watch to the OpenTelemetry collector at this URL, such as
    /// http://localhost:4317, as OTLP over gRPC: see docs/tracing.md
    #[arg(long, env = "WEIR_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
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
            endpoint: without_credentials(self.otlp_endpoint.as_deref()?),
            sample_ratio: self.otlp_sample_ratio,
        })
    }

    /// Returns whether the collector's URL contains a user or a password.
    pub(super) fn has_credentials(&self) -> bool {
        let endpoint = self.otlp_endpoint.as_deref();
        endpoint.is_some_and(|url| without_credentials(url) != url)
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

/// Removes the user and the password of a URL, which would be sent and logged as a part of the host's name.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_and_the_password_are_removed_from_a_url() {
        for (url, expected) in [
            (
                "http://user:secret@host:4317/path@x",
                "http://host:4317/path@x",
            ),
            ("https://token@host", "https://host"),
            ("http://a@b:c@host", "http://host"),
            ("http://host:4317/a@b", "http://host:4317/a@b"),
        ] {
            assert_eq!(without_credentials(url), expected);
        }
    }
}
