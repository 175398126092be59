//! Settings as templates, secret files and orchestrators hand them out: empty variables, values with a
//! line break, defaults spelled out, combinations without an effect, and what a URI can ask for. The
//! check of the settings finds what the start would.

use std::fs;

use crate::support::certificates::Authority;
use crate::support::{
    ChildProcess, Database, ServeProcess, WAIT_LIMIT, eventually, get, weir, within,
};

const URI: &str = "mongodb://127.0.0.1:1/?directConnection=true";

/// Runs `weir serve` with these arguments until it exits. Returns the exit code and stderr.
async fn run_to_exit(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let arguments: Vec<&str> = ["serve"].iter().chain(arguments).copied().collect();
    let mut process = weir(variables, &arguments);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    (status.code(), process.stderr())
}

async fn check(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let arguments: Vec<&str> = ["--check-config"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    run_to_exit(variables, &arguments).await
}

/// Starts the server with these arguments, on ports of its own; it may exit.
fn start(arguments: &[&str]) -> ChildProcess {
    let ports = [
        "serve",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
    ];
    let arguments: Vec<&str> = ports.iter().chain(arguments).copied().collect();
    weir(&[], &arguments)
}

/// The check and the start refuse these settings with 64 and with the same words, which are returned.
async fn refused(arguments: &[&str]) -> String {
    let (code, checked) = check(&[], arguments).await;
    let arguments: Vec<&str> = arguments.to_vec();
    assert_eq!(code, Some(64), "the check of {arguments:?}: {checked}");
    let mut process = start(&arguments);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    let started = process.stderr();
    assert_eq!(status.code(), Some(64), "{arguments:?}: {started}");
    let said = |log: &str| {
        let lines = log.lines().filter(|line| !line.starts_with('{'));
        lines.collect::<Vec<_>>().join("\n")
    };
    // The usage of a command line that can't be read contains the other arguments.
    let problem = |log: &str| {
        let said = said(log);
        said.split("Usage: ").next().unwrap_or_default().to_owned()
    };
    assert_eq!(problem(&checked), problem(&started), "{arguments:?}");
    said(&checked)
}

async fn refused_uri(options: &str) -> String {
    let uri = format!("mongodb://127.0.0.1:1/?{options}");
    let said = refused(&["--mongodb-uri", &uri]).await;
    assert!(said.contains("--mongodb-uri"), "{options}: {said}");
    said
}

/// Each setting of `weir serve` with its variable and its default, from the help.
async fn variables() -> Vec<(String, Option<String>)> {
    let mut help = weir(&[], &["serve", "--help"]);
    help.wait_for_exit(WAIT_LIMIT).await;
    // A long line may be broken within the brackets.
    let text = help
        .stdout()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let variables: Vec<_> = text
        .split("[env: ")
        .skip(1)
        .map(|rest| {
            let name = rest.split(['=', ']']).next().unwrap_or_default();
            let own = rest.split(" --").next().unwrap_or_default();
            let default = own.split("[default: ").nth(1);
            let default = default.and_then(|it| it.split(']').next());
            (name.to_owned(), default.map(str::to_owned))
        })
        .collect();
    assert!(variables.len() > 40, "{variables:?}");
    variables
}

/// The variables without which a protection is missing.
const PROTECTIONS: [&str; 19] = [
    "WEIR_TLS_CERT_FILE",
    "WEIR_TLS_KEY_FILE",
    "WEIR_TLS_CLIENT_CA_FILE",
    "WEIR_JWKS_URL",
    "WEIR_JWKS_FILE",
    "WEIR_JWKS_CA_FILE",
    "WEIR_JWT_ISSUER",
    "WEIR_JWT_AUDIENCE",
    "WEIR_JWT_ALGORITHMS",
    "WEIR_API_KEYS_FILE",
    "WEIR_AUTH_CERTIFICATES",
    "WEIR_POLICY_FILE",
    "WEIR_TOKEN_KEY_FILE",
    "WEIR_ADMIN_TOKEN_FILE",
    "WEIR_MAX_WATCHES_PER_PRINCIPAL",
    "WEIR_WATCH_RATE_PER_PRINCIPAL",
    "WEIR_WATCH_RATE",
    "WEIR_BYTE_RATE_PER_PRINCIPAL",
    "WEIR_BYTE_RATE",
];

/// A secret or a template that is left empty must not open the port to everybody.
#[tokio::test]
async fn an_empty_variable_of_a_protection_is_refused() {
    let all = variables().await;
    for name in PROTECTIONS {
        assert!(all.iter().any(|it| it.0 == name), "no variable {name}");
        for value in ["", "\n", "\r\n"] {
            let variables = [(name, value)];
            let (code, said) = check(&variables, &["--mongodb-uri", URI]).await;
            assert_eq!(code, Some(64), "{name}={value:?}: {said}");
            for word in [name, "is empty", "unset it"] {
                assert!(said.contains(word), "{name}={value:?}: no {word}: {said}");
            }
        }
        let ports = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
        let arguments = [&["--mongodb-uri", URI], &ports[..]].concat();
        let (code, said) = run_to_exit(&[(name, "")], &arguments).await;
        assert_eq!(code, Some(64), "the start with an empty {name}: {said}");
        assert!(said.contains(name), "{said}");
    }
    // The flag takes precedence, whatever the variable says.
    let arguments = ["--mongodb-uri", URI, "--watch-rate=7"];
    let (code, said) = check(&[("WEIR_WATCH_RATE", "")], &arguments).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check(&[("WEIR_AUTH_CERTIFICATES", "false")], &arguments).await;
    assert_eq!(code, Some(0), "{said}");
}

/// Not even when its default, which would apply without it, is spelled out. A template may spell it out for
/// servers without TLS, which have no certificates at all.
#[tokio::test]
async fn required_client_certificates_without_an_authority_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = Authority::new("servers").local().write(folder.path());
    let with_tls = [
        format!("--tls-cert-file={}", cert.display()),
        format!("--tls-key-file={}", key.display()),
    ];
    let with_tls = [with_tls[0].as_str(), &with_tls[1], "--mongodb-uri", URI];
    for value in ["required", "required\n", "optional", "optional\n"] {
        let variables = [("WEIR_TLS_CLIENT_AUTH", value)];
        let (code, said) = check(&variables, &with_tls).await;
        assert_eq!(code, Some(64), "{value:?}: {said}");
        assert!(said.contains("--tls-client-ca-file"), "{value:?}: {said}");
        let (code, said) = check(&variables, &["--mongodb-uri", URI]).await;
        if value.starts_with("required") {
            assert_eq!(code, Some(0), "{value:?}: {said}");
            assert!(said.contains("tls is off"), "{value:?}: {said}");
        } else {
            assert_eq!(code, Some(64), "{value:?}: {said}");
        }
    }
    // From the environment too.
    let variables = [
        ("WEIR_TLS_CLIENT_AUTH", "required"),
        ("WEIR_TLS_CERT_FILE", cert.to_str().expect("UTF-8")),
        ("WEIR_TLS_KEY_FILE", key.to_str().expect("UTF-8")),
    ];
    let (code, said) = check(&variables, &["--mongodb-uri", URI]).await;
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("WEIR_TLS_CLIENT_AUTH"), "{said}");
    let said = refused(&["--mongodb-uri", URI, "--tls-client-auth=required"]).await;
    assert!(said.contains("--tls-client-ca-file"), "{said}");
}

