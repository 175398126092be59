//! Settings of TLS.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::checks::{ConfigError, check_count};
use crate::tls::{ClientCertificates, TlsSettings};

/// The default of `--max-handshakes`.
const DEFAULT_MAX_HANDSHAKES: usize = 256;

/// The server's certificate, and the client certificates that it accepts.
#[derive(Debug, Clone, Args)]
pub struct TlsConfig {
    /// The server's certificate and its intermediate certificates, PEM. Turns TLS on for gRPC; requires
    /// --tls-key-file. Reloaded when it changes
    #[arg(
        long,
        env = "WEIR_TLS_CERT_FILE",
        value_name = "FILE",
        requires = "tls_key_file"
    )]
    pub tls_cert_file: Option<PathBuf>,

    /// The private key of --tls-cert-file, PEM (PKCS #8, PKCS #1 or SEC1). Reloaded when it changes
    #[arg(
        long,
        env = "WEIR_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_key_file: Option<PathBuf>,

    /// The certificate authorities of accepted client certificates, PEM. Turns mutual TLS on. Reloaded when
    /// it changes
    #[arg(
        long,
        env = "WEIR_TLS_CLIENT_CA_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_client_ca_file: Option<PathBuf>,

    /// The rule for client certificates with --tls-client-ca-file. Use optional if some clients
    /// authenticate with tokens or API keys [default: required]
    #[arg(
        long,
        env = "WEIR_TLS_CLIENT_AUTH",
        value_name = "WHEN",
        requires = "tls_client_ca_file"
    )]
    pub tls_client_auth: Option<ClientAuth>,

    /// Maximum number of TLS handshakes in progress, 1 to 10000; further ones wait. Each ends within
    /// --request-timeout
    #[arg(
        long,
        env = "WEIR_MAX_HANDSHAKES",
        value_name = "COUNT",
        default_value_t = DEFAULT_MAX_HANDSHAKES
    )]
    pub max_handshakes: usize,
}

/// The rule for client certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// A client must present a certificate
    Required,
    /// A client may connect without a certificate
    Optional,
}

impl TlsConfig {
    /// Returns whether connections are encrypted.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.tls_cert_file.is_some()
    }

    /// Returns whether every client must present a certificate of a trusted authority.
    #[must_use]
    pub fn requires_certificates(&self) -> bool {
        self.tls_client_ca_file.is_some() && self.tls_client_auth != Some(ClientAuth::Optional)
    }

    /// Returns the settings of TLS, or `None` if it is off.
    #[must_use]
    pub fn settings(&self) -> Option<TlsSettings> {
        let clients = self
            .tls_client_ca_file
            .as_ref()
            .map(|file| ClientCertificates {
                ca_file: file.clone(),
                required: self.requires_certificates(),
            });
        Some(TlsSettings {
            cert_file: self.tls_cert_file.clone()?,
            key_file: self.tls_key_file.clone()?,
            clients,
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        // For flags, clap checks this; half of the pair must not silently mean no TLS.
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            return Err(ConfigError {
                flag: "tls-cert-file",
                problem: "must be used together with --tls-key-file".to_owned(),
            });
        }
        if self.tls_client_ca_file.is_some() && !self.is_enabled() {
            return Err(ConfigError {
                flag: "tls-client-ca-file",
                problem: "requires --tls-cert-file".to_owned(),
            });
        }
        // Whoever writes `required` must not get a server that asks for no certificate.
        if self.tls_client_auth.is_some() && self.tls_client_ca_file.is_none() {
            return Err(ConfigError::without_effect(
                "tls-client-auth",
                "--tls-client-ca-file",
            ));
        }
        check_count("max-handshakes", self.max_handshakes, 1, 10_000)?;
        if self.max_handshakes != DEFAULT_MAX_HANDSHAKES && !self.is_enabled() {
            return Err(ConfigError::without_effect(
                "max-handshakes",
                "--tls-cert-file",
            ));
        }
        Ok(())
    }
}
