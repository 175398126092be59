//! Callers, once their credentials are verified.

use std::{net::SocketAddr, time::SystemTime};

use serde_json::{Map, Value};

use crate::{error::Error, model::Caller};

/// The maximum length of a principal's name, in bytes.
pub const MAX_NAME_BYTES: usize = 512;

/// The length at which names are truncated in logs, in bytes.
const MAX_LOGGED_BYTES: usize = 128;

/// The maximum nesting depth of claims.
pub(super) const MAX_CLAIM_DEPTH: usize = 8;

/// The maximum number of values in claims.
pub(super) const MAX_CLAIM_VALUES: usize = 1_000;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// The kind of its credentials.
    pub method: Method,
    /// Its name, unique within its method: a token's subject, a key's name, or a certificate's SAN.
    pub name: String,
    /// Its other attributes.
    pub claims: Map<String, Value>,
    /// The time at which its credentials expire.
    pub expires: Option<SystemTime>,
    /// Identifies the credentials, to tell later whether they are still valid.
    pub fingerprint: CredentialFingerprint,
}

/// Identifies the credentials of a principal: the SHA-256 of a key, never the secret itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CredentialFingerprint {
    /// No key: anonymous callers, and certificates, which the connection itself stands for.
    #[default]
    None,
    /// The public key that signed the token.
    SigningKey([u8; 32]),
    /// The API key.
    ApiKey([u8; 32]),
}

/// The kind of credentials of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// None, and none are required.
    None,
    /// A bearer token.
    Jwt,
    /// An API key.
    Key,
    /// A client certificate.
    Certificate,
}

impl Method {
    /// Returns the name of the method in policies and logs.
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
    /// Returns the principal of all callers of a server without authentication.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            method: Method::None,
            name: String::new(),
            claims: Map::new(),
            expires: None,
            fingerprint: CredentialFingerprint::None,
        }
    }

    /// Returns whom its watches belong to. Without authentication all callers are one principal, so that their
    /// addresses tell them apart.
    #[must_use]
    pub fn as_caller(&self, address: Option<SocketAddr>) -> Caller {
        match self.method {
            Method::None => Caller::at(address.map(|it| it.ip())),
            _ => Caller::Principal(self.to_string().into()),
        }
    }

    /// Returns the name for logs: truncated, and with control characters escaped.
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
    /// Formats the principal as policies write it: `jwt:alice`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.method {
            Method::None => f.write_str(self.method.name()),
            method => write!(f, "{}:{}", method.name(), self.name),
        }
    }
}

/// Returns whether a principal may have this name: not empty, not too long, no control characters, and no
/// white space around it.
#[must_use]
pub fn is_valid_principal_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.trim() == name
        && !name.chars().any(char::is_control)
}

/// Returns whether claims are within the bounds on depth and number. Every open watch keeps the claims of
/// its caller.
pub(super) fn claims_within_bounds(claims: &Map<String, Value>) -> bool {
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

/// Returns the principal, or an error if its credentials have expired.
pub(super) fn check_expiry(principal: Principal) -> Result<Principal, Error> {
    match principal.expires {
        Some(expires) if SystemTime::now() >= expires => Err(Error::CredentialsExpired),
        _ => Ok(principal),
    }
}
