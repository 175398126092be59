//! The credentials that a server accepts.

use std::{path::PathBuf, time::Duration};

/// The accepted kinds of credentials. The default disables authentication.
#[derive(Debug, Clone, Default)]
pub struct AuthSettings {
    /// Accepts bearer tokens, if set.
    pub jwt: Option<JwtSettings>,
    /// Accepts the API keys of this file, if set.
    pub api_keys_file: Option<PathBuf>,
    /// Accepts client certificates and takes the names from them.
    pub certificates: bool,
    /// The interval at which files are checked for changes.
    pub reload_interval: Duration,
}

/// The accepted bearer tokens.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// The source of the public keys.
    pub keys: JwtKeys,
    /// The required issuer (`iss`).
    pub issuer: String,
    /// The accepted audiences (`aud`); a token needs one of them.
    pub audiences: Vec<String>,
    /// The accepted signature algorithms. Symmetric algorithms must not be among them.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// The accepted clock difference: tokens are accepted for this long before and after their validity.
    pub leeway: Duration,
    /// The claim with the name of the principal.
    pub name_claim: String,
}

/// The source of the keys of bearer tokens.
#[derive(Debug, Clone)]
pub enum JwtKeys {
    /// A file.
    File(PathBuf),
    /// A URL.
    Url(RemoteKeys),
}

/// A key set to fetch.
#[derive(Debug, Clone)]
pub struct RemoteKeys {
    /// The URL: https, or http on this machine.
    pub url: String,
    /// The authorities to trust, PEM. `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The interval between fetches.
    pub refresh_interval: Duration,
    /// The minimum time between fetches that tokens with unknown keys cause.
    pub cooldown: Duration,
}
