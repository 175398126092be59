//! The label values that are known at start, so that their counters begin with 0: a counter that appears with
//! its first increment is missing from rates, and an alert on it would miss that increment.

use crate::error::{KINDS, code_name};

/// Returns the gRPC code and the reason of every possible end of a watch, some of them twice.
pub(super) fn watch_ends() -> Vec<(&'static str, &'static str)> {
    let mut ends = vec![("OK", "end_time"), ("CANCELLED", "cancelled")];
    ends.extend(KINDS.iter().map(|it| (code_name(it.code), it.reason)));
    ends
}

pub(super) const FEED_RESTART_REASONS: &[&str] = &[
    "cursor_not_found",
    "election",
    "shutdown",
    "server",
    "overload",
    "network",
    "token",
    "login",
    "image_missing",
    "event_too_large",
    "lookup_ambiguous",
];

pub(super) const REJECTED_LIMITS: &[&str] = &[
    "watches",
    "feeds",
    "openings",
    "calls",
    "connections",
    "checks",
    "filters",
    "principal_filters",
    "request_timeout",
    "principal_watches",
    "principal_watch_rate",
    "watch_rate",
    "principals",
];

pub(super) const AUTHORIZATION_RESULTS: &[&str] = &["ok", "no_rule"];

pub(super) const ADMIN_REFUSALS: &[&str] = &["host", "token", "not_local"];

pub(super) const AUTHENTICATION_RESULTS: &[(&str, &[&str])] = &[
    ("none", &["missing"]),
    ("jwt", &["ok", "invalid", "expired", "unavailable"]),
    ("key", &["ok", "invalid"]),
    ("cert", &["ok", "invalid"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{CATALOGUE, Metrics, ScrapedGauges};

    #[test]
    fn the_catalogue_lists_exactly_the_known_label_values() {
        for (name, known) in [
            ("weir_limit_rejections_total", REJECTED_LIMITS),
            ("weir_authorizations_total", AUTHORIZATION_RESULTS),
            ("weir_admin_refusals_total", ADMIN_REFUSALS),
        ] {
            let metric = CATALOGUE.iter().find(|it| it.name == name);
            let help = metric.expect("it is in the catalogue").help;
            let listed = help.rsplit(": ").next().unwrap_or_default();
            let listed: Vec<&str> = listed.trim_end_matches('.').split(", ").collect();
            assert_eq!(listed, sorted_as(known, &listed), "{name}");
            assert_eq!(listed.len(), known.len(), "{name}");
        }
    }

    /// Returns the known values in the order of `listed`.
    fn sorted_as<'a>(known: &[&'a str], listed: &[&str]) -> Vec<&'a str> {
        let mut known = known.to_vec();
        known.sort_by_key(|it| listed.iter().position(|other| other == it));
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
