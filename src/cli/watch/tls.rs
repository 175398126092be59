//! Connections over TLS: whom to trust, what to show, and what it means when that fails.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::args::Server;
use super::text::causes;

/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

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
        let mut config = ClientTlsConfig::new().timeout(HANDSHAKE_WITHIN);
        config = match &self.tls_ca_file {
            Some(path) => {
                let bundle = read("--tls-ca-file", path)?;
                crate::tls::certificates(&bundle)
                    .map_err(|why| format!("--tls-ca-file: {}: {why}", path.display()))?;
                config.ca_certificate(Certificate::from_pem(bundle))
            }
            None => config.with_native_roots(),
        };
        if let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_key_file) {
            let certificate = read("--tls-cert-file", certificate)?;
            let key = read("--tls-key-file", key)?;
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.tls_server_name {
            config = config.domain_name(name);
        }
        endpoint
            .tls_config(config)
            .map_err(|error| format!("TLS can't be set up: {}", causes(&error)))
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

fn read(flag: &str, path: &PathBuf) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{flag}: {}: {error}", path.display()))
}

/// What to do about a connection that TLS, or the want of it, brought to its end. `None`: that was not
/// the reason.
pub fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    use rustls::Error as Tls;
    let words = match tls_error(error)? {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the server's certificate is of an authority that is not trusted here; --tls-ca-file \
             names one to trust"
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the server's certificate has other names; --tls-server-name says which one to expect",
        Tls::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the server's certificate has expired",
        Tls::InvalidCertificate(_) => "the server's certificate is not good",
        Tls::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a certificate; --tls-cert-file and --tls-key-file name it"
        }
        Tls::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied,
        ) => "the server does not take the certificate of --tls-cert-file",
        Tls::InvalidMessage(_) => {
            "the server does not speak TLS on that port; with http:// it is spoken to without"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

/// The error of TLS among the causes of another.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
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
