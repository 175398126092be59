//! The authenticator with every kind of credentials, good and bad, and with changing keys. Needs no
//! database.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::support::{
    certificates::Authority,
    eventually,
    issuer::{Answer, KeyServer},
    tokens::{AUDIENCE, ISSUER, SigningKey, claims, key_set, message, seconds_from_now},
    within,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::Algorithm;
use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;
use weir::{
    auth::{
        AuthSettings, Authenticator, JwtKeys, JwtSettings, Method, Peer, Principal, RemoteKeys,
        SetupError,
    },
    error::Error,
    metrics::Metrics,
};

/// The interval at which files are checked for changes.
const RELOAD: Duration = Duration::from_millis(20);

/// An authenticator and the task that keeps it up to date.
struct TestAuthenticator {
    authenticator: Authenticator,
    metrics: Arc<Metrics>,
    upkeep: tokio::task::JoinHandle<()>,
}

impl Drop for TestAuthenticator {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

impl TestAuthenticator {
    async fn start(settings: AuthSettings) -> Self {
        Self::try_start(settings).await.expect("settings that do")
    }

    async fn try_start(settings: AuthSettings) -> Result<Self, SetupError> {
        let metrics = Arc::new(Metrics::new());
        let (authenticator, upkeep) = Authenticator::new(settings, Arc::clone(&metrics)).await?;
        Ok(Self {
            authenticator,
            metrics,
            upkeep: tokio::spawn(upkeep.run()),
        })
    }

    async fn authenticate(
        &self,
        headers: &[(&'static str, &str)],
    ) -> Result<Arc<Principal>, Error> {
        self.authenticate_peer(headers, &Peer::default()).await
    }

    async fn authenticate_peer(
        &self,
        headers: &[(&'static str, &str)],
        peer: &Peer,
    ) -> Result<Arc<Principal>, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        within("an answer", self.authenticator.authenticate(&map, peer)).await
    }

    async fn bearer(&self, token: &str) -> Result<Arc<Principal>, Error> {
        self.authenticate(&[("authorization", &format!("Bearer {token}"))])
            .await
    }

    /// The reason with which a bearer token is refused.
    async fn refusal(&self, token: &str) -> &'static str {
        match self.bearer(token).await {
            Ok(principal) => panic!("{principal} was accepted"),
            Err(error) => error.reason(),
        }
    }
}

/// Accepts tokens that are signed by a key of this set.
fn jwts(keys: JwtKeys) -> AuthSettings {
    AuthSettings {
        jwt: Some(JwtSettings {
            keys,
            issuer: ISSUER.to_owned(),
            audiences: vec![AUDIENCE.to_owned(), "weir-too".to_owned()],
            algorithms: vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
            leeway: Duration::from_secs(10),
            name_claim: "sub".to_owned(),
        }),
        reload_interval: RELOAD,
        ..AuthSettings::default()
    }
}

fn remote(url: String) -> RemoteKeys {
    RemoteKeys {
        url,
        ca_file: None,
        refresh_interval: Duration::from_secs(3600),
        cooldown: Duration::from_secs(10),
    }
}

/// A file of one test.
struct TestFile {
    _folder: TempDir,
    path: PathBuf,
}

impl TestFile {
    fn new(contents: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, contents).expect("a file");
        Self {
            _folder: folder,
            path,
        }
    }

    /// Replaces the file atomically, so that nobody reads half of it.
    fn put(&self, contents: &str) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, contents).expect("a file");
        std::fs::rename(beside, &self.path).expect("a file in its place");
    }
}

async fn with_keys(keys: &[&SigningKey]) -> (TestAuthenticator, TestFile) {
    with_set(&key_set(keys)).await
}

async fn with_set(set: &Value) -> (TestAuthenticator, TestFile) {
    let file = TestFile::new(&set.to_string());
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::File(file.path.clone()))).await;
    (authenticator, file)
}

