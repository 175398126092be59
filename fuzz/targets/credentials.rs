//! Fuzz target: a caller's credentials: headers, validly signed tokens with any content, and certificates.

use std::{sync::OnceLock, time::Duration};

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};
use rcgen::{CertificateParams, KeyPair, SanType, SerialNumber, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use weir::{
    auth::{
        AuthSettings, Authenticator, JwtKeys, JwtSettings, Method, Peer, Principal,
        is_valid_principal_name,
    },
    error::Error,
};

use super::input::{Input, put_part};

const SEED: [u8; 32] = [7; 32];
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "weir";
const KEY: &str = "weir_a-key-for-the-fuzzer-and-nothing-else";

/// An authenticator that accepts all kinds of credentials.
struct TestAuthenticator {
    runtime: Runtime,
    authenticator: Authenticator,
    key: Ed25519KeyPair,
    _folder: TempDir,
}

impl TestAuthenticator {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let runtime = runtime.expect("a runtime");
        let folder = TempDir::new().expect("a folder");
        let key = signing_key();
        let public = aws_lc_rs::signature::KeyPair::public_key(&key);
        let public = URL_SAFE_NO_PAD.encode(public.as_ref());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public, "kid": "a"}]});
        let keys = json!({"keys": [{"name": "alice", "sha256": sha256(KEY)}]});
        let file = |name: &str, contents: Value| {
            let path = folder.path().join(name);
            std::fs::write(&path, contents.to_string()).expect("a file");
            path
        };
        let settings = AuthSettings {
            jwt: Some(JwtSettings {
                keys: JwtKeys::File(file("set", set)),
                issuer: ISSUER.to_owned(),
                audiences: vec![AUDIENCE.to_owned()],
                algorithms: vec![jsonwebtoken::Algorithm::EdDSA],
                leeway: Duration::ZERO,
                name_claim: "sub".to_owned(),
            }),
            api_keys_file: Some(file("keys", keys)),
            certificates: true,
            reload_interval: Duration::from_secs(3600),
        };
        let started = runtime.block_on(Authenticator::new(settings, Default::default()));
        let (authenticator, _upkeep) = started.expect("valid settings");
        Self {
            runtime,
            authenticator,
            key,
            _folder: folder,
        }
    }

    fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Option<Principal> {
        let outcome = self.authenticator.authenticate(headers, peer);
        match self.runtime.block_on(outcome) {
            Ok(principal) => Some((*principal).clone()),
            Err(
                Error::CredentialsMissing(_)
                | Error::CredentialsInvalid(_)
                | Error::CredentialsExpired,
            ) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Uses the input as headers, as a token or as a certificate.
pub fn run(data: &[u8]) {
    static AUTHENTICATOR: OnceLock<TestAuthenticator> = OnceLock::new();
    let authenticator = AUTHENTICATOR.get_or_init(TestAuthenticator::new);
    let mut input = Input(data);
    match input.byte() % 3 {
        0 => headers(authenticator, input),
        1 => token(authenticator, input),
        _ => certificate(authenticator, input.0),
    }
}

/// Only the exact credentials in the headers may be accepted.
fn headers(authenticator: &TestAuthenticator, mut input: Input<'_>) {
    let (bearer, key) = (input.part(), input.part());
    let mut headers = HeaderMap::new();
    for (name, value) in [("authorization", bearer), ("x-api-key", key)] {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.append(name, value);
        }
    }
    let Some(principal) = authenticator.authenticate(&headers, &Peer::default()) else {
        return;
    };
    assert_eq!(headers.len(), 1, "one of two credentials was accepted");
    let token = String::from_utf8_lossy(bearer);
    let token = token
        .rsplit(' ')
        .find(|it| !it.is_empty())
        .unwrap_or_default();
    match principal.method {
        Method::Jwt => assert_eq!(token, good_token(&authenticator.key)),
        Method::Key => assert!(token == KEY || key == KEY.as_bytes()),
        method => panic!("{method:?} is not of a header"),
    }
}

/// Of all signed tokens, only those with all required claims may be accepted.
fn token(authenticator: &TestAuthenticator, mut input: Input<'_>) {
    let (header, claims) = (input.part(), input.part());
    let mut headers = HeaderMap::new();
    let value = format!("Bearer {}", signed(&authenticator.key, header, claims));
    headers.append("authorization", value.parse().expect("a value"));
    let Some(principal) = authenticator.authenticate(&headers, &Peer::default()) else {
        return;
    };
    let header: Value = serde_json::from_slice(header).expect("a header is JSON");
    let claims: Value = serde_json::from_slice(claims).expect("claims are JSON");
    assert_eq!(header["alg"], "EdDSA");
    assert!(header.get("crit").is_none());
    assert!(header.get("kid").is_none_or(|it| it == "a" || it.is_null()));
    assert_eq!(claims["iss"], ISSUER);
    let audience = &claims["aud"];
    let among = audience
        .as_array()
        .is_some_and(|it| it.contains(&json!(AUDIENCE)));
    assert!(audience == AUDIENCE || among);
    assert!(claims["exp"].as_f64().is_some_and(|it| it > 1.7e9));
    assert_eq!(claims["sub"], principal.name);
    assert!(is_valid_principal_name(&principal.name));
}

/// The holder of an accepted certificate must have an unambiguous name.
fn certificate(authenticator: &TestAuthenticator, der: &[u8]) {
    let peer = Peer {
        address: None,
        certificate: Some(der.into()),
    };
    let Some(principal) = authenticator.authenticate(&HeaderMap::new(), &peer) else {
        return;
    };
    let name = principal.name.as_str();
    assert!(
        is_valid_principal_name(name)
            && name.bytes().all(|it| it.is_ascii_graphic())
            && !name.contains('*')
    );
    let of = |claim: &str| principal.claims.get(claim).map(|names| names[0] == name);
    let first = of("san_uri").or(of("san_dns")).or(of("san_email"));
    assert_eq!(first, Some(true), "{principal:?}");
    assert!(principal.expires.is_some());
}

fn signing_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&SEED).expect("a key")
}

