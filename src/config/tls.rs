//! How connections of clients are encrypted.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ConfigError, check_count};
use crate::tls::{ClientCertificates, TlsSettings};

/// What the server shows its clients, and whom it lets in by a certificate.
#[derive(Debug, Clone, Args)]
pub struct TlsConfig {
    /// The server's certificate and what leads to its authority, PEM. Serves gRPC over TLS; needs
    /// --tls-key-file. Read again when it changes
    #[arg(
        long,
        env = "WEIR_TLS_CERT_FILE",
        value_name = "FILE",
        requires = "tls_key_file"
    )]
    pub tls_cert_file: Option<PathBuf>,

    /// The certificate's private key, PEM (PKCS #8, PKCS #1 or SEC1)
    #[arg(
        long,
        env = "WEIR_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_key_file: Option<PathBuf>,

    /// The authorities whose client certificates are taken, PEM: mutual TLS. Read again when it changes
    #[arg(
        long,
        env = "WEIR_TLS_CLIENT_CA_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_client_ca_file: Option<PathBuf>,

    /// Whether a client must show a certificate where --tls-client-ca-file is given: optional is for
    /// servers whose clients have tokens or keys as well
    #[arg(
        long,
        env = "WEIR_TLS_CLIENT_AUTH",
        value_name = "WHEN",
        default_value = "required",
        requires = "tls_client_ca_file"
    )]
    pub tls_client_auth: ClientAuth,

    /// How many TLS handshakes may be under way at once, 1 to 10000; further ones wait, unread. Each ends
    /// within --request-timeout
    #[arg(
        long,
        env = "WEIR_MAX_HANDSHAKES",
        value_name = "COUNT",
        default_value_t = 256
    )]
    pub max_handshakes: usize,
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// No handshake without one.
    Required,
    /// It may, and is known by it then.
    Optional,
}

impl TlsConfig {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.tls_cert_file.is_some()
    }

    /// Whether nobody comes in without a certificate of an authority that was named.
    #[must_use]
    pub fn requires_certificates(&self) -> bool {
        self.tls_client_ca_file.is_some() && self.tls_client_auth == ClientAuth::Required
    }

    /// Where certificates are; `None` without encryption.
    #[must_use]
    pub fn settings(&self) -> Option<TlsSettings> {
        let clients = self
            .tls_client_ca_file
            .as_ref()
            .map(|file| ClientCertificates {
                ca_file: file.clone(),
                required: self.tls_client_auth == ClientAuth::Required,
            });
        Some(TlsSettings {
            cert_file: self.tls_cert_file.clone()?,
            key_file: self.tls_key_file.clone()?,
            clients,
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        // clap sees to it for flags; a half of it must not pass for none.
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            return Err(ConfigError {
                flag: "tls-cert-file",
                problem: "goes with --tls-key-file".to_owned(),
            });
        }
        if self.tls_client_ca_file.is_some() && !self.is_enabled() {
            return Err(ConfigError {
                flag: "tls-client-ca-file",
                problem: "needs --tls-cert-file".to_owned(),
            });
        }
        check_count("max-handshakes", self.max_handshakes, 1, 10_000)
    }
}
