//! The public keys that bearer tokens are signed with: a JWK set (RFC 7517).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// How many keys a set may have.
const MAX_KEYS: usize = 100;

/// RSA keys, in bytes of their modulus: 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys in force.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Which of them can't check signatures, and why.
    left_out: Vec<String>,
}

/// One that can check signatures.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    kind: Kind,
    /// The one signature that it is for, where it says so.
    only: Option<Algorithm>,
    decoding: DecodingKey,
    /// SHA-256 of what it is, whatever its id.
    thumbprint: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// What came of the search for a token's key.
#[derive(Debug)]
pub(super) enum Found<'a> {
    One(&'a Key),
    /// Several might be meant.
    Several,
    /// No key has that id.
    UnknownId,
    /// No key is for such signatures.
    NoneFits,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The members of a key that say what it is for.
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
    /// Of a private key.
    d: Option<Value>,
}

impl KeySet {
    /// Reads a set. Keys that are not for signatures that can be checked are left out.
    ///
    /// # Errors
    /// In words: it is no set, or has too many keys.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        // The words of serde_json may quote what it read.
        let set: Set = serde_json::from_slice(json).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("not a JWK set, {{\"keys\": [...]}}: line {line}, column {column}")
        })?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("the JWK set has more than {MAX_KEYS} keys"));
        }
        let mut keys = Vec::new();
        let mut left_out = Vec::new();
        for (at, key) in set.keys.into_iter().enumerate() {
            match Key::read(key) {
                Ok(key) => keys.push(key),
                Err(why) => left_out.push(format!("keys[{at}] {why}")),
            }
        }
        Ok(Self { keys, left_out })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Which keys were left out, and why, in words.
    pub(super) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Whether both hold the same keys under the same ids.
    pub(super) fn equals(&self, other: &Self) -> bool {
        let told = |key: &Key| (key.id.clone(), key.thumbprint, key.only);
        self.left_out == other.left_out
            && self.keys.iter().map(told).eq(other.keys.iter().map(told))
    }

    /// The key that a token with this header is signed with, if it is signed at all: the one with its
    /// key id, or the only one that makes such signatures where it names none.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found<'_> {
        let named = || {
            let keys = self.keys.iter();
            keys.filter(|key| id.is_none() || key.id.as_deref() == id)
        };
        if id.is_some() && named().next().is_none() {
            return Found::UnknownId;
        }
        let mut fitting = named().filter(|key| key.fits(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Found::One(key),
            (Some(_), Some(_)) => Found::Several,
            (None, _) => Found::NoneFits,
        }
    }

    /// Whether a key is still there.
    pub(super) fn holds(&self, thumbprint: &[u8; 32]) -> bool {
        self.keys.iter().any(|key| key.thumbprint == *thumbprint)
    }
}

impl Key {
    fn read(key: Value) -> Result<Self, &'static str> {
        let jwk: Jwk = serde_json::from_value(key).map_err(|_| "is not a JWK")?;
        if jwk.d.is_some() {
            return Err("holds a private key: whoever can read the set can sign with it");
        }
        if jwk.usage.as_ref().is_some_and(|it| it != "sig") {
            return Err("is not for signatures");
        }
        if jwk
            .key_ops
            .as_ref()
            .is_some_and(|it| !it.iter().any(|op| op == "verify"))
        {
            return Err("is not for checking signatures");
        }
        let only = match &jwk.alg {
            None => None,
            Some(name) => Some(
                name.parse()
                    .map_err(|_| "is for an algorithm that is not known")?,
            ),
        };
        let (kind, decoding, material) = jwk.material()?;
        let key = Self {
            id: jwk.kid,
            kind,
            only,
            decoding,
            thumbprint: Sha256::digest(material).into(),
        };
        if only.is_some_and(|only| !key.fits(only)) {
            return Err("is of another type than its algorithm");
        }
        Ok(key)
    }

    /// Whether it makes such signatures.
    fn fits(&self, algorithm: Algorithm) -> bool {
        let of_kind = match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => self.kind == Kind::Rsa,
            Algorithm::ES256 => self.kind == Kind::P256,
            Algorithm::ES384 => self.kind == Kind::P384,
            Algorithm::EdDSA => self.kind == Kind::Ed25519,
            // Those of shared secrets above all.
            _ => false,
        };
        of_kind && self.only.is_none_or(|only| only == algorithm)
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    pub(super) fn thumbprint(&self) -> [u8; 32] {
        self.thumbprint
    }
}

impl Jwk {
    /// The key itself, and bytes that stand for it alone.
    fn material(&self) -> Result<(Kind, DecodingKey, Vec<u8>), &'static str> {
        const MISSING: &str = "lacks a part, or has one that is not base64url";
        let part = |text: &Option<String>| {
            let text = text.as_ref().ok_or(MISSING)?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| MISSING)
        };
        let (kind, decoding, parts) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", None) => {
                let (n, e) = (part(&self.n)?, part(&self.e)?);
                let n = without_zeros(&n);
                if !RSA_BYTES.contains(&n.len()) {
                    return Err("is an RSA key of less than 2048 or more than 8192 bits");
                }
                let decoding = DecodingKey::from_rsa_raw_components(n, &e);
                (Kind::Rsa, decoding, [n.to_vec(), e])
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (kind, length) = match curve {
                    "P-256" => (Kind::P256, 32),
                    _ => (Kind::P384, 48),
                };
                let (x, y) = (part(&self.x)?, part(&self.y)?);
                if x.len() != length || y.len() != length {
                    return Err("is not a point of its curve");
                }
                let point = [&[4][..], &x, &y].concat();
                (kind, DecodingKey::from_ec_der(&point), [x, y])
            }
            ("OKP", Some("Ed25519")) => {
                let x = part(&self.x)?;
                if x.len() != 32 {
                    return Err("is not an Ed25519 key");
                }
                (Kind::Ed25519, DecodingKey::from_ed_der(&x), [x, Vec::new()])
            }
            ("oct", _) => {
                return Err("is a shared secret, which anybody who checks could sign with");
            }
            _ => return Err("is of a type that is not known"),
        };
        let mut material = format!("{kind:?}").into_bytes();
        for part in parts {
            material.extend((part.len() as u64).to_be_bytes());
            material.extend(part);
        }
        Ok((kind, decoding, material))
    }
}

/// A number in big-endian bytes, without zeros before it.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    &number[zeros..]
}
