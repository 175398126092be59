//! Who calls: from what a request and its connection show, to a [`Principal`].
//!
//! [`shown`] finds what a request shows, [`jwt`] judges bearer tokens by the keys of a [`key_set`] that a
//! file holds or [`remote`] fetches, [`api_keys`] and [`certificate`] judge the rest. Whatever is shown and
//! is not good is refused, and never passed over for something else.

mod api_keys;
mod authenticator;
mod certificate;
mod jwt;
mod key_set;
mod remote;
mod shown;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};

use crate::error::Error;

pub use api_keys::{ApiKey, MIN_KEY_CHARS, is_api_key};
pub use authenticator::{Authenticator, SetupError, Upkeep};
pub use shown::API_KEY_HEADER;

/// The longest name of a principal, in bytes; whoever has a longer one is refused.
pub const MAX_NAME_BYTES: usize = 512;

/// The most of a name that is logged, in bytes.
const MAX_LOGGED_BYTES: usize = 128;

/// How deeply claims may be nested.
const MAX_CLAIM_DEPTH: usize = 8;

/// How many values claims may hold.
const MAX_CLAIM_VALUES: usize = 1_000;

/// Who calls, as far as that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// How it has shown who it is.
    pub method: Method,
    /// Its name among those of its method: a token's subject, a key's name, a certificate's SAN.
    pub name: String,
    /// What else is known of it.
    pub claims: Map<String, Value>,
    /// When what it has shown is no longer worth anything.
    pub expires: Option<SystemTime>,
    /// What its word rests on, to tell later whether it still does.
    pub proof: Proof,
}

/// What a principal's word rests on, apart from time: SHA-256 of that, and never the secret itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Proof {
    /// Nothing, or what the connection itself stands for.
    #[default]
    None,
    /// The public key that its token is signed with.
    Signature([u8; 32]),
    /// Its API key.
    Key([u8; 32]),
}

/// How a caller shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Not at all, and need not.
    None,
    /// A bearer token.
    Jwt,
    /// An API key.
    Key,
    /// A certificate of its connection.
    Certificate,
}

impl Method {
    /// As policies and logs name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "anonymous",
            Self::Jwt => "jwt",
            Self::Key => "key",
            Self::Certificate => "cert",
        }
    }
}

impl Principal {
    /// Whoever calls a server that asks nobody who they are.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            method: Method::None,
            name: String::new(),
            claims: Map::new(),
            expires: None,
            proof: Proof::None,
        }
    }

    /// As logs name it: bounded, and without characters that could pass for something else.
    #[must_use]
    pub fn for_logs(&self) -> String {
        let name = crate::error::truncate(&self.name, MAX_LOGGED_BYTES);
        match self.method {
            Method::None => self.method.name().to_owned(),
            method => format!("{}:{}", method.name(), name.escape_debug()),
        }
    }
}

impl std::fmt::Display for Principal {
    /// `jwt:alice`, as policies have it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.method {
            Method::None => f.write_str(self.method.name()),
            method => write!(f, "{}:{}", method.name(), self.name),
        }
    }
}

/// What a connection tells of who is at its other end; `tonic` puts it into each request's extensions.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Its address.
    pub address: Option<std::net::SocketAddr>,
    /// The certificate that it has shown, and that was checked against the authorities: DER.
    pub certificate: Option<Arc<[u8]>>,
}

/// Whom to believe. The default asks nobody.
#[derive(Debug, Clone, Default)]
pub struct AuthSettings {
    /// Bearer tokens, where they are taken.
    pub jwt: Option<JwtSettings>,
    /// The file of API keys, where they are taken.
    pub api_keys_file: Option<PathBuf>,
    /// Whether clients are known by the names in their certificates.
    pub certificates: bool,
    /// How often to look whether a file has changed.
    pub reload_interval: Duration,
}

/// Which bearer tokens are believed.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// Where the keys are that they are signed with.
    pub keys: JwtKeys,
    /// Who must have issued them.
    pub issuer: String,
    /// Whom they must be for, one of these.
    pub audience: Vec<String>,
    /// The signatures that are taken. None of a shared secret may be among them.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// How long after its time a token is still taken, and how long before.
    pub leeway: Duration,
    /// The claim that names whom a token is of.
    pub name_claim: String,
}

/// Where the keys of bearer tokens are.
#[derive(Debug, Clone)]
pub enum JwtKeys {
    /// In a file.
    File(PathBuf),
    /// At a URL.
    Url(RemoteKeys),
}

/// A set of keys to fetch.
#[derive(Debug, Clone)]
pub struct RemoteKeys {
    /// https, or http on this machine.
    pub url: String,
    /// The authorities that it is trusted by, PEM. `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// How often to fetch it.
    pub refresh_interval: Duration,
    /// For how long no token has it fetched again once one has.
    pub cooldown: Duration,
}

/// Whether a principal may have this name: one that can be told apart from others by looking at it.
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.trim() == name
        && !name.chars().any(char::is_control)
}

/// Whether claims are neither nested too deeply nor too many: every open watch keeps its caller's.
fn good_claims(claims: &Map<String, Value>) -> bool {
    fn count(value: &Value, depth: usize) -> Option<usize> {
        match value {
            Value::Array(values) => sum(values.iter(), depth.checked_sub(1)?),
            Value::Object(fields) => sum(fields.values(), depth.checked_sub(1)?),
            _ => Some(1),
        }
    }
    fn sum<'a>(values: impl Iterator<Item = &'a Value>, depth: usize) -> Option<usize> {
        values
            .map(|value| count(value, depth))
            .try_fold(1, |sum, more| Some(sum + more?))
    }
    sum(claims.values(), MAX_CLAIM_DEPTH).is_some_and(|count| count <= MAX_CLAIM_VALUES)
}

/// Whether a principal's time has passed.
fn in_time(principal: Principal) -> Result<Principal, Error> {
    match principal.expires {
        Some(expires) if SystemTime::now() >= expires => Err(Error::CredentialsExpired),
        _ => Ok(principal),
    }
}
