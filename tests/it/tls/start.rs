//! The checks before the server starts, and what it needs to listen beyond loopback.

use std::fs;
use std::path::Path;

use weir::config::{ClientAuth, ConfigError, ServeConfig};

use crate::support::certificates::Authority;
use crate::support::{ChildProcess, Database, ServeProcess, WAIT_LIMIT, weir};

fn serve(arguments: &[&str]) -> ChildProcess {
    let common = [
        "serve",
        "--mongodb-uri=mongodb://127.0.0.1:1/?directConnection=true",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
    ];
    let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
    weir(&[], &arguments)
}

/// Every message names the flag and the file.
#[tokio::test]
async fn unusable_files_end_the_start_with_64() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let authority = Authority::new("servers");
    let (issued, other) = (authority.local(), authority.local());
    issued.write(folder.path());
    let broken = &issued.certificate[..issued.certificate.len() / 2];
    for (name, text) in [
        ("other.key", other.key.as_str()),
        ("empty", ""),
        ("broken", broken),
    ] {
        fs::write(at(name), text).expect("it is written");
    }
    let cases = [
        (
            "missing.crt",
            "tls.key",
            "",
            "--tls-cert-file",
            "missing.crt",
        ),
        (
            "tls.crt",
            "missing.key",
            "",
            "--tls-key-file",
            "missing.key",
        ),
        ("empty", "tls.key", "", "--tls-cert-file", "no certificate"),
        ("tls.crt", "empty", "", "--tls-key-file", "no private key"),
        ("tls.crt", "tls.crt", "", "--tls-key-file", "no private key"),
        ("broken", "tls.key", "", "--tls-cert-file", "invalid PEM"),
        (
            "tls.crt",
            "other.key",
            "",
            "--tls-key-file",
            "not the key of",
        ),
        (
            "tls.crt",
            "tls.key",
            "empty",
            "--tls-client-ca-file",
            "no certificate",
        ),
        (
            "tls.crt",
            "tls.key",
            "missing",
            "--tls-client-ca-file",
            "missing",
        ),
    ];
    for (certificate, key, clients, flag, words) in cases {
        let mut arguments = vec![
            format!("--tls-cert-file={}", at(certificate)),
            format!("--tls-key-file={}", at(key)),
        ];
        if !clients.is_empty() {
            arguments.push(format!("--tls-client-ca-file={}", at(clients)));
        }
        for check in [&["--check-config"][..], &[]] {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut process = serve(&[&arguments, check].concat());
            let status = process.wait_for_exit(WAIT_LIMIT).await;
            assert_eq!(
                status.code(),
                Some(64),
                "{certificate} {key} {clients}{process}"
            );
            let said = process.stderr();
            let reported = said.lines().last().unwrap_or_default();
            assert!(
                reported.starts_with(&format!("weir serve: {flag}: ")),
                "{said}"
            );
            assert!(reported.contains(&at("")), "{said}");
            assert!(reported.contains(words), "{said}");
        }
    }
    let (certificate, key) = (at("tls.crt"), at("tls.key"));
    let good = [
        "--check-config",
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
    ];
    assert!(serve(&good).wait_for_exit(WAIT_LIMIT).await.success());
}

/// Half a configuration must not count as none.
#[tokio::test]
async fn flags_that_belong_together_are_refused_alone() {
    for (arguments, other) in [
        (&["--tls-cert-file=a"][..], "--tls-key-file"),
        (&["--tls-key-file=a"], "--tls-cert-file"),
        (&["--tls-client-ca-file=a"], "--tls-cert-file"),
        (&["--auth-certificates"], "--tls-client-ca-file"),
        // A server that requires certificates must not serve without them.
        (&["--tls-client-auth=required"], "--tls-client-ca-file"),
    ] {
        let mut process = serve(arguments);
        assert_eq!(
            process.wait_for_exit(WAIT_LIMIT).await.code(),
            Some(64),
            "{process}"
        );
        assert!(process.stderr().contains(other), "{process}");
    }
    // The same when the flags are not set on the command line.
    let mut config = ServeConfig::for_uri("mongodb://localhost");
    config.tls.tls_cert_file = Some("a".into());
    assert_eq!(refused(&config).expect("it is half").flag, "tls-cert-file");
    let mut config = ServeConfig::for_uri("mongodb://localhost");
    config.tls.tls_client_ca_file = Some("a".into());
    let refused = refused(&config).expect("it is half");
    assert_eq!(refused.flag, "tls-client-ca-file");
}