#[tokio::test]
async fn any_other_empty_variable_counts_as_unset() {
    let all = variables().await;
    let mut empty: Vec<(&str, &str)> = all
        .iter()
        .filter(|(name, _)| !PROTECTIONS.contains(&name.as_str()))
        .map(|(name, _)| (name.as_str(), ""))
        .collect();
    assert!(empty.iter().any(|it| it.0 == "WEIR_DEPLOYMENT_NAME"));
    let (code, said) = check(&empty, &[]).await;
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("--mongodb-uri"), "{said}");
    empty.retain(|(name, _)| *name != "MONGODB_URI");
    let (code, said) = check(&empty, &["--mongodb-uri", URI]).await;
    assert_eq!(code, Some(0), "{said}");
    for one in &empty {
        let (code, said) = check(&[*one], &["--mongodb-uri", URI]).await;
        assert_eq!(code, Some(0), "{}: {said}", one.0);
    }
}

/// Secret files and templates end values with a line break.
#[tokio::test]
async fn a_default_may_be_spelled_out_and_end_with_a_line_break() {
    let all = variables().await;
    let spelled: Vec<(&str, &str)> = all
        .iter()
        .filter(|(_, default)| default.as_deref().is_some_and(|it| !it.contains(' ')))
        .map(|(name, default)| (name.as_str(), default.as_deref().unwrap_or_default()))
        .collect();
    assert!(spelled.len() > 25, "{spelled:?}");
    let (code, said) = check(&spelled, &["--mongodb-uri", URI]).await;
    assert_eq!(code, Some(0), "{said}");
    for end in ["\n", "\r\n"] {
        let broken: Vec<_> = spelled
            .iter()
            .map(|(name, value)| (*name, format!("{value}{end}")))
            .collect();
        let broken: Vec<_> = broken
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let (code, said) = check(&broken, &["--mongodb-uri", URI]).await;
        assert_eq!(code, Some(0), "{said}");
    }
    for switch in [
        "WEIR_AUTH_CERTIFICATES",
        "WEIR_ALLOW_INSECURE",
        "WEIR_ALLOW_DEPLOYMENT_WATCH",
    ] {
        let (code, said) = check(&[(switch, "false\n")], &["--mongodb-uri", URI]).await;
        assert_eq!(code, Some(0), "{switch}: {said}");
    }
    let (code, said) = check(
        &[("WEIR_AUTH_CERTIFICATES", "true")],
        &["--mongodb-uri", URI],
    )
    .await;
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("--tls-client-ca-file"), "{said}");
}

