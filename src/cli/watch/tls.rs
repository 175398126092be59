//! Connections over TLS: whom to trust, what to show, and what it means when that fails.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::CertificateError;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::args::Server;
use super::text::root_causes;
use crate::tls::{certificates, private_key};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to trust, and what to show.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// The authorities that the server's certificate may be of, PEM [default: the system's]
    #[arg(long, env = "WEIR_WATCH_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,

    /// The certificate to show to the server, PEM
    #[arg(
        long,
        env = "WEIR_WATCH_TLS_CERT_FILE",
        value_name = "FILE",
        requires = "tls_key_file"
    )]
    pub tls_cert_file: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(
        long,
        env = "WEIR_WATCH_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_key_file: Option<PathBuf>,

    /// The name that the server's certificate must have [default: the host of --server]
    #[arg(long, env = "WEIR_WATCH_TLS_SERVER_NAME", value_name = "NAME")]
    pub tls_server_name: Option<String>,
}

impl TlsArgs {
    /// Reads the files, which may have changed since the last connection, and lets connections to the
    /// endpoint be encrypted where the server's address asks for that.
    ///
    /// # Errors
    /// In words: what can't be used, and of which flag.
    pub fn apply(&self, server: &Server, endpoint: Endpoint) -> Result<Endpoint, String> {
        if !server.0.starts_with("https://") {
            return match self.first_given() {
                Some(flag) => Err(format!(
                    "{flag} is for a --server that begins with https://"
                )),
                None => Ok(endpoint),
            };
        }
        let mut config = ClientTlsConfig::new().timeout(HANDSHAKE_TIMEOUT);
        config = match &self.tls_ca_file {
            Some(path) => {
                let bundle = read("--tls-ca-file", path, certificates)?;
                config.ca_certificate(Certificate::from_pem(bundle))
            }
            None => config.with_native_roots(),
        };
        if let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_key_file) {
            let certificate = read("--tls-cert-file", certificate, certificates)?;
            let key = read("--tls-key-file", key, private_key)?;
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.tls_server_name {
            config = config.domain_name(name);
        }
        endpoint
            .tls_config(config)
            .map_err(|error| format!("TLS can't be set up: {}", root_causes(&error)))
    }

    fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--tls-ca-file", self.tls_ca_file.is_some()),
            ("--tls-cert-file", self.tls_cert_file.is_some()),
            ("--tls-server-name", self.tls_server_name.is_some()),
        ];
        given.into_iter().find_map(|(flag, is)| is.then_some(flag))
    }
}

/// Reads a file, and checks that what it is for is in it.
fn read<T, E: std::fmt::Display>(
    flag: &str,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<Vec<u8>, String> {
    let about = |why: &dyn std::fmt::Display| format!("{flag}: {}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|error| about(&error))?;
    parse(&bytes).map_err(|why| about(&why))?;
    Ok(bytes)
}

/// What to do about a connection that certificates, or TLS where there is none, brought to its end.
/// `None`: that was not the reason.
pub fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let advice = match error.downcast_ref() {
            Some(error) => about_server(error),
            None => about_client(&error.to_string()),
        };
        if advice.is_some() {
            return advice;
        }
        // An error of the system holds another without being its effect.
        let held = error.downcast_ref::<std::io::Error>();
        let held = held.and_then(std::io::Error::get_ref);
        cause = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

/// What may be wrong where a connection broke at its first call, and nobody at its other end said why: the
/// two sides do not agree on TLS. Over TLS 1.3 a server refuses a client after the handshake, and the
/// words in which it does are lost when the call is a moment late.
pub fn guess(server: &Server, status: &tonic::Status) -> &'static str {
    if status.source().is_none() {
        ""
    } else if server.0.starts_with("https://") {
        " (it may want another certificate: --tls-cert-file)"
    } else {
        " (if it speaks TLS, write https://)"
    }
}

/// What is wrong with what the server shows.
fn about_server(error: &rustls::Error) -> Option<&'static str> {
    use CertificateError as Bad;
    let words = match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "the server's certificate is of an authority that is not trusted here; \
                 --tls-ca-file names one to trust"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the server's certificate has other names; --tls-server-name says which one to \
                 expect"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "the server's certificate has expired",
            _ => "the server's certificate is not good",
        },
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS on that port; http:// goes without"
        }
        error => return about_client(&error.to_string()),
    };
    Some(words)
}

/// What the server holds against what it was shown. Over TLS 1.3 it says so after the handshake, and HTTP/2
/// keeps no more than the words.
fn about_client(words: &str) -> Option<&'static str> {
    let (_, alert) = words.split_once("received fatal alert: ")?;
    let alert = alert.split(|it: char| !it.is_alphanumeric()).next();
    match alert? {
        "CertificateRequired" => {
            Some("the server wants a certificate; --tls-cert-file and --tls-key-file name it")
        }
        "UnknownCA"
        | "BadCertificate"
        | "CertificateExpired"
        | "CertificateRevoked"
        | "CertificateUnknown"
        | "UnsupportedCertificate"
        | "AccessDenied"
        | "DecryptError" => Some("the server does not take the certificate of --tls-cert-file"),
        _ => None,
    }
}
