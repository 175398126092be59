//! The label values that are known beforehand. Their counters are there from the start: what appears with
//! its first count is missing from every rate, and an alert on it misses the first time.

use super::Metrics;

/// Every end that a watch may have: its gRPC code, and its reason.
pub const WATCH_ENDS: &[(&str, &str)] = &[
    ("OK", "end_time"),
    ("CANCELLED", "cancelled"),
    ("INVALID_ARGUMENT", "INVALID_REQUEST"),
    ("INVALID_ARGUMENT", "RESUME_TOKEN_MALFORMED"),
    ("INVALID_ARGUMENT", "RESUME_TOKEN_MISMATCH"),
    ("UNIMPLEMENTED", "NOT_IMPLEMENTED"),
    ("UNAUTHENTICATED", "CREDENTIALS_MISSING"),
    ("UNAUTHENTICATED", "CREDENTIALS_INVALID"),
    ("UNAUTHENTICATED", "CREDENTIALS_EXPIRED"),
    ("PERMISSION_DENIED", "NAMESPACE_ACCESS_DENIED"),
    ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED"),
    ("ABORTED", "WATCH_INVALIDATED"),
    ("UNAVAILABLE", "UPSTREAM_UNAVAILABLE"),
    ("UNAVAILABLE", "CREDENTIALS_UNCHECKED"),
    ("UNAVAILABLE", "ACCESS_CHANGED"),
    ("UNAVAILABLE", "WATCH_MAX_AGE"),
    ("UNAVAILABLE", "SERVER_DRAINING"),
    ("FAILED_PRECONDITION", "CHANGE_STREAMS_UNSUPPORTED"),
    ("FAILED_PRECONDITION", "UPSTREAM_ACCESS_DENIED"),
    ("FAILED_PRECONDITION", "IMAGE_UNAVAILABLE"),
    ("FAILED_PRECONDITION", "EVENT_TOO_LARGE"),
    ("FAILED_PRECONDITION", "UPSTREAM_EVENT_TOO_LARGE"),
    ("RESOURCE_EXHAUSTED", "WATCH_LIMIT_EXCEEDED"),
    ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    ("DEADLINE_EXCEEDED", "REQUEST_TIMEOUT"),
    ("INTERNAL", "INTERNAL"),
];

const FEED_RESTART_REASONS: &[&str] = &[
    "cursor_not_found",
    "election",
    "shutdown",
    "server",
    "network",
    "token",
    "login",
];

const REJECTED_LIMITS: &[&str] = &[
    "watches",
    "feeds",
    "calls",
    "connections",
    "checks",
    "patterns",
    "request_timeout",
    "principal_watches",
    "principal_watch_rate",
    "watch_rate",
    "principals",
];

const AUTHORIZATION_RESULTS: &[&str] = &["ok", "no_rule"];

const AUTHENTICATION_RESULTS: &[(&str, &[&str])] = &[
    ("none", &["missing"]),
    ("jwt", &["ok", "invalid", "expired", "unavailable"]),
    ("key", &["ok", "invalid"]),
    ("cert", &["ok", "invalid"]),
];

impl Metrics {
    /// Makes the counters of all label values that are known beforehand.
    pub(super) fn register_known_label_values(&self) {
        for (code, reason) in WATCH_ENDS {
            self.watch_end_counter(code, reason).increment(0);
        }
        for reason in FEED_RESTART_REASONS {
            self.feed_restart_counter(reason).increment(0);
        }
        for limit in REJECTED_LIMITS {
            self.limit_rejection_counter(limit).increment(0);
        }
        for result in AUTHORIZATION_RESULTS {
            self.authorization_counter(result).increment(0);
        }
    }

    /// Makes the counters of who calls, where that is asked.
    pub fn register_authentications(&self) {
        for (method, results) in AUTHENTICATION_RESULTS {
            for result in *results {
                self.authentication_counter(method, result).increment(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{CATALOGUE, ScrapedGauges};

    #[test]
    fn the_known_values_are_those_that_the_catalogue_tells() {
        for (name, known) in [
            ("weir_limit_rejections_total", REJECTED_LIMITS),
            ("weir_authorizations_total", AUTHORIZATION_RESULTS),
        ] {
            let metric = CATALOGUE.iter().find(|it| it.name == name);
            let help = metric.expect("it is in the catalogue").help;
            let told = help.rsplit(": ").next().unwrap_or_default();
            let told: Vec<&str> = told.trim_end_matches('.').split(", ").collect();
            assert_eq!(told, sorted_as(known, &told), "{name}");
            assert_eq!(told.len(), known.len(), "{name}");
        }
    }

    /// The known values in the order in which they are told.
    fn sorted_as<'a>(known: &[&'a str], told: &[&str]) -> Vec<&'a str> {
        let mut known = known.to_vec();
        known.sort_by_key(|it| told.iter().position(|other| other == it));
        known
    }
    #[test]
    fn the_deprecated_name_of_falling_behind_has_the_same_value() {
        let metrics = Metrics::new();
        for _ in 0..3 {
            metrics.count_fell_behind();
        }
        let page = metrics.render(&ScrapedGauges::default());
        for name in ["weir_watches_fell_behind_total", "weir_parks_total"] {
            let sample = format!("{name} 3");
            assert!(page.lines().any(|line| line == sample), "{name}\n{page}");
        }
    }
}