fn signed(key: &Ed25519KeyPair, header: &[u8], claims: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = key.sign(message.as_bytes());
    format!("{message}.{}", encode(signature.as_ref()))
}

fn good_header() -> Value {
    json!({"alg": "EdDSA", "kid": "a", "typ": "JWT"})
}

/// Returns the claims of a token that is valid until the year 2100.
fn good_claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": [AUDIENCE],
        "sub": "alice",
        "exp": 4_102_444_800_u64,
        "nbf": 1,
        "groups": ["a", {"b": [null, true]}],
    })
}

fn good_token(key: &Ed25519KeyPair) -> String {
    let (header, claims) = (good_header().to_string(), good_claims().to_string());
    signed(key, header.as_bytes(), claims.as_bytes())
}

fn sha256(key: &str) -> String {
    key.parse::<weir::auth::ApiKey>().expect("a key").sha256()
}

/// Returns a certificate without random parts, so that its bytes are always the same.
fn certificate_with(names: &[SanType]) -> Vec<u8> {
    // RFC 8410: the bytes before the seed of an Ed25519 key.
    let head = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let key = KeyPair::try_from([&head[..], &SEED].concat()).expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.serial_number = Some(SerialNumber::from(7));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    certificate.der().to_vec()
}

/// Returns headers, tokens and certificates.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let parts = |mode: u8, parts: [&[u8]; 2]| {
        let mut out = vec![mode];
        parts.iter().for_each(|part| put_part(&mut out, part));
        out
    };
    let bearer = |token: &str| format!("Bearer {token}").into_bytes();
    let token = bearer(&good_token(&signing_key()));
    let text = |text: &str| text.try_into().expect("IA5");
    let names = [
        SanType::URI(text("spiffe://example.org/ns/shop/sa/orders")),
        SanType::DnsName(text("orders.example")),
        SanType::Rfc822Name(text("orders@example.org")),
        SanType::IpAddress([127, 0, 0, 1].into()),
    ];
    let header = good_header().to_string();
    let claims = good_claims().to_string();
    vec![
        ("bearer", parts(0, [&token, b""])),
        ("bearer-key", parts(0, [&bearer(KEY), b""])),
        ("key", parts(0, [b"", KEY.as_bytes()])),
        ("both", parts(0, [&token, KEY.as_bytes()])),
        ("signed", parts(1, [header.as_bytes(), claims.as_bytes()])),
        (
            "certificate",
            [&[2][..], &certificate_with(&names)].concat(),
        ),
        ("host", [&[2][..], &certificate_with(&names[1..2])].concat()),
        ("nobody", [&[2][..], &certificate_with(&[])].concat()),
    ]
}