/// Claims of Alice with changes; null removes a claim.
fn claims_with(changes: &Value) -> Value {
    let mut claims = claims("alice");
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            claims.as_object_mut().expect("an object").remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

#[tokio::test]
async fn a_valid_token_is_accepted_with_every_signature_algorithm() {
    let keys = [
        SigningKey::rsa("rsa"),
        SigningKey::p256("p256"),
        SigningKey::ed25519("ed25519"),
    ];
    let (authenticator, _file) = with_keys(&[&keys[0], &keys[1], &keys[2]]).await;
    let claims = claims_with(&json!({
        "aud": ["someone-else", "weir-too"],
        "nbf": seconds_from_now(-60),
        "groups": ["orders", "audit"],
        "many": vec![0; 900],
    }));
    for key in &keys {
        let principal = authenticator
            .bearer(&key.token(&claims))
            .await
            .expect(&key.id);
        assert_eq!(principal.to_string(), "jwt:alice");
        assert_eq!(principal.method, Method::Jwt);
        assert_eq!(principal.claims["groups"], json!(["orders", "audit"]));
        // The token's expiry, with the leeway included.
        let left = principal
            .expires
            .expect("an end")
            .duration_since(SystemTime::now());
        let left = left.expect("a time to come").as_secs();
        assert!((3500..=3610).contains(&left), "{left} s");
    }
    let text = authenticator
        .metrics
        .render(&weir::metrics::ScrapedGauges::default());
    let counted = r#"weir_authentications_total{method="jwt",result="ok"} 3"#;
    assert!(text.contains(counted), "{text}");
}

#[tokio::test]
async fn every_bad_token_is_refused() {
    let (rsa, ec, ed) = (
        SigningKey::rsa("rsa"),
        SigningKey::p256("ec"),
        SigningKey::ed25519("ed"),
    );
    let stranger = SigningKey::rsa("rsa");
    let (authenticator, _file) = with_keys(&[&rsa, &ec, &ed]).await;
    let good = claims("alice");
    let signed = |changes: Value| ec.token(&claims_with(&changes));
    let headed = |header: Value| ec.token_with(&header, &good);
    let unsigned = |header: Value| message(&header.to_string(), &good.to_string());

    // The public key used as an HMAC secret.
    let confused = {
        let public = rsa.jwk()["n"].as_str().expect("a modulus").to_owned();
        let message = unsigned(json!({"alg": "HS256", "kid": "rsa"}));
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes());
        let tag = aws_lc_rs::hmac::sign(&secret, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let token = ec.token(&good);
    let tampered = {
        let parts: Vec<&str> = token.split('.').collect();
        let other = URL_SAFE_NO_PAD.encode(claims("mallory").to_string());
        format!("{}.{other}.{}", parts[0], parts[2])
    };
    let invalid = [
        (
            "no signature",
            format!("{}.", unsigned(json!({"alg": "none"}))),
        ),
        (
            "alg none with a key's name",
            format!("{}.", unsigned(json!({"alg": "none", "kid": "ec"}))),
        ),
        (
            "alg none, signed",
            headed(json!({"alg": "none", "kid": "ec"})),
        ),
        (
            "alg in capitals",
            headed(json!({"alg": "NONE", "kid": "ec"})),
        ),
        ("no alg", headed(json!({"kid": "ec"}))),
        ("a public key as a secret", confused),
        (
            "an algorithm that is not accepted",
            rsa.token_with(&json!({"alg": "RS384", "kid": "rsa"}), &good),
        ),
        (
            "PSS with a key of PKCS #1",
            rsa.token_with(&json!({"alg": "PS256", "kid": "rsa"}), &good),
        ),
        (
            "a key of another type",
            rsa.token_with(&json!({"alg": "RS256", "kid": "ec"}), &good),
        ),
        (
            "another algorithm than its key's",
            ec.token_with(&json!({"alg": "EdDSA", "kid": "ec"}), &good),
        ),
        ("another key under the same id", stranger.token(&good)),
        (
            "an unknown key",
            ec.token_with(&json!({"alg": "ES256", "kid": "other"}), &good),
        ),
        (
            "a key id that is a number",
            headed(json!({"alg": "ES256", "kid": 1})),
        ),
        (
            "an endless key id",
            headed(json!({"alg": "ES256", "kid": "k".repeat(257)})),
        ),
        (
            "something critical",
            headed(json!({"alg": "ES256", "kid": "ec", "crit": ["exp"]})),
        ),
        (
            "crit null",
            headed(json!({"alg": "ES256", "kid": "ec", "crit": null})),
        ),
        (
            "two algs",
            ec.token_of(
                r#"{"alg":"none","alg":"ES256","kid":"ec"}"#,
                &good.to_string(),
            ),
        ),
        (
            "its own key",
            headed(json!({"alg": "ES256", "kid": "x", "jwk": ec.jwk()})),
        ),
        ("tampered claims", tampered),
        ("a signature cut", token[..token.len() - 4].to_owned()),
        (
            "a signature left out",
            token[..=token.rfind('.').expect("a dot")].to_owned(),
        ),
        ("a signature padded", format!("{token}==")),
        (
            "another issuer",
            signed(json!({"iss": "https://issuer.example/"})),
        ),
        (
            "a list of issuers",
            signed(json!({"iss": [ISSUER, "other"]})),
        ),
        ("no issuer", signed(json!({"iss": null}))),
        ("an issuer that is no text", signed(json!({"iss": 1}))),
        ("another audience", signed(json!({"aud": "weir2"}))),
        ("other audiences", signed(json!({"aud": ["a", "b"]}))),
        ("no audience", signed(json!({"aud": null}))),
        ("an empty audience", signed(json!({"aud": []}))),
        ("no end", signed(json!({"exp": null}))),
        (
            "an end of text",
            signed(json!({"exp": seconds_from_now(60).to_string()})),
        ),
        ("an end below zero", signed(json!({"exp": -1}))),
        ("an expiry beyond all clocks", signed(json!({"exp": 1e30}))),
        (
            "an expiry beyond the system's clock",
            signed(json!({"exp": 1.8e19})),
        ),
        (
            "not valid yet",
            signed(json!({"nbf": seconds_from_now(60)})),
        ),
        ("valid from a text", signed(json!({"nbf": "now"}))),
        ("nobody's", signed(json!({"sub": null}))),
        ("a number's", signed(json!({"sub": 7}))),
        ("an empty name's", signed(json!({"sub": ""}))),
        (
            "a name with a line feed",
            signed(json!({"sub": "alice\nmallory"})),
        ),
        ("a name with NUL", signed(json!({"sub": "alice\0"}))),
        (
            "a name with a leading space",
            signed(json!({"sub": " alice"})),
        ),
        ("an endless name", signed(json!({"sub": "a".repeat(513)}))),
        ("deep claims", signed(json!({"x": [[[[[[[[[1]]]]]]]]]}))),
        (
            "more claims than are kept",
            signed(json!({"x": vec![0; 1_000]})),
        ),
        (
            "claims that are not an object",
            ec.token_of(&json!({"alg": "ES256", "kid": "ec"}).to_string(), "[]"),
        ),
        (
            "two ends",
            ec.token_of(
                &json!({"alg": "ES256", "kid": "ec"}).to_string(),
                &good.to_string().replacen('{', r#"{"exp":9999999999,"#, 1),
            ),
        ),
        ("dots", "..".to_owned()),
        ("letters", "abc".to_owned()),
        ("four parts", format!("{token}.x")),
        ("a huge one", signed(json!({"x": "x".repeat(9 << 10)}))),
    ];
    for (what, token) in invalid {
        let error = authenticator.bearer(&token).await.err();
        let error = error.unwrap_or_else(|| panic!("{what}: was taken"));
        assert_eq!(error.reason(), "CREDENTIALS_INVALID", "{what}");
        // The error repeats nothing of the token.
        let words = error.to_string();
        for reported in ["alice", "mallory", ISSUER] {
            assert!(!words.contains(reported), "{what}: {words}");
        }
    }
    let expired = signed(json!({"exp": seconds_from_now(-60)}));
    assert_eq!(authenticator.refusal(&expired).await, "CREDENTIALS_EXPIRED");
    // "Expired" is said only of tokens with a valid signature.
    let forged = stranger.token(&claims_with(&json!({"exp": seconds_from_now(-60)})));
    assert_eq!(authenticator.refusal(&forged).await, "CREDENTIALS_INVALID");
    authenticator.bearer(&token).await.expect("the good one");
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway() {
    let key = SigningKey::p256("a");
    let (authenticator, _file) = with_keys(&[&key]).await;
    let token =
        |claim: &str, seconds| key.token(&claims_with(&json!({claim: seconds_from_now(seconds)})));
    // Some seconds to spare, as the machine may be busy.
    let principal = authenticator
        .bearer(&token("exp", -3))
        .await
        .expect("within it");
    let left = principal
        .expires
        .expect("an end")
        .duration_since(SystemTime::now());
    assert!(left.expect("a time to come") <= Duration::from_secs(7));
    assert_eq!(
        authenticator.refusal(&token("exp", -11)).await,
        "CREDENTIALS_EXPIRED"
    );
    authenticator
        .bearer(&token("nbf", 9))
        .await
        .expect("within it");
    assert_eq!(
        authenticator.refusal(&token("nbf", 16)).await,
        "CREDENTIALS_INVALID"
    );
    // A token within less than a second of the leeway expires by the same clock that accepted it.
    let principal = authenticator
        .bearer(&token("exp", -8))
        .await
        .expect("within it");
    eventually("it has expired", async || {
        authenticator.authenticator.revalidate(&principal).is_err()
    })
    .await;
}

#[tokio::test]
async fn a_token_without_a_key_id_is_accepted_where_only_one_key_fits() {
    let (ec, rsa, other) = (
        SigningKey::p256("ec"),
        SigningKey::rsa("rsa"),
        SigningKey::p256("other"),
    );
    let token = ec.token_with(&json!({"alg": "ES256"}), &claims("alice"));
    let (authenticator, file) = with_keys(&[&ec, &rsa]).await;
    authenticator
        .bearer(&token)
        .await
        .expect("the only one of its kind");
    let mut changes = authenticator.authenticator.changes();
    file.put(&key_set(&[&ec, &rsa, &other]).to_string());
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    assert_eq!(authenticator.refusal(&token).await, "CREDENTIALS_INVALID");
    authenticator
        .bearer(&ec.token(&claims("alice")))
        .await
        .expect("with an id");
}

#[tokio::test]
async fn a_key_is_used_only_for_its_declared_purpose() {
    let ec = SigningKey::p256("ec");
    let token = ec.token(&claims("alice"));
    let changed = |changes: Value| {
        let mut jwk = ec.bare_jwk();
        for (name, value) in changes.as_object().expect("an object") {
            jwk[name] = value.clone();
        }
        jwk
    };
    // Another key that is usable, so that the set as a whole is.
    let beside = SigningKey::ed25519("beside").jwk();
    for (what, good) in [
        ("as it is", json!({})),
        ("for signatures", json!({"use": "sig"})),
        ("for checking", json!({"key_ops": ["verify"]})),
        ("for its algorithm", json!({"alg": "ES256"})),
        ("with unknown members", json!({"x5c": ["abc"], "ext": true})),
    ] {
        let (authenticator, _file) = with_set(&json!({"keys": [beside, changed(good)]})).await;
        authenticator.bearer(&token).await.expect(what);
    }
    for (what, bad) in [
        ("for encryption", json!({"use": "enc"})),
        ("for making signatures", json!({"key_ops": ["sign"]})),
        ("for nothing", json!({"key_ops": []})),
        ("for another algorithm", json!({"alg": "ES384"})),
        ("for a symmetric algorithm", json!({"alg": "HS256"})),
        ("for an unknown algorithm", json!({"alg": "ES257"})),
        ("of another curve", json!({"crv": "P-384"})),
        ("of no curve", json!({"crv": null})),
        ("of another type", json!({"kty": "RSA"})),
        ("a secret", json!({"kty": "oct", "k": "AAAA"})),
        ("a part too short", json!({"x": "AAAA"})),
        ("a part not base64url", json!({"y": "+/=="})),
        ("a private key", json!({"d": "AAAA"})),
        ("an id that is no text", json!({"kid": 1})),
    ] {
        let (authenticator, _file) = with_set(&json!({"keys": [beside, changed(bad)]})).await;
        assert_eq!(
            authenticator.refusal(&token).await,
            "CREDENTIALS_INVALID",
            "{what}"
        );
    }
    // Readers differ in which of two members they believe.
    let text = json!({"keys": [beside, ec.bare_jwk()]}).to_string();
    for (twice, good) in [
        ("\"unknown\":1,\"unknown\":2", true),
        ("\"use\":\"enc\",\"use\":\"sig\"", false),
    ] {
        let text = text.replace("\"crv\":\"P-256\"", &format!("\"crv\":\"P-256\",{twice}"));
        assert!(text.contains(twice), "{text}");
        let file = TestFile::new(&text);
        let authenticator = TestAuthenticator::start(jwts(JwtKeys::File(file.path.clone()))).await;
        let taken = authenticator.bearer(&token).await;
        assert_eq!(taken.is_ok(), good, "{twice}: {taken:?}");
    }
    // Although the server accepts another algorithm for such keys, a key works only with the
    // algorithm that it names; a key that names none works only with those the server accepts.
    let rsa = SigningKey::rsa("rsa");
    let of = |algorithm: &str| {
        rsa.token_with(&json!({"alg": algorithm, "kid": "rsa"}), &claims("alice"))
    };
    for (key, taken) in [
        (rsa.jwk(), ["RS256"].as_slice()),
        (rsa.bare_jwk(), &["RS256", "PS256"]),
    ] {
        let file = TestFile::new(&json!({"keys": [key]}).to_string());
        let mut settings = jwts(JwtKeys::File(file.path.clone()));
        if let Some(jwt) = &mut settings.jwt {
            jwt.algorithms = vec![Algorithm::RS256, Algorithm::PS256];
        }
        let authenticator = TestAuthenticator::start(settings).await;
        for algorithm in ["RS256", "PS256", "RS384"] {
            let taken_now = authenticator.bearer(&of(algorithm)).await.is_ok();
            assert_eq!(
                taken_now,
                taken.contains(&algorithm),
                "{algorithm} by {key}"
            );
        }
    }
    // With two keys of the same id and type it is unclear which one is meant.
    let twin = SigningKey::p256("ec");
    let (authenticator, _file) = with_keys(&[&ec, &twin]).await;
    assert_eq!(authenticator.refusal(&token).await, "CREDENTIALS_INVALID");
    // Two keys of the same id and different types can be told apart.
    let (authenticator, _file) = with_keys(&[&SigningKey::ed25519("ec"), &ec]).await;
    authenticator
        .bearer(&token)
        .await
        .expect("the one of its kind");
}

#[tokio::test]
async fn an_unusable_key_set_prevents_the_start() {
    let key = SigningKey::p256("a").jwk();
    let many: Vec<&Value> = std::iter::repeat_n(&key, 101).collect();
    for (what, contents) in [
        ("nothing", String::new()),
        ("no JSON", "keys: []".to_owned()),
        ("a list", "[]".to_owned()),
        ("a key by itself", key.to_string()),
        ("no keys", json!({"keys": []}).to_string()),
        (
            "no usable keys",
            json!({"keys": [{"kty": "oct", "k": "AAAA"}]}).to_string(),
        ),
        ("too many keys", json!({"keys": many}).to_string()),
        ("a huge file", " ".repeat((1 << 20) + 1)),
    ] {
        let file = TestFile::new(&contents);
        let started = TestAuthenticator::try_start(jwts(JwtKeys::File(file.path.clone()))).await;
        let Err(error) = started else {
            panic!("{what}: does");
        };
        assert_eq!(error.flag, "jwks-file", "{what}");
        assert!(
            error.problem.contains(file.path.to_str().expect("a path")),
            "{error}"
        );
    }
    let missing = JwtKeys::File(PathBuf::from("/nowhere/at/all"));
    assert!(TestAuthenticator::try_start(jwts(missing)).await.is_err());
}

#[tokio::test]
async fn removing_a_key_from_the_file_invalidates_its_tokens() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let (authenticator, file) = with_keys(&[&old]).await;
    let mut changes = authenticator.authenticator.changes();
    let held = authenticator
        .bearer(&old.token(&claims("alice")))
        .await
        .expect("the old one");

    // Both keys, as at the start of a rotation.
    file.put(&key_set(&[&old, &new]).to_string());
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    let kept = authenticator
        .authenticator
        .revalidate(&held)
        .expect("still good");
    assert!(Arc::ptr_eq(&kept, &held));
    authenticator
        .bearer(&new.token(&claims("alice")))
        .await
        .expect("the new one");

    // An unreadable file changes nothing.
    file.put("{");
    eventually("the bad file is noticed", async || {
        let text = authenticator
            .metrics
            .render(&weir::metrics::ScrapedGauges::default());
        text.contains(r#"weir_reloads_total{what="jwks",result="failed"} 1"#)
    })
    .await;
    authenticator
        .authenticator
        .revalidate(&held)
        .expect("still good");
    authenticator
        .bearer(&old.token(&claims("alice")))
        .await
        .expect("still good");

    // The old key is removed.
    file.put(&key_set(&[&new]).to_string());
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    let ended = authenticator
        .authenticator
        .revalidate(&held)
        .expect_err("withdrawn");
    assert_eq!(ended.reason(), "CREDENTIALS_EXPIRED");
    assert_eq!(
        authenticator.refusal(&old.token(&claims("alice"))).await,
        "CREDENTIALS_INVALID"
    );

    // A set without keys means that no key is valid any more.
    file.put(&json!({"keys": []}).to_string());
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    assert_eq!(
        authenticator.refusal(&new.token(&claims("alice"))).await,
        "CREDENTIALS_INVALID"
    );
}

#[tokio::test]
async fn an_unknown_key_is_fetched_when_a_token_names_it() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&old]))).await;
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::Url(remote(server.url())))).await;
    // Nothing has been fetched yet when the call comes.
    let held = authenticator
        .bearer(&old.token(&claims("alice")))
        .await
        .expect("the old one");
    let mut changes = authenticator.authenticator.changes();
    server.set(Answer::Keys(key_set(&[&new])));
    authenticator
        .bearer(&new.token(&claims("bob")))
        .await
        .expect("the new one");
    within("the change is reported", changes.changed())
        .await
        .expect("a change");
    assert!(authenticator.authenticator.revalidate(&held).is_err());
    assert_eq!(server.request_count(), 2);
}

