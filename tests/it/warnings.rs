//! Warnings of the start: settings that can be used and are most likely not meant like this.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::certificates::Authority;
use crate::support::{ServeProcess, WAIT_LIMIT, eventually, weir};

/// Nothing listens there.
const NO_DATABASE: &str = "mongodb://127.0.0.1:1/?directConnection=true";

/// 32 bytes that do not repeat, for tests only.
const RANDOM_KEY: &str = "d2iOPEu5PzFGtrIaKpalEemYJ82WvMh4SUNcjuSGUrk=";

/// The public key of RFC 8037, appendix A.2.
const KEY_SET: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// The warnings in a log, each as its flag and its remedy.
fn warnings(log: &str) -> Vec<(String, String)> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let warnings = lines.filter(|line| {
        line["message"]
            .as_str()
            .is_some_and(|it| it.contains("probably not meant"))
    });
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    warnings
        .map(|line| {
            assert_eq!(line["level"], "WARN");
            assert!(
                !text(&line, "problem").is_empty() && !text(&line, "remedy").is_empty(),
                "{line}"
            );
            (text(&line, "flag"), text(&line, "remedy"))
        })
        .collect()
}

/// Checks settings that can be used, and returns the log.
async fn check(arguments: &[&str]) -> String {
    let common = ["serve", "--check-config", "--mongodb-uri", NO_DATABASE];
    let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
    let mut process = weir(&[], &arguments);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{process}");
    process.stderr()
}

/// Checks that the settings cause this one warning, whose remedy contains these words.
async fn assert_warned(flag: &str, remedy: &str, arguments: &[&str]) {
    let log = check(arguments).await;
    let given = warnings(&log);
    assert!(
        matches!(&given[..], [(of, what)] if of == flag && what.contains(remedy)),
        "{arguments:?}: {given:?}\n{log}"
    );
}

