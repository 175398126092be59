//! Encryption of resume tokens, so that clients can neither read nor forge them.
//!
//! ```text
//! version 1 | key 4 | an envelope of version 1 or 2, encrypted | tag 16
//! ```
//!
//! AES-256-GCM-SIV with one constant nonce, since this cipher tolerates repeated nonces: equal positions
//! have equal tokens on every replica, and two tokens show nothing but whether they are equal.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, BytesMut};

use super::{
    hash::hash,
    malformed::{MalformedToken, TOO_SHORT},
};

/// The version of an encrypted envelope.
pub(super) const VERSION: u8 = 3;

const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN;
const TAG_LEN: usize = 16;

/// The number of bytes that encryption adds to an envelope.
pub(super) const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

const CHANGED: &str = "was truncated or changed, or is not a token of Weir: store tokens as bytes, and send \
                       them unchanged";

/// The length of a key, in bytes.
const KEY_LEN: usize = 32;

/// Token keys, which can be replaced while they are in use. The first one encrypts, all of them decrypt:
/// so a new key can be added on all replicas before any of them uses it, and an old one can be removed
/// when no client has a token of it any more.
pub struct TokenKeys(ArcSwap<Keys>);

struct Keys {
    first: Key,
    others: Vec<Key>,
    /// The lines of keys that are not random.
    weak_lines: Vec<usize>,
}

struct Key {
    /// The identifier in tokens: a hash, which does not reveal the key.
    id: [u8; KEY_ID_LEN],
    cipher: LessSafeKey,
}

/// Shows the identifiers of the keys, never the keys.
impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.load().all().map(|key| key.id))
            .finish()
    }
}

impl TokenKeys {
    /// Parses keys: one on each line, 32 bytes in base64. A `#` starts a comment.
    ///
    /// # Errors
    /// A message with the number of the line and never its content.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(ArcSwap::from_pointee(Keys::parse(text)?)))
    }

    /// Replaces all keys with those of another text.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); the keys stay unchanged.
    pub fn replace(&self, text: &str) -> Result<(), String> {
        self.0.store(Arc::new(Keys::parse(text)?));
        Ok(())
    }

    /// Returns the lines of the keys that can be guessed, since their bytes follow from the first ones.
    #[must_use]
    pub fn weak_lines(&self) -> Vec<usize> {
        self.0.load().weak_lines.clone()
    }

    /// Appends the envelope that `put` appends, encrypted.
    pub(super) fn encrypt(&self, out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
        let keys = self.0.load();
        let header = header(keys.first.id);
        out.put_slice(&header);
        let start = out.len();
        put(out);
        let tag = keys
            .first
            .cipher
            .seal_in_place_separate_tag(nonce(), Aad::from(header), &mut out[start..])
            .expect("an envelope is far shorter than what the cipher takes");
        out.put_slice(tag.as_ref());
    }

    /// Decrypts an envelope.
    pub(super) fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, MalformedToken> {
        let Some((start, body)) = sealed.split_first_chunk::<HEADER_LEN>() else {
            return Err(MalformedToken(TOO_SHORT));
        };
        let keys = self.0.load();
        let Some(key) = keys.all().find(|key| header(key.id) == *start) else {
            return Err(MalformedToken(
                "is encrypted with a key that this server does not have: add the key to --token-key-file, or start without a token",
            ));
        };
        let mut body = body.to_vec();
        let opened = key
            .cipher
            .open_in_place(nonce(), Aad::from(*start), &mut body)
            .map_err(|_| MalformedToken(CHANGED))?;
        let length = opened.len();
        body.truncate(length);
        Ok(body)
    }
}

impl Keys {
    fn parse(text: &str) -> Result<Self, String> {
        let (mut keys, mut weak_lines) = (Vec::new(), Vec::new());
        let mut lines: HashMap<[u8; KEY_ID_LEN], usize> = HashMap::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let bytes = STANDARD.decode(content).map_err(|_| {
                format!("line {line} is not base64: write {KEY_LEN} bytes in base64")
            })?;
            if bytes.len() != KEY_LEN {
                let length = bytes.len();
                return Err(format!(
                    "line {line} has {length} bytes: write {KEY_LEN} bytes in base64"
                ));
            }
            let key =
                Key::new(&bytes).ok_or_else(|| format!("the key on line {line} can't be used"))?;
            if let Some(before) = lines.insert(key.id, line) {
                return Err(format!(
                    "line {line} has the same key as line {before}: remove one of them"
                ));
            }
            if is_weak(&bytes) {
                weak_lines.push(line);
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(format!(
                "the file has no key: write one per line, each {KEY_LEN} bytes in base64"
            ));
        }
        Ok(Self {
            first: keys.remove(0),
            others: keys,
            weak_lines,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: hash(b"token key", bytes),
            cipher: LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, bytes).ok()?),
        })
    }
}

/// Returns whether the bytes of a key repeat, as those of a key of zeros do, or count up or down. The chance that
/// random ones do is below 2^-120.
fn is_weak(bytes: &[u8]) -> bool {
    let repeats = |period: usize| bytes.iter().skip(period).eq(&bytes[..bytes.len() - period]);
    let mut steps = bytes.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
    let first_step = steps.next();
    (1..=bytes.len() / 2).any(repeats) || steps.all(|step| Some(step) == first_step)
}

fn header(id: [u8; KEY_ID_LEN]) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = id;
    [VERSION, a, b, c, d]
}

/// The constant nonce. AES-GCM-SIV derives the actual nonce from the plaintext.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}
