//! The public keys that sign bearer tokens: a JWK set (RFC 7517).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use crate::digest::sha256;

/// The maximum number of keys in a set.
const MAX_KEYS: usize = 100;

/// The accepted sizes of an RSA modulus, in bytes: 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys of a set.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// The keys that can't verify signatures, with the reasons.
    skipped: Vec<String>,
}

/// A key that can verify signatures.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    key_type: KeyType,
    /// The only algorithm that the key may be used with, if it names one.
    algorithm: Option<Algorithm>,
    decoding_key: DecodingKey,
    /// SHA-256 of the key material, independent of the ID.
    thumbprint: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyType {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// The result of the lookup of a token's key.
#[derive(Debug)]
pub(super) enum KeyLookup<'a> {
    Found(&'a Key),
    /// Several keys match.
    Ambiguous,
    /// No key has this ID.
    UnknownId,
    /// No key supports the algorithm.
    NoMatch,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<JwkEntry>,
}

/// A member of the set. It is buffered with all its members, so that one that comes twice is noticed: readers
/// differ in which one they believe.
#[derive(Deserialize)]
#[serde(untagged)]
enum JwkEntry {
    Jwk(Box<Jwk>),
    Other(IgnoredAny),
}

/// The members of a JWK that are used.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Present only in private keys.
    d: Option<Value>,
}

impl KeySet {
    /// Parses a set. Skips keys that can't verify signatures.
    ///
    /// # Errors
    /// Fails if the JSON is not a JWK set, or has too many keys.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        // serde_json's own messages may quote the input.
        let set: JwkSet = serde_json::from_slice(json).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("not a JWK set at line {line}, column {column}: it must be {{\"keys\": [...]}}")
        })?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!(
                "the JWK set has more than {MAX_KEYS} keys: remove those that are no longer used"
            ));
        }
        let mut keys = Vec::new();
        let mut skipped = Vec::new();
        for (at, key) in set.keys.into_iter().enumerate() {
            match Key::read(key) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(format!("keys[{at}] {why}")),
            }
        }
        Ok(Self { keys, skipped })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the skipped keys with the reasons.
    pub(super) fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Returns whether both sets have the same keys with the same IDs.
    pub(super) fn has_same_keys(&self, other: &Self) -> bool {
        let identity = |key: &Key| (key.id.clone(), key.thumbprint, key.algorithm);
        self.skipped == other.skipped
            && self
                .keys
                .iter()
                .map(identity)
                .eq(other.keys.iter().map(identity))
    }

    /// Returns the key to verify a token with: the key with the token's key ID, or without one the only key
    /// that supports the algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> KeyLookup<'_> {
        let with_id = || {
            let keys = self.keys.iter();
            keys.filter(|key| id.is_none() || key.id.as_deref() == id)
        };
        if id.is_some() && with_id().next().is_none() {
            return KeyLookup::UnknownId;
        }
        let mut matching = with_id().filter(|key| key.supports(algorithm));
        match (matching.next(), matching.next()) {
            (Some(key), None) => KeyLookup::Found(key),
            (Some(_), Some(_)) => KeyLookup::Ambiguous,
            (None, _) => KeyLookup::NoMatch,
        }
    }

    /// Returns whether the set contains a key.
    pub(super) fn contains(&self, thumbprint: &[u8; 32]) -> bool {
        self.keys.iter().any(|key| key.thumbprint == *thumbprint)
    }
}

impl Key {
    fn read(entry: JwkEntry) -> Result<Self, &'static str> {
        let JwkEntry::Jwk(jwk) = entry else {
            return Err("is not a JWK, or has a member twice");
        };
        if jwk.d.is_some() {
            return Err(
                "contains a private key: publish only its public part, as whoever reads the set could sign with it",
            );
        }
        if jwk.usage.as_ref().is_some_and(|it| it != "sig") {
            return Err("is not for signatures (use)");
        }
        if jwk
            .key_ops
            .as_ref()
            .is_some_and(|it| !it.iter().any(|op| op == "verify"))
        {
            return Err("is not for verifying signatures (key_ops)");
        }
        let algorithm = match &jwk.alg {
            None => None,
            Some(name) => Some(name.parse().map_err(|_| "has an unknown algorithm (alg)")?),
        };
        let (key_type, decoding_key, material) = jwk.material()?;
        let key = Self {
            id: jwk.kid,
            key_type,
            algorithm,
            decoding_key,
            thumbprint: sha256(&material),
        };
        if algorithm.is_some_and(|algorithm| !key.supports(algorithm)) {
            return Err("has an algorithm that does not fit its type");
        }
        Ok(key)
    }

    /// Returns whether the key can verify signatures of an algorithm.
    fn supports(&self, algorithm: Algorithm) -> bool {
        let type_matches = match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => self.key_type == KeyType::Rsa,
            Algorithm::ES256 => self.key_type == KeyType::P256,
            Algorithm::ES384 => self.key_type == KeyType::P384,
            Algorithm::EdDSA => self.key_type == KeyType::Ed25519,
            // Symmetric algorithms above all.
            _ => false,
        };
        type_matches && self.algorithm.is_none_or(|only| only == algorithm)
    }

    pub(super) fn decoding_key(&self) -> &DecodingKey {
        &self.decoding_key
    }

    pub(super) fn thumbprint(&self) -> [u8; 32] {
        self.thumbprint
    }
}

impl Jwk {
    /// Returns the key, and bytes that identify it.
    fn material(&self) -> Result<(KeyType, DecodingKey, Vec<u8>), &'static str> {
        const MISSING: &str = "lacks a parameter, or has one that is not base64url";
        let part = |text: &Option<String>| {
            let text = text.as_ref().ok_or(MISSING)?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| MISSING)
        };
        let (key_type, decoding_key, parts) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", None) => {
                let (n, e) = (part(&self.n)?, part(&self.e)?);
                let n = strip_leading_zeros(&n);
                if !RSA_BYTES.contains(&n.len()) {
                    return Err(
                        "is an RSA key of less than 2048 or more than 8192 bits: use 2048 to 8192 bits",
                    );
                }
                let decoding_key = DecodingKey::from_rsa_raw_components(n, &e);
                (KeyType::Rsa, decoding_key, [n.to_vec(), e])
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (key_type, length) = match curve {
                    "P-256" => (KeyType::P256, 32),
                    _ => (KeyType::P384, 48),
                };
                let (x, y) = (part(&self.x)?, part(&self.y)?);
                if x.len() != length || y.len() != length {
                    return Err("has coordinates of the wrong length for its curve");
                }
                let point = [&[4][..], &x, &y].concat();
                (key_type, DecodingKey::from_ec_der(&point), [x, y])
            }
            ("OKP", Some("Ed25519")) => {
                let x = part(&self.x)?;
                if x.len() != 32 {
                    return Err("has the wrong length for an Ed25519 key");
                }
                (
                    KeyType::Ed25519,
                    DecodingKey::from_ed_der(&x),
                    [x, Vec::new()],
                )
            }
            ("oct", _) => {
                return Err(
                    "is a shared secret, and whoever can verify with it can also sign with it: use a public key",
                );
            }
            _ => {
                return Err(
                    "has an unknown type (kty, crv): use RSA, EC with P-256 or P-384, or OKP with Ed25519",
                );
            }
        };
        let mut material = format!("{key_type:?}").into_bytes();
        for part in parts {
            material.extend((part.len() as u64).to_be_bytes());
            material.extend(part);
        }
        Ok((key_type, decoding_key, material))
    }
}

/// Removes the leading zeros of a big-endian number.
fn strip_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    &number[zeros..]
}
