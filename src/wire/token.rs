//! The envelope of resume tokens.
//!
//! ```text
//! version 1 | kind 1 | deployment 4 | scope 8 | plan 8 | seconds 4 | increment 4
//!     | audience 8, in version 2 | anchor 24, where the kind has one | token n | crc 4
//! ```
//!
//! It contains MongoDB's token unchanged. From the other fields Weir can tell a token of another
//! deployment or scope from a malformed one, and can fall back to a time when MongoDB no longer accepts
//! the token. Numbers are big-endian; hashes are truncated SHA-256.
//!
//! The token of an event is its identity for clients, so nothing in it depends on the stream that
//! delivered the event: `plan` is zero. Versions of Weir up to 0.2 wrote a hash of the plan, which is no
//! longer needed.
//!
//! A position between events (high water) also names the last event before it, its [`Anchor`]. A stream
//! that has this event knows exactly which event follows the position. Since another stream may have
//! further events between the two, such a token names its plan.
//!
//! MongoDB's token contains the document key, which may have any size. In place of a token over
//! [`MAX_MONGODB_TOKEN_LEN`] the envelope has 16 bytes: its digest, as in an anchor.
//!
//! Version 2 is for a view with a token audience, and contains it. Version 3 is an encrypted envelope
//! of version 1 or 2 ([`keys`]).

mod hash;
mod keys;
mod malformed;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    model::{Operation, Scope, TokenAudience},
    pipeline::Plan,
    source::{Anchor, ClusterTime, Event, Position},
};

use hash::hash;
use malformed::TOO_SHORT;

pub use keys::TokenKeys;
pub use malformed::MalformedToken;

const VERSION_WITHOUT_TOKEN_AUDIENCE: u8 = 1;
const VERSION_WITH_TOKEN_AUDIENCE: u8 = 2;
const KIND_EVENT: u8 = 0;
const KIND_HIGH_WATER: u8 = 1;
const KIND_INVALIDATE: u8 = 2;
const KIND_TIME: u8 = 3;
const KIND_ANCHORED_HIGH_WATER: u8 = 4;
const KIND_EVENT_DIGEST: u8 = 5;

const PREFIX_LEN: usize = 1 + 1 + 4 + 8 + 8 + 4 + 4;
const CHECKSUM_LEN: usize = 4;
const DIGEST_LEN: usize = 16;
const ANCHOR_LEN: usize = 4 + 4 + DIGEST_LEN;
const TOKEN_AUDIENCE_LEN: usize = 8;

/// The common part of all tokens of one feed: their origin and their encryption keys, if any.
#[derive(Debug, Clone)]
pub struct TokenContext {
    origin: Origin,
    keys: Option<Arc<TokenKeys>>,
}

/// The origin of a token: hashes of the deployment's name, the scope and the plan. Which plan it was
/// is of use only to an anchor, so the plan is zero in a token without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin {
    deployment: [u8; 4],
    scope: [u8; 8],
    plan: [u8; 8],
}

/// The fields of an envelope that differ between the tokens of one feed.
struct Envelope<'a> {
    kind: u8,
    time: ClusterTime,
    token_audience: Option<TokenAudience>,
    anchor: Option<&'a Anchor>,
    token: &'a [u8],
}

