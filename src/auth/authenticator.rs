//! All kinds of credentials together, and what keeps them up to date.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::sync::watch;

use super::{
    AuthSettings, JwtKeys, JwtSettings, Method, Peer, Principal, Proof,
    api_keys::ApiKeys,
    certificate, in_time,
    jwt::Jwts,
    key_set::KeySet,
    remote::Remote,
    shown::{Shown, looks_like_jwt, shown},
};
use crate::{error::Error, metrics::Metrics, reload::ReloadedFiles};

/// What the files hold, for logs and metrics.
const API_KEYS: &str = "api_keys";
const JWKS: &str = "jwks";

/// What whoever shows nothing is told.
const MISSING: &str = "this server lets in only those who show who they are: by `authorization: Bearer \
                       TOKEN`, by `x-api-key`, or by a certificate, as its operator has it";

/// Why nobody could be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {problem}")]
pub struct SetupError {
    /// The flag's name, without dashes.
    pub flag: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// Tells who calls.
#[derive(Debug, Clone)]
pub struct Authenticator {
    /// `None`: nobody is asked.
    asked: Option<Arc<Asked>>,
    anonymous: Arc<Principal>,
    changes: Arc<watch::Sender<u64>>,
}

/// What is asked for.
#[derive(Debug)]
struct Asked {
    jwts: Option<Jwts>,
    keys: Option<ArcSwap<ApiKeys>>,
    certificates: bool,
    metrics: Arc<Metrics>,
}

/// What keeps an [`Authenticator`] up to date.
#[derive(Debug)]
pub struct Upkeep {
    authenticator: Authenticator,
    interval: Duration,
    key_set_file: Option<ReloadedFiles>,
    api_keys_file: Option<ReloadedFiles>,
}

impl Authenticator {
    /// Asks nobody.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            asked: None,
            anonymous: Arc::new(Principal::anonymous()),
            changes: Arc::default(),
        }
    }

    /// Reads the files. Fetches nothing: that is for [`Upkeep::run`].
    ///
    /// # Errors
    /// When a file can't be read, or holds nothing that can be used.
    pub async fn new(
        settings: AuthSettings,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Upkeep), SetupError> {
        let mut authenticator = Self::anonymous();
        let (mut key_set_file, mut api_keys_file) = (None, None);
        let jwts = match settings.jwt {
            None => None,
            Some(settings) => {
                let (jwts, file) = jwts(settings).await?;
                key_set_file = file;
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
                let (file, contents) = read.map_err(failed)?;
                let keys = ApiKeys::parse(&contents[0]);
                let keys = keys.map_err(|why| failed(format!("{name}: {why}")))?;
                api_keys_file = Some(file);
                Some(ArcSwap::from_pointee(keys))
            }
        };
        if jwts.is_some() || keys.is_some() || settings.certificates {
            metrics.register_authentications();
            authenticator.asked = Some(Arc::new(Asked {
                jwts,
                keys,
                certificates: settings.certificates,
                metrics,
            }));
        }
        let upkeep = Upkeep {
            authenticator: authenticator.clone(),
            interval: settings.reload_interval,
            key_set_file,
            api_keys_file,
        };
        Ok((authenticator, upkeep))
    }

    /// Whether callers are asked who they are.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.asked.is_some()
    }

    /// Who calls: by the one thing that the headers show, or by the certificate where they show nothing.
    /// May wait for keys that are being fetched.
    ///
    /// # Errors
    /// [`Error::CredentialsMissing`] when nothing is shown, [`Error::CredentialsInvalid`] and
    /// [`Error::CredentialsExpired`] when it is worth nothing, and [`Error::KeysUnavailable`] when that
    /// can't be told, for want of keys.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Arc<Principal>, Error> {
        let Some(asked) = &self.asked else {
            return Ok(Arc::clone(&self.anonymous));
        };
        let (method, outcome) = asked.judge(headers, peer).await;
        asked
            .metrics
            .count_authentication(label(method), result(&outcome));
        match outcome {
            Ok(principal) => Ok(Arc::new(principal)),
            Err(error) => {
                tracing::debug!(
                    method = label(method),
                    peer = peer.address.map(tracing::field::display),
                    %error,
                    "a call is refused"
                );
                Err(error)
            }
        }
    }

    /// The caller of an open watch as it is known by now.
    ///
    /// # Errors
    /// [`Error::CredentialsExpired`] when what it has shown has expired, or was withdrawn.
    pub fn renew(&self, principal: &Arc<Principal>) -> Result<Arc<Principal>, Error> {
        let Some(asked) = &self.asked else {
            return Ok(Arc::clone(principal));
        };
        let renewed = asked.renew(principal).ok_or(Error::CredentialsExpired)?;
        let renewed = in_time(renewed)?;
        Ok(if renewed == **principal {
            Arc::clone(principal)
        } else {
            Arc::new(renewed)
        })
    }

    /// Moves whenever [`renew`](Self::renew) may answer otherwise than before, but for times that pass.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Reads a file of keys, or gets ready to fetch them.
