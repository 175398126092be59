//! Checks the rules of ARCHITECTURE.md against the text of `src/`.
//!
//! Tests and code that only tests use are exempt: `mod tests`, files under `#[cfg(test)]`, and
//! everything below them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::support::repository;

/// A file of `src/`, without comments and tests.
struct Source {
    /// The path below `src/`, such as "hub/ring.rs".
    path: String,
    /// The number of lines of the whole file.
    lines: usize,
    code: String,
}

impl Source {
    /// The module of `lib.rs` to which it belongs.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// The number of modules between the crate's root and the end of this file's path.
    fn depth(&self) -> usize {
        let path = self.path.trim_end_matches("/mod.rs");
        path.split('/').count()
    }

    /// Every path in the code, with groups in braces expanded: "crate::hub::Reader".
    fn paths(&self) -> BTreeSet<String> {
        paths(&self.code)
    }

    fn names(&self, prefix: &str) -> bool {
        let below = format!("{prefix}::");
        self.paths()
            .iter()
            .any(|path| path == prefix || path.starts_with(&below))
    }
}

/// Every source file except `main.rs`, without its tests.
fn sources() -> Vec<Source> {
    let root = repository().join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let mut texts: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&root).expect("it lies below src");
            let text = fs::read_to_string(file).expect("a readable source file");
            (path.to_string_lossy().replace('\\', "/"), text)
        })
        .collect();
    texts.sort();

    let tests: Vec<String> = texts
        .iter()
        .flat_map(|(path, text)| test_modules(path, text))
        .collect();
    let is_test = |path: &str| {
        let module = path.trim_end_matches(".rs");
        tests
            .iter()
            .any(|test| module == test.as_str() || module.starts_with(&format!("{test}/")))
    };
    let sources: Vec<Source> = texts
        .iter()
        .filter(|(path, _)| path != "main.rs" && path != "lib.rs" && !is_test(path))
        .map(|(path, text)| Source {
            path: path.clone(),
            lines: text.lines().count(),
            code: code(text),
        })
        .collect();
    assert!(sources.len() > 50, "only {} files were read", sources.len());
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// The modules, as paths without ".rs", that `path` declares for tests only.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let folder = match path.strip_suffix("/mod.rs") {
        Some(folder) => format!("{folder}/"),
        None if path == "lib.rs" || path == "main.rs" => String::new(),
        None => format!("{}/", path.trim_end_matches(".rs")),
    };
    let mut modules = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]"
            && let Some(declared) = lines.next().and_then(|it| it.strip_suffix(';'))
            && let Some((_, name)) = declared.rsplit_once("mod ")
        {
            modules.push(format!("{folder}{name}"));
        }
    }
    modules
}

/// `text` without comment lines, and without the `mod tests { … }` at its end.
fn code(text: &str) -> String {
    let text = match text.find("\nmod tests {") {
        Some(tests) => &text[..tests],
        None => text,
    };
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The paths in `code`: words joined by "::", with groups in braces after "::" expanded.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        rest = path("", rest, &mut found);
    }
    found
}

