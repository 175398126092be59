//! Files that can't be read: pipes, and file systems that don't answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::certificates::Authority;
use crate::support::{ChildProcess, Samples, ServeProcess, WAIT_LIMIT, eventually, python, weir};

/// Nothing listens there.
const NO_DATABASE: &str = "mongodb://127.0.0.1:1/?directConnection=true";

const POLICY: &str =
    "version: 1\nrules:\n  - {name: all, principals: ['key:*'], namespaces: [shop.orders]}\n";
const KEYS: &str = "keys: []\n";

/// The time in which a read ends, and some more for a busy machine.
const IN_TIME: Duration = Duration::from_secs(20);

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo runs").success());
}

/// Holds the lease of a file, so that whoever opens it waits, as on a file system that does not answer. The
/// kernel takes it away after 45 s.
async fn hang(path: &Path) -> ChildProcess {
    const SCRIPT: &str = "import fcntl, os, signal, sys\n\
        signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
        file = os.open(sys.argv[1], os.O_RDWR)\n\
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
        print('held', flush=True)\n\
        signal.pause()\n";
    let path = path.to_str().expect("a path").to_owned();
    let line = ["-c".to_owned(), SCRIPT.to_owned(), path];
    let holder = ChildProcess::start("the holder of a lease", python(), line);
    eventually("the lease is held", async || {
        holder.stdout().contains("held")
    })
    .await;
    holder
}

