//! A parser of Prometheus' text format that is as strict as the specification allows.

use std::collections::{BTreeMap, BTreeSet};

/// One metric with all its samples.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Parses a page; panics at anything that a scraper may refuse.
pub fn read(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    assert!(page.ends_with('\n'), "the last line has no line feed");
    let mut current = String::new();
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (keyword, name) = (words.next(), words.next().unwrap_or_default());
            let text = words.next().unwrap_or_default().to_owned();
            assert!(is_name(name), "not a metric name: {line:?}");
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "after the samples: {line:?}");
            let place = match keyword {
                Some("HELP") => &mut family.help,
                Some("TYPE") => &mut family.kind,
                other => panic!("{other:?} is no keyword: {line:?}"),
            };
            assert!(place.is_empty(), "said twice: {line:?}");
            *place = text;
            name.clone_into(&mut current);
            continue;
        }
        let sample = sample(line);
        let family = families
            .get_mut(&current)
            .unwrap_or_else(|| panic!("a sample before any HELP or TYPE: {line:?}"));
        let of_family = match family.kind.as_str() {
            "counter" | "gauge" => sample.name == current,
            "histogram" => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| sample.name == format!("{current}{suffix}")),
            other => panic!("{current} is of kind {other:?}"),
        };
        assert!(of_family, "not a sample of {current}: {line:?}");
        let series = (sample.name.clone(), sample.labels.clone());
        assert!(seen.insert(series), "a series appears twice: {line:?}");
        family.samples.push(sample);
    }
    for (name, family) in &families {
        assert!(!family.help.is_empty(), "{name} has no help");
        match family.kind.as_str() {
            "counter" => assert!(name.ends_with("_total"), "{name} is a counter"),
            "histogram" => check_histogram(name, family),
            _ => assert!(!name.ends_with("_total"), "{name} is no counter"),
        }
    }
    families
}

/// Checks that buckets rise and end with the count.
fn check_histogram(name: &str, family: &Family) {
    let of = |suffix: &str| {
        let samples = family.samples.iter();
        samples
            .filter(move |it| it.name.ends_with(suffix))
            .collect::<Vec<_>>()
    };
    let buckets = of("_bucket");
    let mut last = (f64::NEG_INFINITY, 0.0);
    for bucket in &buckets {
        let bound: f64 = number(&bucket.labels["le"]);
        assert!(
            bound > last.0 && bucket.value >= last.1,
            "{name}: {bucket:?}"
        );
        last = (bound, bucket.value);
    }
    assert_eq!(last.0, f64::INFINITY, "{name}");
    assert_eq!(of("_count")[0].value, last.1, "{name}");
    assert_eq!((of("_count").len(), of("_sum").len()), (1, 1), "{name}");
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']);
    let (name, mut rest) = line.split_at(end.unwrap_or_else(|| panic!("no value: {line:?}")));
    assert!(is_name(name), "not a metric name: {line:?}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"").expect("a label has a value");
            assert!(
                is_name(label) && !label.contains(':'),
                "{label:?} in {line:?}"
            );
            let (value, after) = quoted(value);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line:?}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line:?}"));
    Sample {
        name: name.to_owned(),
        labels,
        value: number(value),
    }
}

/// Splits a label's value from what follows its closing quote.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, it @ ('\\' | '"'))) => value.push(it),
                other => panic!("{other:?} cannot be escaped: {text:?}"),
            },
            other => value.push(other),
        }
    }
    panic!("a value has no closing quote: {text:?}");
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        text => text
            .parse()
            .unwrap_or_else(|_| panic!("no number: {text:?}")),
    }
}

fn is_name(name: &str) -> bool {
    let first = |it: char| it.is_ascii_alphabetic() || it == '_' || it == ':';
    name.starts_with(first) && name.chars().all(|it| first(it) || it.is_ascii_digit())
}