/// Made-up key ids cost the issuer one request every ten seconds, and other callers nothing.
#[tokio::test]
async fn a_flood_of_tokens_with_unknown_keys_causes_few_fetches() {
    let (known, made_up) = (SigningKey::p256("known"), SigningKey::p256("made up"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&known]))).await;
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::Url(remote(server.url())))).await;
    authenticator
        .bearer(&known.token(&claims("alice")))
        .await
        .expect("a good one");
    assert_eq!(server.request_count(), 1);
    let floods = (0..1000).map(|at| {
        let header = json!({"alg": "ES256", "kid": format!("made up {at}")});
        let token = made_up.token_with(&header, &claims("mallory"));
        let authenticator = &authenticator;
        async move { authenticator.refusal(&token).await }
    });
    // Without a fetch, nobody knows whether these tokens are good.
    for reason in futures::future::join_all(floods).await {
        assert!(["CREDENTIALS_INVALID", "CREDENTIALS_UNCHECKED"].contains(&reason));
    }
    assert_eq!(server.request_count(), 2);
    authenticator
        .bearer(&known.token(&claims("alice")))
        .await
        .expect("a good one");

    // Sequential calls are treated the same way.
    for at in 0..20 {
        let header = json!({"alg": "ES256", "kid": format!("later {at}")});
        let token = made_up.token_with(&header, &claims("mallory"));
        assert_eq!(authenticator.refusal(&token).await, "CREDENTIALS_UNCHECKED");
    }
    assert_eq!(server.request_count(), 2);

    // While the issuer is slow, only some calls wait for it, and those with known keys never do.
    let mut slow = remote(server.url());
    slow.cooldown = Duration::ZERO;
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::Url(slow))).await;
    authenticator
        .bearer(&known.token(&claims("alice")))
        .await
        .expect("a good one");
    server.set(Answer::Nothing);
    let waiting = (0..300).map(|_| {
        let token = made_up.token(&claims("mallory"));
        let authenticator = &authenticator;
        async move { authenticator.refusal(&token).await }
    });
    let mut waiting: futures::stream::FuturesUnordered<_> = waiting.collect();
    let at_once = async {
        for _ in 0..200 {
            let refused = futures::StreamExt::next(&mut waiting).await;
            assert_eq!(refused, Some("CREDENTIALS_UNCHECKED"));
        }
    };
    tokio::time::timeout(Duration::from_secs(5), at_once)
        .await
        .expect("two hundred are refused at once");
    let token = known.token(&claims("alice"));
    let good = authenticator.bearer(&token);
    tokio::time::timeout(Duration::from_secs(5), good)
        .await
        .expect("at once")
        .expect("a good one");
}

