//! The settings to copy from `docs/deploy.md`: they name only existing settings, fit the defaults,
//! and start.

use std::{collections::BTreeMap, fs, time::Duration};

use crate::support::{ChildProcess, WAIT_LIMIT, repository, weir, within};
use clap::{CommandFactory as _, Parser as _};
use weir::cli::Cli;
use weir::config::ServeConfig;

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `NAME=value` or `NAME='value'` of each line that is neither empty nor a comment.
fn assignments(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '[', ';']));
    lines
        .map(|line| {
            let (name, value) = line.split_once('=').expect("an assignment");
            let quoted = value
                .strip_prefix('\'')
                .and_then(|it| it.strip_suffix('\''));
            (name.to_owned(), quoted.unwrap_or(value).to_owned())
        })
        .collect()
}

fn unit() -> BTreeMap<String, String> {
    assignments(&read("examples/deploy/weir.service"))
        .into_iter()
        .collect()
}

fn seconds(text: &str) -> Duration {
    humantime::parse_duration(text).expect("a duration")
}

/// The defaults of the command line of `weir serve`.
fn defaults() -> ServeConfig {
    ServeConfig::for_uri("mongodb://localhost")
}

#[test]
fn the_environment_file_names_only_existing_variables() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("weir serve");
    let known: Vec<_> = serve
        .get_arguments()
        .filter_map(|it| it.get_env()?.to_str())
        .collect();
    let named = assignments(&read("examples/deploy/weir.env"));
    assert!(named.len() > 5, "{named:?}");
    for (name, _) in named {
        assert!(known.contains(&name.as_str()), "there is no {name}");
    }
}

/// Every value is one that its flag accepts, and they fit together.
#[tokio::test]
async fn the_environment_file_is_valid_once_its_files_exist() {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = rcgen::generate_simple_self_signed(vec!["weir.example".to_owned()]);
    let identity = identity.expect("a certificate");
    let files = [
        ("tls/tls.crt", identity.cert.pem()),
        ("tls/tls.key", identity.signing_key.serialize_pem()),
        ("policy.yaml", "version: 1\nrules: []\n".to_owned()),
        // 32 zero bytes: the test only checks that the file can be read.
        ("token.keys", format!("{}=\n", "A".repeat(43))),
    ];
    fs::create_dir(folder.path().join("tls")).expect("a folder");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("a file");
    }
    let here = folder.path().to_str().expect("a path in UTF-8");
    let variables = assignments(&read("examples/deploy/weir.env"));
    let variables: Vec<(String, String)> = variables
        .into_iter()
        .map(|(name, value)| (name, value.replace("/etc/weir", here)))
        .collect();
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut check = weir(&variables, &["serve", "--check-config"]);
    let status = within("the check", check.wait_for_exit(WAIT_LIMIT)).await;
    assert!(status.success(), "{check}");

    // As a shell reads it: a connection string has characters that end a command.
    let file = folder.path().join("weir.env");
    let text = read("examples/deploy/weir.env").replace("/etc/weir", here);
    fs::write(&file, text).expect("a file");
    let script = format!(
        "set -a; . '{}'; set +a; exec '{}' serve --check-config",
        file.display(),
        env!("CARGO_BIN_EXE_weir")
    );
    let mut check = ChildProcess::start("weir", "sh", ["-c".to_owned(), script]);
    let status = within("the check", check.wait_for_exit(WAIT_LIMIT)).await;
    assert!(status.success(), "{check}");
}

#[test]
fn the_unit_allows_what_the_settings_need() {
    let (unit, defaults) = (unit(), defaults());
    let environment: BTreeMap<_, _> = assignments(&read("examples/deploy/weir.env"))
        .into_iter()
        .collect();
    let grace = seconds(&environment["WEIR_SHUTDOWN_GRACE"]);
    assert_eq!(grace, defaults.shutdown_grace);
    // And two seconds for MongoDB's cursors.
    assert!(seconds(&unit["TimeoutStopSec"]) > grace + Duration::from_secs(2));

    let connections: usize = environment["WEIR_MAX_CONNECTIONS"]
        .parse()
        .expect("a count");
    assert_eq!(connections, defaults.max_connections);
    let descriptors: usize = unit["LimitNOFILE"].parse().expect("a count");
    let upstream = defaults.max_feeds + defaults.max_catch_ups + 10;
    assert!(descriptors > connections + upstream + 256 + 50);

    let limit: bytesize::ByteSize = environment["WEIR_MEMORY_LIMIT"].parse().expect("a size");
    assert_eq!(limit, defaults.memory_limit);
    let most: bytesize::ByteSize = unit["MemoryMax"]
        .replace('G', "GiB")
        .parse()
        .expect("a size");
    assert!(most.as_u64() >= 2 * limit.as_u64() + (1 << 30));
}

/// Errors that a restart can't fix are not retried.
#[tokio::test]
async fn the_unit_does_not_restart_after_a_configuration_error() {
    let unit = unit();
    let kept: Vec<i32> = unit["RestartPreventExitStatus"]
        .split_whitespace()
        .map(|it| it.parse().expect("a status"))
        .collect();
    for arguments in [
        &["serve", "--max-feeds", "0"][..],
        &["serve", "--no-such-flag"],
    ] {
        let uri = [("MONGODB_URI", "mongodb://localhost")];
        let mut refused = weir(&uri, arguments);
        let status = within("its end", refused.wait_for_exit(WAIT_LIMIT)).await;
        let code = status.code().expect("a code");
        assert!(kept.contains(&code), "{arguments:?} ends with {code}");
    }
    assert_eq!(unit["Restart"], "on-failure");
    // The same command line that is tested here.
    let line: Vec<&str> = unit["ExecStart"].split_whitespace().collect();
    assert_eq!(line, ["/usr/local/bin/weir", "serve"]);
    let parsed = Cli::try_parse_from(line.iter().chain(&["--mongodb-uri", "mongodb://localhost"]));
    assert!(parsed.is_ok());
}

/// systemd's own check, where systemd is installed: no unknown setting, and a low exposure.
#[tokio::test]
async fn systemd_accepts_the_unit() {
    let Some(_) = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("systemd-analyze"))
        .find(|path| path.is_file())
    else {
        eprintln!("systemd-analyze is not installed: systemd does not check the unit");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let unit = read("examples/deploy/weir.service");
    // The program must exist, and systemd reads the settings as root.
    let unit = unit.replace("/usr/local/bin/weir", "/bin/true");
    let path = folder.path().join("weir.service");
    fs::write(&path, unit).expect("a file");
    let path = path.to_str().expect("a path in UTF-8");

    let mut verify = ChildProcess::start("verify", "systemd-analyze", ["verify", path]);
    let status = within("systemd's check", verify.wait_for_exit(WAIT_LIMIT)).await;
    assert!(status.success() && verify.stderr().is_empty(), "{verify}");

    let arguments = ["security", "--offline=true", "--threshold=20", path];
    let mut security = ChildProcess::start("security", "systemd-analyze", arguments);
    let status = within(
        "systemd's security check",
        security.wait_for_exit(WAIT_LIMIT),
    )
    .await;
    assert!(status.success(), "an exposure above 2.0: {security}");
}