/// Returns the exit code and what the start says.
async fn start(arguments: &[&str]) -> (Option<i32>, String) {
    let common = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
    let mut process = weir(&[], &arguments);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    (status.code(), process.stderr())
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_ends_the_start_with_its_flag() {
    let folder = TempDir::new().expect("a folder");
    let (certificate, key) = Authority::new("servers").local().write(folder.path());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let path = folder.path().join("pipe");
    pipe(&path);
    let path = path.to_str().expect("a path");
    let uri = |option: &str| format!("mongodb://127.0.0.1:1/?tls=true&{option}={path}");
    let (ca_uri, key_uri) = (uri("tlsCAFile"), uri("tlsCertificateKeyFile"));
    let tokens = ["--jwt-issuer", "a", "--jwt-audience", "b"];
    let url = [
        "--jwks-url",
        "https://127.0.0.1:1/keys",
        "--jwks-ca-file",
        path,
    ];
    let cases: [(&str, &[&str]); 11] = [
        ("--policy-file", &["--policy-file", path]),
        ("--api-keys-file", &["--api-keys-file", path]),
        ("--token-key-file", &["--token-key-file", path]),
        ("--admin-token-file", &["--admin-token-file", path]),
        (
            "--jwks-file",
            &[&["--jwks-file", path][..], &tokens].concat(),
        ),
        ("--jwks-ca-file", &[&url[..], &tokens].concat()),
        (
            "--tls-cert-file",
            &["--tls-cert-file", path, "--tls-key-file", key],
        ),
        (
            "--tls-key-file",
            &["--tls-cert-file", certificate, "--tls-key-file", path],
        ),
        (
            "--tls-client-ca-file",
            &[
                "--tls-cert-file",
                certificate,
                "--tls-key-file",
                key,
                "--tls-client-ca-file",
                path,
            ],
        ),
        ("tlsCAFile", &["--mongodb-uri", &ca_uri]),
        ("tlsCertificateKeyFile", &["--mongodb-uri", &key_uri]),
    ];
    for (flag, arguments) in cases {
        let own = if arguments[0] == "--mongodb-uri" {
            vec![]
        } else {
            vec!["--mongodb-uri", NO_DATABASE]
        };
        for check in [&[][..], &["--check-config"]] {
            let (code, said) = start(&[&own, arguments, check].concat()).await;
            assert_eq!(code, Some(64), "{flag}: {said}");
            for part in [flag, path, "is a pipe"] {
                assert!(said.contains(part), "{flag}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_hangs_ends_the_start_in_time() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("policy.yaml");
    fs::write(&path, POLICY).expect("a policy");
    let _holder = hang(&path).await;
    let begin = Instant::now();
    let path = path.to_str().expect("a path");
    let (code, said) = start(&["--mongodb-uri", NO_DATABASE, "--policy-file", path]).await;
    assert_eq!(code, Some(64), "{said}");
    assert!(begin.elapsed() < IN_TIME, "{:?}", begin.elapsed());
    for part in [
        "--policy-file",
        path,
        "longer than 5 s",
        "check the file system",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// A server with a policy and API keys.
struct Server {
    weir: ServeProcess,
    folder: TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (policy, keys) = (folder.path().join("policy"), folder.path().join("keys"));
        fs::write(&policy, POLICY).expect("a policy");
        fs::write(&keys, KEYS).expect("keys");
        let arguments = [
            "--policy-file",
            policy.to_str().expect("a path"),
            "--api-keys-file",
            keys.to_str().expect("a path"),
            "--reload-interval",
            "100ms",
        ];
        let weir = ServeProcess::start(NO_DATABASE, &arguments).await;
        let server = Self { weir, folder };
        server
            .wait_until("both are followed", |metrics| in_force(metrics) == [1.0; 2])
            .await;
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts something in the place of a file in one step.
    fn put(&self, name: &str, make: impl Fn(&Path)) {
        let beside = self.path("new");
        make(&beside);
        fs::rename(beside, self.path(name)).expect("it is renamed");
    }

    async fn wait_until(&self, what: &str, is: impl Fn(&Samples) -> bool) {
        eventually(what, async || is(&self.weir.metrics().await)).await;
    }

    /// Checks that the keys are reloaded while the policy can't be read, and the policy afterwards.
    async fn reloads_only_keys(&self) {
        self.wait_until("the policy is reported", |metrics| {
            in_force(metrics) == [0.0, 1.0]
        })
        .await;
        let reloaded = |metrics: &Samples| {
            let labels = [("what", "api_keys"), ("result", "ok")];
            metrics.sum_where("weir_reloads_total", &labels)
        };
        let before = reloaded(&self.weir.metrics().await);
        let text = format!("{KEYS}# {before}\n");
        self.put("keys", |path| fs::write(path, &text).expect("keys"));
        self.wait_until("the keys are reloaded", |metrics| {
            reloaded(metrics) > before
        })
        .await;
        assert_eq!(in_force(&self.weir.metrics().await), [0.0, 1.0]);
    }
}

/// Returns whether the last policy and the last keys are in force.
fn in_force(metrics: &Samples) -> [f64; 2] {
    ["policy", "api_keys"]
        .map(|what| metrics.sum_where("weir_last_reload_successful", &[("what", what)]))
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_is_reported_and_the_other_files_are_reloaded() {
    let server = Server::start().await;
    server.put("policy", pipe);
    server.reloads_only_keys().await;
    let log = server.weir.process.stderr();
    let lines = || {
        log.lines()
            .filter(|line| line.contains("can't be read or used"))
    };
    assert_eq!(lines().count(), 1, "{log}");
    let line = lines().next().expect("a line");
    assert!(
        line.contains("is a pipe") && line.contains("policy"),
        "{line}"
    );
    // Where the problem says nothing of the file, another field names it.
    server.put("policy", |path| {
        fs::write(path, "rules: []").expect("a policy");
    });
    eventually("it is reported", async || {
        let log = server.weir.process.stderr();
        let path = server.path("policy");
        let files = format!("\"files\":\"{}\"", path.display());
        log.lines()
            .any(|line| line.contains("missing field `version`") && line.contains(&files))
    })
    .await;
    // The same contents, then others.
    server.put("policy", |path| fs::write(path, POLICY).expect("a policy"));
    server
        .wait_until("it is in force", |metrics| in_force(metrics) == [1.0; 2])
        .await;
    server.put("policy", pipe);
    server.reloads_only_keys().await;
    let text = format!("{POLICY}# another\n");
    server.put("policy", |path| fs::write(path, &text).expect("a policy"));
    server
        .wait_until("it is in force", |metrics| in_force(metrics) == [1.0; 2])
        .await;
}

#[tokio::test]
async fn a_file_that_hangs_is_reported_and_read_again_once_it_answers() {
    let server = Server::start().await;
    let holder = hang(&server.path("policy")).await;
    server.reloads_only_keys().await;
    let log = server.weir.process.stderr();
    assert!(log.contains("longer than 5 s"), "{log}");
    drop(holder);
    server
        .wait_until("it is read again", |metrics| in_force(metrics) == [1.0; 2])
        .await;
    server.weir.process.signal("TERM");
}

/// A read that hangs is no reason to hang at the end.
#[tokio::test]
async fn a_file_that_hangs_does_not_delay_the_end() {
    let mut server = Server::start().await;
    let _holder = hang(&server.path("policy")).await;
    server
        .wait_until("it is reported", |metrics| in_force(metrics) == [0.0, 1.0])
        .await;
    let begin = Instant::now();
    server.weir.process.signal("TERM");
    let status = server.weir.process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(0));
    assert!(begin.elapsed() < IN_TIME, "{:?}", begin.elapsed());
}
