//! The alerts, the dashboard and the runbook come from one source and match the metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Output},
};

use crate::support::{program, python, repository};
use serde_json::Value;
use weir::{
    error::{KINDS, code_name},
    metrics::{CATALOGUE, Metrics, ScrapedGauges},
};

/// Labels that Prometheus adds or derives.
const TARGET_LABELS: [&str; 6] = [
    "job",
    "namespace",
    "instance",
    "le",
    "alertname",
    "alertstate",
];

/// Metrics that are not on the dashboard: deprecated names, which show nothing new.
const NOT_ON_THE_DASHBOARD: [&str; 1] = ["weir_parks_total"];

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn run(command: &mut Command) -> Output {
    let output = command.current_dir(repository()).output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn the_generated_files_are_up_to_date() {
    let output = run(Command::new(python()).args(["scripts/monitoring", "--check"]));
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn prometheus_accepts_the_rules() {
    let rules = "helm/weir/files/rules.yaml";
    let output = run(Command::new(program("promtool")).args(["check", "rules", rules]));
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("duplicate"), "{}", said(&output));
}

/// Each alert fires at the expected minute, not before, and not at its threshold.
#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    let tests = "monitoring/rules.test.yaml";
    let output = run(Command::new(program("promtool")).args(["test", "rules", tests]));
    assert!(output.status.success(), "{}", said(&output));
    let tests = read(tests);
    for alert in alerts() {
        for what in [
            "fires, and not a minute before",
            "does not fire at its threshold",
        ] {
            assert!(tests.contains(&format!("{alert} {what}")), "{alert} {what}");
        }
    }
}

fn rules() -> Vec<BTreeMap<String, String>> {
    // The generator writes one key per line, and folds long values below it.
    let text = read("helm/weir/files/rules.yaml");
    let mut rules: Vec<BTreeMap<String, String>> = Vec::new();
    let mut key = String::new();
    let of_groups = |line: &str| {
        line.starts_with("- name:") || line.starts_with(['#', 'g']) || line == "  rules:"
    };
    for line in text.lines().filter(|line| !of_groups(line)) {
        let (begins, line) = match line.strip_prefix("  - ") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        if begins {
            rules.push(BTreeMap::new());
        }
        let Some(rule) = rules.last_mut() else {
            continue;
        };
        let bare = line.trim();
        match bare.split_once(':') {
            Some((name, value)) if name.bytes().all(|it| it.is_ascii_lowercase() || it == b'_') => {
                name.clone_into(&mut key);
                rule.insert(key.clone(), value.trim().to_owned());
            }
            _ => {
                let value = rule.entry(key.clone()).or_default();
                value.push(' ');
                value.push_str(bare);
            }
        }
    }
    rules
}

fn alerts() -> BTreeSet<String> {
    let alerts: BTreeSet<String> = rules()
        .iter()
        .filter_map(|rule| rule.get("alert").cloned())
        .collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    alerts
}

fn dashboard() -> Value {
    serde_json::from_str(&read("helm/weir/files/dashboard.json")).expect("the dashboard is JSON")
}

/// The queries of the dashboard's panels.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let exprs = targets.flatten().map(|target| target["expr"].as_str());
    exprs.map(|it| it.expect("an expr").to_owned()).collect()
}

/// A metric in an expression, with the labels by which it is selected.
type Named = (String, BTreeSet<String>);

/// The metrics in an expression, and the labels by which it groups and matches.
fn named(expr: &str) -> (Vec<Named>, BTreeSet<String>) {
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == ':';
    let mut metrics = Vec::new();
    let mut grouped = BTreeSet::new();
    let mut rest = expr;
    while let Some(at) = rest.find(is_name) {
        let word = &rest[at..];
        let end = word.find(|it| !is_name(it)).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        rest = after;
        if word == "by" || word == "on" {
            let inside = after.split_once('(').and_then(|(_, it)| it.split_once(')'));
            let (inside, after) = inside.expect("labels in brackets");
            grouped.extend(inside.split(',').map(|it| it.trim().to_owned()));
            rest = after;
        } else if word.starts_with("weir_") || word.starts_with("process_") {
            let mut labels = BTreeSet::new();
            if let Some(inside) = after.strip_prefix('{') {
                let (inside, after) = inside.split_once('}').expect("a selector ends");
                // No value here contains a comma.
                for matcher in inside.split(',').map(str::trim).filter(|it| !it.is_empty()) {
                    let end = matcher.find(['=', '!']).expect("a matcher");
                    labels.insert(matcher[..end].to_owned());
                }
                rest = after;
            }
            metrics.push((word.to_owned(), labels));
        } else if let Some(quoted) = after.strip_prefix('"') {
            rest = quoted.split_once('"').expect("a string ends").1;
        }
    }
    (metrics, grouped)
}

/// The labels of a metric of Weir's or of its process; panics for any other.
fn labels_of(metric: &str) -> BTreeSet<&'static str> {
    const PROCESS_METRICS: [&str; 5] = [
        "process_start_time_seconds",
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ];
    let mut labels: BTreeSet<&str> = TARGET_LABELS.into();
    if !PROCESS_METRICS.contains(&metric) {
        let base = metric.trim_end_matches("_bucket");
        let known = CATALOGUE.iter().find(|it| it.name == base);
        let known = known.unwrap_or_else(|| panic!("Weir has no {metric}"));
        assert_eq!(known.kind == "histogram", base != metric, "{metric}");
        labels.extend(known.labels);
    }
    labels
}

