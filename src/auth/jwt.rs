//! Bearer tokens: JSON Web Tokens signed by an issuer (RFC 7519, RFC 8725).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    key_fetcher::KeyFetcher,
    key_set::{KeyLookup, KeySet},
    principal::{
        CredentialFingerprint, Method, Principal, check_expiry, claims_within_bounds,
        is_valid_principal_name,
    },
    settings::JwtSettings,
};
use crate::{
    error::Error,
    limit::{Limit, Turns},
    model::Caller,
};

/// The maximum length of a key ID, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;

const BAD_TOKEN: &str = "the bearer token can't be read as a JWT";
/// Does not reveal which check has failed.
const BAD_SIGNATURE: &str = "the bearer token is not signed by a trusted key";
const BAD_ISSUER: &str = "the bearer token is from another issuer (iss) than this server accepts";
const BAD_NAME: &str = "the bearer token lacks a valid claim with the name of its principal";

/// Verifies tokens with the keys in force.
#[derive(Debug)]
pub(super) struct JwtVerifier {
    settings: JwtSettings,
    /// `None` until the first fetch.
    keys: ArcSwapOption<KeySet>,
    /// Fetches missing keys.
    pub(super) fetcher: Option<KeyFetcher>,
    /// Who may verify a signature now: half of the threads, as each takes up to half a millisecond, and strangers may
    /// send as many as they like.
    turns: Turns<Caller>,
}

/// The parts of a token's header that are used. Duplicate members are an error.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// `true` if the token has critical extensions, none of which is supported.
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