impl TokenContext {
    /// Returns the context of `plan` on the deployment with this name.
    #[must_use]
    pub fn new(deployment: &str, plan: &Plan) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = plan.fingerprint();
        Self {
            origin: Origin {
                deployment: hash(b"deployment", deployment.as_bytes()),
                scope: Self::scope_hash(plan.scope()),
                plan: [a, b, c, d, e, f, g, h],
            },
            keys: None,
        }
    }

    /// Sets the keys that encrypt the tokens; `None` leaves them unencrypted.
    #[must_use]
    pub fn with_keys(self, keys: Option<Arc<TokenKeys>>) -> Self {
        Self { keys, ..self }
    }

    /// Returns the keys that encrypt the tokens.
    #[must_use]
    pub fn keys(&self) -> Option<&TokenKeys> {
        self.keys.as_deref()
    }

    fn scope_hash(scope: &Scope) -> [u8; 8] {
        hash(b"scope", &scope.canonical_bytes())
    }

    /// Returns the token for a position. `anchor` is the last event before a high-water position, if
    /// known; `token_audience` limits who may resume from it.
    #[must_use]
    pub fn encode(
        &self,
        position: &Position,
        anchor: Option<&Anchor>,
        token_audience: Option<TokenAudience>,
    ) -> Bytes {
        let (kind, anchor, token) = match (position, anchor) {
            (Position::Event { token, .. }, _) => (KIND_EVENT, None, token.as_ref()),
            (Position::HighWater { token, .. }, None) => (KIND_HIGH_WATER, None, token.as_ref()),
            (Position::HighWater { token, .. }, Some(_)) => {
                (KIND_ANCHORED_HIGH_WATER, anchor, token.as_ref())
            }
            (Position::Invalidate { token, .. }, _) => (KIND_INVALIDATE, None, token.as_ref()),
            (Position::EventDigest(event), _) => (KIND_EVENT_DIGEST, None, event.digest.as_slice()),
            (Position::Time(_), _) => (KIND_TIME, None, [].as_slice()),
        };
        let mut out = BytesMut::with_capacity(self.encoded_len(token, token_audience) + ANCHOR_LEN);
        self.put(
            &mut out,
            Envelope {
                kind,
                time: position.time(),
                token_audience,
                anchor,
                token,
            },
        );
        out.freeze()
    }

    /// Appends the token for the position right after `event`, whose bytes are in `buffer`.
    pub(super) fn put_event(
        &self,
        out: &mut BytesMut,
        buffer: &[u8],
        event: &Event,
        token_audience: Option<TokenAudience>,
    ) {
        let kind = if event.operation == Operation::Invalidate {
            KIND_INVALIDATE
        } else {
            KIND_EVENT
        };
        self.put(
            out,
            Envelope {
                kind,
                time: event.cluster_time,
                token_audience,
                anchor: None,
                token: &buffer[event.token.clone()],
            },
        );
    }

    /// Returns the size of the envelope of MongoDB's `token` in bytes, without an anchor.
    pub(super) fn encoded_len(&self, token: &[u8], token_audience: Option<TokenAudience>) -> usize {
        let token = if fits(token) { token.len() } else { DIGEST_LEN };
        self.overhead(token_audience) + token
    }

    /// Returns the number of bytes in addition to MongoDB's token, without an anchor.
    fn overhead(&self, token_audience: Option<TokenAudience>) -> usize {
        let token_audience = token_audience.map_or(0, |_| TOKEN_AUDIENCE_LEN);
        let keys = self.keys.as_ref().map_or(0, |_| keys::OVERHEAD);
        PREFIX_LEN + token_audience + CHECKSUM_LEN + keys
    }

    fn put(&self, out: &mut BytesMut, envelope: Envelope<'_>) {
        let event;
        let envelope = if fits(envelope.token) {
            envelope
        } else {
            // Only events have long tokens, so the token of a high-water position is an event's too. Its
            // time may be later than the event's, and the event is looked up at its own.
            event = envelope
                .anchor
                .filter(|anchor| anchor.matches(envelope.token))
                .copied()
                .unwrap_or_else(|| Anchor::new(envelope.token, envelope.time));
            Envelope {
                kind: KIND_EVENT_DIGEST,
                time: event.time,
                anchor: None,
                token: &event.digest,
                ..envelope
            }
        };
        match &self.keys {
            None => self.origin.put(out, &envelope),
            Some(keys) => keys.encrypt(out, |out| self.origin.put(out, &envelope)),
        }
    }
}