/// Reads one path at the start of `text` and returns the rest.
fn path<'a>(prefix: &str, text: &'a str, found: &mut BTreeSet<String>) -> &'a str {
    let end = text.find(|it| !is_word(it)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let whole = match prefix {
        "" => word.to_owned(),
        _ => format!("{prefix}::{word}"),
    };
    let Some(mut rest) = rest.strip_prefix("::") else {
        if !prefix.is_empty() {
            found.insert(whole);
        }
        return rest;
    };
    if rest.starts_with(is_word) {
        return path(&whole, rest, found);
    }
    let Some(group) = rest.strip_prefix('{') else {
        found.insert(whole);
        return rest;
    };
    rest = group;
    loop {
        rest = rest.trim_start_matches(|it: char| it.is_whitespace() || it == ',');
        if !rest.starts_with(is_word) {
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        rest = path(&whole, rest, found);
        // "name as other"
        if let Some(other) = rest.strip_prefix(" as ") {
            rest = other.trim_start_matches(is_word);
        }
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The modules of `lib.rs`, in order.
fn modules() -> Vec<String> {
    let path = repository().join("src/lib.rs");
    let text = fs::read_to_string(path).expect("lib.rs");
    let modules: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert!(modules.len() > 5, "{modules:?}");
    modules
}

/// Fails with all violations at once.
fn none(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn groups_in_braces_are_expanded() {
    let code = "use crate::{\n    hub::{self, Reader as R},\n    rpc::Frame,\n};\nlet a = b::c;";
    let expected = [
        "b::c",
        "crate::hub::Reader",
        "crate::hub::self",
        "crate::rpc::Frame",
    ];
    assert_eq!(paths(code), expected.map(str::to_owned).into());
}

#[test]
fn no_module_imports_a_later_one() {
    let modules = modules();
    let position_of = |name: &str| modules.iter().position(|module| module == name);
    let mut breaches = Vec::new();
    for source in sources() {
        let own = position_of(source.module());
        assert!(own.is_some(), "{} is of no module of lib.rs", source.path);
        for path in source.paths() {
            let segments: Vec<&str> = path.split("::").collect();
            if segments[0] == "crate" && position_of(segments[1]) > own {
                breaches.push(format!("{} names {path}", source.path));
            }
            // Otherwise the rule could be bypassed.
            let up = segments.iter().take_while(|it| **it == "super").count();
            if up >= source.depth() {
                breaches.push(format!("{} climbs to the root by {path}", source.path));
            }
        }
    }
    none(&breaches);
}

#[test]
fn source_and_wire_do_not_depend_on_rpc() {
    let breaches: Vec<String> = sources()
        .iter()
        .filter(|it| matches!(it.module(), "source" | "wire") && it.names("crate::rpc"))
        .map(|it| it.path.clone())
        .collect();
    none(&breaches);
}

/// `source/failure.rs` classifies the driver's errors and uses nothing else of it. `weir dev` plays
/// the application that writes to the database, which is no part of the service.
#[test]
fn only_source_mongo_uses_the_drivers_client() {
    let breaches: Vec<String> = sources()
        .iter()
        .filter(|it| !it.path.starts_with("source/mongo") && !it.path.starts_with("cli/dev/"))
        .flat_map(|it| {
            it.paths()
                .into_iter()
                .filter(|path| path.starts_with("mongodb::"))
                .filter(|path| {
                    it.path != "source/failure.rs" || !path.starts_with("mongodb::error::")
                })
                .map(|path| format!("{} names {path}", it.path))
                .collect::<Vec<_>>()
        })
        .collect();
    none(&breaches);
}

/// The command line is a client: it receives statuses and makes none for others.
#[test]
fn only_error_and_rpc_create_statuses() {
    let breaches: Vec<String> = sources()
        .iter()
        .filter(|it| !matches!(it.module(), "error" | "rpc" | "cli"))
        .filter(|it| it.names("tonic::Status") || it.names("tonic::Code"))
        .map(|it| it.path.clone())
        .collect();
    none(&breaches);
}

#[test]
fn no_file_is_over_500_lines() {
    let breaches: Vec<String> = sources()
        .iter()
        .filter(|it| it.lines > 500)
        .map(|it| format!("{} has {} lines", it.path, it.lines))
        .collect();
    none(&breaches);
}

#[test]
fn no_code_unwraps() {
    let breaches: Vec<String> = sources()
        .iter()
        .filter(|it| it.code.contains(".unwrap()"))
        .map(|it| it.path.clone())
        .collect();
    none(&breaches);
}

/// These macros panic when stdout or stderr is closed or its disk is full, and then hide the exit code.
#[test]
fn no_code_prints_with_macros_that_panic() {
    let breaches: Vec<String> = sources()
        .iter()
        .filter(|it| {
            let words = it.code.split(|c: char| !c.is_alphanumeric() && c != '!');
            words
                .into_iter()
                .any(|word| matches!(word, "print!" | "println!" | "eprint!" | "eprintln!"))
        })
        .map(|it| it.path.clone())
        .collect();
    none(&breaches);
}

#[test]
fn log_messages_are_lower_case_without_a_full_stop() {
    let mut seen = 0;
    let mut breaches = Vec::new();
    for source in sources() {
        for level in ["trace", "debug", "info", "warn", "error"] {
            for (at, call) in source.code.match_indices(&format!("tracing::{level}!(")) {
                seen += 1;
                let Some(message) = message(&source.code[at + call.len()..]) else {
                    breaches.push(format!("{}: {level}! without a message", source.path));
                    continue;
                };
                if message.starts_with(char::is_uppercase) || message.ends_with('.') {
                    breaches.push(format!("{}: {message:?}", source.path));
                }
            }
        }
    }
    assert!(seen > 10, "only {seen} log lines were found");
    none(&breaches);
}

/// The last string among the arguments of a call; `arguments` begins with them.
fn message(arguments: &str) -> Option<&str> {
    let mut last = None;
    let mut depth = 0;
    let mut rest = arguments;
    loop {
        let at = rest.find(['"', '(', ')'])?;
        match rest.as_bytes()[at] {
            b'"' => {
                let text = &rest[at + 1..];
                let mut escaped = false;
                let end = text.find(|it| {
                    let ends = it == '"' && !escaped;
                    escaped = it == '\\' && !escaped;
                    ends
                })?;
                last = Some(&text[..end]);
                rest = &text[end + 1..];
                continue;
            }
            b'(' => depth += 1,
            _ if depth == 0 => return last,
            _ => depth -= 1,
        }
        rest = &rest[at + 1..];
    }
}