async fn jwts(settings: JwtSettings) -> Result<(Jwts, Option<ReloadedFiles>), SetupError> {
    match settings.keys.clone() {
        JwtKeys::File(path) => {
            let failed = |problem| SetupError {
                flag: "jwks-file",
                problem,
            };
            let name = path.display().to_string();
            let read = ReloadedFiles::read(JWKS, vec![path]).await;
            let (file, contents) = read.map_err(failed)?;
            let keys = KeySet::parse(&contents[0]);
            let keys = keys.map_err(|why| failed(format!("{name}: {why}")))?;
            if keys.is_empty() {
                let left_out = keys.left_out().join("; ");
                let why =
                    format!("{name} has no key that signatures can be checked with: {left_out}");
                return Err(failed(why));
            }
            tell_of(&keys);
            Ok((Jwts::new(settings, Some(keys), None), Some(file)))
        }
        JwtKeys::Url(remote) => {
            let failed = |problem| SetupError {
                flag: "jwks-url",
                problem,
            };
            let remote = Remote::new(remote).await.map_err(failed)?;
            Ok((Jwts::new(settings, None, Some(remote)), None))
        }
    }
}

/// Tells of a new set what may not have been meant.
fn tell_of(keys: &KeySet) {
    let left_out = keys.left_out();
    if keys.is_empty() {
        // It is a set, and says that no key is good any more: that is not for Weir to doubt.
        tracing::error!(?left_out, "no key of the set can check a bearer token");
    } else if !left_out.is_empty() {
        tracing::warn!(?left_out, "keys of the set are left out");
    }
}

impl Asked {
    async fn judge(&self, headers: &HeaderMap, peer: &Peer) -> (Method, Result<Principal, Error>) {
        let refused = Error::CredentialsInvalid;
        match (shown(headers), &self.jwts, &self.keys) {
            (Err((method, error)), _, _) => (method, Err(error)),
            (Ok(Shown::Bearer(token)), Some(jwts), _) if looks_like_jwt(token) => {
                (Method::Jwt, jwts.judge(token).await)
            }
            (Ok(Shown::Bearer(key) | Shown::Key(key)), _, Some(keys)) => {
                (Method::Key, keys.load().judge(key))
            }
            (Ok(Shown::Bearer(_)), Some(_), None) => {
                (Method::Jwt, Err(refused("the bearer token is not a JWT")))
            }
            (Ok(Shown::Bearer(_)), None, None) => {
                (Method::None, Err(refused("no bearer tokens are taken")))
            }
            (Ok(Shown::Key(_)), _, None) => (Method::Key, Err(refused("no API keys are taken"))),
            (Ok(Shown::Nothing), _, _) => match &peer.certificate {
                Some(der) if self.certificates => (Method::Certificate, certificate::judge(der)),
                _ => (Method::None, Err(Error::CredentialsMissing(MISSING))),
            },
        }
    }

    /// `None`: what the principal has shown was withdrawn.
    fn renew(&self, principal: &Principal) -> Option<Principal> {
        match (principal.method, principal.proof) {
            (Method::Jwt, Proof::Signature(key)) => {
                let jwts = self.jwts.as_ref()?;
                jwts.holds(&key).then(|| principal.clone())
            }
            (Method::Key, Proof::Key(hash)) => {
                let keys = self.keys.as_ref()?.load();
                let renewed = keys.renew(&hash)?;
                // Under another name it is somebody else's.
                (renewed.name == principal.name).then(|| renewed.clone())
            }
            (Method::Certificate, Proof::None) => self.certificates.then(|| principal.clone()),
            _ => None,
        }
    }
}

impl Upkeep {
    /// Follows the files and fetches the keys. Never ends.
    pub async fn run(self) {
        let Some(asked) = self.authenticator.asked.clone() else {
            return std::future::pending().await;
        };
        let (authenticator, interval) = (&self.authenticator, self.interval);
        let follow_keys = async {
            if let (Some(file), Some(keys)) = (self.api_keys_file, &asked.keys) {
                let apply = |contents: &[Vec<u8>]| {
                    keys.store(Arc::new(ApiKeys::parse(&contents[0])?));
                    authenticator.changed();
                    Ok(())
                };
                file.follow(interval, &asked.metrics, apply).await;
            }
        };
        let follow_key_set = async {
            let Some(jwts) = &asked.jwts else { return };
            let put = |json: &[u8]| {
                let keys = Arc::new(KeySet::parse(json)?);
                let is_new = jwts.put(&keys);
                if is_new {
                    tell_of(&keys);
                    authenticator.changed();
                }
                Ok(is_new)
            };
            match (self.key_set_file, &jwts.remote) {
                (Some(file), _) => {
                    let apply = |contents: &[Vec<u8>]| put(&contents[0]).map(|_| ());
                    file.follow(interval, &asked.metrics, apply).await;
                }
                (None, Some(remote)) => remote.run(JWKS, &asked.metrics, put).await,
                (None, None) => {}
            }
        };
        tokio::join!(follow_keys, follow_key_set);
        std::future::pending::<()>().await;
    }
}

/// The label of `weir_authentications_total`.
fn label(method: Method) -> &'static str {
    match method {
        Method::None => "none",
        method => method.name(),
    }
}

/// The label of `weir_authentications_total`.
fn result(outcome: &Result<Principal, Error>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(Error::CredentialsMissing(_)) => "missing",
        Err(Error::CredentialsExpired) => "expired",
        Err(Error::KeysUnavailable) => "unavailable",
        Err(_) => "invalid",
    }
}
