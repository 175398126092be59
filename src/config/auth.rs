//! Settings of authentication and authorization.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

use super::{
    TlsConfig,
    checks::{ConfigError, check_duration},
};
use crate::auth::{AuthSettings, JwtKeys, JwtSettings, RemoteKeys};

/// The shortest time between two fetches of the key set that tokens with unknown keys cause.
const JWKS_COOLDOWN: Duration = Duration::from_secs(10);

/// The default of `--jwt-name-claim`.
const DEFAULT_NAME_CLAIM: &str = "sub";
/// The default of `--jwt-leeway`.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(10);
/// The default of `--jwks-refresh-interval`.
const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// The default of `--jwt-algorithms`.
const DEFAULT_ALGORITHMS: [JwtAlgorithm; 3] = [
    JwtAlgorithm::RS256,
    JwtAlgorithm::ES256,
    JwtAlgorithm::EdDSA,
];

/// The accepted credentials, the policy, and the keys of resume tokens.
#[derive(Debug, Clone, Args)]
pub struct AuthConfig {
    /// Accept bearer tokens (JWT) signed by a key of the JWK set at this https URL. The set is fetched again
    /// every --jwks-refresh-interval, and when a token names an unknown key
    #[arg(
        long,
        env = "WEIR_JWKS_URL",
        value_name = "URL",
        conflicts_with = "jwks_file",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub jwks_url: Option<String>,

    /// The certificate authorities that --jwks-url is verified with, PEM [default: the system's]
    #[arg(
        long,
        env = "WEIR_JWKS_CA_FILE",
        value_name = "FILE",
        requires = "jwks_url"
    )]
    pub jwks_ca_file: Option<PathBuf>,

    /// Accept bearer tokens (JWT) signed by a key of the JWK set in this file. Reloaded when it changes
    #[arg(long, env = "WEIR_JWKS_FILE", value_name = "FILE")]
    pub jwks_file: Option<PathBuf>,

    /// The interval between fetches of --jwks-url, 1s to 24h. If one fails, the last good set stays in force
    #[arg(long, env = "WEIR_JWKS_REFRESH_INTERVAL", value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub jwks_refresh_interval: Duration,

    /// The required issuer (iss) of bearer tokens. Required with --jwks-url and --jwks-file
    #[arg(long, env = "WEIR_JWT_ISSUER", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_issuer: Option<String>,

    /// The accepted audiences (aud) of bearer tokens, separated by commas; a token must have one of them.
    /// Required with --jwks-url and --jwks-file
    #[arg(
        long,
        env = "WEIR_JWT_AUDIENCE",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub jwt_audience: Vec<String>,

    /// The accepted signature algorithms, separated by commas. Only algorithms with public keys are supported
    #[arg(
        long,
        env = "WEIR_JWT_ALGORITHMS",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "RS256,ES256,EdDSA"
    )]
    pub jwt_algorithms: Vec<JwtAlgorithm>,

    /// The tolerated difference between the clocks of issuer and server, 0s to 25s. A token is accepted this
    /// long after it has expired
    #[arg(long, env = "WEIR_JWT_LEEWAY", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub jwt_leeway: Duration,

    /// The claim that names the principal of a bearer token
    #[arg(
        long,
        env = "WEIR_JWT_NAME_CLAIM",
        value_name = "CLAIM",
        default_value = DEFAULT_NAME_CLAIM,
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub jwt_name_claim: String,

    /// Accept the API keys in this YAML file, which holds the SHA-256 of each: see docs/authentication.md.
    /// Reloaded when it changes
    #[arg(long, env = "WEIR_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,

    /// Authenticate clients by the names in their certificates. Requires --tls-client-ca-file
    #[arg(long, env = "WEIR_AUTH_CERTIFICATES", requires = "tls_client_ca_file")]
    pub auth_certificates: bool,

    /// The policy in YAML, which says who may watch what: see docs/policy.md. Without it, every authenticated
    /// caller may watch everything that Weir's MongoDB user may. Reloaded when it changes
    #[arg(long, env = "WEIR_POLICY_FILE", value_name = "FILE")]
    pub policy_file: Option<PathBuf>,

    /// The file of keys that encrypt resume tokens, one per line, each 32 bytes in base64. The first key
    /// encrypts, all keys decrypt. Required by a policy that hides fields or documents, because MongoDB's
    /// tokens contain document keys. Must be the same on all replicas. Reloaded when it changes
    #[arg(long, env = "WEIR_TOKEN_KEY_FILE", value_name = "FILE")]
    pub token_key_file: Option<PathBuf>,

    /// The file of the bearer token that /metrics and /log-level on the admin port require. Reloaded when it
    /// changes [default: /metrics requires no token, and /log-level accepts only callers on this machine]
    #[arg(long, env = "WEIR_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
}

