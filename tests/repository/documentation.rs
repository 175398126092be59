//! Checks what the documentation says: flags, metrics, errors, links and examples.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::PathBuf,
    time::Duration,
};

use crate::support::{ChildProcess, Database, Weir, node, python, repository};
use clap::CommandFactory as _;
use mongodb::bson::doc;
use weir::{cli::Cli, error::KINDS, metrics::CATALOGUE};

/// The time that a foreign client may take to start on a busy machine.
const CLIENT_LIMIT: Duration = Duration::from_secs(90);

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The paths of the Markdown files in a folder of the repository.
fn markdown_files(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(repository().join(folder)).expect("a readable folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let paths = names.map(|name| format!("{folder}/{}", name.to_string_lossy()));
    paths.filter(|path| path.ends_with(".md")).collect()
}

/// Every document but CHANGELOG.md, which names what is gone, by its path.
fn documents() -> BTreeMap<String, String> {
    let mut paths = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend(markdown_files("docs"));
    paths.extend(markdown_files("docs/adr"));
    let read = |path: String| (path.clone(), read(&path));
    paths.into_iter().map(read).collect()
}

/// The text outside fenced blocks.
fn prose(text: &str) -> String {
    let outside = text.split("\n```").step_by(2);
    outside.collect::<Vec<_>>().join("\n")
}

/// The fenced blocks in one language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let inside = text.split("\n```").skip(1).step_by(2);
    inside
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// The rows of a document's tables, as cells without backticks.
fn rows(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|row| {
            row.split('|')
                .map(|it| it.trim().replace('`', ""))
                .collect()
        })
        .collect()
}

/// The words of `text` that start with `prefix`.
fn words(text: &str, prefix: &str, of: impl Fn(char) -> bool) -> BTreeSet<String> {
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(&of))
        .map(|(at, _)| {
            let word = &text[at..];
            let rest = &word[prefix.len()..];
            let end = rest.find(|it| !of(it)).unwrap_or(rest.len());
            word[..prefix.len() + end].to_owned()
        })
        .collect()
}

fn flags(text: &str) -> BTreeSet<String> {
    let flags = words(text, "--", |it| it.is_ascii_alphanumeric() || it == '-');
    // A dash or the line under a table's head is not a flag.
    flags
        .into_iter()
        .filter(|flag| flag.trim_matches('-').len() > 1)
        .collect()
}

#[test]
fn configuration_lists_every_flag_with_its_variable_and_default() {
    let text = read("docs/configuration.md");
    let rows = rows(&text);
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("weir serve");
    let mut known = BTreeSet::new();
    for argument in serve.get_arguments() {
        let flag = format!("--{}", argument.get_long().expect("only long flags"));
        let row = rows.iter().find(|row| row[0] == flag);
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md does not mention {flag}"));
        let variable = argument.get_env().unwrap_or_default();
        assert_eq!(row[1], variable.to_string_lossy(), "{flag}");
        let defaults = argument.get_default_values();
        if argument.get_action().takes_values() && !defaults.is_empty() {
            assert_eq!(row[2], defaults[0].to_string_lossy(), "{flag}");
        }
        known.insert(flag);
    }
    assert!(known.len() > 10, "{known:?}");
    assert_eq!(flags(&text), known, "docs/configuration.md names others");
}

#[test]
fn the_documents_name_no_flag_that_does_not_exist() {
    // Clap's own.
    let mut known = BTreeSet::from(["--help".to_owned()]);
    // The benchmark's.
    known.insert("--only".to_owned());
    for command in Cli::command().get_subcommands() {
        let long = command.get_arguments().filter_map(|it| it.get_long());
        known.extend(long.map(|flag| format!("--{flag}")));
    }
    for (path, text) in documents() {
        // Fenced blocks show other programs too.
        let others: Vec<_> = flags(&prose(&text)).difference(&known).cloned().collect();
        assert!(others.is_empty(), "{path} names {others:?}");
    }
}