fn is_present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl JwtVerifier {
    pub(super) fn new(
        settings: JwtSettings,
        keys: Option<KeySet>,
        fetcher: Option<KeyFetcher>,
    ) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            settings,
            keys: ArcSwapOption::new(keys.map(Arc::new)),
            fetcher,
            turns: Turns::new(Limit::new("signatures", (threads / 2).max(1)), usize::MAX),
        }
    }

    /// Puts keys in force. Returns whether they differ from the previous ones.
    pub(super) fn replace_keys(&self, keys: &Arc<KeySet>) -> bool {
        let is_new = self
            .keys
            .load()
            .as_ref()
            .is_none_or(|it| !it.has_same_keys(keys));
        if is_new {
            self.keys.store(Some(Arc::clone(keys)));
        }
        is_new
    }

    /// Returns whether a key is in force.
    pub(super) fn has_key(&self, thumbprint: &[u8; 32]) -> bool {
        let keys = self.keys.load();
        keys.as_ref().is_some_and(|keys| keys.contains(thumbprint))
    }

    /// Returns the principal of a token.
    pub(super) async fn verify(
        &self,
        token: &str,
        from: Option<SocketAddr>,
    ) -> Result<Principal, Error> {
        let header = parse_header(token).ok_or(invalid(BAD_TOKEN))?;
        let algorithm: Algorithm = header.alg.parse().map_err(|_| invalid(BAD_SIGNATURE))?;
        if !self.settings.algorithms.contains(&algorithm) {
            return Err(invalid(BAD_SIGNATURE));
        }
        let id = header.kid.as_deref();
        let cached = self.keys.load_full();
        if let Some(keys) = &cached
            && !matches!(keys.find(id, algorithm), KeyLookup::UnknownId)
        {
            return self
                .verify_in_turn(keys, token, (id, algorithm), from)
                .await;
        }
        let Some(fetcher) = &self.fetcher else {
            return Err(invalid(BAD_SIGNATURE));
        };
        // Tokens of strangers may use up the allowed fetches. Without a fetch, an unknown key can't be
        // called invalid.
        let is_up_to_date = fetcher.refresh().await;
        let keys = self.keys.load_full().ok_or(Error::KeysUnavailable)?;
        match keys.find(id, algorithm) {
            KeyLookup::UnknownId if !is_up_to_date => Err(Error::KeysUnavailable),
            _ => {
                self.verify_in_turn(&keys, token, (id, algorithm), from)
                    .await
            }
        }
    }

    /// Verifies a token when it is the turn of the address that it comes from.
    async fn verify_in_turn(
        &self,
        keys: &KeySet,
        token: &str,
        (id, algorithm): (Option<&str>, Algorithm),
        from: Option<SocketAddr>,
    ) -> Result<Principal, Error> {
        let from = Caller::at(from.map(|it| it.ip()));
        let turn = self.turns.acquire(&from).await;
        let verified = self.verify_with(keys, token, id, algorithm);
        drop(turn);
        // So that other tasks run before the next turn begins on this thread.
        tokio::task::yield_now().await;
        verified
    }

    fn verify_with(
        &self,
        keys: &KeySet,
        token: &str,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Principal, Error> {
        let KeyLookup::Found(key) = keys.find(id, algorithm) else {
            return Err(invalid(BAD_SIGNATURE));
        };
        let validation = self.validation(algorithm);
        let decoded = jsonwebtoken::decode(token, key.decoding_key(), &validation);
        let claims: Map<String, Value> = decoded.map_err(|error| rejection(&error))?.claims;
        // The library would accept a list of issuers, which identifies none.
        if claims.get("iss").and_then(Value::as_str) != Some(&self.settings.issuer) {
            return Err(invalid(BAD_ISSUER));
        }
        if !claims_within_bounds(&claims) {
            return Err(invalid(BAD_TOKEN));
        }
        let name = claims
            .get(&self.settings.name_claim)
            .and_then(Value::as_str);
        let name = name
            .filter(|name| is_valid_principal_name(name))
            .ok_or(invalid(BAD_NAME))?;
        check_expiry(Principal {
            method: Method::Jwt,
            name: name.to_owned(),
            expires: Some(self.expiry(&claims)?),
            claims,
            fingerprint: CredentialFingerprint::SigningKey(key.thumbprint()),
        })
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&self.settings.audiences);
        validation.leeway = self.settings.leeway.as_secs();
        validation.validate_nbf = true;
        validation
    }

    /// Returns the time until which a token is accepted. A time beyond the clock's range is an error.
    fn expiry(&self, claims: &Map<String, Value>) -> Result<SystemTime, Error> {
        let seconds = claims.get("exp").and_then(Value::as_f64);
        let end = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let end = end.and_then(|end| end.checked_add(self.settings.leeway));
        let end = end.and_then(|end| SystemTime::UNIX_EPOCH.checked_add(end));
        end.ok_or(invalid(BAD_TOKEN))
    }
}

fn invalid(why: &'static str) -> Error {
    Error::CredentialsInvalid(why)
}

/// Parses a token's header, which is not verified yet.
fn parse_header(token: &str) -> Option<Header> {
    let (header, _) = token.split_once('.')?;
    let json = URL_SAFE_NO_PAD.decode(header).ok()?;
    let header: Header = serde_json::from_slice(&json).ok()?;
    let is_short = header
        .kid
        .as_ref()
        .is_none_or(|id| id.len() <= MAX_KEY_ID_BYTES);
    (!header.crit && is_short).then_some(header)
}

/// Returns the error for the caller. It may be specific once the signature is valid, because the caller can
/// read the token anyway.
fn rejection(error: &jsonwebtoken::errors::Error) -> Error {
    invalid(match error.kind() {
        ErrorKind::ExpiredSignature => return Error::CredentialsExpired,
        ErrorKind::InvalidIssuer => BAD_ISSUER,
        ErrorKind::InvalidAudience => {
            "the bearer token is for another audience (aud) than this server"
        }
        ErrorKind::ImmatureSignature => "the bearer token is not valid yet (nbf)",
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
            "the bearer token lacks a usable exp, iss or aud"
        }
        ErrorKind::InvalidSignature => BAD_SIGNATURE,
        _ => BAD_TOKEN,
    })
}
