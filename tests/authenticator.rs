//! Who calls, as the authenticator tells it: every kind of credentials, good and bad, and what becomes of
//! them when keys change. Without a database, as nothing here comes as far.

mod support;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::Algorithm;
use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{
    certificates::Authority,
    eventually,
    issuer::{Answer, KeyServer},
    tokens::{AUDIENCE, ISSUER, SigningKey, claims, key_set, message, seconds_from_now},
    within,
};
use tempfile::TempDir;
use weir::{
    auth::{
        AuthSettings, Authenticator, JwtKeys, JwtSettings, Method, Peer, Principal, RemoteKeys,
        SetupError,
    },
    error::Error,
    metrics::Metrics,
};

/// How often files are looked at.
const RELOAD: Duration = Duration::from_millis(20);

/// An authenticator and what keeps it up to date.
struct Asking {
    authenticator: Authenticator,
    metrics: Arc<Metrics>,
    upkeep: tokio::task::JoinHandle<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

impl Asking {
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

    async fn ask(&self, headers: &[(&'static str, &str)]) -> Result<Arc<Principal>, Error> {
        self.ask_peer(headers, &Peer::default()).await
    }

    async fn ask_peer(
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
        self.ask(&[("authorization", &format!("Bearer {token}"))])
            .await
    }

    /// How a bearer token is refused.
    async fn refusal(&self, token: &str) -> &'static str {
        match self.bearer(token).await {
            Ok(principal) => panic!("{principal} was let in"),
            Err(error) => error.reason(),
        }
    }
}

/// Takes tokens that a key of this set has signed.
fn jwts(keys: JwtKeys) -> AuthSettings {
    AuthSettings {
        jwt: Some(JwtSettings {
            keys,
            issuer: ISSUER.to_owned(),
            audience: vec![AUDIENCE.to_owned(), "weir-too".to_owned()],
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

/// A file of the test's own.
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

    /// Changes it at once, as nobody must read half of it.
    fn put(&self, contents: &str) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, contents).expect("a file");
        std::fs::rename(beside, &self.path).expect("a file in its place");
    }
}

async fn with_keys(keys: &[&SigningKey]) -> (Asking, TestFile) {
    with_set(&key_set(keys)).await
}

async fn with_set(set: &Value) -> (Asking, TestFile) {
    let file = TestFile::new(&set.to_string());
    let asking = Asking::start(jwts(JwtKeys::File(file.path.clone()))).await;
    (asking, file)
}

/// Claims of Alice, with some of them changed; null takes one away.
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
async fn a_good_token_is_taken_whatever_its_signature_is_made_with() {
    let keys = [
        SigningKey::rsa("rsa"),
        SigningKey::p256("p256"),
        SigningKey::ed25519("ed25519"),
    ];
    let (asking, _file) = with_keys(&[&keys[0], &keys[1], &keys[2]]).await;
    let claims = claims_with(&json!({
        "aud": ["someone-else", "weir-too"],
        "nbf": seconds_from_now(-60),
        "groups": ["orders", "audit"],
        "many": vec![0; 900],
    }));
    for key in &keys {
        let principal = asking.bearer(&key.token(&claims)).await.expect(&key.id);
        assert_eq!(principal.to_string(), "jwt:alice");
        assert_eq!(principal.method, Method::Jwt);
        assert_eq!(principal.claims["groups"], json!(["orders", "audit"]));
        // The end is the token's, and the leeway is in it.
        let left = principal
            .expires
            .expect("an end")
            .duration_since(SystemTime::now());
        let left = left.expect("a time to come").as_secs();
        assert!((3500..=3610).contains(&left), "{left} s");
    }
    let text = asking
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
    let (asking, _file) = with_keys(&[&rsa, &ec, &ed]).await;
    let good = claims("alice");
    let signed = |changes: Value| ec.token(&claims_with(&changes));
    let headed = |header: Value| ec.token_with(&header, &good);
    let unsigned = |header: Value| message(&header.to_string(), &good.to_string());

    // The key as the secret of a signature that is no public key's.
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
            "an algorithm that is not taken",
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
        ("another's key under the same name", stranger.token(&good)),
        (
            "an unknown key",
            ec.token_with(&json!({"alg": "ES256", "kid": "other"}), &good),
        ),
        (
            "a key named by a number",
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
        ("an issuer of no text", signed(json!({"iss": 1}))),
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
        ("an end beyond all clocks", signed(json!({"exp": 1e30}))),
        (
            "an end beyond the system's clock",
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
            "a name with a line's end",
            signed(json!({"sub": "alice\nmallory"})),
        ),
        ("a name with NUL", signed(json!({"sub": "alice\0"}))),
        (
            "a name with a space before it",
            signed(json!({"sub": " alice"})),
        ),
        ("an endless name", signed(json!({"sub": "a".repeat(513)}))),
        ("deep claims", signed(json!({"x": [[[[[[[[[1]]]]]]]]]}))),
        (
            "more claims than are kept",
            signed(json!({"x": vec![0; 1_000]})),
        ),
        (
            "claims that are no object",
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
        let error = asking.bearer(&token).await.err();
        let error = error.unwrap_or_else(|| panic!("{what}: was taken"));
        assert_eq!(error.reason(), "CREDENTIALS_INVALID", "{what}");
        // Not a word of it comes back.
        let words = error.to_string();
        for told in ["alice", "mallory", ISSUER] {
            assert!(!words.contains(told), "{what}: {words}");
        }
    }
    let expired = signed(json!({"exp": seconds_from_now(-60)}));
    assert_eq!(asking.refusal(&expired).await, "CREDENTIALS_EXPIRED");
    // Nothing that has expired is told so unless its signature holds.
    let forged = stranger.token(&claims_with(&json!({"exp": seconds_from_now(-60)})));
    assert_eq!(asking.refusal(&forged).await, "CREDENTIALS_INVALID");
    asking.bearer(&token).await.expect("the good one");
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway_and_no_more() {
    let key = SigningKey::p256("a");
    let (asking, _file) = with_keys(&[&key]).await;
    let token =
        |claim: &str, seconds| key.token(&claims_with(&json!({claim: seconds_from_now(seconds)})));
    // Some seconds to spare, as the machine may be busy.
    let principal = asking.bearer(&token("exp", -3)).await.expect("within it");
    let left = principal
        .expires
        .expect("an end")
        .duration_since(SystemTime::now());
    assert!(left.expect("a time to come") <= Duration::from_secs(7));
    assert_eq!(
        asking.refusal(&token("exp", -11)).await,
        "CREDENTIALS_EXPIRED"
    );
    asking.bearer(&token("nbf", 9)).await.expect("within it");
    assert_eq!(
        asking.refusal(&token("nbf", 16)).await,
        "CREDENTIALS_INVALID"
    );
    // What is within it by less than a second is let go by the same clock that let it in.
    let principal = asking.bearer(&token("exp", -8)).await.expect("within it");
    eventually("it has expired", async || {
        asking.authenticator.renew(&principal).is_err()
    })
    .await;
}

#[tokio::test]
async fn a_token_without_a_key_id_is_taken_where_only_one_key_can_be_meant() {
    let (ec, rsa, other) = (
        SigningKey::p256("ec"),
        SigningKey::rsa("rsa"),
        SigningKey::p256("other"),
    );
    let token = ec.token_with(&json!({"alg": "ES256"}), &claims("alice"));
    let (asking, file) = with_keys(&[&ec, &rsa]).await;
    asking
        .bearer(&token)
        .await
        .expect("the only one of its kind");
    let mut changes = asking.authenticator.changes();
    file.put(&key_set(&[&ec, &rsa, &other]).to_string());
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    assert_eq!(asking.refusal(&token).await, "CREDENTIALS_INVALID");
    asking
        .bearer(&ec.token(&claims("alice")))
        .await
        .expect("with an id");
}

#[tokio::test]
async fn a_key_does_only_what_it_is_for() {
    let ec = SigningKey::p256("ec");
    let token = ec.token(&claims("alice"));
    let changed = |changes: Value| {
        let mut jwk = ec.bare_jwk();
        for (name, value) in changes.as_object().expect("an object") {
            jwk[name] = value.clone();
        }
        jwk
    };
    // Beside it, a key that does, so that the set itself is of use.
    let beside = SigningKey::ed25519("beside").jwk();
    for (what, good) in [
        ("as it is", json!({})),
        ("for signatures", json!({"use": "sig"})),
        ("for checking", json!({"key_ops": ["verify"]})),
        ("for its algorithm", json!({"alg": "ES256"})),
        (
            "with members of no meaning here",
            json!({"x5c": ["abc"], "ext": true}),
        ),
    ] {
        let (asking, _file) = with_set(&json!({"keys": [beside, changed(good)]})).await;
        asking.bearer(&token).await.expect(what);
    }
    for (what, bad) in [
        ("for encryption", json!({"use": "enc"})),
        ("for making signatures", json!({"key_ops": ["sign"]})),
        ("for nothing", json!({"key_ops": []})),
        ("for another algorithm", json!({"alg": "ES384"})),
        ("for an algorithm of secrets", json!({"alg": "HS256"})),
        ("for no algorithm there is", json!({"alg": "ES257"})),
        ("of another curve", json!({"crv": "P-384"})),
        ("of no curve", json!({"crv": null})),
        ("of another type", json!({"kty": "RSA"})),
        ("a secret", json!({"kty": "oct", "k": "AAAA"})),
        ("a part too short", json!({"x": "AAAA"})),
        ("a part not base64url", json!({"y": "+/=="})),
        ("a private key", json!({"d": "AAAA"})),
        ("an id of no text", json!({"kid": 1})),
    ] {
        let (asking, _file) = with_set(&json!({"keys": [beside, changed(bad)]})).await;
        assert_eq!(
            asking.refusal(&token).await,
            "CREDENTIALS_INVALID",
            "{what}"
        );
    }
    // Though the server takes another algorithm of such keys, a key does only the one that it names; and
    // one that names none only those that the server takes.
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
        let asking = Asking::start(settings).await;
        for algorithm in ["RS256", "PS256", "RS384"] {
            let taken_now = asking.bearer(&of(algorithm)).await.is_ok();
            assert_eq!(
                taken_now,
                taken.contains(&algorithm),
                "{algorithm} by {key}"
            );
        }
    }
    // Two of the same name and kind: which one is meant can't be told.
    let twin = SigningKey::p256("ec");
    let (asking, _file) = with_keys(&[&ec, &twin]).await;
    assert_eq!(asking.refusal(&token).await, "CREDENTIALS_INVALID");
    // Two of the same name and different kinds can be told apart.
    let (asking, _file) = with_keys(&[&SigningKey::ed25519("ec"), &ec]).await;
    asking.bearer(&token).await.expect("the one of its kind");
}

#[tokio::test]
async fn a_set_that_cannot_be_used_keeps_the_server_from_starting() {
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
        let started = Asking::try_start(jwts(JwtKeys::File(file.path.clone()))).await;
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
    assert!(Asking::try_start(jwts(missing)).await.is_err());
}

#[tokio::test]
async fn a_key_that_leaves_the_file_takes_its_tokens_along() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let (asking, file) = with_keys(&[&old]).await;
    let mut changes = asking.authenticator.changes();
    let held = asking
        .bearer(&old.token(&claims("alice")))
        .await
        .expect("the old one");

    // Both, as rotation begins.
    file.put(&key_set(&[&old, &new]).to_string());
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    let kept = asking.authenticator.renew(&held).expect("still good");
    assert!(Arc::ptr_eq(&kept, &held));
    asking
        .bearer(&new.token(&claims("alice")))
        .await
        .expect("the new one");

    // What can't be read changes nothing.
    file.put("{");
    eventually("the bad file is noticed", async || {
        let text = asking
            .metrics
            .render(&weir::metrics::ScrapedGauges::default());
        text.contains(r#"weir_reloads_total{what="jwks",result="failed"} 1"#)
    })
    .await;
    asking.authenticator.renew(&held).expect("still good");
    asking
        .bearer(&old.token(&claims("alice")))
        .await
        .expect("still good");

    // The old one leaves.
    file.put(&key_set(&[&new]).to_string());
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    let ended = asking.authenticator.renew(&held).expect_err("withdrawn");
    assert_eq!(ended.reason(), "CREDENTIALS_EXPIRED");
    assert_eq!(
        asking.refusal(&old.token(&claims("alice"))).await,
        "CREDENTIALS_INVALID"
    );

    // A set without keys says that none is good: that is taken at its word.
    file.put(&json!({"keys": []}).to_string());
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    assert_eq!(
        asking.refusal(&new.token(&claims("alice"))).await,
        "CREDENTIALS_INVALID"
    );
}

#[tokio::test]
async fn a_key_that_is_not_known_yet_is_fetched_when_a_token_names_it() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&old]))).await;
    let asking = Asking::start(jwts(JwtKeys::Url(remote(server.url())))).await;
    // Though nothing has been fetched when the call comes.
    let held = asking
        .bearer(&old.token(&claims("alice")))
        .await
        .expect("the old one");
    let mut changes = asking.authenticator.changes();
    server.set(Answer::Keys(key_set(&[&new])));
    asking
        .bearer(&new.token(&claims("bob")))
        .await
        .expect("the new one");
    within("the change is told", changes.changed())
        .await
        .expect("a change");
    assert!(asking.authenticator.renew(&held).is_err());
    assert_eq!(server.request_count(), 2);
}

