//! The credentials that a watch sends to the server.

use std::path::{Path, PathBuf};

use tonic::{Request, metadata::AsciiMetadataValue};

use super::server::Server;
use crate::auth::API_KEY_HEADER;

/// The maximum number of bytes read of a file.
const MAX_BYTES: u64 = 64 << 10;

/// The files of the credentials. On the command line itself, every user of this machine could read them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CredentialArgs {
    /// Send the bearer token in this file. It is read again for each connection
    #[arg(
        long,
        env = "WEIR_WATCH_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "api_key_file"
    )]
    pub token_file: Option<PathBuf>,

    /// Send the API key in this file. It is read again for each connection
    #[arg(long, env = "WEIR_WATCH_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Allow sending credentials to another machine without TLS, where anyone on the network can read them
    #[arg(long, env = "WEIR_WATCH_ALLOW_INSECURE")]
    pub allow_insecure: bool,
}

impl CredentialArgs {
    /// Returns whether there are credentials.
    pub fn are_given(&self) -> bool {
        self.token_file.is_some() || self.api_key_file.is_some()
    }

    /// Adds the current content of the files to a request.
    ///
    /// # Errors
    /// A message without secrets, if a file can't be used, or if the credentials would be sent to another
    /// machine without TLS.
    pub fn attach<T>(&self, server: &Server, request: &mut Request<T>) -> Result<(), String> {
        if self.are_given() && !self.allow_insecure && !is_private(&server.0) {
            return Err(format!(
                "--server: {} is another machine, and without TLS anyone on the network could read the \
                 credentials: use https://, or --allow-insecure",
                server.0
            ));
        }
        if let Some(path) = &self.token_file {
            let token = read("--token-file", path)?;
            let value = value("--token-file", path, &format!("Bearer {token}"))?;
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(path) = &self.api_key_file {
            let key = read("--api-key-file", path)?;
            let value = value("--api-key-file", path, &key)?;
            request.metadata_mut().insert(API_KEY_HEADER, value);
        }
        Ok(())
    }
}

/// Returns whether only the server can read what is sent to this URL.
fn is_private(server: &str) -> bool {
    let Ok(uri) = server.parse::<http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    uri.scheme_str() == Some("https")
        || host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn read(flag: &str, path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| format!("{flag}: {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let length = file
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if length as u64 > MAX_BYTES {
        return Err(format!(
            "{flag}: {} is longer than {MAX_BYTES} bytes: it must contain only the token or the key",
            path.display()
        ));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(format!(
            "{flag}: {} is empty: it must contain the token or the key",
            path.display()
        ));
    }
    Ok(text.to_owned())
}

fn value(flag: &str, path: &Path, text: &str) -> Result<AsciiMetadataValue, String> {
    let value = AsciiMetadataValue::try_from(text);
    let mut value = value.map_err(|_| {
        format!(
            "{flag}: {} must contain a single line of printable ASCII",
            path.display()
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_sent_to_another_machine_only_over_tls() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "abc\n").unwrap();
        let attached = |server: &str, allow_insecure: bool| {
            let args = CredentialArgs {
                token_file: Some(path.clone()),
                api_key_file: None,
                allow_insecure,
            };
            let mut request = Request::new(());
            args.attach(&Server(server.to_owned()), &mut request)?;
            let value = request.metadata().get("authorization").unwrap();
            assert!(!format!("{request:?}").contains("abc"), "{request:?}");
            Ok::<_, String>(value.to_str().unwrap().to_owned())
        };
        for server in [
            "https://weir.example:443",
            "http://127.0.0.1:50051",
            "http://127.8.9.1:1",
            "http://[::1]:50051",
            "http://localhost:50051",
        ] {
            assert_eq!(
                attached(server, false),
                Ok("Bearer abc".to_owned()),
                "{server}"
            );
        }
        for server in [
            "http://weir.example",
            "http://10.0.0.1:50051",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://[2001:db8::1]",
        ] {
            let why = attached(server, false).expect_err(server);
            assert!(
                why.contains("--allow-insecure") && !why.contains("abc"),
                "{why}"
            );
            attached(server, true).unwrap();
        }
    }

    #[test]
    fn a_file_without_usable_credentials_is_refused_with_its_flag() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("key");
        let server = Server("http://127.0.0.1:1".to_owned());
        let args = CredentialArgs {
            api_key_file: Some(path.clone()),
            ..CredentialArgs::default()
        };
        let attach = || args.attach(&server, &mut Request::new(()));
        assert!(attach().unwrap_err().contains("--api-key-file"));
        let long = "secret".repeat(20_000);
        for text in ["", " \n", "secret\nsecret", &long] {
            std::fs::write(&path, text).unwrap();
            let why = attach().unwrap_err();
            assert!(
                why.contains("--api-key-file") && !why.contains("secret"),
                "{why}"
            );
        }
    }
}