/// Another caller may have used the one fetch per interval. A caller with a token signed by a new
/// key is then told to retry, and not that the token is bad.
#[tokio::test]
async fn a_token_by_a_newer_key_than_the_last_fetch_is_not_called_bad() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&old]))).await;
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::Url(remote(server.url())))).await;
    let token = old.token(&claims("alice"));
    authenticator.bearer(&token).await.expect("a good one");
    let made_up = SigningKey::p256("made up").token(&claims("mallory"));
    // A fetch for this token has shown that it is bad.
    assert_eq!(authenticator.refusal(&made_up).await, "CREDENTIALS_INVALID");
    assert_eq!(server.request_count(), 2);

    server.set(Answer::Keys(key_set(&[&old, &new])));
    let refused = authenticator.refusal(&new.token(&claims("bob"))).await;
    assert_eq!(refused, "CREDENTIALS_UNCHECKED");
    // A token not signed by the known key that it names is bad, whatever a fetch might bring.
    let forged = made_up.rsplit_once('.').expect("a signature").1;
    let stated = token.rsplit_once('.').expect("a signature").0;
    let refused = authenticator.refusal(&format!("{stated}.{forged}")).await;
    assert_eq!(refused, "CREDENTIALS_INVALID");
    assert_eq!(server.request_count(), 2);
}

