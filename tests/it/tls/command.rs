//! `weir watch` over TLS: it connects where it may, and reports the reason where it may not.

use rcgen::{BasicConstraints, IsCa};
use weir::config::ClientAuth;

use crate::support::certificates::Authority;
use crate::support::orders::{ORDERS, insert};
use crate::support::{ChildProcess, Database, WAIT_LIMIT, Weir, weir};
use crate::tls::setup::TlsServer;

/// Runs `weir watch` on the orders until one event has come.
fn watch(database: &Database, server: &str, arguments: &[&str]) -> ChildProcess {
    watch_in(&[], database, server, arguments)
}

fn watch_in(
    variables: &[(&str, &str)],
    database: &Database,
    server: &str,
    arguments: &[&str],
) -> ChildProcess {
    let scope = format!("{}.{ORDERS}", database.name());
    let common = [
        "watch",
        &scope,
        "--server",
        server,
        "--output=json",
        "--limit=1",
    ];
    let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
    weir(variables, &arguments)
}

async fn assert_gets_an_event(database: &Database, mut process: ChildProcess) {
    let opened = |output: &str| output.contains(r#""type":"opened""#);
    process.wait_for_output("opened", WAIT_LIMIT, opened).await;
    insert(database, fastrand::i32(..)).await;
    assert!(
        process.wait_for_exit(WAIT_LIMIT).await.success(),
        "{process}"
    );
    assert!(process.stdout().contains(r#""type":"change""#), "{process}");
}

/// Checks that it ends at once, without a second attempt.
async fn assert_error(process: ChildProcess, code: i32, words: &str) {
    let said = assert_eventual_error(process, code, words).await;
    assert!(!said.contains("trying again"), "{said}");
}

/// Checks that it ends, perhaps after some attempts: the alert by which a server refuses a
/// certificate comes after the handshake, and is lost if the connection is closed before the call
/// is under way.
async fn assert_eventual_error(mut process: ChildProcess, code: i32, words: &str) -> String {
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(code), "{process}");
    let said = process.stderr();
    assert!(said.contains(words), "not {words:?}{process}");
    for line in said.lines().filter(|line| line.contains("trying again")) {
        assert!(line.contains("--tls-cert-file"), "{process}");
    }
    said
}

/// The certificate files of a test, as command-line arguments.
struct Paths(tempfile::TempDir);

impl Paths {
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("it is written");
        path.display().to_string()
    }
}

#[tokio::test]
async fn the_command_watches_over_tls_and_reports_why_it_cannot() {
    let database = Database::start().await;
    let secured =
        TlsServer::with_certificate(&database, |authority| authority.server(&["localhost"])).await;
    let port = secured.weir.grpc_addr().port();
    let server = format!("https://localhost:{port}");
    let paths = Paths(tempfile::tempdir().expect("a folder"));
    let ca = paths.write("ca.pem", &secured.authority.pem);
    let trusting = ["--tls-ca-file", &ca];

    assert_gets_an_event(&database, watch(&database, &server, &trusting)).await;
    // The system's authorities, and settings from the environment.
    let system = [("SSL_CERT_FILE", ca.as_str())];
    assert_gets_an_event(&database, watch_in(&system, &database, &server, &[])).await;
    let variable = [("WEIR_WATCH_TLS_CA_FILE", ca.as_str())];
    assert_gets_an_event(&database, watch_in(&variable, &database, &server, &[])).await;

    let by_address = format!("https://127.0.0.1:{port}");
    let words = "--tls-server-name";
    assert_error(watch(&database, &by_address, &trusting), 1, words).await;
    let named = [&trusting[..], &["--tls-server-name=localhost"]].concat();
    assert_gets_an_event(&database, watch(&database, &by_address, &named)).await;

    let stranger = paths.write("stranger.pem", &Authority::new("another").pem);
    let words = "an authority that is not trusted here: name its authority with --tls-ca-file";
    let stranger = ["--tls-ca-file", stranger.as_str()];
    assert_error(watch(&database, &server, &stranger), 1, words).await;

    // A self-signed certificate as openssl makes it.
    let own = TlsServer::with_certificate(&database, |authority| {
        authority.issue(&["localhost"], |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        })
    })
    .await;
    let address = format!("https://localhost:{}", own.weir.grpc_addr().port());
    let ca = paths.write("own.pem", &own.authority.pem);
    let trusting_own = ["--tls-ca-file", &ca];
    let words = "basicConstraints=CA:FALSE";
    assert_error(watch(&database, &address, &trusting_own), 1, words).await;

    // One side without TLS where the other uses it.
    let plain = format!("http://localhost:{port}");
    assert_error(watch(&database, &plain, &["--no-reconnect"]), 1, "https://").await;
    let weir = Weir::start(&database).await;
    let without = format!("https://localhost:{}", weir.grpc_addr().port());
    assert_error(watch(&database, &without, &trusting), 1, "does not use TLS").await;
}

