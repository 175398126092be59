//! Encryption of clients' connections: certificates that are read again when they change.
//!
//! New handshakes get what is in force when they begin. Open connections stay as they are, but for those
//! whose client's authority is taken out. No session is ever resumed: a resumed one would carry a client
//! past the authorities, and the expiry, that are checked in a full handshake, and what it saves is nothing
//! beside a stream of hours.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    Error as TlsError, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject as _},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::sync::watch;

use crate::{metrics::Metrics, reload::ReloadedFiles};

/// What the files hold, for logs and metrics.
const WHAT: &str = "tls";

/// The protocol that is spoken inside, as ALPN names it.
pub const HTTP2: &[u8] = b"h2";

/// Where the server's certificate is, and those of its clients' authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The server's certificate and what leads to its authority, PEM.
    pub cert_file: PathBuf,
    /// The certificate's private key, PEM.
    pub key_file: PathBuf,
    /// Which certificates of clients are taken. `None`: no client is asked for one.
    pub clients: Option<ClientCertificates>,
}

/// Which certificates of clients are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities, PEM.
    pub ca_file: PathBuf,
    /// Whether a client without a certificate is sent away.
    pub required: bool,
}

impl TlsSettings {
    /// The files, each with the flag that names it, in the order in which they are read.
    fn files(&self) -> Vec<(&'static str, &PathBuf)> {
        let mut files = vec![
            ("tls-cert-file", &self.cert_file),
            ("tls-key-file", &self.key_file),
        ];
        if let Some(clients) = &self.clients {
            files.push(("tls-client-ca-file", &clients.ca_file));
        }
        files
    }

    /// Puts before a problem the flag whose file has it.
    async fn blame(&self, problem: String) -> String {
        for (flag, path) in self.files() {
            if let Err(problem) = ReloadedFiles::read(WHAT, vec![path.clone()]).await {
                return format!("--{flag}: {problem}");
            }
        }
        problem
    }
}

/// Makes aws-lc-rs what every TLS connection of the process is made with, unless it has been done.
pub fn install_provider() {
    // Whoever came first chose the same: no other provider is in the tree.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// The certificates in force.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    in_force: watch::Sender<Arc<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// What clients' certificates are checked by.
    verifier: Arc<dyn ClientCertVerifier>,
    certificate: CertificateDer<'static>,
    /// From when on the certificate is valid, in seconds since 1970.
    not_before: i64,
    /// Until when.
    not_after: i64,
}

impl Loaded {
    fn is_valid_now(&self) -> Result<(), &'static str> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now > self.not_after {
            Err("the certificate has expired")
        } else if now < self.not_before {
            Err("the certificate is not valid yet")
        } else {
            Ok(())
        }
    }
}

impl Tls {
    /// Reads and checks the files. Gives them too, to [`follow`](Self::follow) their changes.
    ///
    /// # Errors
    /// In words, which name flag and file: one can't be read, or holds nothing that can be used, or the
    /// key is not the certificate's.
    pub async fn read(settings: TlsSettings) -> Result<(Self, ReloadedFiles), String> {
        let paths = settings.files().into_iter().map(|(_, path)| path.clone());
        let (files, contents) = match ReloadedFiles::read(WHAT, paths.collect()).await {
            Ok(read) => read,
            Err(problem) => return Err(settings.blame(problem).await),
        };
        let loaded = load(&settings, &contents)?;
        if let Err(problem) = loaded.is_valid_now() {
            // To start all the same is better than not to: it may be the clock that is wrong, and the
            // next certificate is read without a start.
            let path = settings.cert_file.display();
            tracing::warn!(%path, problem, "clients will refuse the certificate");
        }
        let tls = Self {
            settings,
            in_force: watch::Sender::new(Arc::new(loaded)),
        };
        Ok((tls, files))
    }

    /// What a handshake that begins now is made with, and what tells when it has outlived that.
    #[must_use]
    pub fn begin(&self) -> (Arc<ServerConfig>, Trust) {
        let mut in_force = self.in_force.subscribe();
        let config = Arc::clone(&in_force.borrow_and_update().config);
        (config, Trust { in_force })
    }

    /// Tells when the certificate in force expires.
    pub fn announce(&self, metrics: &Metrics) {
        metrics.set_certificate_expiry(self.in_force.borrow().not_after);
    }

