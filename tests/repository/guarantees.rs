//! `docs/guarantees.md` names the tests behind what Weir promises: each of them exists, and every
//! promise, reason and trap has one. The same for `docs/security.md` and `docs/mongodb-versions.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::repository;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(repository().join(path)).ok()
}

fn guarantees() -> String {
    read("docs/guarantees.md").expect("docs/guarantees.md")
}

/// The text under a heading, up to the next one of its level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let heading = format!("\n## {heading}\n");
    let start = text.find(&heading);
    let start = start.unwrap_or_else(|| panic!("there is no{heading}")) + heading.len();
    let rest = &text[start..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// The rows of the tables in a text, as cells, without the heads.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: Option<&&str>| line.is_some_and(|it| it.starts_with("|---"));
    let rows = lines.iter().enumerate().filter(|(at, line)| {
        line.starts_with('|') && !line.starts_with("|---") && !is_rule(lines.get(at + 1))
    });
    rows.map(|(_, row)| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// The tests that a text names: `file::test`, or `module::test` for unit tests.
fn named(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_test = |it: &&str| it.rsplit("::").next() != Some("tests") && it.contains("::");
    quoted.filter(is_test).collect()
}

/// The files in which a test's module may be.
fn files(module: &str) -> Vec<String> {
    let path = module.replace("::", "/");
    let mut files = vec![
        format!("tests/it/{path}.rs"),
        format!("tests/repository/{path}.rs"),
        format!("src/{path}.rs"),
        format!("src/{path}/mod.rs"),
    ];
    if let Some(path) = path.strip_suffix("/tests") {
        files.extend([format!("src/{path}.rs"), format!("src/{path}/mod.rs")]);
    }
    files
}

/// Returns whether a source has this function, marked as a test.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let function = lines.iter().position(|line| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let rest = line
            .strip_prefix("fn ")
            .and_then(|it| it.strip_prefix(name));
        rest.is_some_and(|it| it.starts_with('('))
    });
    let Some(function) = function else {
        return false;
    };
    let marks = lines[..function].iter().rev();
    marks
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
        .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

#[test]
fn every_test_in_the_guarantees_exists() {
    assert_exist(&named(&guarantees()));
}

/// Each protection has a test, and each gap has a description.
#[test]
fn every_test_in_the_security_page_exists() {
    let text = read("docs/security.md").expect("docs/security.md");
    let named = named(&text);
    assert!(named.len() > 50, "{named:?}");
    assert_exist(&named);
    for row in rows(&text) {
        let [.., stops, shown, left] = row[..] else {
            panic!("a row with too few cells: {row:?}");
        };
        let shown = !self::named(shown).is_empty();
        assert!(shown || stops.is_empty(), "no test shows {row:?}");
        assert!(shown || !left.is_empty(), "no gap is described: {row:?}");
    }
}

/// Each difference has a source and an answer, and tests that exist.
#[test]
fn every_difference_between_mongodbs_versions_has_a_source_and_tests() {
    let text = read("docs/mongodb-versions.md").expect("docs/mongodb-versions.md");
    assert_exist(&named(&text));
    let rows = rows(&text);
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let [version, differs, source, does, tests] = row[..] else {
            panic!("a row with another number of cells: {row:?}");
        };
        let all = [version, differs, source, does];
        assert!(all.iter().all(|cell| !cell.is_empty()), "{row:?}");
        assert!(!named(tests).is_empty(), "no test shows {row:?}");
    }
}

fn assert_exist(tests: &BTreeSet<&str>) {
    let mut sources: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut missing = Vec::new();
    for test in tests {
        let (module, name) = test.rsplit_once("::").expect("a module and a name");
        let found = files(module).into_iter().any(|file| {
            let source = sources.entry(file.clone()).or_insert_with(|| read(&file));
            source.as_ref().is_some_and(|it| has_test(it, name))
        });
        if !found {
            missing.push(test);
        }
    }
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}

#[test]
fn every_promise_of_the_contract_has_tests() {
    let text = guarantees();
    let rows = rows(section(&text, "The contract"));
    let numbers: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let expected: Vec<String> = (1..=10).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected);
    for row in rows {
        assert!(!named(row[2]).is_empty(), "no test stands behind {row:?}");
    }
}

#[test]
fn every_reason_of_an_error_has_tests() {
    let text = guarantees();
    let rows = rows(section(&text, "Every failure has a reason"));
    let reported: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let errors = read("docs/errors.md").expect("docs/errors.md");
    let expected: BTreeSet<&str> = self::rows(&errors)
        .iter()
        .map(|row| row[2].trim_matches('`'))
        .collect();
    assert_eq!(reported, expected);
    for row in rows {
        assert!(!named(row[1]).is_empty(), "no test stands behind {row:?}");
    }
}

/// Each trap is listed once: with its tests, or with the reason why it has none.
#[test]
fn every_trap_is_tested_or_has_a_reason() {
    const TRAPS: u32 = 56;
    let text = guarantees();
    let tested = rows(section(&text, "Traps"));
    let untested = rows(section(&text, "Traps that are not tested"));
    for row in &tested {
        assert!(!named(row[2]).is_empty(), "no test stands behind {row:?}");
    }
    for row in &untested {
        assert!(row[1].len() > 20, "no reason is given: {row:?}");
    }
    let mut reported: Vec<&str> = tested.iter().chain(&untested).map(|row| row[0]).collect();
    reported.sort_by_key(|trap| trap.trim_start_matches('T').parse().unwrap_or(0_u32));
    let expected: Vec<String> = (1..=TRAPS).map(|number| format!("T{number}")).collect();
    assert_eq!(reported, expected);
}

#[test]
fn a_test_is_recognised_by_its_attribute() {
    let source =
        "#[test]\n/// Why.\nfn a() {}\nfn b() {}\n#[tokio::test(flavor = \"x\")]\nasync fn c() {}";
    assert!(has_test(source, "a") && has_test(source, "c"));
    assert!(!has_test(source, "b") && !has_test(source, "d"));
}
