//! The authenticator for all kinds of credentials, and the reloading of keys.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::sync::watch;

use super::{
    api_keys::ApiKeys,
    certificate,
    credentials::{self, Credentials, looks_like_jwt},
    jwt::JwtVerifier,
    key_fetcher::KeyFetcher,
    key_set::KeySet,
    peer::Peer,
    principal::{CredentialFingerprint, Method, Principal, check_expiry},
    settings::{AuthSettings, JwtKeys, JwtSettings},
};
use crate::{error::Error, metrics::Metrics, reload::ReloadedFiles};

/// The names of the files' contents in logs and metrics.
const API_KEYS: &str = "api_keys";
const JWKS: &str = "jwks";

/// The error for callers without credentials.
const MISSING_CREDENTIALS: &str = "credentials are required: send `authorization: Bearer TOKEN`, `x-api-key: KEY` \
                                   or a client certificate, whichever this server accepts";

/// Why authentication could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {problem}")]
pub struct SetupError {
    /// The name of the flag, without dashes.
    pub flag: &'static str,
    /// The problem.
    pub problem: String,
}

/// Authenticates callers.
#[derive(Debug, Clone)]
pub struct Authenticator {
    /// `None` if authentication is disabled.
    verifiers: Option<Arc<Verifiers>>,
    anonymous: Arc<Principal>,
    changes: Arc<watch::Sender<u64>>,
}

/// The enabled kinds of credentials.
#[derive(Debug)]
struct Verifiers {
    jwts: Option<JwtVerifier>,
    keys: Option<ArcSwap<ApiKeys>>,
    certificates: bool,
    metrics: Arc<Metrics>,
}

/// Keeps the keys of an [`Authenticator`] up to date.
#[derive(Debug)]
pub struct AuthReloader {
    authenticator: Authenticator,
    interval: Duration,
    jwks_file: Option<ReloadedFiles>,
    api_keys_file: Option<ReloadedFiles>,
}

impl Authenticator {
    /// Creates an authenticator that accepts everybody as [`Principal::anonymous`].
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            verifiers: None,
            anonymous: Arc::new(Principal::anonymous()),
            changes: Arc::default(),
        }
    }

    /// Reads the files. Keys at a URL are fetched later, by [`AuthReloader::run`].
    ///
    /// # Errors
    /// Fails if a file can't be read or contains no valid keys.
    pub async fn new(
        settings: AuthSettings,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, AuthReloader), SetupError> {
        let mut authenticator = Self::anonymous();
        let (mut jwks_file, mut api_keys_file) = (None, None);
        let jwts = match settings.jwt {
            None => None,
            Some(settings) => {
                let (jwts, file) = load_jwt_verifier(settings).await?;
                jwks_file = file;
                Some(jwts)
            }
        };
        let keys = match settings.api_keys_file {
            None => None,
            Some(path) => {
                let failed = |problem| SetupError {
                    flag: "api-keys-file",
                    problem,
                };
                let name = path.display().to_string();
                let read = ReloadedFiles::read(API_KEYS, vec![path]).await;
                let (file, contents) = read.map_err(|error| failed(error.into()))?;
                let keys = ApiKeys::parse(&contents[0]);
                let keys = keys.map_err(|why| failed(format!("{name}: {why}")))?;
                api_keys_file = Some(file);
                Some(ArcSwap::from_pointee(keys))
            }
        };
        if jwts.is_some() || keys.is_some() || settings.certificates {
            metrics.expose_authentications();
            authenticator.verifiers = Some(Arc::new(Verifiers {
                jwts,
                keys,
                certificates: settings.certificates,
                metrics,
            }));
        }
        let reloader = AuthReloader {
            authenticator: authenticator.clone(),
            interval: settings.reload_interval,
            jwks_file,
            api_keys_file,
        };
        Ok((authenticator, reloader))
    }

    /// Returns whether credentials are required.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.verifiers.is_some()
    }

    /// Returns whether an API key expires.
    #[must_use]
    pub fn has_expiring_keys(&self) -> bool {
        let keys = self.verifiers.as_ref().and_then(|it| it.keys.as_ref());
        keys.is_some_and(|keys| keys.load().any_expires())
    }

    /// Returns whether callers with this kind of credentials are accepted at all.
    #[must_use]
    pub fn accepts(&self, method: Method) -> bool {
        let Some(verifiers) = &self.verifiers else {
            return method == Method::None;
        };
        match method {
            Method::None => false,
            Method::Jwt => verifiers.jwts.is_some(),
            Method::Key => verifiers.keys.is_some(),
            Method::Certificate => verifiers.certificates,
        }
    }

    /// Returns the principal of the API key with a name, also of an expired one.
    #[must_use]
    pub fn find_key(&self, name: &str) -> Option<Principal> {
        let keys = self.verifiers.as_ref()?.keys.as_ref()?.load();
        keys.find_by_name(name).cloned()
    }

    /// Authenticates a call by its headers, or by the client certificate if the headers have no credentials.
    /// May wait for keys that are being fetched.
    ///
    /// # Errors
    /// [`Error::CredentialsMissing`] without credentials, [`Error::CredentialsInvalid`] and
    /// [`Error::CredentialsExpired`] for unacceptable ones, and [`Error::KeysUnavailable`] when the keys to
    /// verify them could not be fetched.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Arc<Principal>, Error> {
        let Some(verifiers) = &self.verifiers else {
            return Ok(Arc::clone(&self.anonymous));
        };
        let (method, outcome) = verifiers.authenticate(headers, peer).await;
        let labels = (method_label(method), result_label(&outcome));
        verifiers.metrics.authentications.of(labels).increment(1);
        match outcome {
            Ok(principal) => Ok(Arc::new(principal)),
            Err(error) => {
                tracing::debug!(
                    method = method_label(method),
                    peer = peer.address.map(tracing::field::display),
                    %error,
                    "a call is rejected"
                );
                Err(error)
            }
        }
    }

    /// Returns the current state of the caller of an open watch, such as its new claims.
    ///
    /// # Errors
    /// [`Error::CredentialsExpired`] when its credentials have expired or were withdrawn.
    pub fn revalidate(&self, principal: &Arc<Principal>) -> Result<Arc<Principal>, Error> {
        let Some(verifiers) = &self.verifiers else {
            return Ok(Arc::clone(principal));
        };
        let renewed = verifiers
            .revalidate(principal)
            .ok_or(Error::CredentialsExpired)?;
        let renewed = check_expiry(renewed)?;
        Ok(if renewed == **principal {
            Arc::clone(principal)
        } else {
            Arc::new(renewed)
        })
    }

    /// Returns a receiver that is notified when [`revalidate`](Self::revalidate) may return another result,
    /// except when only time has passed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Reads the key file, or prepares to fetch the keys.
