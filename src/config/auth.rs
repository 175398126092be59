//! Who may call, and what they may watch.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{ConfigError, check_duration};
use crate::auth::{AuthSettings, JwtKeys, JwtSettings, RemoteKeys};

/// For how long no bearer token has keys fetched again once one has.
const JWKS_COOLDOWN: Duration = Duration::from_secs(10);

/// How callers show who they are, and where it is written what each may.
#[derive(Debug, Clone, Args)]
pub struct AuthConfig {
    /// Take bearer tokens (JWT) signed by a key of this JWK set, an https URL. The set is fetched again
    /// when a token names a key that it does not have, and every --jwks-refresh-interval
    #[arg(
        long,
        env = "WEIR_JWKS_URL",
        value_name = "URL",
        conflicts_with = "jwks_file"
    )]
    pub jwks_url: Option<String>,

    /// The authorities that --jwks-url is trusted by, PEM. Default: the system's
    #[arg(
        long,
        env = "WEIR_JWKS_CA_FILE",
        value_name = "FILE",
        requires = "jwks_url"
    )]
    pub jwks_ca_file: Option<PathBuf>,

    /// Take bearer tokens (JWT) signed by a key of the JWK set in this file. Read again when it changes
    #[arg(long, env = "WEIR_JWKS_FILE", value_name = "FILE")]
    pub jwks_file: Option<PathBuf>,

    /// How often to fetch --jwks-url again, 1s to 24h. A set that can't be fetched leaves the last good
    /// one in force
    #[arg(long, env = "WEIR_JWKS_REFRESH_INTERVAL", value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub jwks_refresh_interval: Duration,

    /// Who must have issued a bearer token (iss). Needed with --jwks-url and --jwks-file
    #[arg(long, env = "WEIR_JWT_ISSUER", value_name = "NAME")]
    pub jwt_issuer: Option<String>,

    /// Whom a bearer token must be for (aud), one of these. Needed with --jwks-url and --jwks-file
    #[arg(
        long,
        env = "WEIR_JWT_AUDIENCE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub jwt_audience: Vec<String>,

    /// Which signatures are taken. Only those of public keys can be
    #[arg(
        long,
        env = "WEIR_JWT_ALGORITHMS",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "RS256,ES256,EdDSA"
    )]
    pub jwt_algorithms: Vec<JwtAlgorithm>,

    /// By how much the clocks of issuer and server may differ, 0s to 25s: a token is taken for so long
    /// after it has expired
    #[arg(long, env = "WEIR_JWT_LEEWAY", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub jwt_leeway: Duration,

    /// The claim that names who a bearer token is of
    #[arg(
        long,
        env = "WEIR_JWT_NAME_CLAIM",
        value_name = "CLAIM",
        default_value = "sub"
    )]
    pub jwt_name_claim: String,

    /// Take API keys of this file, YAML, which holds the SHA-256 of each: see docs/authentication.md.
    /// Read again when it changes
    #[arg(long, env = "WEIR_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,

    /// Know clients by the names in their certificates. Needs --tls-client-ca-file
    #[arg(long, env = "WEIR_AUTH_CERTIFICATES", requires = "tls_client_ca_file")]
    pub auth_certificates: bool,

    /// Who may watch what, YAML: see docs/policy.md. Without it, whoever is let in may watch all that
    /// Weir's MongoDB user may. Read again when it changes
    #[arg(long, env = "WEIR_POLICY_FILE", value_name = "FILE")]
    pub policy_file: Option<PathBuf>,

    /// The keys that resume tokens are encrypted with, one a line, each 32 bytes in base64: the first
    /// encrypts, all decrypt. Needed by a policy that hides fields or documents, as MongoDB's tokens hold document
    /// keys. All replicas must have the same. Read again when it changes
    #[arg(long, env = "WEIR_TOKEN_KEY_FILE", value_name = "FILE")]
    pub token_key_file: Option<PathBuf>,

    /// The bearer token that the admin port's /metrics and /log-level need. Default: /metrics needs none,
    /// and /log-level is for callers on this machine
    #[arg(long, env = "WEIR_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
}

/// A signature that a bearer token may have: those that are made with a private key, so that who can
/// check one can't make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
#[allow(missing_docs, reason = "RFC 7518 and RFC 8037 name them")]
pub enum JwtAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[value(name = "EdDSA")]
    EdDSA,
}