/// Whatever the issuer answers, tokens signed by a known key stay valid.
#[tokio::test]
async fn the_last_good_keys_stay_valid_whatever_the_issuer_answers() {
    let (known, other) = (SigningKey::p256("known"), SigningKey::p256("other"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&known]))).await;
    let elsewhere = KeyServer::start(Answer::Keys(key_set(&[&other]))).await;
    let mut remote = remote(server.url());
    remote.cooldown = Duration::ZERO;
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::Url(remote))).await;
    let held = authenticator
        .bearer(&known.token(&claims("alice")))
        .await
        .expect("a good one");
    for answer in [
        Answer::Code(500),
        Answer::Code(404),
        Answer::Code(204),
        Answer::Text("<html>".to_owned()),
        Answer::Text(String::new()),
        Answer::Huge,
        Answer::Elsewhere(elsewhere.url()),
    ] {
        server.set(answer);
        let asked = server.request_count();
        // Its validity is unknown at the moment, so it is not called bad.
        let refused = authenticator.refusal(&other.token(&claims("bob"))).await;
        assert_eq!(refused, "CREDENTIALS_UNCHECKED");
        assert!(server.request_count() > asked);
        authenticator
            .bearer(&known.token(&claims("alice")))
            .await
            .expect("a good one");
        authenticator
            .authenticator
            .revalidate(&held)
            .expect("a good one");
    }
    assert_eq!(elsewhere.request_count(), 0, "a redirection was followed");
    server.set(Answer::Keys(key_set(&[&known, &other])));
    authenticator
        .bearer(&other.token(&claims("bob")))
        .await
        .expect("the issuer is back");
}

#[tokio::test]
async fn a_server_that_starts_without_its_issuer_accepts_tokens_once_the_issuer_answers() {
    let key = SigningKey::p256("a");
    let server = KeyServer::start(Answer::Code(503)).await;
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::Url(remote(server.url())))).await;
    let token = key.token(&claims("alice"));
    assert_eq!(authenticator.refusal(&token).await, "CREDENTIALS_UNCHECKED");
    server.set(Answer::Keys(key_set(&[&key])));
    // By itself, after its pauses, which begin at a second.
    eventually("the keys are there", async || {
        let text = authenticator
            .metrics
            .render(&weir::metrics::ScrapedGauges::default());
        text.contains(r#"weir_reloads_total{what="jwks",result="ok"} 1"#)
    })
    .await;
    authenticator.bearer(&token).await.expect("a good one");
}

#[tokio::test]
async fn keys_are_fetched_periodically() {
    let (old, new) = (SigningKey::p256("a"), SigningKey::p256("a"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&old]))).await;
    let mut remote = remote(server.url());
    remote.refresh_interval = Duration::from_millis(50);
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::Url(remote))).await;
    let held = authenticator
        .bearer(&old.token(&claims("alice")))
        .await
        .expect("a good one");
    // Under the same id, so that no token reveals the change.
    server.set(Answer::Keys(key_set(&[&new])));
    eventually("the old key is gone", async || {
        authenticator.authenticator.revalidate(&held).is_err()
    })
    .await;
    authenticator
        .bearer(&new.token(&claims("alice")))
        .await
        .expect("the new one");
}