/// The same in the check and at the start, from the environment and on the command line.
#[tokio::test]
async fn a_uri_may_end_with_a_line_break_and_contains_none() {
    let database = Database::start().await;
    let broken = format!("{}\n", database.uri());
    for arguments in [&["--mongodb-uri", broken.as_str()][..], &[]] {
        let variables = [("MONGODB_URI", broken.as_str())];
        let (code, said) = check(&variables, arguments).await;
        assert_eq!(code, Some(0), "{said}");
    }
    let weir = ServeProcess::start(&broken, &[]).await;
    eventually("it is ready", async || {
        weir.admin_status("/readyz").await == Some(200)
    })
    .await;
    for uri in [
        "mongodb://127.0.0.1:1/?directConnection=true \n",
        "mongodb://127.0.0.1:1,\n127.0.0.2:1/",
        " mongodb://127.0.0.1:1/",
        "\"mongodb://127.0.0.1:1/\"",
    ] {
        let said = refused(&["--mongodb-uri", uri]).await;
        assert!(said.contains("--mongodb-uri"), "{uri:?}: {said}");
        let words = ["space", "quote"].iter().any(|it| said.contains(it));
        assert!(words, "{uri:?}: {said}");
    }
    // The help shows no value, trimmed or not.
    const SECRET: &str = "hunter2secret";
    let uri = format!("mongodb://user:{SECRET}@127.0.0.1:1/\n");
    let mut help = weir_help(&uri);
    help.wait_for_exit(WAIT_LIMIT).await;
    assert!(!help.stdout().contains(SECRET), "{help}");
}

fn weir_help(uri: &str) -> ChildProcess {
    weir(&[("MONGODB_URI", uri)], &["serve", "--help"])
}

/// A value of nothing on the command line is a mistake of a template.
#[tokio::test]
async fn an_empty_value_of_a_flag_is_refused() {
    for flag in [
        "--deployment-name",
        "--jwks-file",
        "--api-keys-file",
        "--policy-file",
        "--token-key-file",
        "--admin-token-file",
        "--tls-cert-file",
        "--tls-client-ca-file",
        "--otlp-endpoint",
        "--jwt-issuer",
        "--log-level",
        "--mongodb-uri",
    ] {
        let uri = if flag == "--mongodb-uri" {
            &[][..]
        } else {
            &["--mongodb-uri", URI]
        };
        let arguments: Vec<&str> = uri.iter().chain(&[flag, ""]).copied().collect();
        let (code, said) = check(&[], &arguments).await;
        assert_eq!(code, Some(64), "{flag}: {said}");
        let words = ["is empty", "a value is required"];
        assert!(words.iter().any(|it| said.contains(it)), "{flag}: {said}");
        assert!(said.contains(flag), "{flag}: {said}");
    }
}