/// Whoever makes up key ids costs the issuer one request every ten seconds, and nobody else a refusal.
#[tokio::test]
async fn a_flood_of_tokens_with_unknown_keys_makes_no_flood_of_fetches() {
    let (known, made_up) = (SigningKey::p256("known"), SigningKey::p256("made up"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&known]))).await;
    let asking = Asking::start(jwts(JwtKeys::Url(remote(server.url())))).await;
    asking
        .bearer(&known.token(&claims("alice")))
        .await
        .expect("a good one");
    assert_eq!(server.request_count(), 1);
    let floods = (0..1000).map(|at| {
        let header = json!({"alg": "ES256", "kid": format!("made up {at}")});
        let token = made_up.token_with(&header, &claims("mallory"));
        let asking = &asking;
        async move { asking.refusal(&token).await }
    });
    // Those that no fetch was made for may be good, for all that is known.
    for reason in futures::future::join_all(floods).await {
        assert!(["CREDENTIALS_INVALID", "CREDENTIALS_UNCHECKED"].contains(&reason));
    }
    assert_eq!(server.request_count(), 2);
    asking
        .bearer(&known.token(&claims("alice")))
        .await
        .expect("a good one");

    // One after the other is no other matter.
    for at in 0..20 {
        let header = json!({"alg": "ES256", "kid": format!("later {at}")});
        let token = made_up.token_with(&header, &claims("mallory"));
        assert_eq!(asking.refusal(&token).await, "CREDENTIALS_UNCHECKED");
    }
    assert_eq!(server.request_count(), 2);

    // While the issuer takes its time, few wait for it, and those with known keys do not.
    let mut slow = remote(server.url());
    slow.cooldown = Duration::ZERO;
    let asking = Asking::start(jwts(JwtKeys::Url(slow))).await;
    asking
        .bearer(&known.token(&claims("alice")))
        .await
        .expect("a good one");
    server.set(Answer::Nothing);
    let waiting = (0..300).map(|_| {
        let token = made_up.token(&claims("mallory"));
        let asking = &asking;
        async move { asking.refusal(&token).await }
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
    let good = asking.bearer(&token);
    tokio::time::timeout(Duration::from_secs(5), good)
        .await
        .expect("at once")
        .expect("a good one");
}

/// Anybody may have used up the one fetch that tokens have in a while: who has a token by a new key is told
/// to come again, and not that it is bad.
#[tokio::test]
async fn a_token_by_a_newer_key_than_the_last_fetch_is_not_called_bad() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&old]))).await;
    let asking = Asking::start(jwts(JwtKeys::Url(remote(server.url())))).await;
    let token = old.token(&claims("alice"));
    asking.bearer(&token).await.expect("a good one");
    let made_up = SigningKey::p256("made up").token(&claims("mallory"));
    // A fetch for it alone has shown that it is bad.
    assert_eq!(asking.refusal(&made_up).await, "CREDENTIALS_INVALID");
    assert_eq!(server.request_count(), 2);

    server.set(Answer::Keys(key_set(&[&old, &new])));
    let refused = asking.refusal(&new.token(&claims("bob"))).await;
    assert_eq!(refused, "CREDENTIALS_UNCHECKED");
    // What a known key has not signed is bad, whatever may be fetched.
    let forged = made_up.rsplit_once('.').expect("a signature").1;
    let stated = token.rsplit_once('.').expect("a signature").0;
    let refused = asking.refusal(&format!("{stated}.{forged}")).await;
    assert_eq!(refused, "CREDENTIALS_INVALID");
    assert_eq!(server.request_count(), 2);
}