#[test]
fn metrics_lists_every_metric_with_its_type_and_labels() {
    let rows = rows(&read("docs/metrics.md"));
    for metric in CATALOGUE {
        let row = rows.iter().find(|row| row[0] == metric.name);
        let row = row.unwrap_or_else(|| panic!("docs/metrics.md does not mention {}", metric.name));
        assert_eq!(row[1], metric.kind, "{}", metric.name);
        assert_eq!(row[2], metric.labels.join(", "), "{}", metric.name);
    }
}

#[test]
fn the_documents_name_no_metric_that_does_not_exist() {
    // The demo's database.
    let mut known = BTreeSet::from(["weir_dev".to_owned()]);
    for metric in CATALOGUE {
        known.insert(metric.name.to_owned());
        if metric.kind == "histogram" {
            known.extend(["bucket", "sum", "count"].map(|it| format!("{}_{it}", metric.name)));
        }
    }
    for (path, text) in documents() {
        let named = words(&text, "weir_", |it| it.is_ascii_alphanumeric() || it == '_');
        let others: Vec<_> = named.difference(&known).collect();
        assert!(others.is_empty(), "{path} names {others:?}");
    }
}

#[test]
fn errors_lists_every_reason_with_its_code() {
    let expected: BTreeSet<(String, String)> = KINDS
        .iter()
        .map(|kind| {
            (
                kind.reason.to_owned(),
                format!("{:?}", kind.code).to_ascii_lowercase(),
            )
        })
        .collect();
    assert!(expected.len() > 15, "{expected:?}");

    let reported: BTreeSet<(String, String)> = rows(&read("docs/errors.md"))
        .into_iter()
        .filter(|row| {
            row[2]
                .chars()
                .all(|it| it.is_ascii_uppercase() || it == '_')
        })
        .map(|row| {
            let code = row[1].split(',').next().unwrap_or_default();
            (row[2].clone(), code.replace('_', "").to_ascii_lowercase())
        })
        .collect();

    assert_eq!(reported, expected);
}

#[test]
fn links_lead_to_files() {
    let mut seen = 0;
    let changelog = "CHANGELOG.md".to_owned();
    let changelog = (changelog.clone(), read(&changelog));
    for (path, text) in documents().into_iter().chain([changelog]) {
        let folder = repository().join(&path);
        let folder = folder.parent().expect("a file stands in a folder");
        for link in prose(&text).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                seen += 1;
                assert!(folder.join(target).exists(), "{path} links to {target}");
            }
        }
    }
    assert!(seen > 5, "only {seen} links were found");
}

/// Paths in backticks such as `src/filter/predicate.rs`, unless they hold a wildcard or a placeholder.
#[test]
fn the_documents_name_only_files_that_exist() {
    const FOLDERS: [&str; 10] = [
        "benches",
        "docs",
        "examples",
        "fuzz",
        "helm",
        "monitoring",
        "proto",
        "scripts",
        "src",
        "tests",
    ];
    let is_path_character = |it: char| it.is_ascii_alphanumeric() || "/._-".contains(it);
    let mut seen = 0;
    for (path, text) in documents() {
        for word in prose(&text).split('`').skip(1).step_by(2) {
            let folder = word.split_once('/').map(|(folder, _)| folder);
            let is_path = word.chars().all(is_path_character) && !word.contains("NNNN");
            if is_path && folder.is_some_and(|folder| FOLDERS.contains(&folder)) {
                seen += 1;
                assert!(repository().join(word).exists(), "{path} names {word}");
            }
        }
    }
    assert!(seen > 20, "only {seen} paths were found");
}

#[test]
fn the_index_of_decisions_lists_each_record_once_with_its_title() {
    let index = read("docs/adr/README.md");
    // The sections are by subject, and by number within.
    let mut entries = Vec::new();
    for section in index.split("\n### ") {
        let lines = section.lines().filter(|line| line.starts_with("- ["));
        let section: Vec<&str> = lines.collect();
        assert!(section.is_sorted(), "{section:?}");
        entries.extend(section);
    }
    entries.sort_unstable();
    let mut records = markdown_files("docs/adr");
    records.retain(|path| path != "docs/adr/README.md");
    records.sort();
    let expected: Vec<String> = records
        .iter()
        .map(|path| {
            let record = read(path);
            let heading = record.lines().next().unwrap_or_default();
            let (number, title) = heading
                .strip_prefix("# ")
                .and_then(|heading| heading.split_once(". "))
                .unwrap_or_else(|| panic!("{path} begins with {heading:?}"));
            let name = path.trim_start_matches("docs/adr/");
            for section in ["Status", "Context", "Decision", "Consequences"] {
                let section = format!("\n## {section}\n");
                assert!(record.contains(&section), "{path} has no {section:?}");
            }
            format!("- [{number}]({name}) {title}")
        })
        .collect();
    assert!(expected.len() > 10, "{expected:?}");
    assert_eq!(entries, expected);
}

