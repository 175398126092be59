//! The keys that resume tokens are encrypted with, so that they tell nothing and nobody can make one.
//!
//! ```text
//! version 1 | key 4 | an envelope of version 1 or 2, encrypted | tag 16
//! ```
//!
//! AES-256-GCM-SIV, made for nonces that repeat, with one nonce for all: equal places have equal tokens,
//! whichever replica makes them, and nothing else of two tokens can be compared.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, BytesMut};

use super::{MalformedToken, hash};

/// The version of an encrypted envelope.
pub(super) const VERSION: u8 = 3;

const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN;
const TAG_LEN: usize = 16;

/// How much longer an encrypted envelope is than the one in it.
pub(super) const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// The length of a key, in bytes.
const KEY_LEN: usize = 32;

/// Keys for tokens: the first encrypts, all decrypt. So a new one can be given to all replicas before any
/// of them uses it, and an old one taken away when no token of its time is left. They may be changed while
/// they are in use.
pub struct TokenKeys(ArcSwap<Keys>);

struct Keys {
    first: Key,
    others: Vec<Key>,
}

struct Key {
    /// Tells which one a token is encrypted with, and nothing about it.
    id: [u8; KEY_ID_LEN],
    cipher: LessSafeKey,
}

/// Shows which keys there are, and none of them.
impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.load().all().map(|key| key.id))
            .finish()
    }
}

impl TokenKeys {
    /// Reads keys, one a line, each 32 bytes in base64. What follows a `#` is a comment.
    ///
    /// # Errors
    /// In words, with the number of the line and nothing that is in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(ArcSwap::from_pointee(Keys::parse(text)?)))
    }

    /// Puts those of another text in the place of all that there are, for whoever holds them.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); the keys stay as they were.
    pub fn replace(&self, text: &str) -> Result<(), String> {
        self.0.store(Arc::new(Keys::parse(text)?));
        Ok(())
    }

    /// Appends an encrypted envelope around the one that `put` appends.
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

    /// The envelope in an encrypted one.
    pub(super) fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, MalformedToken> {
        let Some((start, body)) = sealed.split_first_chunk::<HEADER_LEN>() else {
            return Err(MalformedToken("is too short to be one of Weir's"));
        };
        let keys = self.0.load();
        let Some(key) = keys.all().find(|key| header(key.id) == *start) else {
            return Err(MalformedToken(
                "is encrypted with a key that this server does not have",
            ));
        };
        let mut body = body.to_vec();
        let opened = key
            .cipher
            .open_in_place(nonce(), Aad::from(*start), &mut body)
            .map_err(|_| MalformedToken("was cut short or changed, or is not one of Weir's"))?;
        let length = opened.len();
        body.truncate(length);
        Ok(body)
    }
}

impl Keys {
    fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        let mut lines: HashMap<[u8; KEY_ID_LEN], usize> = HashMap::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let bytes = STANDARD
                .decode(content)
                .map_err(|_| format!("line {line} is not base64"))?;
            if bytes.len() != KEY_LEN {
                let length = bytes.len();
                return Err(format!("line {line} holds {length} bytes; a key has {KEY}"));
            }
            let key = Key::new(&bytes).ok_or_else(|| format!("line {line} can't be used"))?;
            if let Some(before) = lines.insert(key.id, line) {
                return Err(format!("line {line} holds the same key as line {before}"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err("there is no key in it".to_owned());
        }
        Ok(Self {
            first: keys.remove(0),
            others: keys,
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

fn header(id: [u8; KEY_ID_LEN]) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = id;
    [VERSION, a, b, c, d]
}

/// The cipher takes the place of the nonce from the text itself.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}
