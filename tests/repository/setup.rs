//! `scripts/setup` on machines that lack something: it installs what it may, and otherwise names the
//! one line to type. And what the demo builds, the tests reuse.
//!
//! Each test of the script gives it a PATH of its own: the tools that every Debian has, and stand-ins
//! for those that would change this machine. They write down what they were called with.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{on_path, repository};
use tempfile::TempDir;

/// The programs that the script calls and that a bare Debian has.
const BASE: [&str; 14] = [
    "bash", "cat", "chmod", "cut", "dirname", "env", "head", "mkdir", "mktemp", "mv", "rm", "sed",
    "sort", "touch",
];

/// A machine with a bare Debian, on which this user is not root.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn bare() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        for name in ["bin", "weir/scripts"] {
            fs::create_dir_all(machine.path(name)).expect("a folder");
        }
        for tool in BASE {
            let original = on_path(tool).unwrap_or_else(|| panic!("there is no {tool}"));
            symlink(original, machine.path("bin").join(tool)).expect("a link");
        }
        for file in ["Cargo.toml", "scripts/setup"] {
            let copy = machine.path("weir").join(file);
            fs::copy(repository().join(file), copy).expect("a copy");
        }
        machine.with("id", "echo 1000")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a program, in the words of a shell script.
    fn with(self, name: &str, script: &str) -> Self {
        let path = self.path("bin").join(name);
        let calls = self.path("calls").display().to_string();
        let text = format!("#!/usr/bin/env bash\necho \"{name} $*\" >> {calls}\n{script}\n");
        fs::write(&path, text).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be run");
        self
    }

    /// Adds an apt-get whose `install` puts `programs` on the PATH, and whose `download` fetches a file.
    fn with_apt_get(self, programs: &[&str]) -> Self {
        let bin = self.path("bin").display().to_string();
        let install: String = programs
            .iter()
            .map(|name| format!("cat {bin}/id > {bin}/{name}; chmod +x {bin}/{name}; "))
            .collect();
        self.with(
            "apt-get",
            &format!("case \"$*\" in *' install '*) {install};; *' download '*) touch prometheus_2.deb;; esac"),
        )
        .with(
            "dpkg-deb",
            "mkdir -p \"$3/usr/bin\"; touch \"$3/usr/bin/promtool\"; chmod +x \"$3/usr/bin/promtool\"",
        )
    }

    fn run_by_root(self) -> Self {
        self.with("id", "echo 0")
    }

    fn setup(&self, tools: &[&str]) -> Output {
        Command::new(self.path("weir/scripts/setup"))
            .args(tools)
            .env_clear()
            .env("PATH", self.path("bin"))
            .output()
            .expect("the script runs")
    }

    /// Runs it and returns why it failed.
    fn fails(&self, tools: &[&str]) -> String {
        let output = self.setup(tools);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it ended well: {errors}");
        errors
    }

    /// Runs it and returns the calls of apt-get.
    fn installs(&self, tools: &[&str]) -> Vec<String> {
        let output = self.setup(tools);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "it failed: {errors}");
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let calls = calls.lines().filter(|call| call.starts_with("apt-get"));
        calls.map(str::to_owned).collect()
    }
}

#[test]
fn a_user_without_rights_gets_the_one_line_that_installs_all_that_is_missing() {
    let machine = Machine::bare().with_apt_get(&[]);
    let line = "Type: sudo apt-get update && sudo apt-get install -y --no-install-recommends \
                gcc libc6-dev python3 python3-venv\n";
    let errors = machine.fails(&["cc", "python3"]);
    assert!(errors.ends_with(line), "{errors}");
    // Nor may a sudo that asks for a password make it wait.
    let machine = machine.with("sudo", "exit 1");
    let errors = machine.fails(&["cc", "python3"]);
    assert!(errors.ends_with(line), "{errors}");
}

#[test]
fn root_and_a_user_with_sudo_get_the_missing_packages_installed() {
    let root = Machine::bare().run_by_root().with_apt_get(&["cc"]);
    let user = Machine::bare()
        .with_apt_get(&["cc"])
        .with("sudo", "[ \"$1\" = -n ] && shift; \"$@\"");
    for machine in [root, user] {
        let calls = machine.installs(&["cc"]);
        assert_eq!(calls.len(), 2, "{calls:?}");
        assert!(calls[0].ends_with(" update"), "{calls:?}");
        let install = " install -y --no-install-recommends gcc libc6-dev";
        assert!(calls[1].ends_with(install), "{calls:?}");
    }
}