impl AuthConfig {
    /// Whether callers must show who they are.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.accepts_jwts() || self.api_keys_file.is_some() || self.auth_certificates
    }

    /// Whether bearer tokens are taken.
    #[must_use]
    pub fn accepts_jwts(&self) -> bool {
        self.jwks_url.is_some() || self.jwks_file.is_some()
    }

    /// Whom to believe; files are looked at every `reload_interval`.
    #[must_use]
    pub fn settings(&self, reload_interval: Duration) -> AuthSettings {
        let url = self.jwks_url.clone().map(|url| {
            JwtKeys::Url(RemoteKeys {
                url,
                ca_file: self.jwks_ca_file.clone(),
                refresh_interval: self.jwks_refresh_interval,
                cooldown: JWKS_COOLDOWN,
            })
        });
        let keys = url.or(self.jwks_file.clone().map(JwtKeys::File));
        AuthSettings {
            jwt: keys.map(|keys| JwtSettings {
                keys,
                issuer: self.jwt_issuer.clone().unwrap_or_default(),
                audience: self.jwt_audience.clone(),
                algorithms: self
                    .jwt_algorithms
                    .iter()
                    .map(|it| it.to_jsonwebtoken())
                    .collect(),
                leeway: self.jwt_leeway,
                name_claim: self.jwt_name_claim.clone(),
            }),
            api_keys_file: self.api_keys_file.clone(),
            certificates: self.auth_certificates,
            reload_interval,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        let refresh = self.jwks_refresh_interval;
        check_duration("jwks-refresh-interval", refresh, second, 86_400 * second)?;
        check_duration("jwt-leeway", self.jwt_leeway, Duration::ZERO, 25 * second)?;
        let given = |values: &[&str]| !values.is_empty() && values.iter().all(|it| !it.is_empty());
        let audience: Vec<&str> = self.jwt_audience.iter().map(String::as_str).collect();
        let issuer: Vec<&str> = self.jwt_issuer.iter().map(String::as_str).collect();
        let problem = match (self.accepts_jwts(), &self.jwks_url) {
            (true, _) if !given(&issuer) => (
                "jwt-issuer",
                "is needed with --jwks-url and --jwks-file: whoever else has keys there could sign too",
            ),
            (true, _) if !given(&audience) => (
                "jwt-audience",
                "is needed with --jwks-url and --jwks-file: tokens for other services must not do here",
            ),
            (true, _) if self.jwt_algorithms.is_empty() => ("jwt-algorithms", "names none"),
            (true, _) if self.jwt_name_claim.is_empty() => ("jwt-name-claim", "names none"),
            // clap sees to these for flags.
            (_, Some(_)) if self.jwks_file.is_some() => ("jwks-url", "goes not with --jwks-file"),
            (_, Some(url)) => match url_problem(url) {
                Some(problem) => ("jwks-url", problem),
                None => return Ok(()),
            },
            (_, None) => return Ok(()),
        };
        Err(ConfigError {
            flag: problem.0,
            problem: problem.1.to_owned(),
        })
    }
}

/// Why keys can't be fetched there.
fn url_problem(url: &str) -> Option<&'static str> {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return Some("is not a URL");
    };
    let host = uri.host().unwrap_or_default();
    let authority = uri.authority().map(http::uri::Authority::as_str);
    if authority.is_some_and(|it| it.contains('@')) {
        return Some("holds a user or a password; a set of public keys needs none");
    }
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = match address.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost",
    };
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => None,
        Some("http") if is_loopback => None,
        Some("http") => {
            Some("must be https: whoever can change what is sent could put in a key of their own")
        }
        _ => Some("is not an https URL"),
    }
}

impl JwtAlgorithm {
    fn to_jsonwebtoken(self) -> jsonwebtoken::Algorithm {
        use jsonwebtoken::Algorithm;
        match self {
            Self::RS256 => Algorithm::RS256,
            Self::RS384 => Algorithm::RS384,
            Self::RS512 => Algorithm::RS512,
            Self::PS256 => Algorithm::PS256,
            Self::PS384 => Algorithm::PS384,
            Self::PS512 => Algorithm::PS512,
            Self::ES256 => Algorithm::ES256,
            Self::ES384 => Algorithm::ES384,
            Self::EdDSA => Algorithm::EdDSA,
        }
    }
}
