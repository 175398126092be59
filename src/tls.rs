//! TLS for client connections, with certificates that are reloaded when they change.
//!
//! New handshakes use the certificates in force when they start. Open connections stay open, except those of
//! clients whose authority was removed. Sessions are never resumed: a resumed session would skip the checks
//! of authority and expiry that a full handshake makes, and saves nothing compared with streams of hours.

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

use crate::{files::FileError, metrics::Metrics, reload::ReloadedFiles};

/// The name of the files' contents in logs and metrics.
const RELOAD_LABEL: &str = "tls";

/// The ALPN name of HTTP/2.
pub const HTTP2: &[u8] = b"h2";

/// The files with the server's certificate and the client authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The server's certificate chain, PEM.
    pub cert_file: PathBuf,
    /// The private key of the certificate, PEM.
    pub key_file: PathBuf,
    /// The accepted client certificates. `None`: clients are not asked for one.
    pub clients: Option<ClientCertificates>,
}

/// The accepted client certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities, PEM.
    pub ca_file: PathBuf,
    /// `true` if clients without a certificate are rejected.
    pub required: bool,
}

impl TlsSettings {
    /// Returns the files with their flags, in the order in which they are read.
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

    /// Prefixes a problem with the flag of the file that can't be read.
    fn name_flag(&self, error: &FileError) -> String {
        let named = |(_, path): &(&str, &PathBuf)| **path == error.path;
        match self.files().into_iter().find(named) {
            Some((flag, _)) => format!("--{flag}: {error}"),
            None => error.to_string(),
        }
    }
}

