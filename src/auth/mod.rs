//! Who calls: from what a request and its connection show, to a [`Principal`].

use std::{sync::Arc, time::SystemTime};

use http::HeaderMap;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::error::Error;

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
        }
    }
}

impl std::fmt::Display for Principal {
    /// `jwt:alice`, as policies and logs have it.
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

/// Tells who calls.
#[derive(Debug, Clone)]
pub struct Authenticator {
    changes: watch::Receiver<u64>,
    _sender: Arc<watch::Sender<u64>>,
}

impl Authenticator {
    /// Asks nobody.
    #[must_use]
    pub fn anonymous() -> Self {
        let (sender, changes) = watch::channel(0);
        Self {
            changes,
            _sender: Arc::new(sender),
        }
    }

    /// Who calls.
    ///
    /// # Errors
    /// When there are no credentials, or they are worth nothing.
    #[allow(clippy::unused_async, reason = "a key set may have to be fetched")]
    pub async fn authenticate(
        &self,
        _headers: &HeaderMap,
        _peer: &Peer,
    ) -> Result<Arc<Principal>, Error> {
        Ok(Arc::new(Principal::anonymous()))
    }

    /// The caller of an open watch as it is known by now.
    ///
    /// # Errors
    /// When what it has shown has expired, or was withdrawn.
    pub fn renew(&self, principal: &Arc<Principal>) -> Result<Arc<Principal>, Error> {
        Ok(Arc::clone(principal))
    }

    /// Moves whenever [`renew`](Self::renew) may answer otherwise than before, but for times that pass.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