#[test]
fn rules_and_dashboard_name_only_existing_metrics_and_labels() {
    let rules = rules();
    let of_rules = rules.iter().map(|rule| rule["expr"].clone());
    let exprs: Vec<String> = of_rules.chain(queries(&dashboard())).collect();
    assert!(exprs.len() > 70, "{}", exprs.len());
    let mut seen = 0;
    for expr in &exprs {
        let (metrics, grouped) = named(expr);
        let mut all: BTreeSet<&str> = TARGET_LABELS.into();
        for (metric, selected) in &metrics {
            let labels = labels_of(metric);
            for label in selected {
                assert!(
                    labels.contains(label.as_str()),
                    "{metric} has no {label}: {expr}"
                );
            }
            all.extend(labels);
            seen += 1;
        }
        for label in &grouped {
            assert!(all.contains(label.as_str()), "nothing has {label}: {expr}");
        }
        for word in expr.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_' || it == ':')) {
            if word.contains(':') {
                let recorded = rules
                    .iter()
                    .any(|rule| rule.get("record").is_some_and(|it| it == word));
                assert!(recorded, "nothing records {word}: {expr}");
            }
        }
    }
    assert!(seen > 90, "only {seen} metrics were found");
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let queries = queries(&dashboard());
    let shown: BTreeSet<String> = queries
        .iter()
        .flat_map(|expr| named(expr).0)
        .map(|(metric, _)| metric.trim_end_matches("_bucket").to_owned())
        .collect();
    for metric in CATALOGUE {
        let name = metric.name;
        assert!(
            shown.contains(name) != NOT_ON_THE_DASHBOARD.contains(&name),
            "{name}"
        );
    }
}

/// Grafana can load it from a file: no ids of another Grafana, no inputs to fill in.
#[test]
fn the_dashboard_can_be_provisioned() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "weir");
    assert!(dashboard["schemaVersion"].as_u64() >= Some(36));
    assert!(dashboard.get("id").is_none() && dashboard.get("__inputs").is_none());
    let variables = dashboard["templating"]["list"]
        .as_array()
        .expect("variables");
    let names: Vec<&str> = variables
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    assert_eq!(names, ["datasource", "job", "namespace", "instance"]);
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64()), "{title}");
        let at = |side: &str| panel["gridPos"][side].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{title} is too wide");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} lies on another");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                panel["description"]
                    .as_str()
                    .is_some_and(|it| it.len() > 10),
                "{title}"
            );
            for target in panel["targets"].as_array().expect("targets") {
                let expr = target["expr"].as_str().expect("an expr");
                assert!(
                    expr.contains(r#"job=~"$job"#),
                    "{title} ignores the selection"
                );
                assert!(!expr.contains("SEL"), "{title}: {expr}");
            }
        }
    }
}

/// The entries of the runbook under a heading, by name.
fn entries(runbook: &str, part: &str) -> BTreeMap<String, String> {
    let parts: Vec<&str> = runbook.split("\n## ").collect();
    let part = parts.iter().find_map(|it| it.strip_prefix(part));
    let entries = part
        .expect("the runbook has this part")
        .split("\n### ")
        .skip(1);
    let entries = entries.map(|it| it.split_once('\n').expect("an entry has a text"));
    entries
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect()
}

#[test]
fn the_runbook_has_an_entry_for_each_alert_and_reason_and_no_other() {
    let runbook = read("docs/runbook.md");
    let of_alerts = entries(&runbook, "Alerts\n");
    let names: BTreeSet<String> = of_alerts.keys().cloned().collect();
    assert_eq!(names, alerts());
    for rule in rules().iter().filter(|rule| rule.contains_key("alert")) {
        let expected = format!("docs/runbook.md#{}", rule["alert"].to_lowercase());
        assert_eq!(rule["runbook_url"], expected);
    }
    let of_reasons = entries(&runbook, "Reasons\n");
    let names: BTreeSet<String> = of_reasons.keys().cloned().collect();
    let reasons: BTreeSet<String> = KINDS.iter().map(|it| it.reason.to_owned()).collect();
    assert_eq!(names, reasons);
    for (name, text) in of_alerts.iter().chain(&of_reasons) {
        for word in ["**Do**", "**Escalate**"] {
            assert!(text.contains(word), "{name} does not say {word}");
        }
    }
    for name in of_alerts.keys() {
        assert!(
            of_alerts[name].contains("**Look**") || name.ends_with("Expired"),
            "{name}"
        );
    }
}

/// The counters that exist from the start cover all reasons for which a watch may end.
#[test]
fn every_end_of_a_watch_is_counted_from_the_start() {
    let page = Metrics::new().render(&ScrapedGauges::default());
    let samples = page.lines().filter_map(|line| {
        let labels = line.strip_prefix("weir_watches_ended_total{code=\"")?;
        let (code, rest) = labels.split_once("\",reason=\"")?;
        Some((code, rest.strip_suffix("\"} 0")?))
    });
    let counted: BTreeSet<(&str, &str)> = samples.collect();
    let kinds = KINDS.iter().map(|it| (code_name(it.code), it.reason));
    let mut ends: BTreeSet<(&str, &str)> = kinds.collect();
    assert!(ends.len() > 20, "{ends:?}");
    ends.extend([("OK", "end_time"), ("CANCELLED", "cancelled")]);
    assert_eq!(counted, ends);
    let errors = read("docs/errors.md");
    for (code, reason) in counted {
        let is_error = reason.to_uppercase() == reason;
        let row = errors.lines().any(|line| {
            line.contains(&format!("`{reason}`")) && line.contains(&format!("`{code}`"))
        });
        assert!(row || !is_error, "docs/errors.md has no {code} {reason}");
    }
}