/// Makes aws-lc-rs the TLS provider of the process, unless one is installed already.
pub fn install_provider() {
    // An installed provider is the same one: the dependency tree has no other.
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
    /// Verifies client certificates.
    verifier: Arc<dyn ClientCertVerifier>,
    certificate: CertificateDer<'static>,
    /// The start of the certificate's validity, in seconds since 1970.
    not_before: i64,
    /// The end of the certificate's validity, in seconds since 1970.
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
    /// Reads and checks the files. Also returns the files, to [`follow`](Self::follow) their changes.
    ///
    /// # Errors
    /// Fails if a file can't be read or has invalid contents, or when the key does not belong to the
    /// certificate. The error names the flag and the file.
    pub async fn read(settings: TlsSettings) -> Result<(Self, ReloadedFiles), String> {
        let paths = settings.files().into_iter().map(|(_, path)| path.clone());
        let (files, contents) = match ReloadedFiles::read(RELOAD_LABEL, paths.collect()).await {
            Ok(read) => read,
            Err(error) => return Err(settings.name_flag(&error)),
        };
        let loaded = load(&settings, &contents)?;
        if let Err(problem) = loaded.is_valid_now() {
            // The server starts anyway: the clock may be wrong, and the next certificate is loaded without a
            // restart.
            let path = settings.cert_file.display();
            tracing::warn!(%path, problem, "clients will reject the certificate");
        }
        let tls = Self {
            settings,
            in_force: watch::Sender::new(Arc::new(loaded)),
        };
        Ok((tls, files))
    }

    /// Returns the configuration of a new handshake, and the trust in its client, which may be revoked later.
    #[must_use]
    pub fn begin_handshake(&self) -> (Arc<ServerConfig>, ClientTrust) {
        let mut in_force = self.in_force.subscribe();
        let config = Arc::clone(&in_force.borrow_and_update().config);
        (config, ClientTrust { in_force })
    }

    /// Sets the metric of the certificate's expiry.
    pub fn publish_expiry(&self, metrics: &Metrics) {
        expose_expiry(metrics, self.in_force.borrow().not_after);
    }

    /// Checks the files for changes every `interval`. New contents apply to new handshakes and to the
    /// [`ClientTrust`] of open connections. If any file is invalid, or a new certificate is not valid now,
    /// all previous contents stay in force. Never returns.
    pub async fn follow(&self, files: ReloadedFiles, interval: Duration, metrics: &Metrics) {
        let apply = |contents: &[Vec<u8>]| {
            let loaded = load(&self.settings, contents)?;
            // An unchanged certificate that has expired must not delay the removal of an authority.
            if loaded.certificate != self.in_force.borrow().certificate {
                let path = &self.settings.cert_file;
                let valid = loaded.is_valid_now();
                valid.map_err(|problem| file_problem("tls-cert-file", path, problem))?;
            }
            expose_expiry(metrics, loaded.not_after);
            self.in_force.send_replace(Arc::new(loaded));
            Ok(())
        };
        files.follow(interval, metrics, apply).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
fn expose_expiry(metrics: &Metrics, seconds: i64) {
    metrics.tls_certificate_expiry.of(()).set(seconds as f64);
}

/// The client authorities that apply to an open connection, including later changes.
#[derive(Debug)]
pub struct ClientTrust {
    in_force: watch::Receiver<Arc<Loaded>>,
}

impl ClientTrust {
    /// Completes when a change of the files leaves a client certificate, the first of `chain`, without an
    /// authority, or when the certificate has expired at such a change.
    pub async fn revoked(mut self, chain: Vec<CertificateDer<'static>>) {
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
        // The sender is gone, so nothing can change.
        std::future::pending::<()>().await;
    }
}

fn file_problem(flag: &str, path: &std::path::Path, problem: impl std::fmt::Display) -> String {
    format!("--{flag}: {}: {problem}", path.display())
}

fn load(settings: &TlsSettings, contents: &[Vec<u8>]) -> Result<Loaded, String> {
    let [certificate, key, authorities @ ..] = contents else {
        return Err("a certificate and a key are needed".to_owned());
    };
    let of_certificate =
        |problem: String| file_problem("tls-cert-file", &settings.cert_file, problem);
    let chain = certificates(certificate).map_err(of_certificate)?;
    let certificate = chain[0].clone();
    let (not_before, not_after) = validity(&certificate).map_err(of_certificate)?;
    let key = private_key(key)
        .map_err(|problem| file_problem("tls-key-file", &settings.key_file, problem))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = match (&settings.clients, authorities) {
        (None, _) => WebPkiClientVerifier::no_client_auth(),
        (Some(clients), [bundle]) => client_verifier(clients, bundle, &provider)
            .map_err(|problem| file_problem("tls-client-ca-file", &clients.ca_file, problem))?,
        // Fails closed: without authorities no client may connect.
        (Some(_), _) => return Err("the authorities of the clients were not read".to_owned()),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => file_problem(
                "tls-key-file",
                &settings.key_file,
                format!(
                    "not the key of the certificate in {}",
                    settings.cert_file.display()
                ),
            ),
            TlsError::InvalidCertificate(_) => of_certificate(error.to_string()),
            error => file_problem("tls-key-file", &settings.key_file, error),
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

fn client_verifier(
    clients: &ClientCertificates,
    bundle: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(bundle)? {
        // Invalid authorities are an error, because their clients would be rejected.
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

/// Parses the certificates of a PEM file; at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_problem(&error).to_owned())?;
    if certificates.is_empty() {
        return Err("contains no certificate (PEM)".to_owned());
    }
    Ok(certificates)
}

/// Parses the first private key of a PEM file.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            "contains no private key (PEM: PKCS #8, PKCS #1 or SEC1, not encrypted)"
        }
        error => pem_problem(&error),
    })
}

/// Describes a PEM error. The library's own messages quote the file, which may hold a key.
fn pem_problem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "invalid PEM: a section has no end",
        pem::Error::Base64Decode(_) => "invalid PEM: a section is not base64",
        _ => "invalid PEM",
    }
}

/// Returns the start and end of a certificate's validity, in seconds since 1970.
fn validity(certificate: &CertificateDer<'_>) -> Result<(i64, i64), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| format!("not an X.509 certificate: {error}"))?;
    let validity = parsed.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}
