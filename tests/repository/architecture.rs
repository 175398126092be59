//! Checks the rules of ARCHITECTURE.md against `src/`.

mod circles;
mod source;

use source::{modules, sources};

/// Fails with all violations at once.
fn none(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn no_module_imports_a_later_one() {
    let modules = modules();
    let position_of = |name: &str| modules.iter().position(|module| module == name);
    let mut breaches = Vec::new();
    for source in sources() {
        let own = position_of(source.module());
        assert!(own.is_some(), "{} is of no module of lib.rs", source.path);
        for module in &source.modules {
            let imports = module.imports.iter().map(|import| &import.path);
            for path in module.names.iter().chain(imports) {
                if path[0] == "crate" && path.get(1).and_then(|it| position_of(it)) > own {
                    breaches.push(format!("{} names {}", source.path, path.join("::")));
                }
                // Otherwise the rule could be bypassed.
                let up = path.iter().take_while(|it| *it == "super").count();
                if up >= module.name.len() {
                    let path = path.join("::");
                    breaches.push(format!("{} climbs to the root by {path}", source.path));
                }
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
        .filter(|it| it.methods.contains("unwrap"))
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
            let names = it.calls.iter().filter_map(|call| call.path.last());
            let mut names = names.map(String::as_str);
            names.any(|name| matches!(name, "print" | "println" | "eprint" | "eprintln"))
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
        for call in &source.calls {
            let [library, level] = call.path.as_slice() else {
                continue;
            };
            let is_level = ["trace", "debug", "info", "warn", "error"].contains(&level.as_str());
            if library != "tracing" || !is_level {
                continue;
            }
            seen += 1;
            let Some(message) = &call.message else {
                breaches.push(format!("{}: {level}! without a message", source.path));
                continue;
            };
            if message.starts_with(char::is_uppercase) || message.ends_with('.') {
                breaches.push(format!("{}: {message:?}", source.path));
            }
        }
    }
    assert!(seen > 10, "only {seen} log lines were found");
    none(&breaches);
}

#[test]
fn no_function_is_over_80_lines() {
    let mut breaches = Vec::new();
    for source in sources() {
        for function in source.functions.iter().filter(|it| it.lines > 80) {
            breaches.push(format!(
                "{} {} has {} lines",
                source.path, function.name, function.lines
            ));
        }
    }
    none(&breaches);
}

/// Among the files of each line, the circle under it is a shortest one.
#[test]
fn no_files_depend_on_each_other() {
    let graph = circles::dependencies(sources());
    let breaches: Vec<String> = circles::groups(&graph)
        .iter()
        .map(|group| {
            let circle = circles::shortest_circle(&graph, group);
            let files: Vec<&str> = group.iter().copied().collect();
            format!("{}:\n    {circle}", files.join(" "))
        })
        .collect();
    none(&breaches);
}