#[test]
fn nothing_is_installed_where_nothing_is_missing() {
    let machine = Machine::bare()
        .run_by_root()
        .with_apt_get(&[])
        .with("cargo", "echo cargo 1.999.0")
        .with("cc", "")
        .with("python3", "")
        .with("prometheus", "")
        .with("promtool", "");
    assert!(
        machine
            .installs(&["cargo", "cc", "python3", "prometheus"])
            .is_empty()
    );
}

#[test]
fn prometheus_is_unpacked_once_and_not_installed() {
    let machine = Machine::bare().with_apt_get(&[]);
    let calls = machine.installs(&["prometheus"]);
    assert!(
        matches!(&calls[..], [call] if call.contains(" download prometheus")),
        "{calls:?}"
    );
    assert!(
        machine
            .path("weir/.tools/prometheus/usr/bin/promtool")
            .exists()
    );
    assert_eq!(machine.installs(&["prometheus"]).len(), 1);
}

#[test]
fn prometheus_without_package_lists_gets_them_or_names_the_line() {
    let machine = Machine::bare().with_apt_get(&[]);
    let lists = machine.path("lists").display().to_string();
    let apt_get = format!(
        "case \"$*\" in *' update') touch {lists};; *) cat {lists} && touch prometheus_2.deb;; esac"
    );
    let machine = machine.with("apt-get", &apt_get);
    let errors = machine.fails(&["prometheus"]);
    assert!(errors.ends_with("Type: sudo apt-get update\n"), "{errors}");
    let calls = machine.run_by_root().installs(&["prometheus"]);
    assert!(
        calls.iter().any(|call| call.ends_with(" update")),
        "{calls:?}"
    );
}

#[test]
fn a_missing_or_old_rust_is_named_with_the_line_that_brings_it() {
    let errors = Machine::bare().fails(&["cargo"]);
    assert!(
        errors.contains("Type: curl") && errors.contains("https://sh.rustup.rs"),
        "{errors}"
    );
    let old = Machine::bare().with("cargo", "echo 'cargo 1.70.0 (ec8a8a0ca 2023-04-25)'");
    let errors = old.fails(&["cargo"]);
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    assert!(
        errors.contains(wanted) && errors.contains("1.70.0"),
        "{errors}"
    );
    assert!(errors.contains("Type: rustup update stable"), "{errors}");
}

#[test]
fn a_machine_without_apt_get_is_told_what_it_lacks() {
    let errors = Machine::bare().run_by_root().fails(&["cc"]);
    assert!(
        errors.contains("gcc libc6-dev") && errors.contains("no apt-get"),
        "{errors}"
    );
    let errors = Machine::bare().fails(&["prometheus"]);
    assert!(errors.contains("prometheus is missing"), "{errors}");
}

#[test]
fn a_failed_installation_tells_the_reason_and_the_line() {
    let machine = Machine::bare()
        .run_by_root()
        .with("apt-get", "echo 'E: no space left' >&2; exit 100");
    let errors = machine.fails(&["cc"]);
    assert!(errors.contains("E: no space left"), "{errors}");
    assert!(
        errors.contains("apt-get could not install gcc libc6-dev"),
        "{errors}"
    );
}

/// The packages that `cargo` compiles, each with its features: "tokio v1.2.3 fs,net,test-util".
fn packages_with_features(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(repository())
        .args(["tree", "--locked", "--prefix", "none", "--no-dedupe"])
        .args(["--format", "{p} {f}"])
        .args(arguments)
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree failed: {errors}");
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    let packages = text.lines().map(str::to_owned);
    packages.filter(|it| !it.starts_with("weir ")).collect()
}

/// Cargo compiles a package anew for each set of features.
#[test]
fn the_tests_reuse_every_dependency_that_the_demo_compiles() {
    let demo = fs::read_to_string(repository().join("scripts/demo")).expect("scripts/demo");
    let features = demo.split("--no-default-features --features ").nth(1);
    let features = features.and_then(|rest| rest.split(' ').next());
    let features = features.expect("the demo names its features");
    let demo = packages_with_features(&[
        "--edges=normal,build",
        "--no-default-features",
        "--features",
        features,
    ]);
    let tests = packages_with_features(&["--edges=normal,build,dev"]);
    let compiled_twice: Vec<_> = demo.difference(&tests).collect();
    assert!(demo.len() > 300, "only {} packages", demo.len());
    assert!(compiled_twice.is_empty(), "{compiled_twice:#?}");
}
