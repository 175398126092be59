//! The files that a connection string names. The driver reads them when it connects for the first time,
//! and accepts a file of authorities without any.

use std::path::Path;

use mongodb::options::Tls;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::files::BoundedFile;

/// Reads and checks the files.
///
/// # Errors
/// A message with the option, the file and the problem, without the content.
pub(super) async fn check(tls: &Tls) -> Result<(), String> {
    let Tls::Enabled(options) = tls else {
        return Ok(());
    };
    if let Some(file) = &options.ca_file_path {
        certificates("tlsCAFile", file, &read("tlsCAFile", file).await?)?;
    }
    if let Some(file) = &options.cert_key_file_path {
        const OPTION: &str = "tlsCertificateKeyFile";
        let text = read(OPTION, file).await?;
        let chain = certificates(OPTION, file, &text)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
            let what = "has no private key, or an encrypted one, which is not supported";
            problem(OPTION, file, what)
        })?;
        let config = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .map(|it| it.with_root_certificates(RootCertStore::empty()))
            .and_then(|it| it.with_client_auth_cert(chain, key));
        config.map_err(|error| problem(OPTION, file, &format!("can't be used: {error}")))?;
    }
    Ok(())
}

async fn read(option: &str, file: &Path) -> Result<Vec<u8>, String> {
    let read = BoundedFile::new(file.to_owned()).read().await;
    read.map_err(|error| problem(option, file, &format!("can't be read: {}", error.problem)))
}

fn certificates(
    option: &str,
    file: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(problem(option, file, "has no certificate"))
        }
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(problem(option, file, "is invalid PEM")),
    }
}

fn problem(option: &str, file: &Path, what: &str) -> String {
    format!("{option}: {} {what}", file.display())
}