/// Whoever sets one of these believes that callers are authenticated, or that connections are encrypted.
#[tokio::test]
async fn a_setting_of_protection_without_an_effect_is_refused() {
    for (arguments, needed) in [
        (&["--jwt-issuer=https://issuer.example"][..], "--jwks-url"),
        (&["--jwt-audience=weir"], "--jwks-url"),
        (
            &["--jwt-issuer=https://issuer.example", "--jwt-audience=weir"],
            "--jwks-url",
        ),
        (&["--jwt-algorithms=RS256"], "--jwks-url"),
        (&["--jwt-leeway=5s"], "--jwks-url"),
        (&["--jwt-name-claim=email"], "--jwks-url"),
        (&["--jwks-refresh-interval=1m"], "--jwks-url"),
        (&["--jwks-ca-file=/etc/ca.pem"], "--jwks-url"),
        (&["--tls-client-auth=optional"], "--tls-client-ca-file"),
        (&["--tls-client-ca-file=/etc/ca.pem"], "--tls-cert-file"),
        (&["--tls-cert-file=/etc/tls.crt"], "--tls-key-file"),
        (&["--tls-key-file=/etc/tls.key"], "--tls-cert-file"),
        (&["--auth-certificates"], "--tls-client-ca-file"),
        (&["--max-handshakes=10"], "--tls-cert-file"),
    ] {
        let with_uri: Vec<&str> = ["--mongodb-uri", URI]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        let said = refused(&with_uri).await;
        let flag = arguments[0].split('=').next().unwrap_or_default();
        assert!(said.contains(flag), "{arguments:?}: {said}");
        assert!(said.contains(needed), "{arguments:?}: {said}");
    }
    // From the environment too.
    let variables = [("WEIR_JWT_ISSUER", "https://issuer.example")];
    let (code, said) = check(&variables, &["--mongodb-uri", URI]).await;
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("--jwt-issuer"), "{said}");
}