/// A signature algorithm of bearer tokens. All use a private key, so that whoever can verify a signature
/// can't create one.
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
    /// Returns whether callers must authenticate.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.accepts_jwts() || self.api_keys_file.is_some() || self.auth_certificates
    }

    /// Returns whether bearer tokens are accepted.
    #[must_use]
    pub fn accepts_jwts(&self) -> bool {
        self.jwks_url.is_some() || self.jwks_file.is_some()
    }

    /// Returns the settings of the authenticator, which checks its files every `reload_interval`.
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
                audiences: self.jwt_audience.clone(),
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

    /// Returns the first flag about bearer tokens that has no effect, with the flag that it needs.
    fn without_effect(&self) -> Option<(&'static str, &'static str)> {
        const KEY_SET: &str = "--jwks-url or --jwks-file";
        let without_keys = !self.accepts_jwts();
        let without_url = self.jwks_url.is_none();
        let refreshes = self.jwks_refresh_interval == DEFAULT_REFRESH_INTERVAL;
        [
            (
                "jwt-issuer",
                without_keys && self.jwt_issuer.is_some(),
                KEY_SET,
            ),
            (
                "jwt-audience",
                without_keys && !self.jwt_audience.is_empty(),
                KEY_SET,
            ),
            (
                "jwt-algorithms",
                without_keys && self.jwt_algorithms != DEFAULT_ALGORITHMS,
                KEY_SET,
            ),
            (
                "jwt-leeway",
                without_keys && self.jwt_leeway != DEFAULT_LEEWAY,
                KEY_SET,
            ),
            (
                "jwt-name-claim",
                without_keys && self.jwt_name_claim != DEFAULT_NAME_CLAIM,
                KEY_SET,
            ),
            (
                "jwks-ca-file",
                without_url && self.jwks_ca_file.is_some(),
                "--jwks-url",
            ),
            (
                "jwks-refresh-interval",
                without_url && !refreshes,
                "--jwks-url",
            ),
        ]
        .into_iter()
        .find_map(|(flag, is_idle, needed)| is_idle.then_some((flag, needed)))
    }

    pub(super) fn validate(&self, tls: &TlsConfig) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        let refresh = self.jwks_refresh_interval;
        check_duration("jwks-refresh-interval", refresh, second, 86_400 * second)?;
        check_duration("jwt-leeway", self.jwt_leeway, Duration::ZERO, 25 * second)?;
        if let Some((flag, needed)) = self.without_effect() {
            return Err(ConfigError::without_effect(flag, needed));
        }
        if self.auth_certificates && tls.tls_client_ca_file.is_none() {
            return Err(ConfigError::without_effect(
                "auth-certificates",
                "--tls-client-ca-file",
            ));
        }
        let given = |values: &[&str]| !values.is_empty() && values.iter().all(|it| !it.is_empty());
        let audience: Vec<&str> = self.jwt_audience.iter().map(String::as_str).collect();
        let issuer: Vec<&str> = self.jwt_issuer.iter().map(String::as_str).collect();
        let problem = match (self.accepts_jwts(), &self.jwks_url) {
            (true, _) if !given(&issuer) => (
                "jwt-issuer",
                "is required with --jwks-url and --jwks-file: other issuers may sign with keys of the same set",
            ),
            (true, _) if !given(&audience) => (
                "jwt-audience",
                "is required with --jwks-url and --jwks-file: tokens for other services must not be accepted",
            ),
            (true, _) if self.jwt_algorithms.is_empty() => {
                ("jwt-algorithms", "is empty: name at least one algorithm")
            }
            (true, _) if self.jwt_name_claim.is_empty() => {
                ("jwt-name-claim", "is empty: name a claim, such as sub")
            }
            // For flags, clap checks this.
            (_, Some(_)) if self.jwks_file.is_some() => {
                ("jwks-url", "can't be used with --jwks-file")
            }
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

/// Returns the reason why keys can't be fetched from `url`, if any.
fn url_problem(url: &str) -> Option<&'static str> {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return Some("is not a URL: use https://HOST/PATH");
    };
    let host = uri.host().unwrap_or_default();
    let authority = uri.authority().map(http::uri::Authority::as_str);
    if authority.is_some_and(|it| it.contains('@')) {
        return Some(
            "contains a user or a password: remove it, as a set of public keys needs none",
        );
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
            Some("must use https: over http, an attacker on the network could replace the keys")
        }
        _ => Some("is not an https URL: use https://HOST/PATH"),
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