#[tokio::test]
async fn the_command_presents_its_certificate() {
    let database = Database::start().await;
    let clients = Authority::new("clients");
    let secured = TlsServer::mutual(&database, &clients, ClientAuth::Required).await;
    let server = format!("https://localhost:{}", secured.weir.grpc_addr().port());
    let paths = Paths(tempfile::tempdir().expect("a folder"));
    let ca = paths.write("ca.pem", &secured.authority.pem);
    let show = |name: &str, authority: &Authority| {
        let issued = authority.client(name);
        [
            format!("--tls-ca-file={ca}"),
            format!(
                "--tls-cert-file={}",
                paths.write(&format!("{name}.crt"), &issued.certificate)
            ),
            format!(
                "--tls-key-file={}",
                paths.write(&format!("{name}.key"), &issued.key)
            ),
        ]
    };
    let known = show("known", &clients);
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    assert_gets_an_event(&database, watch(&database, &server, &known)).await;

    let words = "requires a client certificate: use --tls-cert-file and --tls-key-file";
    assert_eventual_error(watch(&database, &server, &known[..1]), 1, words).await;
    let stranger = show("stranger", &Authority::new("another"));
    let stranger: Vec<&str> = stranger.iter().map(String::as_str).collect();
    let words = "does not accept the certificate of --tls-cert-file";
    assert_eventual_error(watch(&database, &server, &stranger), 1, words).await;
}

/// An interrupted rotation is no reason to end a watch that has been running for days.
#[tokio::test]
async fn the_command_keeps_retrying_a_server_that_admitted_it_before() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |_| {}).await;
    let address = secured.weir.grpc_addr();
    let server = format!("https://localhost:{}", address.port());
    let paths = Paths(tempfile::tempdir().expect("a folder"));
    let ca = paths.write("ca.pem", &secured.authority.pem);
    let scope = format!("{}.{ORDERS}", database.name());
    let mut process = weir(
        &[],
        &[
            "watch",
            &scope,
            "--server",
            &server,
            "--output=json",
            "--tls-ca-file",
            &ca,
        ],
    );
    let opened = |output: &str| output.contains(r#""type":"opened""#);
    process.wait_for_output("opened", WAIT_LIMIT, opened).await;

    // The server restarts with a certificate that the command does not trust yet.
    let TlsServer { weir, folder, .. } = secured;
    weir.shutdown().await;
    let renewed = Authority::new("renewed");
    renewed.local().write(folder.path());
    let weir = Weir::with(&database, |config| {
        config.listen = address;
        config.tls.tls_cert_file = Some(folder.path().join("tls.crt"));
        config.tls.tls_key_file = Some(folder.path().join("tls.key"));
    })
    .await;
    crate::support::eventually("the command gets the reason", async || {
        process.stderr().contains("not trusted here")
    })
    .await;
    paths.write("ca.pem", &renewed.pem);
    insert(&database, 7).await;
    let changed = |output: &str| output.contains(r#""type":"change""#);
    process
        .wait_for_output("a change", WAIT_LIMIT, changed)
        .await;
    drop(weir);
}

#[tokio::test]
async fn contradictory_tls_flags_exit_with_2() {
    let database = Database::start().await;
    let paths = Paths(tempfile::tempdir().expect("a folder"));
    let empty = paths.write("empty.pem", "");
    let missing = paths.0.path().join("missing").display().to_string();
    let server = "https://localhost:1";
    for (server, arguments, words) in [
        (
            "http://localhost:1",
            ["--tls-ca-file", &empty],
            "--tls-ca-file needs",
        ),
        (
            "localhost:1",
            ["--tls-server-name", "a"],
            "--tls-server-name needs",
        ),
        (server, ["--tls-ca-file", &missing], "--tls-ca-file: "),
        (server, ["--tls-ca-file", &empty], "no certificate"),
        (server, ["--tls-cert-file", &empty], "--tls-key-file"),
    ] {
        assert_error(watch(&database, server, &arguments), 2, words).await;
    }
    let identity = ["--tls-cert-file", empty.as_str(), "--tls-key-file", &empty];
    assert_error(watch(&database, server, &identity), 2, "--tls-cert-file").await;
}
