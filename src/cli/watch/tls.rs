//! Connections over TLS: trusted authorities, the client certificate, and advice when a connection fails.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::CertificateError;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::server::Server;
use super::text::root_causes;
use crate::tls::{certificates, private_key};

/// The time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The trusted authorities and the client certificate.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// The certificate authorities that the server is verified with, PEM [default: the system's]
    #[arg(long, env = "WEIR_WATCH_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,

    /// The client certificate for mutual TLS, PEM. Requires --tls-key-file
    #[arg(
        long,
        env = "WEIR_WATCH_TLS_CERT_FILE",
        value_name = "FILE",
        requires = "tls_key_file"
    )]
    pub tls_cert_file: Option<PathBuf>,

    /// The private key of --tls-cert-file, PEM
    #[arg(
        long,
        env = "WEIR_WATCH_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_key_file: Option<PathBuf>,

    /// The expected name in the server's certificate [default: the host of --server]
    #[arg(long, env = "WEIR_WATCH_TLS_SERVER_NAME", value_name = "NAME")]
    pub tls_server_name: Option<String>,
}

impl TlsArgs {
    /// Sets up TLS for the endpoint if the URL of the server is https. Reads the files, which may have
    /// changed since the last connection.
    ///
    /// # Errors
    /// A message that names the flag and the problem.
    pub fn apply(&self, server: &Server, endpoint: Endpoint) -> Result<Endpoint, String> {
        if !server.0.starts_with("https://") {
            return match self.first_given() {
                Some(flag) => Err(format!("{flag} needs a --server that begins with https://")),
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
            .map_err(|error| format!("can't set up TLS: {}", root_causes(&error)))
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

/// Reads a file and checks its content with `parse`.
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

/// Returns what to do about a connection that failed because of TLS or certificates; `None` for other
/// reasons.
pub fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let advice = match error.downcast_ref() {
            Some(error) => server_problem(error),
            None => client_problem(&error.to_string()),
        };
        if advice.is_some() {
            return advice;
        }
        // The error inside an `io::Error` is not its `source`.
        let inner = error.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Returns a likely reason for a connection that broke at its first call without an error from the server:
/// the two sides do not agree on TLS. In TLS 1.3 a server refuses a client certificate after the handshake,
/// and its alert may be lost.
pub fn likely_cause(server: &Server, status: &tonic::Status) -> &'static str {
    if status.source().is_none() {
        ""
    } else if server.0.starts_with("https://") {
        " (it may require another certificate: --tls-cert-file)"
    } else {
        " (if it speaks TLS, write https://)"
    }
}

/// Returns advice on a problem with the server's certificate.
fn server_problem(error: &rustls::Error) -> Option<&'static str> {
    use CertificateError as Bad;
    let advice = match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "the server's certificate is from an authority that is not trusted here: name its \
                 authority with --tls-ca-file"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the server's certificate has other names: use one of them in --server or \
                 --tls-server-name"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "the server's certificate has expired: its operator must renew it"
            }
            // `openssl req -x509` makes such a certificate unless told otherwise.
            Bad::Other(why) if why.to_string().contains("CaUsedAsEndEntity") => {
                "the server presents the certificate of an authority as its own: its operator must make \
                 one with basicConstraints=CA:FALSE"
            }
            _ => "the server's certificate is invalid",
        },
        rustls::Error::InvalidMessage(_) => "the server does not use TLS on that port: use http://",
        error => return client_problem(&error.to_string()),
    };
    Some(advice)
}

/// Returns advice on an alert of the server about the client's certificate. In TLS 1.3 the alert comes after
/// the handshake, and the HTTP/2 error contains only its text.
fn client_problem(text: &str) -> Option<&'static str> {
    let (_, alert) = text.split_once("received fatal alert: ")?;
    let alert = alert.split(|it: char| !it.is_alphanumeric()).next();
    match alert? {
        "CertificateRequired" => {
            Some("the server requires a client certificate: use --tls-cert-file and --tls-key-file")
        }
        "UnknownCA"
        | "BadCertificate"
        | "CertificateExpired"
        | "CertificateRevoked"
        | "CertificateUnknown"
        | "UnsupportedCertificate"
        | "AccessDenied"
        | "DecryptError" => Some(
            "the server does not accept the certificate of --tls-cert-file: use a valid one of an authority that it trusts",
        ),
        _ => None,
    }
}
