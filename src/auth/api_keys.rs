//! API keys: long random texts. The server's file holds only their hashes.
//!
//! SHA-256 without salt or rounds is enough for keys of 256 random bits, which nobody can guess. It is not
//! enough for passwords, which must not be used as keys.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    credentials,
    principal::{
        CredentialFingerprint, MAX_CLAIM_DEPTH, MAX_CLAIM_VALUES, MAX_NAME_BYTES, Method,
        Principal, check_expiry, claims_within_bounds, is_valid_principal_name,
    },
};
use crate::{digest::sha256, error::Error, yaml};

/// The maximum number of keys: each call is compared with all of them.
const MAX_KEYS: usize = 10_000;

/// The minimum length of a key that Weir did not create. Shorter keys could be guessed.
pub const MIN_KEY_CHARS: usize = 32;

/// The prefix of all keys that Weir creates, for secret scanners.
const KEY_PREFIX: &str = "weir_";

/// The number of random bytes in a key.
const RANDOM_BYTES: usize = 32;

/// An API key in plain text, to be printed once.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// Creates a new random key.
    ///
    /// # Errors
    /// Fails if the system provides no randomness.
    pub fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let mut bytes = [0; RANDOM_BYTES];
        aws_lc_rs::rand::fill(&mut bytes)?;
        Ok(Self(format!(
            "{KEY_PREFIX}{}",
            URL_SAFE_NO_PAD.encode(bytes)
        )))
    }

    /// Returns the key in plain text.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey")
    }
}

impl std::str::FromStr for ApiKey {
    type Err = String;

    /// Accepts a key that was created elsewhere, if it can be sent in a header and is long enough.
    fn from_str(text: &str) -> Result<Self, String> {
        if !is_api_key(text) {
            return Err(
                "a key consists of letters, digits and -._~+/=, and must not have exactly two dots, as a JWT has"
                    .to_owned(),
            );
        }
        if text.len() < MIN_KEY_CHARS {
            return Err(format!(
                "a key must have at least {MIN_KEY_CHARS} random characters: a shorter one can be guessed from its \
                                 hash"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl ApiKey {
    /// Returns the hash as the server's file holds it: 64 hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> String {
        hash(&self.0).iter().map(|it| format!("{it:02x}")).collect()
    }
}

/// Returns whether a text can be sent as an API key, in either header.
#[must_use]
pub fn is_api_key(text: &str) -> bool {
    credentials::is_token(text) && !credentials::looks_like_jwt(text)
}

fn hash(key: &str) -> [u8; 32] {
    sha256(key.as_bytes())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    sha256: String,
    #[serde(default, deserialize_with = "yaml::mapping")]
    claims: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "yaml::non_null")]
    expires: Option<String>,
}

/// The keys in force.
#[derive(Debug, Default)]
pub(super) struct ApiKeys {
    entries: Vec<([u8; 32], Principal)>,
    /// The index of each key by its hash. Only for keys that were verified before, because the lookup takes
    /// no constant time.
    index_by_hash: HashMap<[u8; 32], usize>,
}

impl ApiKeys {
    /// Parses the contents of the key file.
    pub(super) fn parse(yaml: &[u8]) -> Result<Self, String> {
        let file: KeyFile = yaml::read(yaml)?;
        if file.keys.len() > MAX_KEYS {
            return Err(format!(
                "keys: has more than {MAX_KEYS} entries: remove those that are no longer used"
            ));
        }
        let mut names = HashSet::new();
        let mut index_by_hash = HashMap::new();
        let mut entries = Vec::with_capacity(file.keys.len());
        for (at, entry) in file.keys.into_iter().enumerate() {
            let failed = |why: &str| format!("keys[{at}]: {why}");
            let (hash, principal) = entry.into_principal().map_err(|why| failed(&why))?;
            if !names.insert(principal.name.clone()) {
                return Err(failed(
                    "another key has the same name: give each key its own name",
                ));
            }
            if index_by_hash.insert(hash, at).is_some() {
                return Err(failed(
                    "another key has the same sha256: remove one of them",
                ));
            }
            entries.push((hash, principal));
        }
        Ok(Self {
            entries,
            index_by_hash,
        })
    }

    /// Returns whether any key expires.
    pub(super) fn any_expires(&self) -> bool {
        let mut principals = self.entries.iter().map(|(_, principal)| principal);
        principals.any(|principal| principal.expires.is_some())
    }

    /// Returns the principal of a key. Takes the same time for every key.
    pub(super) fn verify(&self, key: &str) -> Result<Principal, Error> {
        let hash = hash(key);
        let mut found = None;
        for (stored, principal) in &self.entries {
            if verify_slices_are_equal(stored, &hash).is_ok() {
                found = Some(principal);
            }
        }
        let found = found.ok_or(Error::CredentialsInvalid("the API key is unknown"))?;
        check_expiry(found.clone())
    }

    /// Returns the principal of a key that was verified before. Fast, because all open watches may call this
    /// at once.
    pub(super) fn find_by_hash(&self, hash: &[u8; 32]) -> Option<&Principal> {
        let index = self.index_by_hash.get(hash)?;
        Some(&self.entries[*index].1)
    }
}

impl ApiKeys {
    /// Returns the principal of the key with a name.
    pub(super) fn find_by_name(&self, name: &str) -> Option<&Principal> {
        let mut principals = self.entries.iter().map(|(_, principal)| principal);
        principals.find(|it| it.name == name)
    }
}

impl KeyEntry {
    fn into_principal(self) -> Result<([u8; 32], Principal), String> {
        if !is_valid_principal_name(&self.name) {
            return Err(format!(
                "name must have 1 to {MAX_NAME_BYTES} bytes, no white space at its ends, and no control characters"
            ));
        }
        let hash = parse_sha256(&self.sha256).ok_or(
            "sha256 is not 64 hexadecimal digits: take it from the output of weir hash-key",
        )?;
        let claims = self.claims.unwrap_or_default();
        let wrong = |name: &&String| {
            name.is_empty() || name.trim() != *name || name.contains(char::is_control)
        };
        if let Some(name) = claims.keys().find(wrong) {
            return Err(format!(
                "claims: the name {name:?} is empty, or has control characters or white space at an end: no policy can ask for it"
            ));
        }
        if !claims_within_bounds(&claims) {
            return Err(format!(
                "claims has too many values or levels: use at most {MAX_CLAIM_VALUES} values in {MAX_CLAIM_DEPTH} levels"
            ));
        }
        let expires = match &self.expires {
            None => None,
            Some(time) => Some(parse_expiry(time)?),
        };
        let principal = Principal {
            method: Method::Key,
            name: self.name,
            claims,
            expires,
            fingerprint: CredentialFingerprint::ApiKey(hash),
        };
        Ok((hash, principal))
    }
}

fn parse_expiry(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text)
        .map_err(|_| "expires must be a time in UTC, such as 2027-01-31T12:00:00Z".to_owned())
}

fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|it| it.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