async fn load_jwt_verifier(
    settings: JwtSettings,
) -> Result<(JwtVerifier, Option<ReloadedFiles>), SetupError> {
    match settings.keys.clone() {
        JwtKeys::File(path) => {
            let failed = |problem| SetupError {
                flag: "jwks-file",
                problem,
            };
            let name = path.display().to_string();
            let read = ReloadedFiles::read(JWKS, vec![path]).await;
            let (file, contents) = read.map_err(|error| failed(error.into()))?;
            let keys = KeySet::parse(&contents[0]);
            let keys = keys.map_err(|why| failed(format!("{name}: {why}")))?;
            if keys.is_empty() {
                let why = match keys.skipped() {
                    [] => "its list of keys is empty".to_owned(),
                    skipped => skipped.join("; "),
                };
                let why = format!("{name} has no key that can verify signatures: {why}");
                return Err(failed(why));
            }
            log_skipped_keys(&keys);
            Ok((JwtVerifier::new(settings, Some(keys), None), Some(file)))
        }
        JwtKeys::Url(remote) => {
            // Of the settings, only the file can fail here.
            let flag = match &remote.ca_file {
                Some(_) => "jwks-ca-file",
                None => "jwks-url",
            };
            let fetcher = KeyFetcher::new(remote).await;
            let fetcher = fetcher.map_err(|problem| SetupError { flag, problem })?;
            Ok((JwtVerifier::new(settings, None, Some(fetcher)), None))
        }
    }
}

/// Logs the unusable keys of a new set.
fn log_skipped_keys(keys: &KeySet) {
    let skipped = keys.skipped();
    if keys.is_empty() {
        // A valid set without usable keys withdraws all keys, so it is put in force.
        tracing::error!(left_out = ?skipped, "no key of the JWK set can verify bearer tokens, so all of them are rejected");
    } else if !skipped.is_empty() {
        tracing::warn!(left_out = ?skipped, "keys of the JWK set are skipped");
    }
}

