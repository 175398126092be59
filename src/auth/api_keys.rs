//! API keys: long random texts, of which the server's file holds hashes alone.
//!
//! SHA-256 without salt or rounds is enough for them, and for them only: nobody finds 256 random bits by
//! trying. A password must not be one.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{Method, Principal, Proof, good_claims, in_time, is_name, shown};
use crate::error::Error;

/// How many there may be: a call is compared with all of them.
const MAX_KEYS: usize = 10_000;

/// The fewest characters of a key that was not made by Weir. Shorter ones are likely to be guessed.
pub const MIN_KEY_CHARS: usize = 32;

/// What every key that Weir makes begins with, so that scanners for secrets know it.
const PREFIX: &str = "weir_";

/// The random bytes of a key that Weir makes.
const RANDOM_BYTES: usize = 32;

/// A key, to be shown once and then forgotten.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let mut bytes = [0; RANDOM_BYTES];
        aws_lc_rs::rand::fill(&mut bytes)?;
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// The key itself.
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

    /// Takes a key that was made elsewhere, if it can be sent and is long enough.
    fn from_str(text: &str) -> Result<Self, String> {
        if !is_api_key(text) {
            return Err(
                "a key is of letters, digits and -._~+/=, and must not look like a JWT, with two dots"
                    .to_owned(),
            );
        }
        if text.len() < MIN_KEY_CHARS {
            return Err(format!(
                "a key has at least {MIN_KEY_CHARS} characters, and those at random: what is shorter \
                 can be guessed from its hash"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl ApiKey {
    /// What the server's file holds of it: 64 hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> String {
        hash(&self.0).iter().map(|it| format!("{it:02x}")).collect()
    }
}

/// Whether a text can be sent as an API key, in either header.
#[must_use]
pub fn is_api_key(text: &str) -> bool {
    shown::is_token(text) && !shown::looks_like_jwt(text)
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    #[serde(default)]
    claims: Map<String, Value>,
    expires: Option<String>,
}

/// The keys in force.
#[derive(Debug, Default)]
pub(super) struct ApiKeys {
    entries: Vec<([u8; 32], Principal)>,
    /// Where each is, for hashes that nobody has tried to guess.
    places: HashMap<[u8; 32], usize>,
}

impl ApiKeys {
    /// Reads the file's contents.
    pub(super) fn parse(yaml: &[u8]) -> Result<Self, String> {
        let file: File = serde_saphyr::from_slice(yaml)
            // Without the lines around it, which the log need not have.
            .map_err(|error| error.without_snippet().to_string())?;
        if file.keys.len() > MAX_KEYS {
            return Err(format!("there are more than {MAX_KEYS} keys"));
        }
        let mut names = HashSet::new();
        let mut places = HashMap::new();
        let mut entries = Vec::with_capacity(file.keys.len());
        for (at, entry) in file.keys.into_iter().enumerate() {
            let failed = |why: &str| format!("keys[{at}]: {why}");
            let (hash, principal) = entry.read().map_err(|why| failed(&why))?;
            if !names.insert(principal.name.clone()) {
                return Err(failed("another key has the same name"));
            }
            if places.insert(hash, at).is_some() {
                return Err(failed("another entry has the same sha256"));
            }
            entries.push((hash, principal));
        }
        Ok(Self { entries, places })
    }

    /// Whose key it is. Takes as long for any key, whichever it is or is like.
    pub(super) fn judge(&self, key: &str) -> Result<Principal, Error> {
        let hash = hash(key);
        let mut found = None;
        for (known, principal) in &self.entries {
            if verify_slices_are_equal(known, &hash).is_ok() {
                found = Some(principal);
            }
        }
        let found = found.ok_or(Error::CredentialsInvalid("the API key is not known"))?;
        in_time(found.clone())
    }

    /// Whose key has this hash now: one that was judged before. Every open watch may ask that at once.
    pub(super) fn renew(&self, hash: &[u8; 32]) -> Option<&Principal> {
        let place = self.places.get(hash)?;
        Some(&self.entries[*place].1)
    }
}

impl Entry {
    fn read(self) -> Result<([u8; 32], Principal), String> {
        if !is_name(&self.name) {
            return Err(
                "the name is empty, too long, or has spaces around or control characters"
                    .to_owned(),
            );
        }
        let hash = from_hex(&self.sha256).ok_or("sha256 is not 64 hexadecimal digits")?;
        if !good_claims(&self.claims) {
            return Err("the claims are nested too deeply, or too many".to_owned());
        }
        let expires = match &self.expires {
            None => None,
            Some(time) => Some(read_time(time)?),
        };
        let principal = Principal {
            method: Method::Key,
            name: self.name,
            claims: self.claims,
            expires,
            proof: Proof::Key(hash),
        };
        Ok((hash, principal))
    }
}

fn read_time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text)
        .map_err(|_| "expires is not a time such as 2027-01-31T12:00:00Z, in UTC".to_owned())
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|it| it.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
