//! The dependencies keep to the rules of `deny.toml`: licences, banned crates and sources.
//!
//! The rules are written for cargo-deny, which also checks licence texts and advisories. These tests
//! check the greater part of them wherever the tests run, as cargo-deny takes minutes to build.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::repository;
use semver::{Version, VersionReq};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

/// The part of `deny.toml` that these tests check.
#[derive(Deserialize)]
struct Rules {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Bans {
    multiple_versions: String,
    deny: Vec<Rule>,
    skip: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    /// A name, or a name and a version requirement: "bson:<3".
    #[serde(rename = "crate")]
    versions: String,
    reason: String,
}

impl Rule {
    /// Returns whether the rule is about a package.
    fn names(&self, package: &Package) -> bool {
        let (name, versions) = self
            .versions
            .split_once(':')
            .unwrap_or((&self.versions, "*"));
        let versions = VersionReq::parse(versions).expect("a version requirement");
        package.name == name && versions.matches(&package.version)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    unknown_registry: String,
    unknown_git: String,
}

/// A package of the dependency graph, as `cargo tree` prints it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: Version,
    /// A folder, a repository or another registry; none for crates.io.
    elsewhere: Option<String>,
    /// An SPDX expression.
    license: String,
}

impl Package {
    /// Reads "name v1.2.3 (proc-macro) (source)", a tab, and the licence.
    fn read(line: &str) -> Self {
        let (package, license) = line.split_once('\t').expect("a tab before the licence");
        let mut words = package.splitn(3, ' ');
        let mut next = || words.next();
        let name = next().expect("a name").to_owned();
        let version = next().and_then(|word| word.strip_prefix('v'));
        let version = Version::parse(version.expect("a version")).expect("a semantic version");
        let rest = next().unwrap_or_default().replace("(proc-macro)", "");
        let elsewhere = Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty());
        Self {
            name,
            version,
            elsewhere,
            license: license.to_owned(),
        }
    }
}

fn rules() -> Rules {
    let text = std::fs::read_to_string(repository().join("deny.toml")).expect("deny.toml is there");
    toml::from_str(&text).expect("deny.toml has these tables")
}

/// Weir and all packages that it, its build and its tests need, on the targets that `deny.toml` names.
fn packages() -> BTreeSet<Package> {
    let mut packages = BTreeSet::new();
    for target in rules().graph.targets {
        let output = Command::new(env!("CARGO"))
            .current_dir(repository())
            .args(["tree", "--locked", "--all-features", "--target", &target])
            .args(["--prefix", "none", "--no-dedupe", "--format", "{p}\t{l}"])
            .output()
            .expect("cargo runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo tree failed: {errors}");
        let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
        packages.extend(text.lines().map(Package::read));
    }
    assert!(packages.len() > 300, "only {} packages", packages.len());
    packages
}

#[test]
fn every_dependency_has_an_allowed_licence_and_every_allowed_licence_is_used() {
    let allowed = rules().licenses.allow;
    let mut used = BTreeSet::new();
    let mut faults = Vec::new();
    for Package { name, license, .. } in packages() {
        // Older crates write "MIT/Apache-2.0".
        let expression = Expression::parse_mode(&license, ParseMode::LAX)
            .unwrap_or_else(|error| panic!("the licence of {name}: {error}"));
        let holds = expression.evaluate(|requirement| {
            let id = requirement.license.to_string();
            let holds = requirement.addition.is_none() && allowed.contains(&id);
            if holds {
                used.insert(id);
            }
            holds
        });
        if !holds {
            faults.push(format!("{name}: deny.toml does not allow {license}"));
        }
    }
    for unused in allowed.difference(&used) {
        faults.push(format!(
            "no dependency has the licence {unused}, which deny.toml allows"
        ));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_dependency_is_banned() {
    let packages = packages();
    for ban in rules().bans.deny {
        assert!(
            !packages.iter().any(|package| ban.names(package)),
            "{} is in the tree, and is banned: {}",
            ban.versions,
            ban.reason
        );
    }
}

#[test]
fn every_dependency_is_present_in_one_version_but_for_those_with_a_reason() {
    let Bans {
        multiple_versions,
        skip,
        ..
    } = rules().bans;
    assert_eq!(multiple_versions, "deny");
    let packages = packages();
    let mut faults = Vec::new();
    for rule in &skip {
        let is_one_of_several = packages.iter().any(|package| {
            let others = packages.iter().filter(|it| it.name == package.name);
            rule.names(package) && others.count() > 1
        });
        if !is_one_of_several {
            faults.push(format!("deny.toml skips {} in vain", rule.versions));
        }
        assert!(!rule.reason.is_empty(), "{} has no reason", rule.versions);
    }
    let mut names = BTreeSet::new();
    for package in &packages {
        let is_skipped = skip.iter().any(|rule| rule.names(package));
        if !is_skipped && !names.insert(&package.name) {
            faults.push(format!("{} is present in several versions", package.name));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_dependency_comes_from_crates_io_and_names_its_versions() {
    let Sources {
        unknown_registry,
        unknown_git,
    } = rules().sources;
    assert_eq!([unknown_registry, unknown_git], ["deny", "deny"]);
    for package in packages() {
        let is_weir = package.name == env!("CARGO_PKG_NAME");
        assert!(
            is_weir || package.elsewhere.is_none(),
            "{} comes from {:?}",
            package.name,
            package.elsewhere
        );
    }
    let manifest = std::fs::read_to_string(repository().join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = toml::from_str(&manifest).expect("Cargo.toml is TOML");
    for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, dependency) in manifest[table].as_table().expect("a table") {
            let version = dependency.get("version").unwrap_or(dependency).as_str();
            assert!(
                version.is_some_and(|it| it != "*"),
                "{name} names no version"
            );
        }
    }
}