#[tokio::test]
async fn keys_are_fetched_only_from_servers_with_a_trusted_certificate() {
    let key = SigningKey::p256("a");
    let token = key.token(&claims("alice"));
    let (authority, other) = (Authority::new("good"), Authority::new("other"));
    let server = KeyServer::with_tls(Answer::Keys(key_set(&[&key])), &authority.local()).await;
    let with_ca = |pem: Option<&str>| {
        let file = pem.map(TestFile::new);
        let mut remote = remote(server.url());
        remote.ca_file = file.as_ref().map(|file| file.path.clone());
        (jwts(JwtKeys::Url(remote)), file)
    };
    let (settings, _file) = with_ca(Some(&authority.pem));
    TestAuthenticator::start(settings)
        .await
        .bearer(&token)
        .await
        .expect("the right authority");
    for pem in [Some(other.pem.as_str()), None] {
        let (settings, _file) = with_ca(pem);
        let authenticator = TestAuthenticator::start(settings).await;
        assert_eq!(authenticator.refusal(&token).await, "CREDENTIALS_UNCHECKED");
    }
    let (settings, _file) = with_ca(Some("no certificates"));
    let error = TestAuthenticator::try_start(settings)
        .await
        .err()
        .expect("no authorities");
    assert!(error.problem.contains("PEM"), "{error}");
}

fn sha256(key: &str) -> String {
    weir::digest::sha256(key.as_bytes())
        .map(|byte| format!("{byte:02x}"))
        .concat()
}

fn api_keys(path: &Path) -> AuthSettings {
    AuthSettings {
        api_keys_file: Some(path.to_path_buf()),
        reload_interval: RELOAD,
        ..AuthSettings::default()
    }
}