impl Origin {
    fn put(&self, out: &mut BytesMut, envelope: &Envelope<'_>) {
        let start = out.len();
        out.put_u8(
            envelope
                .token_audience
                .map_or(VERSION_WITHOUT_TOKEN_AUDIENCE, |_| {
                    VERSION_WITH_TOKEN_AUDIENCE
                }),
        );
        out.put_u8(envelope.kind);
        out.put_slice(&self.deployment);
        out.put_slice(&self.scope);
        out.put_slice(envelope.anchor.map_or(&[0; 8], |_| &self.plan));
        out.put_u32(envelope.time.seconds);
        out.put_u32(envelope.time.increment);
        if let Some(token_audience) = envelope.token_audience {
            out.put_slice(&token_audience.0);
        }
        if let Some(anchor) = envelope.anchor {
            out.put_u32(anchor.time.seconds);
            out.put_u32(anchor.time.increment);
            out.put_slice(&anchor.digest);
        }
        out.put_slice(envelope.token);
        let checksum = crc32fast::hash(&out[start..]);
        out.put_u32(checksum);
    }
}

/// A decoded token from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeToken {
    origin: Origin,
    token_audience: Option<TokenAudience>,
    encrypted: bool,
    /// The position.
    pub position: Position,
    /// The last event before a high-water position, if known.
    pub anchor: Option<Anchor>,
}

/// The maximum size of an envelope, the limit of `WatchRequest.resume_token`.
const MAX_ENVELOPE_LEN: usize = 16 << 10;

/// The maximum size of MongoDB's token in an envelope. An envelope must fit into the details of an error
/// too: those are HTTP/2 trailers, which many peers limit to 8 KiB, and base64 is applied to them twice.
/// The bound is the same for all tokens, so that an event has the same token in every place.
const MAX_MONGODB_TOKEN_LEN: usize = 3 << 10;

/// Returns whether an envelope contains MongoDB's token itself.
fn fits(token: &[u8]) -> bool {
    token.len() <= MAX_MONGODB_TOKEN_LEN
}

impl ResumeToken {
    /// Decodes an envelope, encrypted or not.
    ///
    /// # Errors
    /// [`MalformedToken`] when it is truncated, corrupted, of another version, or not encrypted with one of
    /// `keys`.
    pub fn decode(bytes: &[u8], keys: Option<&TokenKeys>) -> Result<Self, MalformedToken> {
        if bytes.len() > MAX_ENVELOPE_LEN {
            return Err(MalformedToken(
                "is too long for a token of Weir: store tokens as bytes, and send them unchanged",
            ));
        }
        if bytes.first() != Some(&keys::VERSION) {
            return Self::decode_plain(bytes);
        }
        let Some(keys) = keys else {
            return Err(MalformedToken(
                "is encrypted, and this server has no token keys: set --token-key-file, or start without a token",
            ));
        };
        Ok(Self {
            encrypted: true,
            ..Self::decode_plain(&keys.decrypt(bytes)?)?
        })
    }

    /// Decodes an envelope that is not encrypted.
    fn decode_plain(bytes: &[u8]) -> Result<Self, MalformedToken> {
        let mut rest = checked_body(bytes)?;
        let [version] = take::<1>(&mut rest);
        if !matches!(
            version,
            VERSION_WITHOUT_TOKEN_AUDIENCE | VERSION_WITH_TOKEN_AUDIENCE
        ) {
            return Err(MalformedToken(
                "has a version that this server can't read: use a later server, or start without a token",
            ));
        }
        let [kind] = take::<1>(&mut rest);
        let origin = Origin {
            deployment: take(&mut rest),
            scope: take(&mut rest),
            plan: take(&mut rest),
        };
        let time = take_time(&mut rest);
        let mut token_audience = None;
        if version == VERSION_WITH_TOKEN_AUDIENCE {
            if rest.len() < TOKEN_AUDIENCE_LEN {
                return Err(MalformedToken(
                    "is too short for its version: store tokens as bytes, and send them unchanged",
                ));
            }
            token_audience = Some(TokenAudience(take(&mut rest)));
        }
        let mut anchor = None;
        if kind == KIND_ANCHORED_HIGH_WATER {
            if rest.len() < ANCHOR_LEN {
                return Err(MalformedToken(
                    "is too short for its kind: store tokens as bytes, and send them unchanged",
                ));
            }
            anchor = Some(Anchor {
                time: take_time(&mut rest),
                digest: take(&mut rest),
            });
        }
        Ok(Self {
            origin,
            token_audience,
            encrypted: false,
            position: position(kind, time, rest)?,
            anchor,
        })
    }

