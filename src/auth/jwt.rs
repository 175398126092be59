//! Bearer tokens: signed statements of an issuer on who their holder is (RFC 7519, RFC 8725).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    JwtSettings, Method, Principal, Proof, good_claims, in_time, is_name,
    key_set::{Found, KeySet},
    remote::Remote,
};
use crate::error::Error;

/// The longest key id that is looked for, in bytes.
const MAX_ID_BYTES: usize = 256;

const BAD_TOKEN: &str = "the bearer token can't be read as a JWT";
/// Does not tell what else it would take.
const BAD_SIGNATURE: &str = "the bearer token is not signed by a key that is trusted here";
const BAD_ISSUER: &str = "the bearer token is of another issuer";
const BAD_NAME: &str = "the bearer token does not name its holder in a way that can be used";

/// Judges tokens by the keys in force.
#[derive(Debug)]
pub(super) struct Jwts {
    settings: JwtSettings,
    /// `None` until they have been fetched for the first time.
    keys: ArcSwapOption<KeySet>,
    /// Where to fetch keys that are missing.
    pub(super) remote: Option<Remote>,
}

/// The header of a token, as far as anything hangs on it. That a member comes twice is an error.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    /// Whatever must be understood is not.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl Jwts {
    pub(super) fn new(settings: JwtSettings, keys: Option<KeySet>, remote: Option<Remote>) -> Self {
        Self {
            settings,
            keys: ArcSwapOption::new(keys.map(Arc::new)),
            remote,
        }
    }

    /// Puts keys in force, and gives whether they are others than before.
    pub(super) fn put(&self, keys: &Arc<KeySet>) -> bool {
        let is_new = self.keys.load().as_ref().is_none_or(|it| !it.equals(keys));
        if is_new {
            self.keys.store(Some(Arc::clone(keys)));
        }
        is_new
    }

    /// Whether a key is still in force.
    pub(super) fn holds(&self, thumbprint: &[u8; 32]) -> bool {
        let keys = self.keys.load();
        keys.as_ref().is_some_and(|keys| keys.holds(thumbprint))
    }

    /// Whose token it is.
    pub(super) async fn judge(&self, token: &str) -> Result<Principal, Error> {
        let head = head(token).ok_or(invalid(BAD_TOKEN))?;
        let algorithm: Algorithm = head.alg.parse().map_err(|_| invalid(BAD_SIGNATURE))?;
        if !self.settings.algorithms.contains(&algorithm) {
            return Err(invalid(BAD_SIGNATURE));
        }
        let id = head.kid.as_deref();
        let known = self.keys.load_full();
        if let Some(keys) = &known
            && !matches!(keys.find(id, algorithm), Found::UnknownId)
        {
            return self.judge_by(keys, token, id, algorithm);
        }
        let Some(remote) = &self.remote else {
            return Err(invalid(BAD_SIGNATURE));
        };
        // Strangers may use up the fetches: without one for this token, it can't be said to be bad.
        let is_up_to_date = remote.refreshed().await;
        let keys = self.keys.load_full().ok_or(Error::KeysUnavailable)?;
        match keys.find(id, algorithm) {
            Found::UnknownId if !is_up_to_date => Err(Error::KeysUnavailable),
            _ => self.judge_by(&keys, token, id, algorithm),
        }
    }

    fn judge_by(
        &self,
        keys: &KeySet,
        token: &str,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Principal, Error> {
        let Found::One(key) = keys.find(id, algorithm) else {
            return Err(invalid(BAD_SIGNATURE));
        };
        let validation = self.validation(algorithm);
        let decoded = jsonwebtoken::decode(token, key.decoding(), &validation);
        let claims: Map<String, Value> = decoded.map_err(|error| explain(&error))?.claims;
        // A list of issuers would do for the library, and says nothing.
        if claims.get("iss").and_then(Value::as_str) != Some(&self.settings.issuer) {
            return Err(invalid(BAD_ISSUER));
        }
        if !good_claims(&claims) {
            return Err(invalid(BAD_TOKEN));
        }
        let name = claims
            .get(&self.settings.name_claim)
            .and_then(Value::as_str);
        let name = name.filter(|name| is_name(name)).ok_or(invalid(BAD_NAME))?;
        in_time(Principal {
            method: Method::Jwt,
            name: name.to_owned(),
            expires: Some(self.end_of(&claims)?),
            claims,
            proof: Proof::Signature(key.thumbprint()),
        })
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&self.settings.audience);
        validation.leeway = self.settings.leeway.as_secs();
        validation.validate_nbf = true;
        validation
    }

    /// Until when a token is taken. One beyond what the clock can say holds for no time at all.
    fn end_of(&self, claims: &Map<String, Value>) -> Result<SystemTime, Error> {
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

/// A token's header, which nothing vouches for yet.
fn head(token: &str) -> Option<Head> {
    let (head, _) = token.split_once('.')?;
    let json = URL_SAFE_NO_PAD.decode(head).ok()?;
    let head: Head = serde_json::from_slice(&json).ok()?;
    let is_short = head.kid.as_ref().is_none_or(|id| id.len() <= MAX_ID_BYTES);
    (!head.crit && is_short).then_some(head)
}

/// What the caller is told. Of a token whose signature holds, what is wrong may be said: it is no secret
/// from whoever has it.
fn explain(error: &jsonwebtoken::errors::Error) -> Error {
    invalid(match error.kind() {
        ErrorKind::ExpiredSignature => return Error::CredentialsExpired,
        ErrorKind::InvalidIssuer => BAD_ISSUER,
        ErrorKind::InvalidAudience => "the bearer token is for another audience",
        ErrorKind::ImmatureSignature => "the bearer token is not valid yet",
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
            "the bearer token lacks a usable exp, iss or aud"
        }
        ErrorKind::InvalidSignature => BAD_SIGNATURE,
        _ => BAD_TOKEN,
    })
}