#[tokio::test]
async fn an_api_key_is_accepted_in_either_header_and_in_no_other() {
    let (alice, bob) = ("weir_alice-_0123456789", "weir_bob+/=0123456789");
    let file = TestFile::new(&format!(
        "keys:\n\
         - name: alice\n  sha256: {}\n  claims: {{team: orders, level: 3}}\n\
         - name: bob the builder\n  sha256: {}\n  expires: 2020-01-01T00:00:00Z\n",
        sha256(alice),
        sha256(bob).to_uppercase(),
    ));
    let authenticator = TestAuthenticator::start(api_keys(&file.path)).await;
    for headers in [
        [("authorization", format!("Bearer {alice}"))],
        [("authorization", format!("bearer {alice}"))],
        [("x-api-key", alice.to_owned())],
    ] {
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let principal = authenticator
            .authenticate(&headers)
            .await
            .expect("a good key");
        assert_eq!(principal.to_string(), "key:alice");
        assert_eq!(principal.claims["team"], "orders");
        assert_eq!(principal.expires, None);
    }
    let reason =
        async |headers: &[(&'static str, &str)]| match authenticator.authenticate(headers).await {
            Ok(principal) => panic!("{principal} was accepted with {headers:?}"),
            Err(error) => error.reason(),
        };
    assert_eq!(reason(&[("x-api-key", bob)]).await, "CREDENTIALS_EXPIRED");
    assert_eq!(reason(&[]).await, "CREDENTIALS_MISSING");
    for headers in [
        &[("x-api-key", &alice[..alice.len() - 1])][..],
        &[("x-api-key", &alice.to_uppercase())],
        &[("x-api-key", &sha256(alice))],
        &[("authorization", &format!("Basic {alice}"))],
        &[("authorization", alice)],
        &[("authorization", "Bearer a.b.c")],
        &[("x-api-key", alice), ("x-api-key", alice)],
        &[
            ("x-api-key", alice),
            ("authorization", &format!("Bearer {alice}")),
        ],
    ] {
        assert_eq!(reason(headers).await, "CREDENTIALS_INVALID", "{headers:?}");
    }
}

#[tokio::test]
async fn a_key_removed_or_changed_in_the_file_affects_open_calls() {
    let entry = |name: &str, key: &str, team: &str| {
        format!(
            "- {{name: {name}, sha256: {}, claims: {{team: {team}}}}}\n",
            sha256(key)
        )
    };
    let (alice, bob) = ("the-key-of-alice", "the-key-of-bob");
    let both = format!(
        "keys:\n{}{}",
        entry("alice", alice, "a"),
        entry("bob", bob, "b")
    );
    let file = TestFile::new(&both);
    let authenticator = TestAuthenticator::start(api_keys(&file.path)).await;
    let mut changes = authenticator.authenticator.changes();
    let held = authenticator
        .authenticate(&[("x-api-key", alice)])
        .await
        .expect("Alice");
    let other = authenticator
        .authenticate(&[("x-api-key", bob)])
        .await
        .expect("Bob");

    // Changed claims apply at once; unchanged entries stay the very same.
    let changed = format!(
        "keys:\n{}{}",
        entry("alice", alice, "c"),
        entry("bob", bob, "b")
    );
    file.put(&changed);
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    let renewed = authenticator
        .authenticator
        .revalidate(&held)
        .expect("Alice");
    assert_eq!(renewed.claims["team"], "c");
    let kept = authenticator.authenticator.revalidate(&other).expect("Bob");
    assert!(Arc::ptr_eq(&kept, &other));

    // A new key under the same name, and the same key under a new name: both withdraw the old
    // entry.
    let changed = format!(
        "keys:\n{}{}",
        entry("alice", "another", "c"),
        entry("rob", bob, "b")
    );
    file.put(&changed);
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    for principal in [&held, &other] {
        let ended = authenticator
            .authenticator
            .revalidate(principal)
            .expect_err("withdrawn");
        assert_eq!(ended.reason(), "CREDENTIALS_EXPIRED");
    }
    let refused = authenticator
        .authenticate(&[("x-api-key", alice)])
        .await
        .err();
    assert_eq!(refused.map(|it| it.reason()), Some("CREDENTIALS_INVALID"));
}

#[tokio::test]
async fn an_unusable_file_of_api_keys_prevents_the_start() {
    let hash = sha256("a");
    let good = format!("- name: a\n  sha256: {hash}\n");
    for (what, contents) in [
        ("nothing", String::new()),
        ("no keys", "key: []".to_owned()),
        ("no YAML", "keys: [".to_owned()),
        ("an unknown member", format!("keys:\n{good}  role: admin\n")),
        (
            "an unknown member beside",
            format!("keys:\n{good}version: 1\n"),
        ),
        ("no name", format!("keys:\n- sha256: {hash}\n")),
        (
            "an empty name",
            format!("keys:\n- name: ''\n  sha256: {hash}\n"),
        ),
        (
            "a name with a line feed",
            format!("keys:\n- name: \"a\\nb\"\n  sha256: {hash}\n"),
        ),
        (
            "a short hash",
            format!("keys:\n- name: a\n  sha256: {}\n", &hash[1..]),
        ),
        (
            "a key instead of a hash",
            format!(
                "keys:\n- name: a\n  sha256: {}\n",
                "weir_".repeat(12) + "weir"
            ),
        ),
        (
            "a malformed time",
            format!("keys:\n{good}  expires: tomorrow\n"),
        ),
        (
            "deep claims",
            format!("keys:\n{good}  claims: {{a: [[[[[[[[[1]]]]]]]]]}}\n"),
        ),
        (
            "a name twice",
            format!("keys:\n{good}- name: a\n  sha256: {}\n", sha256("b")),
        ),
        (
            "a hash twice",
            format!(
                "keys:\n{good}- name: b\n  sha256: {}\n",
                hash.to_uppercase()
            ),
        ),
        ("a member twice", format!("keys:\n{good}  name: b\n")),
        // Each of these would be a key that never expires, or another claim than it seems.
        ("no time", format!("keys:\n{good}  expires:\n")),
        ("a null time", format!("keys:\n{good}  expires: ~\n")),
        ("no claims", format!("keys:\n{good}  claims:\n")),
        (
            "an empty claim",
            format!("keys:\n{good}  claims: {{a: }}\n"),
        ),
        (
            "a claim twice",
            format!("keys:\n{good}  claims: {{a: 1, a: 2}}\n"),
        ),
        (
            "a claim without a name",
            format!("keys:\n{good}  claims: {{'': 1}}\n"),
        ),
        (
            "a claim with a space",
            format!("keys:\n{good}  claims: {{'a ': 1}}\n"),
        ),
        ("no keys behind it", "keys:".to_owned()),
        (
            "a null name",
            format!("keys:\n- name: ~\n  sha256: {hash}\n"),
        ),
        (
            "a misspelt member",
            format!("keys:\n{good}  expire: 2030-01-01T00:00:00Z\n"),
        ),
        (
            "a merge key",
            format!("keys:\n{good}  <<: {{claims: {{a: b}}}}\n"),
        ),
        (
            "a merge key in claims",
            format!("keys:\n{good}  claims: {{<<: {{a: b}}}}\n"),
        ),
        ("an anchor", format!("keys:\n{good}  claims: &a {{a: b}}\n")),
        ("an alias", format!("keys: &a [*a]\n{good}")),
        ("two documents", format!("keys:\n{good}---\nkeys: []\n")),
        (
            "an unknown tag",
            format!("keys:\n{good}  claims: !all {{a: b}}\n"),
        ),
    ] {
        let file = TestFile::new(&contents);
        let Err(error) = TestAuthenticator::try_start(api_keys(&file.path)).await else {
            panic!("{what}: does");
        };
        assert_eq!(error.flag, "api-keys-file", "{what}");
        assert!(!error.problem.contains(&hash), "{what}: {error}");
        let words = match what {
            "no time" => "\"expires\" has nothing behind it: give it a value or remove it",
            "no claims" => "\"claims\" has nothing behind it",
            "no keys behind it" => "\"keys\" has nothing behind it",
            "a merge key" | "a merge key in claims" => {
                "merge keys (<<) are not read: write the keys out"
            }
            _ => "",
        };
        assert!(error.problem.contains(words), "{what}: {error}");
    }
}

/// In YAML 1.1 some of these names and values are booleans, numbers or times.
#[tokio::test]
async fn names_and_claims_of_api_keys_are_the_texts_that_are_written() {
    let names = ["no", "on", "010", "0x1F", "1e3", "2027-01-31", "y", "true"];
    let entries = names.map(|name| {
        let claims = "{no: no, on: on, team: 010, code: 1_000, day: 2027-01-31, some: [yes, 007]}";
        format!(
            "- name: {name}\n  sha256: {}\n  claims: {claims}\n",
            sha256(&long(name))
        )
    });
    let file = TestFile::new(&format!("keys:\n{}", entries.concat()));
    let auth = TestAuthenticator::start(api_keys(&file.path)).await;
    for name in names {
        let headers = [("x-api-key", long(name))];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let principal = auth.authenticate(&headers).await.expect(name);
        assert_eq!(principal.name, name);
        let claims = json!({"no": "no", "on": "on", "team": "010", "code": "1_000",
            "day": "2027-01-31", "some": ["yes", "007"]});
        assert_eq!(Value::Object(principal.claims.clone()), claims);
    }
}

fn long(name: &str) -> String {
    format!("the-key-of-{name}-in-this-test-of-names")
}

#[tokio::test]
async fn at_most_ten_thousand_api_keys_are_accepted_and_told_apart() {
    let file_of = |count: usize| {
        let entries = (0..count).map(|at| {
            format!(
                "- {{name: k{at}, sha256: {}}}\n",
                sha256(&format!("key-{at}"))
            )
        });
        format!("keys:\n{}", entries.collect::<String>())
    };
    let file = TestFile::new(&file_of(10_000));
    let authenticator = TestAuthenticator::start(api_keys(&file.path)).await;
    for at in [0, 4_999, 9_999] {
        let principal = authenticator
            .authenticate(&[("x-api-key", &format!("key-{at}"))])
            .await;
        assert_eq!(principal.expect("a good key").name, format!("k{at}"));
    }
    let file = TestFile::new(&file_of(10_001));
    assert!(
        TestAuthenticator::try_start(api_keys(&file.path))
            .await
            .is_err()
    );
}

/// A certificate that has passed the handshake.
fn certificate(names: &[SanType], change: impl FnOnce(&mut CertificateParams)) -> Peer {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "root");
    params.subject_alt_names = names.to_vec();
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    Peer {
        address: None,
        certificate: Some(certificate.der().as_ref().into()),
    }
}