async fn assert_silent(arguments: &[&str]) {
    let log = check(arguments).await;
    assert_eq!(warnings(&log), [], "{arguments:?}\n{log}");
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file that only its owner may write, and returns its path.
    fn put(&self, name: &str, contents: &str) -> String {
        let path = self.path(name);
        fs::write(&path, contents).expect("a file");
        allow(&path, 0o600);
        path.to_str().expect("a path").to_owned()
    }
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

fn keys(expires: &str) -> String {
    format!(
        "keys:\n  - {{name: a, sha256: \"{}\"{expires}}}\n",
        "0".repeat(64)
    )
}

#[tokio::test]
async fn an_open_admin_port_is_warned_of_unless_it_has_a_token_or_is_meant() {
    let files = Files::new();
    let token = files.put("token", "correct-horse-battery-staple\n");
    for address in ["0.0.0.0:0", "[::]:0", "10.0.0.7:9090"] {
        let open = ["--admin-listen", address];
        assert_warned("--admin-listen", "--admin-token-file", &open).await;
        assert_silent(&[&open[..], &["--admin-token-file", &token]].concat()).await;
        assert_silent(&[&open[..], &["--allow-open-metrics"]].concat()).await;
    }
    assert_silent(&["--admin-listen", "[::1]:0"]).await;
}

#[tokio::test]
async fn slow_reloading_is_warned_of_where_credentials_expire() {
    let files = Files::new();
    let expiring = files.put("expiring", &keys(", expires: \"2040-01-01T00:00:00Z\""));
    let lasting = files.put("lasting", &keys(""));
    let key_set = files.put("key-set", KEY_SET);
    let issuer = ["--jwt-issuer", "a", "--jwt-audience", "b"];
    let tokens = [&["--jwks-file", &*key_set][..], &issuer].concat();
    let (certificate, key) = Authority::new("servers").local().write(files.0.path());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let clients = [
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-client-ca-file",
        certificate,
    ];
    for credentials in [&["--api-keys-file", &*expiring][..], &tokens, &clients] {
        let slow = [credentials, &["--reload-interval", "31s"]].concat();
        assert_warned("--reload-interval", "at most 15s", &slow).await;
        assert_silent(&[credentials, &["--reload-interval", "30s"]].concat()).await;
    }
    assert_silent(&["--api-keys-file", &lasting, "--reload-interval", "1h"]).await;
    // Nothing that expires comes from a file here: the key set is fetched.
    let url = ["--jwks-url", "https://127.0.0.1:1/keys"];
    assert_silent(&[&url[..], &issuer, &["--reload-interval", "1h"]].concat()).await;
    assert_silent(&["--reload-interval", "1h"]).await;
}

/// The first rule that applies decides: a later one for some of the same callers and namespaces never does.
#[tokio::test]
async fn a_rule_of_the_policy_that_has_no_effect_is_warned_of_when_it_is_read() {
    let files = Files::new();
    let token_keys = files.put("token-keys", RANDOM_KEY);
    let policy = |first: &str, second: &str| {
        format!(
            "version: 1\nrules:\n  - {{name: a, namespaces: ['{first}']}}\n  - {{name: b, namespaces: ['{second}'], hide: [card]}}\n"
        )
    };
    let (sound, useless) = (
        policy("shop.orders", "shop.*"),
        policy("shop.*", "shop.orders"),
    );
    let path = files.put("policy", &useless);
    let given = ["--policy-file", &*path, "--token-key-file", &token_keys];
    assert_warned("--policy-file", "narrower rule before", &given).await;
    files.put("policy", &sound);
    assert_silent(&given).await;
    let reloading = [&given[..], &["--reload-interval", "100ms"]].concat();
    let serving = ServeProcess::start(NO_DATABASE, &reloading).await;
    files.put("policy", &useless);
    eventually("the new policy is warned of", async || {
        matches!(&warnings(&serving.process.stderr())[..], [(flag, _)] if flag == "--policy-file")
    })
    .await;
}

#[tokio::test]
async fn a_token_key_that_is_not_random_is_warned_of() {
    let files = Files::new();
    let counting: Vec<u8> = (7..39).collect();
    for weak in [
        [0; 32].to_vec(),
        [0xaa; 32].to_vec(),
        b"0123456789abcdef".repeat(2),
        counting,
    ] {
        let text = format!("{RANDOM_KEY}\n{}\n", STANDARD.encode(&weak));
        let path = files.put("keys", &text);
        let log = check(&["--token-key-file", &path]).await;
        assert!(log.contains("line 2"), "{log}");
        assert!(!log.contains(&STANDARD.encode(&weak)), "{log}");
        assert_warned(
            "--token-key-file",
            "openssl rand -base64 32",
            &["--token-key-file", &path],
        )
        .await;
    }
    assert_silent(&["--token-key-file", &files.put("keys", RANDOM_KEY)]).await;
}

#[tokio::test]
async fn a_file_that_others_can_write_or_replace_is_warned_of() {
    let files = Files::new();
    let folder = files.path("folder");
    fs::create_dir(&folder).expect("a folder");
    allow(&folder, 0o755);
    let path = files.put("folder/keys", RANDOM_KEY);
    let given = ["--token-key-file", &*path];
    let of_file = format!("chmod go-w {path}");
    for (mode, is_open) in [(0o600, false), (0o644, false), (0o660, true), (0o602, true)] {
        allow(Path::new(&path), mode);
        if is_open {
            assert_warned("--token-key-file", &of_file, &given).await;
        } else {
            assert_silent(&given).await;
        }
    }
    allow(Path::new(&path), 0o600);
    // In a folder of Kubernetes everybody may write, but nobody may replace the files of others.
    for (mode, is_open) in [
        (0o775, true),
        (0o777, true),
        (0o1777, false),
        (0o755, false),
    ] {
        allow(&folder, mode);
        if is_open {
            let of_folder = format!("chmod go-w {}", folder.display());
            assert_warned("--token-key-file", &of_folder, &given).await;
        } else {
            assert_silent(&given).await;
        }
    }
    // A link leads to a file in another folder, and both can be replaced.
    allow(&folder, 0o775);
    symlink(&path, files.path("link")).expect("a link");
    let link = files.path("link");
    assert_warned(
        "--token-key-file",
        "folder",
        &["--token-key-file", link.to_str().unwrap()],
    )
    .await;
}

#[tokio::test]
async fn the_files_of_the_connection_string_are_examined_too() {
    let files = Files::new();
    let (certificate, _) = Authority::new("servers").local().write(files.0.path());
    allow(&certificate, 0o666);
    let uri = format!(
        "mongodb://127.0.0.1:1/?tls=true&tlsCAFile={}",
        certificate.display()
    );
    let mut process = weir(&[("MONGODB_URI", &uri)], &["serve", "--check-config"]);
    process.wait_for_exit(WAIT_LIMIT).await;
    let given = warnings(&process.stderr());
    assert!(
        matches!(&given[..], [(flag, _)] if flag == "--mongodb-uri"),
        "{given:?}"
    );
}

#[tokio::test]
async fn a_password_for_the_collector_is_warned_of_and_never_shown() {
    const SECRET: &str = "hunter2secret";
    if cfg!(not(feature = "otlp")) {
        return;
    }
    let url = format!("http://weir:{SECRET}@127.0.0.1:1");
    let given = ["--otlp-endpoint", &*url];
    assert_warned("--otlp-endpoint", "OTEL_EXPORTER_OTLP_HEADERS", &given).await;
    assert_silent(&["--otlp-endpoint", "http://127.0.0.1:1"]).await;
    let mut serving = ServeProcess::start(
        NO_DATABASE,
        &[&given[..], &["--log-level", "trace"]].concat(),
    )
    .await;
    let request = weir::pb::WatchRequest::default();
    let _ = serving.client().await.watch(request).await;
    eventually("the span is lost", async || {
        serving.process.stderr().contains("spans")
    })
    .await;
    serving.process.signal("TERM");
    serving.process.wait_for_exit(WAIT_LIMIT).await;
    assert!(
        !serving.process.stderr().contains(SECRET),
        "{}",
        serving.process
    );
    let help = weir(&[("WEIR_OTLP_ENDPOINT", &url)], &["serve", "--help"]);
    eventually("help is shown", async || {
        help.stdout().contains("--otlp-endpoint")
    })
    .await;
    assert!(!help.stdout().contains(SECRET), "{help}");
}

/// A server as it should be, with every kind of file.
#[tokio::test]
async fn a_sound_configuration_has_no_warning() {
    let files = Files::new();
    let (certificate, key) = Authority::new("servers").local().write(files.0.path());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let policy =
        "version: 1\nrules:\n  - {name: a, principals: ['key:a'], namespaces: [shop.orders]}\n";
    let policy = files.put("policy", policy);
    let api_keys = files.put("api-keys", &keys(", expires: \"2040-01-01T00:00:00Z\""));
    let token_keys = files.put("token-keys", RANDOM_KEY);
    let token = files.put("token", "correct-horse-battery-staple\n");
    let arguments = [
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-client-ca-file",
        certificate,
        "--policy-file",
        &policy,
        "--api-keys-file",
        &api_keys,
        "--token-key-file",
        &token_keys,
        "--admin-token-file",
        &token,
    ];
    let open = ["--listen", "0.0.0.0:0", "--admin-listen", "0.0.0.0:0"];
    assert_silent(&[&arguments[..], &open].concat()).await;
    assert_silent(&[]).await;
    let serving = ServeProcess::start(NO_DATABASE, &arguments).await;
    let log = serving.process.stderr();
    assert_eq!(warnings(&log), [], "{log}");
    // The start itself warns too, not only the check.
    allow(Path::new(&policy), 0o666);
    let serving = ServeProcess::start(NO_DATABASE, &arguments).await;
    let log = serving.process.stderr();
    assert_eq!(warnings(&log).len(), 1, "{log}");
}