    /// Encodes the same position for another audience and with other keys.
    #[must_use]
    pub fn encode_for(
        &self,
        token_audience: Option<TokenAudience>,
        keys: Option<Arc<TokenKeys>>,
    ) -> Bytes {
        let origin = self.origin;
        TokenContext { origin, keys }.encode(&self.position, self.anchor.as_ref(), token_audience)
    }

    /// Returns the audience that may resume from this token; `None` for a view without an audience.
    #[must_use]
    pub fn token_audience(&self) -> Option<TokenAudience> {
        self.token_audience
    }

    /// Returns whether it was encrypted, which proves that Weir made it.
    #[must_use]
    pub fn was_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Returns whether the token is of the deployment of `token_context`.
    #[must_use]
    pub fn is_same_deployment(&self, token_context: &TokenContext) -> bool {
        self.origin.deployment == token_context.origin.deployment
    }

    /// Returns whether the token is of the database and the collections of `token_context`.
    #[must_use]
    pub fn is_same_scope(&self, token_context: &TokenContext) -> bool {
        self.origin.scope == token_context.origin.scope
    }

    /// Returns whether the pipeline of `token_context` made the token. `false` also if the token does not
    /// say which one did.
    #[must_use]
    pub fn is_same_plan(&self, token_context: &TokenContext) -> bool {
        self.origin.plan == token_context.origin.plan
    }
}

/// Returns an envelope without its checksum, after checking that. It is at least as long as the fields that
/// every envelope has.
fn checked_body(bytes: &[u8]) -> Result<&[u8], MalformedToken> {
    if bytes.len() < PREFIX_LEN + CHECKSUM_LEN {
        return Err(MalformedToken(TOO_SHORT));
    }
    let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM_LEN);
    if crc32fast::hash(body).to_be_bytes() != checksum {
        return Err(MalformedToken(
            "has a wrong checksum: it was truncated or changed, or is not a token of Weir; store tokens as bytes, and send them unchanged",
        ));
    }
    Ok(body)
}

/// Returns the position that an envelope of `kind` describes by its time and by `token`, which is MongoDB's
/// or its digest.
fn position(kind: u8, time: ClusterTime, token: &[u8]) -> Result<Position, MalformedToken> {
    // A copy, because the token outlives the request that contains it.
    let copied = || Bytes::copy_from_slice(token);
    Ok(match kind {
        KIND_TIME if token.is_empty() => Position::Time(time),
        KIND_EVENT_DIGEST if token.len() == DIGEST_LEN => Position::EventDigest(Anchor {
            time,
            digest: take(&mut &*token),
        }),
        KIND_EVENT => Position::Event {
            token: copied(),
            time,
        },
        KIND_HIGH_WATER | KIND_ANCHORED_HIGH_WATER => Position::HighWater {
            token: copied(),
            time,
        },
        KIND_INVALIDATE => Position::Invalidate {
            token: copied(),
            time,
        },
        _ => {
            return Err(MalformedToken(
                "has a kind that this server can't read: use a later server, or start without a token",
            ));
        }
    })
}

fn take_time(rest: &mut &[u8]) -> ClusterTime {
    ClusterTime {
        seconds: u32::from_be_bytes(take(rest)),
        increment: u32::from_be_bytes(take(rest)),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest
        .split_first_chunk()
        .expect("the length was checked against the prefix");
    *rest = tail;
    *head
}

#[cfg(test)]
mod tests;