#[tokio::test]
async fn a_certificate_identifies_by_its_first_alternative_name_and_never_by_the_common_name() {
    let authenticator = TestAuthenticator::start(AuthSettings {
        certificates: true,
        ..AuthSettings::default()
    })
    .await;
    let text = |text: &str| text.to_owned().try_into().expect("IA5");
    let uri = |name: &str| SanType::URI(text(name));
    let dns = |name: &str| SanType::DnsName(text(name));
    let email = |name: &str| SanType::Rfc822Name(text(name));
    let service = "spiffe://example.org/ns/shop/sa/orders";
    for (names, expected) in [
        (vec![dns("Orders.Example"), uri(service)], service),
        (
            vec![email("a@example.org"), dns("Orders.Example")],
            "orders.example",
        ),
        (vec![email("A@example.org")], "A@example.org"),
        (vec![uri("urn:a"), uri("urn:b")], "urn:a"),
    ] {
        let peer = certificate(&names, |_| {});
        let principal = authenticator
            .authenticate_peer(&[], &peer)
            .await
            .expect(expected);
        assert_eq!(principal.to_string(), format!("cert:{expected}"));
        assert!(principal.expires.expect("an end") > SystemTime::now());
        authenticator
            .authenticator
            .revalidate(&principal)
            .expect("still good");
    }
    let peer = certificate(&[dns("B.example"), dns("a.example"), uri("urn:x")], |_| {});
    let principal = authenticator
        .authenticate_peer(&[], &peer)
        .await
        .expect("a name");
    let expected = json!({"san_uri": ["urn:x"], "san_dns": ["b.example", "a.example"]});
    assert_eq!(Value::Object(principal.claims.clone()), expected);

    let long = "a".repeat(600);
    for (what, names) in [
        ("no names", vec![]),
        (
            "an address",
            vec![SanType::IpAddress([127, 0, 0, 1].into())],
        ),
        ("a wildcard", vec![dns("*.example")]),
        (
            "a wildcard beside",
            vec![dns("a.example"), dns("*.example")],
        ),
        ("NUL", vec![dns("admin.example\0.evil.example")]),
        ("a space", vec![uri("urn:a b")]),
        ("a line's end", vec![uri("urn:a\nurn:b")]),
        ("an empty name", vec![dns("")]),
        ("an endless name", vec![uri(&long)]),
        (
            "two SPIFFE names",
            vec![uri(service), uri("spiffe://example.org/b")],
        ),
        ("a second URI", vec![uri("urn:a"), uri(service)]),
        (
            "a hundred and one",
            (0..101).map(|at| dns(&format!("a{at}.example"))).collect(),
        ),
    ] {
        let refused = authenticator
            .authenticate_peer(&[], &certificate(&names, |_| {}))
            .await;
        let error = refused.err().unwrap_or_else(|| panic!("{what}: was taken"));
        assert_eq!(error.reason(), "CREDENTIALS_INVALID", "{what}");
    }
    let old = certificate(&[dns("a.example")], |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let error = authenticator
        .authenticate_peer(&[], &old)
        .await
        .expect_err("it has expired");
    assert_eq!(error.reason(), "CREDENTIALS_EXPIRED");
    let garbage = Peer {
        address: None,
        certificate: Some(b"garbage".as_slice().into()),
    };
    let error = authenticator
        .authenticate_peer(&[], &garbage)
        .await
        .expect_err("no certificate");
    assert_eq!(error.reason(), "CREDENTIALS_INVALID");
    let error = authenticator
        .authenticate(&[])
        .await
        .expect_err("nothing shown");
    assert_eq!(error.reason(), "CREDENTIALS_MISSING");
}

/// Bad credentials are not ignored because the caller has good ones too.
#[tokio::test]
async fn bad_credentials_are_refused_even_beside_good_ones() {
    let key = SigningKey::p256("a");
    let set = TestFile::new(&key_set(&[&key]).to_string());
    let peer = certificate(
        &[SanType::DnsName("a.example".try_into().expect("IA5"))],
        |_| {},
    );
    let jwts_and_certificates = AuthSettings {
        certificates: true,
        ..jwts(JwtKeys::File(set.path.clone()))
    };
    let authenticator = TestAuthenticator::start(jwts_and_certificates).await;
    let token = format!("Bearer {}", key.token(&claims("alice")));
    let by_token = authenticator
        .authenticate_peer(&[("authorization", &token)], &peer)
        .await;
    assert_eq!(by_token.expect("the token").to_string(), "jwt:alice");
    let by_certificate = authenticator.authenticate_peer(&[], &peer).await;
    assert_eq!(
        by_certificate.expect("the certificate").to_string(),
        "cert:a.example"
    );
    for headers in [
        ("authorization", ""),
        ("authorization", "Bearer"),
        ("authorization", "Bearer a.b.c"),
        ("authorization", "Bearer abc"),
        // A scheme that Weir does not accept.
        ("authorization", "Basic YTpi"),
        ("x-api-key", "abc"),
    ] {
        let refused = authenticator.authenticate_peer(&[headers], &peer).await;
        let error = refused
            .err()
            .unwrap_or_else(|| panic!("{headers:?} was passed over"));
        assert_eq!(error.reason(), "CREDENTIALS_INVALID", "{headers:?}");
    }
    // Where certificates do not identify callers, a certificate counts for nothing.
    let authenticator = TestAuthenticator::start(jwts(JwtKeys::File(set.path.clone()))).await;
    let error = authenticator
        .authenticate_peer(&[], &peer)
        .await
        .expect_err("nothing shown");
    assert_eq!(error.reason(), "CREDENTIALS_MISSING");
}