/// Whatever becomes of the issuer, who has a token by a known key goes on.
#[tokio::test]
async fn the_last_good_keys_stay_in_force_whatever_the_issuer_answers() {
    let (known, other) = (SigningKey::p256("known"), SigningKey::p256("other"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&known]))).await;
    let elsewhere = KeyServer::start(Answer::Keys(key_set(&[&other]))).await;
    let mut remote = remote(server.url());
    remote.cooldown = Duration::ZERO;
    let asking = Asking::start(jwts(JwtKeys::Url(remote))).await;
    let held = asking
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
        // Whether it is good can't be told now: not a word on that it is bad.
        let refused = asking.refusal(&other.token(&claims("bob"))).await;
        assert_eq!(refused, "CREDENTIALS_UNCHECKED");
        assert!(server.request_count() > asked);
        asking
            .bearer(&known.token(&claims("alice")))
            .await
            .expect("a good one");
        asking.authenticator.renew(&held).expect("a good one");
    }
    assert_eq!(elsewhere.request_count(), 0, "a redirection was followed");
    server.set(Answer::Keys(key_set(&[&known, &other])));
    asking
        .bearer(&other.token(&claims("bob")))
        .await
        .expect("the issuer is back");
}

#[tokio::test]
async fn a_server_whose_issuer_is_away_at_the_start_takes_tokens_once_it_is_there() {
    let key = SigningKey::p256("a");
    let server = KeyServer::start(Answer::Code(503)).await;
    let asking = Asking::start(jwts(JwtKeys::Url(remote(server.url())))).await;
    let token = key.token(&claims("alice"));
    assert_eq!(asking.refusal(&token).await, "CREDENTIALS_UNCHECKED");
    server.set(Answer::Keys(key_set(&[&key])));
    // By itself, within its pauses, which begin at a second.
    eventually("the keys are there", async || {
        let text = asking
            .metrics
            .render(&weir::metrics::ScrapedGauges::default());
        text.contains(r#"weir_reloads_total{what="jwks",result="ok"} 1"#)
    })
    .await;
    asking.bearer(&token).await.expect("a good one");
}

#[tokio::test]
async fn keys_are_fetched_again_by_themselves() {
    let (old, new) = (SigningKey::p256("a"), SigningKey::p256("a"));
    let server = KeyServer::start(Answer::Keys(key_set(&[&old]))).await;
    let mut remote = remote(server.url());
    remote.refresh_interval = Duration::from_millis(50);
    let asking = Asking::start(jwts(JwtKeys::Url(remote))).await;
    let held = asking
        .bearer(&old.token(&claims("alice")))
        .await
        .expect("a good one");
    // Under the same id, so that no token tells that there is something new.
    server.set(Answer::Keys(key_set(&[&new])));
    eventually("the old key is gone", async || {
        asking.authenticator.renew(&held).is_err()
    })
    .await;
    asking
        .bearer(&new.token(&claims("alice")))
        .await
        .expect("the new one");
}

#[tokio::test]
async fn keys_come_over_tls_from_whom_the_authorities_know() {
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
    Asking::start(settings)
        .await
        .bearer(&token)
        .await
        .expect("the right authority");
    for pem in [Some(other.pem.as_str()), None] {
        let (settings, _file) = with_ca(pem);
        let asking = Asking::start(settings).await;
        assert_eq!(asking.refusal(&token).await, "CREDENTIALS_UNCHECKED");
    }
    let (settings, _file) = with_ca(Some("no certificates"));
    let error = Asking::try_start(settings)
        .await
        .err()
        .expect("no authorities");
    assert!(error.problem.contains("PEM"), "{error}");
}

fn sha256(key: &str) -> String {
    let hash = Sha256::digest(key.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn api_keys(path: &Path) -> AuthSettings {
    AuthSettings {
        api_keys_file: Some(path.to_path_buf()),
        reload_interval: RELOAD,
        ..AuthSettings::default()
    }
}

#[tokio::test]
async fn an_api_key_is_known_in_either_header_and_others_are_not() {
    let (alice, bob) = ("weir_alice-_0123456789", "weir_bob+/=0123456789");
    let file = TestFile::new(&format!(
        "keys:\n\
         - name: alice\n  sha256: {}\n  claims: {{team: orders, level: 3}}\n\
         - name: bob the builder\n  sha256: {}\n  expires: 2020-01-01T00:00:00Z\n",
        sha256(alice),
        sha256(bob).to_uppercase(),
    ));
    let asking = Asking::start(api_keys(&file.path)).await;
    for headers in [
        [("authorization", format!("Bearer {alice}"))],
        [("authorization", format!("bearer {alice}"))],
        [("x-api-key", alice.to_owned())],
    ] {
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let principal = asking.ask(&headers).await.expect("a good key");
        assert_eq!(principal.to_string(), "key:alice");
        assert_eq!(principal.claims["team"], "orders");
        assert_eq!(principal.expires, None);
    }
    let reason = async |headers: &[(&'static str, &str)]| match asking.ask(headers).await {
        Ok(principal) => panic!("{principal} was let in by {headers:?}"),
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
async fn a_key_that_leaves_the_file_or_changes_there_does_so_for_open_calls() {
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
    let asking = Asking::start(api_keys(&file.path)).await;
    let mut changes = asking.authenticator.changes();
    let held = asking.ask(&[("x-api-key", alice)]).await.expect("Alice");
    let other = asking.ask(&[("x-api-key", bob)]).await.expect("Bob");

    // Other claims are known at once; what was not touched stays the very same.
    let changed = format!(
        "keys:\n{}{}",
        entry("alice", alice, "c"),
        entry("bob", bob, "b")
    );
    file.put(&changed);
    within("the keys are read again", changes.changed())
        .await
        .expect("a change");
    let renewed = asking.authenticator.renew(&held).expect("Alice");
    assert_eq!(renewed.claims["team"], "c");
    let kept = asking.authenticator.renew(&other).expect("Bob");
    assert!(Arc::ptr_eq(&kept, &other));

    // A new key under the same name, and the same key under a new name: the old ones are withdrawn.
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
        let ended = asking
            .authenticator
            .renew(principal)
            .expect_err("withdrawn");
        assert_eq!(ended.reason(), "CREDENTIALS_EXPIRED");
    }
    let refused = asking.ask(&[("x-api-key", alice)]).await.err();
    assert_eq!(refused.map(|it| it.reason()), Some("CREDENTIALS_INVALID"));
}

#[tokio::test]
async fn a_file_of_keys_that_cannot_be_used_keeps_the_server_from_starting() {
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
            "a name with a line's end",
            format!("keys:\n- name: \"a\\nb\"\n  sha256: {hash}\n"),
        ),
        (
            "a short hash",
            format!("keys:\n- name: a\n  sha256: {}\n", &hash[1..]),
        ),
        (
            "no hash but a key",
            format!(
                "keys:\n- name: a\n  sha256: {}\n",
                "weir_".repeat(12) + "weir"
            ),
        ),
        (
            "a time of no form",
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
    ] {
        let file = TestFile::new(&contents);
        let Err(error) = Asking::try_start(api_keys(&file.path)).await else {
            panic!("{what}: does");
        };
        assert_eq!(error.flag, "api-keys-file", "{what}");
        assert!(!error.problem.contains(&hash), "{what}: {error}");
    }
}

#[tokio::test]
async fn ten_thousand_keys_are_told_apart_and_no_more_are_taken() {
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
    let asking = Asking::start(api_keys(&file.path)).await;
    for at in [0, 4_999, 9_999] {
        let principal = asking.ask(&[("x-api-key", &format!("key-{at}"))]).await;
        assert_eq!(principal.expect("a good key").name, format!("k{at}"));
    }
    let file = TestFile::new(&file_of(10_001));
    assert!(Asking::try_start(api_keys(&file.path)).await.is_err());
}

/// A certificate as a handshake would have let it pass.
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
async fn a_certificate_stands_for_its_first_name_and_no_common_name() {
    let asking = Asking::start(AuthSettings {
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
        let principal = asking.ask_peer(&[], &peer).await.expect(expected);
        assert_eq!(principal.to_string(), format!("cert:{expected}"));
        assert!(principal.expires.expect("an end") > SystemTime::now());
        asking.authenticator.renew(&principal).expect("still good");
    }
    let peer = certificate(&[dns("B.example"), dns("a.example"), uri("urn:x")], |_| {});
    let principal = asking.ask_peer(&[], &peer).await.expect("a name");
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
        let refused = asking.ask_peer(&[], &certificate(&names, |_| {})).await;
        let error = refused.err().unwrap_or_else(|| panic!("{what}: was taken"));
        assert_eq!(error.reason(), "CREDENTIALS_INVALID", "{what}");
    }
    let old = certificate(&[dns("a.example")], |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let error = asking
        .ask_peer(&[], &old)
        .await
        .expect_err("it has expired");
    assert_eq!(error.reason(), "CREDENTIALS_EXPIRED");
    let garbage = Peer {
        address: None,
        certificate: Some(b"garbage".as_slice().into()),
    };
    let error = asking
        .ask_peer(&[], &garbage)
        .await
        .expect_err("no certificate");
    assert_eq!(error.reason(), "CREDENTIALS_INVALID");
    let error = asking.ask(&[]).await.expect_err("nothing shown");
    assert_eq!(error.reason(), "CREDENTIALS_MISSING");
}

/// Whoever shows something bad is not let in for something else that they have as well.
#[tokio::test]
async fn what_is_shown_and_bad_is_not_passed_over() {
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
    let asking = Asking::start(jwts_and_certificates).await;
    let token = format!("Bearer {}", key.token(&claims("alice")));
    let by_token = asking.ask_peer(&[("authorization", &token)], &peer).await;
    assert_eq!(by_token.expect("the token").to_string(), "jwt:alice");
    let by_certificate = asking.ask_peer(&[], &peer).await;
    assert_eq!(
        by_certificate.expect("the certificate").to_string(),
        "cert:a.example"
    );
    for headers in [
        ("authorization", ""),
        ("authorization", "Bearer"),
        ("authorization", "Bearer a.b.c"),
        ("authorization", "Bearer abc"),
        // Of a kind that is not taken here.
        ("authorization", "Basic YTpi"),
        ("x-api-key", "abc"),
    ] {
        let refused = asking.ask_peer(&[headers], &peer).await;
        let error = refused
            .err()
            .unwrap_or_else(|| panic!("{headers:?} was passed over"));
        assert_eq!(error.reason(), "CREDENTIALS_INVALID", "{headers:?}");
    }
    // Where certificates say nothing of who calls, one is nothing.
    let asking = Asking::start(jwts(JwtKeys::File(set.path.clone()))).await;
    let error = asking
        .ask_peer(&[], &peer)
        .await
        .expect_err("nothing shown");
    assert_eq!(error.reason(), "CREDENTIALS_MISSING");
}