fn refused(config: &ServeConfig) -> Option<ConfigError> {
    config.validate().err()
}

#[test]
fn beyond_loopback_both_encryption_and_authentication_are_needed() {
    fn config(change: impl FnOnce(&mut ServeConfig)) -> ServeConfig {
        let mut config = ServeConfig::for_uri("mongodb://localhost");
        config.listen = ([0, 0, 0, 0], 50051).into();
        change(&mut config);
        config
    }
    fn encrypt(config: &mut ServeConfig) {
        config.tls.tls_cert_file = Some("a".into());
        config.tls.tls_key_file = Some("b".into());
    }
    fn clients(config: &mut ServeConfig, when: ClientAuth) {
        encrypt(config);
        config.tls.tls_client_ca_file = Some("c".into());
        config.tls.tls_client_auth = Some(when);
    }
    let missing = |change: fn(&mut ServeConfig)| {
        let strict = config(change);
        let mut loose = strict.clone();
        loose.allow_insecure = true;
        assert_eq!(refused(&loose), None);
        let mut local = strict.clone();
        local.listen = ([127, 0, 0, 1], 50051).into();
        assert_eq!(refused(&local), None);
        let error = refused(&strict)?;
        assert_eq!(error.flag, "listen");
        assert!(error.problem.contains("--allow-insecure"), "{error}");
        Some((
            error.problem.contains("without encryption"),
            error.problem.contains("without authentication"),
        ))
    };
    assert_eq!(missing(|_| {}), Some((true, true)));
    assert_eq!(missing(encrypt), Some((false, true)));
    let keys = |config: &mut ServeConfig| config.auth.api_keys_file = Some("k".into());
    assert_eq!(missing(keys), Some((true, false)));
    let both = |config: &mut ServeConfig| {
        encrypt(config);
        config.auth.api_keys_file = Some("k".into());
    };
    assert_eq!(missing(both), None);
    let required = |config: &mut ServeConfig| clients(config, ClientAuth::Required);
    assert_eq!(missing(required), None);
    // Clients without a certificate are admitted: that alone is no authentication.
    let optional = |config: &mut ServeConfig| clients(config, ClientAuth::Optional);
    assert_eq!(missing(optional), Some((false, true)));
}

/// At each start the log says what is missing, and nothing when nothing is.
#[tokio::test]
async fn the_log_says_what_is_missing_beyond_loopback() {
    let database = Database::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("servers");
    authority.local().write(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(Path::new(&path("clients.crt")), &authority.pem).expect("it is written");
    let tls = [
        format!("--tls-cert-file={}", path("tls.crt")),
        format!("--tls-key-file={}", path("tls.key")),
    ];
    let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
    let mutual = format!("--tls-client-ca-file={}", path("clients.crt"));
    for (arguments, said) in [
        (vec!["--allow-insecure"], Some("without authentication")),
        (
            [&["--allow-insecure"], &tls[..]].concat(),
            Some("\"authentication ("),
        ),
        ([&[mutual.as_str()], &tls[..]].concat(), None),
    ] {
        let weir = ServeProcess::on("0.0.0.0:0", database.uri(), &arguments).await;
        let log = weir.process.stderr();
        let warning = log
            .lines()
            .find(|line| line.contains("beyond this machine"));
        match said {
            Some(words) => assert!(warning.is_some_and(|it| it.contains(words)), "{log}"),
            None => assert_eq!(warning, None, "{log}"),
        }
    }
}