#[tokio::test]
async fn an_unknown_variable_is_named_with_the_nearest_known_one() {
    let variables = [
        ("MONGODB_URI", URI),
        ("WEIR_MAX_WATCHS", "7"),
        ("WEIR_TLS_CERTFILE", "/etc/tls.crt"),
        ("WEIR_SOMETHING_ELSE_ALTOGETHER", "secretvalue"),
        ("WEIR_ADMIN_PORT", "9090"),
        // A variable of another command.
        ("WEIR_SERVER", "http://localhost:50051"),
        // Kubernetes sets these for the services of a namespace: weir, weir-metrics.
        ("WEIR_SERVICE_HOST", "10.0.0.1"),
        ("WEIR_SERVICE_PORT", "50051"),
        ("WEIR_SERVICE_PORT_GRPC", "50051"),
        ("WEIR_PORT", "tcp://10.0.0.1:50051"),
        ("WEIR_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("WEIR_PORT_50051_TCP_PROTO", "tcp"),
        ("WEIR_PORT_50051_TCP_PORT", "50051"),
        ("WEIR_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("WEIR_METRICS_SERVICE_HOST", "10.0.0.2"),
        ("WEIR_METRICS_PORT", "tcp://10.0.0.2:9090"),
        ("WEIR_METRICS_PORT_9090_TCP", "tcp://10.0.0.2:9090"),
        ("WEIR_METRICS_PORT_9090_TCP_ADDR", "10.0.0.2"),
    ];
    let (code, said) = check(&variables, &[]).await;
    assert_eq!(code, Some(0), "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("WARN")).collect();
    let find = |name: &str| {
        let found: Vec<_> = warnings.iter().filter(|it| it.contains(name)).collect();
        assert_eq!(found.len(), 1, "{name}: {warnings:?}");
        (*found[0]).to_owned()
    };
    assert!(find("WEIR_MAX_WATCHS").contains("\"WEIR_MAX_WATCHES\""));
    assert!(find("WEIR_TLS_CERTFILE").contains("\"WEIR_TLS_CERT_FILE\""));
    let unlike_any = find("WEIR_SOMETHING_ELSE_ALTOGETHER");
    assert!(!unlike_any.contains("secretvalue"), "{unlike_any}");
    find("WEIR_ADMIN_PORT");
    assert_eq!(warnings.len(), 4, "{warnings:?}");
}

/// The misspelled variable may be what the command line lacks.
#[tokio::test]
async fn an_unknown_variable_is_named_beside_the_error_that_it_causes() {
    for (variables, meant) in [
        (
            &[("WEIR_MONGODB_URI", URI)][..],
            "did you mean MONGODB_URI?",
        ),
        (
            &[
                ("MONGODB_URI", URI),
                ("WEIR_TLS_CERT", "/etc/tls.crt"),
                ("WEIR_TLS_KEY_FILE", "/etc/tls.key"),
            ],
            "did you mean WEIR_TLS_CERT_FILE?",
        ),
    ] {
        let (code, said) = check(variables, &[]).await;
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(meant), "{said}");
        let (code, said) = run_to_exit(variables, &[]).await;
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(meant), "{said}");
    }
}

/// Weir only reads, so that the option has no sense; the driver refuses every command with it.
#[tokio::test]
async fn an_unacknowledged_write_concern_is_refused() {
    let said = refused_uri("directConnection=true&w=0").await;
    assert!(said.contains("w=0"), "{said}");
    for option in ["w=1", "w=majority", "w=2&wtimeoutMS=100", "journal=true"] {
        let uri = format!("{URI}&{option}");
        let (code, said) = check(&[], &["--mongodb-uri", &uri]).await;
        assert_eq!(code, Some(0), "{option}: {said}");
    }
}

/// In words for the operator, who does not know the driver and its features.
#[tokio::test]
async fn options_that_this_build_lacks_are_refused_with_what_to_do() {
    let too_long = format!("appName={}", "a".repeat(129));
    for (option, words) in [
        (
            "timeoutMS=1000",
            &["timeoutMS", "--upstream-reply-timeout"][..],
        ),
        (
            "socketTimeoutMS=1000",
            &["socketTimeoutMS", "--upstream-reply-timeout"],
        ),
        ("compressors=lz4", &["compressors", "lz4", "zstd"]),
        (
            "authMechanism=MONGODB-AWS",
            &["MONGODB-AWS", "not supported", "SCRAM-SHA-256"],
        ),
        (
            "authMechanism=GSSAPI",
            &["GSSAPI", "not supported", "MONGODB-X509"],
        ),
        (
            "authMechanism=MONGODB-OIDC",
            &["MONGODB-OIDC", "ENVIRONMENT:k8s"],
        ),
        (
            "authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:azure,TOKEN_RESOURCE:a",
            &["MONGODB-OIDC", "ENVIRONMENT:k8s"],
        ),
        ("authMechanism=MONGODB-CR", &["MONGODB-CR", "not supported"]),
        ("authMechanism=scram", &["authMechanism", "SCRAM-SHA-256"]),
        ("proxyHost=proxy", &["proxyHost", "not supported"]),
        (
            "tls=true&tlsCertificateKeyFilePassword=hunter2secret",
            &["tlsCertificateKeyFilePassword", "not supported"],
        ),
        (
            "tls=true&tlsAllowInvalidHostnames=true",
            &["tlsAllowInvalidHostnames", "not supported"],
        ),
        ("replcaSet=rs0", &["replcaSet", "replicaSet"]),
        ("directConnection=True", &["directConnection", "true"]),
        ("compressors=", &["compressors", "empty", "zstd"]),
        ("compressors=zstd,", &["compressors", "empty", "remove"]),
        ("tls=true&ssl=false", &["tls", "ssl", "remove"]),
        ("appName=a&replicaSet=b&APPNAME=c", &["appName", "twice"]),
        ("replicaSet=", &["replicaSet", "empty"]),
        (
            "serverSelectionTimeoutMS=0",
            &["serverSelectionTimeoutMS", "at least 1 ms"],
        ),
        (
            "heartbeatFrequencyMS=10",
            &["heartbeatFrequencyMS", "500 ms"],
        ),
        (
            "readPreference=secondary&maxStalenessSeconds=10",
            &["maxStalenessSeconds", "90"],
        ),
        (&*too_long, &["appName", "128"]),
    ] {
        let said = refused_uri(option).await;
        for word in words {
            assert!(said.contains(word), "{option}: no {word}: {said}");
        }
        for other in ["feature", "hunter2secret", "Rust driver"] {
            assert!(!said.contains(other), "{option}: {other}: {said}");
        }
    }
}

/// Options that concern other drivers or other operations leave Weir as it is.
#[tokio::test]
async fn options_without_a_meaning_for_weir_do_no_harm() {
    let database = Database::start().await;
    for option in [
        "uuidRepresentation=standard",
        "readConcernLevel=linearizable",
        "readConcernLevel=nonsense",
        "retryWrites=true&w=majority",
        "retryReads=false",
        "compressors=zstd,snappy,zlib",
    ] {
        let uri = format!("{}&{option}", database.uri());
        let weir = ServeProcess::start(&uri, &[]).await;
        let watch = crate::support::WatchStream::open(
            &mut weir.client().await,
            database.watch_request(&["orders"]),
        )
        .await;
        assert!(watch.is_ok(), "{option}: {:?}", watch.err());
    }
}

/// The start and the check agree on files, addresses and combinations.
#[tokio::test]
async fn the_check_finds_what_the_start_would() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    Authority::new("servers").local().write(folder.path());
    for (name, text) in [("empty", ""), ("text", "nonsense: [\n")] {
        fs::write(at(name), text).expect("it is written");
    }
    let uri = |options: &str| format!("mongodb://127.0.0.1:1/?{options}");
    let missing = at("missing");
    for (arguments, words) in [
        (
            vec![format!(
                "--mongodb-uri={}",
                uri(&format!("tls=true&tlsCAFile={missing}"))
            )],
            vec!["--mongodb-uri", "tlsCAFile", missing.as_str()],
        ),
        (
            vec![format!(
                "--mongodb-uri={}",
                uri(&format!("tls=true&tlsCAFile={}", at("empty")))
            )],
            vec!["--mongodb-uri", "tlsCAFile", "no certificate"],
        ),
        (
            vec![format!(
                "--mongodb-uri={}",
                uri(&format!("tls=true&tlsCertificateKeyFile={missing}"))
            )],
            vec!["--mongodb-uri", "tlsCertificateKeyFile", missing.as_str()],
        ),
        (
            vec![format!(
                "--mongodb-uri=mongodb+srv://cluster.example.invalid/?tlsCAFile={missing}"
            )],
            vec!["--mongodb-uri", "tlsCAFile", missing.as_str()],
        ),
        (
            vec![
                format!("--mongodb-uri={URI}"),
                format!("--policy-file={missing}"),
            ],
            vec!["--policy-file", missing.as_str()],
        ),
        (
            vec![
                format!("--mongodb-uri={URI}"),
                format!("--policy-file={}", at("text")),
            ],
            vec!["--policy-file"],
        ),
        (
            vec![
                format!("--mongodb-uri={URI}"),
                format!("--token-key-file={missing}"),
            ],
            vec!["--token-key-file", missing.as_str()],
        ),
        (
            vec![
                format!("--mongodb-uri={URI}"),
                format!("--api-keys-file={}", at("text")),
            ],
            vec!["--api-keys-file"],
        ),
        (
            vec![
                format!("--mongodb-uri={URI}"),
                format!("--admin-token-file={missing}"),
            ],
            vec!["--admin-token-file", missing.as_str()],
        ),
        (
            vec![
                format!("--mongodb-uri={URI}"),
                "--log-level=weir=loud".to_owned(),
            ],
            vec!["--log-level"],
        ),
        (
            vec![
                format!("--mongodb-uri={URI}"),
                "--otlp-endpoint=nowhere".to_owned(),
            ],
            vec!["--otlp-endpoint"],
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = refused(&arguments).await;
        for word in words {
            assert!(said.contains(word), "{arguments:?}: no {word}: {said}");
        }
    }
}

#[tokio::test]
async fn one_address_for_both_ports_is_refused() {
    for (listen, admin, conflict) in [
        ("127.0.0.1:50051", "127.0.0.1:50051", true),
        ("0.0.0.0:50051", "127.0.0.1:50051", true),
        ("127.0.0.1:9090", "0.0.0.0:9090", true),
        ("[::]:50051", "[::1]:50051", true),
        ("[::]:50051", "127.0.0.1:50051", true),
        ("127.0.0.1:50051", "127.0.0.2:50051", false),
        ("127.0.0.1:50051", "[::1]:50051", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
    ] {
        let arguments = [
            "--mongodb-uri",
            URI,
            "--allow-insecure",
            "--listen",
            listen,
            "--admin-listen",
            admin,
        ];
        let (code, said) = check(&[], &arguments).await;
        if conflict {
            assert_eq!(code, Some(64), "{listen} {admin}: {said}");
            assert!(said.contains("--admin-listen"), "{said}");
            assert_eq!(run_to_exit(&[], &arguments).await, (code, said));
        } else {
            assert_eq!(code, Some(0), "{listen} {admin}: {said}");
        }
    }
}

/// Not "MongoDB does not answer" at every call: it does.
#[tokio::test]
async fn a_read_preference_that_no_server_meets_is_reported_as_such() {
    let database = Database::options().start().await;
    for preference in [
        "readPreference=secondary",
        "readPreference=nearest&readPreferenceTags=region:nowhere",
        "readPreference=secondary&maxStalenessSeconds=120",
    ] {
        let uri = format!(
            "mongodb://{}/?replicaSet=secantus&{preference}",
            database.address()
        );
        let fast = ["--server-selection-timeout", "300ms"];
        let weir = ServeProcess::start(&uri, &fast).await;
        let words = "no server matches readPreference";
        eventually("the log says so", async || {
            weir.process.stderr().contains(words)
        })
        .await;
        let (status, body) = within("an answer", get(weir.admin, "/readyz"))
            .await
            .expect("the admin port answers");
        assert_eq!(status, 503, "{body}");
        assert!(body.contains(words), "{preference}: {body}");
        assert!(!body.contains("nowhere"), "it names tags: {body}");
        let opened = crate::support::WatchStream::open(
            &mut weir.client().await,
            database.watch_request(&["orders"]),
        )
        .await;
        let status = opened.err().expect("no server may be asked");
        assert!(status.message().contains("readPreference"), "{status:?}");
        assert_eq!(
            crate::support::error_reason(&status),
            "UPSTREAM_UNAVAILABLE"
        );
    }
}

/// A name server may be away for a while, as a host may: the unit that ships does not restart a process
/// that ended with 64.
#[tokio::test]
async fn a_name_that_the_dns_does_not_resolve_yet_is_waited_for() {
    // RFC 6761: no name below it exists, and no query leaves the machine.
    const HOST: &str = "cluster.example.invalid";
    let uri = format!("mongodb+srv://user:hunter2secret@{HOST}/?retryWrites=true");
    let (code, said) = check(&[], &["--mongodb-uri", &uri]).await;
    assert_eq!(code, Some(0), "{said}");
    // At once, and not only after the time for a call.
    let slow = ["--server-selection-timeout", "1h"];
    for arguments in [&slow, &["--server-selection-timeout", "300ms"]] {
        let weir = ServeProcess::start(&uri, arguments).await;
        eventually("/readyz says why", async || {
            let answer = get(weir.admin, "/readyz").await;
            answer.is_ok_and(|(status, body)| {
                // Anyone who reaches the port may read it.
                assert!(!body.contains(HOST), "it names the host: {body}");
                status == 503 && body.contains("DNS")
            })
        })
        .await;
    }
    let fast = ["--server-selection-timeout", "300ms"];
    let mut weir = ServeProcess::start(&uri, &fast).await;
    let mut client = weir.client().await;
    let info = client.get_server_info(weir::pb::GetServerInfoRequest {});
    let status = within("an answer", info)
        .await
        .expect_err("there is no MongoDB");
    assert_eq!(
        crate::support::error_reason(&status),
        "UPSTREAM_UNAVAILABLE"
    );
    weir.process.signal("TERM");
    let status = weir.process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", weir.process);
    let said = weir.process.stderr();
    assert!(said.contains("DNS"), "{said}");
    assert!(said.contains(HOST), "the log names no host: {said}");
    assert!(!said.contains("hunter2secret"), "{said}");

    for malformed in [
        "mongodb+srv://cluster.example.invalid:27017/",
        "mongodb+srv://a.example.invalid,b.example.invalid/",
        "mongodb+srv://",
        "mongodb+srv://cluster.example.invalid/?directConnection=true",
        "mongodb+srv://localhost\n.invalid/",
    ] {
        let said = refused(&["--mongodb-uri", malformed]).await;
        assert!(said.contains("--mongodb-uri"), "{malformed}: {said}");
    }
}