    /// Looks every `interval` whether the files have changed, and puts what they hold in force for new
    /// handshakes, and for the [`Trust`] that open connections have. What can't be used leaves the old ones in
    /// force, all of them, and so does a new certificate that is not valid now. Never ends.
    pub async fn follow(&self, files: ReloadedFiles, interval: Duration, metrics: &Metrics) {
        let apply = |contents: &[Vec<u8>]| {
            let loaded = load(&self.settings, contents)?;
            // One that stays must not keep an authority in force that is taken out.
            if loaded.certificate != self.in_force.borrow().certificate {
                let path = &self.settings.cert_file;
                let valid = loaded.is_valid_now();
                valid.map_err(|problem| about("tls-cert-file", path, problem))?;
            }
            metrics.set_certificate_expiry(loaded.not_after);
            self.in_force.send_replace(Arc::new(loaded));
            Ok(())
        };
        files.follow(interval, metrics, apply).await;
    }
}

/// The authorities that a connection's client was checked by, and those that come after them.
#[derive(Debug)]
pub struct Trust {
    in_force: watch::Receiver<Arc<Loaded>>,
}

impl Trust {
    /// Ends when a change of the files leaves the client's certificate, which comes first, without an
    /// authority, or finds it expired.
    pub async fn lost(mut self, chain: Vec<CertificateDer<'static>>) {
        let Some((certificate, others)) = chain.split_first() else {
            return std::future::pending().await;
        };
        while self.in_force.changed().await.is_ok() {
            let verifier = Arc::clone(&self.in_force.borrow_and_update().verifier);
            let checked = verifier.verify_client_cert(certificate, others, UnixTime::now());
            if checked.is_err() {
                return;
            }
        }
        // No more changes come.
        std::future::pending::<()>().await;
    }
}

fn about(flag: &str, path: &std::path::Path, problem: impl std::fmt::Display) -> String {
    format!("--{flag}: {}: {problem}", path.display())
}

fn load(settings: &TlsSettings, contents: &[Vec<u8>]) -> Result<Loaded, String> {
    let [certificate, key, authorities @ ..] = contents else {
        return Err("a certificate and a key are needed".to_owned());
    };
    let of_certificate = |problem: String| about("tls-cert-file", &settings.cert_file, problem);
    let chain = certificates(certificate).map_err(of_certificate)?;
    let certificate = chain[0].clone();
    let (not_before, not_after) = validity(&certificate).map_err(of_certificate)?;
    let key =
        private_key(key).map_err(|problem| about("tls-key-file", &settings.key_file, problem))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = match (&settings.clients, authorities) {
        (None, _) => WebPkiClientVerifier::no_client_auth(),
        (Some(clients), [bundle]) => verifier(clients, bundle, &provider)
            .map_err(|problem| about("tls-client-ca-file", &clients.ca_file, problem))?,
        // Without its authorities nobody must be let in.
        (Some(_), _) => return Err("the authorities of the clients were not read".to_owned()),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => about(
                "tls-key-file",
                &settings.key_file,
                format!("not the key of {}", settings.cert_file.display()),
            ),
            TlsError::InvalidCertificate(_) => of_certificate(error.to_string()),
            error => about("tls-key-file", &settings.key_file, error),
        })?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded {
        config: Arc::new(config),
        verifier,
        certificate,
        not_before,
        not_after,
    })
}

fn verifier(
    clients: &ClientCertificates,
    bundle: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(bundle)? {
        // Not passed over: whoever wrote it down wants its clients to be let in.
        roots.add(authority).map_err(|error| error.to_string())?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if clients.required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder.build().map_err(|error| error.to_string())
}

/// The certificates of a PEM file; at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| broken(&error).to_owned())?;
    if certificates.is_empty() {
        return Err("no certificate in it (PEM)".to_owned());
    }
    Ok(certificates)
}

/// The first private key of a PEM file.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            "no private key in it (PEM: PKCS #8, PKCS #1 or SEC1, not encrypted)"
        }
        error => broken(&error),
    })
}

/// The library's own words quote the file, a key it may be, and bytes as numbers.
fn broken(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "broken PEM: it ends within a section",
        pem::Error::Base64Decode(_) => "broken PEM: a section is no base64",
        _ => "broken PEM",
    }
}

/// From when until when a certificate holds, in seconds since 1970.
fn validity(certificate: &CertificateDer<'_>) -> Result<(i64, i64), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| format!("no X.509 certificate: {error}"))?;
    let validity = parsed.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}