/// The README shows the core of each example: some of its lines, in order.
#[test]
fn the_programs_in_the_readme_are_the_examples() {
    let readme = read("README.md");
    for (language, example) in [
        ("python", "examples/watch.py"),
        ("js", "examples/watch.js"),
        ("rust", "examples/watch.rs"),
    ] {
        let program = read(example);
        let mut lines = program.lines().map(str::trim);
        let blocks = blocks(&readme, language);
        assert_eq!(blocks.len(), 1, "blocks of {language}");
        for line in blocks[0].lines().map(str::trim) {
            assert!(lines.any(|it| it == line), "{example} has no {line:?}");
        }
    }
}

/// Runs an example twice: it watches a collection until the collection is dropped, which ends it,
/// and then resumes with what was created meanwhile. `arguments` are those of `env`.
async fn assert_resumes(name: &str, arguments: Vec<OsString>) {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let folder = tempfile::tempdir().expect("a folder for the token");
    let orders = database.client().database("shop").collection("orders");
    let start = || {
        let mut all = vec!["-C".into(), folder.path().into()];
        all.extend(arguments.iter().cloned());
        all.push(weir.grpc_addr().to_string().into());
        ChildProcess::start(name, "env", all)
    };

    let mut example = start();
    let opened = |output: &str| output.contains("watching\n");
    example
        .wait_for_output("watching", CLIENT_LIMIT, opened)
        .await;
    // Sent in pieces: an example that ignored pieces would lose the event silently.
    let large = doc! {"_id": 1, "text": "x".repeat(3_500_000)};
    orders.insert_one(large).await.expect("an insert");
    let inserted = |output: &str| output.contains("OPERATION_TYPE_INSERT");
    example
        .wait_for_output("insert", CLIENT_LIMIT, inserted)
        .await;
    orders.drop().await.expect("a drop");
    let status = example.wait_for_exit(CLIENT_LIMIT).await;
    assert!(!status.success(), "ABORTED is a failure{example}");
    assert!(
        example.stdout().contains("OPERATION_TYPE_DROP"),
        "{example}"
    );

    orders.insert_one(doc! {"_id": 2}).await.expect("an insert");
    let mut example = start();
    example
        .wait_for_output("insert", CLIENT_LIMIT, inserted)
        .await;
    let output = example.stdout();
    assert!(!output.contains("OPERATION_TYPE_DROP"), "{example}");
}

#[tokio::test]
async fn the_python_example_resumes() {
    let generated = tempfile::tempdir().expect("a folder for the generated code");
    let out = |kind: &str| format!("--{kind}_out={}", generated.path().display());
    let arguments = [
        "-m".to_owned(),
        "grpc_tools.protoc".to_owned(),
        "-Iproto".to_owned(),
        out("python"),
        out("grpc_python"),
        "weir/v1/watch.proto".to_owned(),
    ];
    let mut protoc = ChildProcess::start("protoc", python(), arguments);
    let status = protoc.wait_for_exit(CLIENT_LIMIT).await;
    assert!(status.success(), "{protoc}");
    let mut path = OsString::from("PYTHONPATH=");
    path.push(generated.path());
    let arguments = vec![path, python().into(), example("watch.py")];
    assert_resumes("the Python example", arguments).await;
}

#[tokio::test]
async fn the_node_example_resumes() {
    let mut path = OsString::from("NODE_PATH=");
    path.push(repository().join("tests/interop/node/node_modules"));
    let arguments = vec![path, node().into(), example("watch.js")];
    assert_resumes("the Node example", arguments).await;
}

fn example(name: &str) -> OsString {
    let path: PathBuf = repository().join("examples").join(name);
    path.into()
}