impl Verifiers {
    async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> (Method, Result<Principal, Error>) {
        let refused = Error::CredentialsInvalid;
        match (credentials::extract(headers), &self.jwts, &self.keys) {
            (Err((method, error)), _, _) => (method, Err(error)),
            (Ok(Credentials::Bearer(token)), Some(jwts), _) if looks_like_jwt(token) => {
                (Method::Jwt, jwts.verify(token, peer.address).await)
            }
            (Ok(Credentials::Bearer(key) | Credentials::ApiKey(key)), _, Some(keys)) => {
                (Method::Key, keys.load().verify(key))
            }
            (Ok(Credentials::Bearer(_)), Some(_), None) => {
                (Method::Jwt, Err(refused("the bearer token is not a JWT")))
            }
            (Ok(Credentials::Bearer(_)), None, None) => (
                Method::None,
                Err(refused(
                    "this server accepts no bearer tokens: send other credentials",
                )),
            ),
            (Ok(Credentials::ApiKey(_)), _, None) => (
                Method::Key,
                Err(refused(
                    "this server accepts no API keys: send other credentials",
                )),
            ),
            (Ok(Credentials::None), _, _) => match &peer.certificate {
                Some(der) if self.certificates => {
                    (Method::Certificate, certificate::principal(der))
                }
                _ => (
                    Method::None,
                    Err(Error::CredentialsMissing(MISSING_CREDENTIALS)),
                ),
            },
        }
    }

    /// Returns `None` when the credentials were withdrawn.
    fn revalidate(&self, principal: &Principal) -> Option<Principal> {
        match (principal.method, principal.fingerprint) {
            (Method::Jwt, CredentialFingerprint::SigningKey(key)) => {
                let jwts = self.jwts.as_ref()?;
                jwts.has_key(&key).then(|| principal.clone())
            }
            (Method::Key, CredentialFingerprint::ApiKey(hash)) => {
                let keys = self.keys.as_ref()?.load();
                let renewed = keys.find_by_hash(&hash)?;
                // The key was reassigned to another principal.
                (renewed.name == principal.name).then(|| renewed.clone())
            }
            (Method::Certificate, CredentialFingerprint::None) => {
                self.certificates.then(|| principal.clone())
            }
            _ => None,
        }
    }
}

impl AuthReloader {
    /// Follows changes of the files and fetches the keys. Never returns.
    pub async fn run(self) {
        let Some(verifiers) = self.authenticator.verifiers.clone() else {
            return std::future::pending().await;
        };
        let (authenticator, interval) = (&self.authenticator, self.interval);
        let follow_api_keys = async {
            if let (Some(file), Some(keys)) = (self.api_keys_file, &verifiers.keys) {
                let apply = |contents: &[Vec<u8>]| {
                    keys.store(Arc::new(ApiKeys::parse(&contents[0])?));
                    authenticator.changed();
                    Ok(())
                };
                file.follow(interval, &verifiers.metrics, apply).await;
            }
        };
        let follow_jwks = async {
            let Some(jwts) = &verifiers.jwts else { return };
            let replace = |json: &[u8]| {
                let keys = Arc::new(KeySet::parse(json)?);
                let is_new = jwts.replace_keys(&keys);
                if is_new {
                    log_skipped_keys(&keys);
                    authenticator.changed();
                }
                Ok(is_new)
            };
            match (self.jwks_file, &jwts.fetcher) {
                (Some(file), _) => {
                    let apply = |contents: &[Vec<u8>]| replace(&contents[0]).map(|_| ());
                    file.follow(interval, &verifiers.metrics, apply).await;
                }
                (None, Some(fetcher)) => fetcher.run(JWKS, &verifiers.metrics, replace).await,
                (None, None) => {}
            }
        };
        tokio::join!(follow_api_keys, follow_jwks);
        std::future::pending::<()>().await;
    }
}

/// Returns the label `method` of `weir_authentications_total`.
fn method_label(method: Method) -> &'static str {
    match method {
        Method::None => "none",
        method => method.name(),
    }
}

/// Returns the label `result` of `weir_authentications_total`.
fn result_label(outcome: &Result<Principal, Error>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(Error::CredentialsMissing(_)) => "missing",
        Err(Error::CredentialsExpired) => "expired",
        Err(Error::KeysUnavailable) => "unavailable",
        Err(_) => "invalid",
    }
}
