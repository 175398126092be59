//! The URL of the server.

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;

/// The default address of `weir serve`.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// The URL of a server, always with a scheme, and with nothing that gRPC would not send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server(pub String);

impl std::str::FromStr for Server {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Server, &'static str> {
        // Also in what is no URL: somebody meant a name and a password.
        if has_credentials(text) {
            return Err(
                "credentials in the URL are not sent to the server: write only https://HOST:PORT, and \
                 put a token or an API key into a file for --token-file or --api-key-file",
            );
        }
        let url = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let not_a_url = "not a URL: write it as http://127.0.0.1:50051";
        let uri = url.parse::<http::Uri>().map_err(|_| not_a_url)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(not_a_url);
        }
        // The path of a gRPC call is its service and method.
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('#') {
            return Err(
                "a path, a query or a fragment is not sent to the server: write only https://HOST:PORT",
            );
        }
        // Without a host, `http://NAME:PASSWORD` looks the same.
        let authority = uri.authority().map_or("", |it| it.as_str());
        let port = authority.rsplit_once(':').filter(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        let without_port = !authority.contains(':') || authority.ends_with(']');
        if port.is_none() && !without_port {
            return Err(
                "the port is no number of 1 to 65535, or the host is missing: write https://HOST:PORT",
            );
        }
        Ok(Server(url))
    }
}

fn has_credentials(text: &str) -> bool {
    text.contains('@') || text.contains("%40")
}

/// Returns the part of an unusable URL that can't be secret: the scheme, the host and the port; `None` if the
/// port may be a password.
fn without_secrets(text: &str) -> Option<&str> {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['/', '?', '#']);
    let shown = &text[..end.map_or(text.len(), |end| start + end)];
    let port = shown[start..].rsplit_once(':').map_or("", |(_, port)| port);
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) || port.ends_with(']');
    (is_port && !has_credentials(text)).then_some(shown)
}

/// Parses `--server` and its variable. clap's own error would repeat the value, with a password in it.
#[derive(Debug, Clone, Copy)]
pub struct ServerParser;

impl TypedValueParser for ServerParser {
    type Value = Server;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Server, clap::Error> {
        let text = value.to_string_lossy();
        text.parse().map_err(|why| {
            let shown = without_secrets(&text)
                .map(|url| format!(" {:?}", super::text::escape_controls(url)))
                .unwrap_or_default();
            let message = format!("--server (or WEIR_SERVER){shown}: {why}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).format(&mut command.clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let command = clap::Command::new("watch");
        let error = ServerParser.parse_ref(&command, None, OsStr::new(text));
        error.expect_err(text).to_string()
    }

    #[test]
    fn a_url_has_a_scheme_a_host_and_perhaps_a_port() {
        for (text, url) in [
            ("localhost", "http://localhost"),
            ("127.0.0.1:1", "http://127.0.0.1:1"),
            ("https://weir.example:443/", "https://weir.example:443/"),
            ("http://[::1]:50051", "http://[::1]:50051"),
        ] {
            assert_eq!(text.parse(), Ok(Server(url.to_owned())));
        }
        for text in ["", "htp://host", "http://", "unix:///run/weir", "a b"] {
            let error = refused(text);
            assert!(error.contains("http://127.0.0.1:50051"), "{error}");
            assert!(error.contains("--server"), "{error}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        for text in [
            "http://user:hunter2@host:50051",
            "https://user:hunter2@host",
            "user:hunter2@host",
            "htp://user:hunter2@host",
            "http://hunter2@host",
            "http://user:hunter2@",
            "http://user:p/hunter2@host",
            "http://user:hunter2@host\n",
            "http://user:hunter2%40host:1",
        ] {
            let error = refused(text);
            assert!(error.contains("--token-file"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_port_is_a_number_and_what_else_stands_there_is_not_repeated() {
        for text in [
            "http://user:hunter2",
            "user:hunter2",
            "http://host:",
            "http://host:0",
            "http://host:65536",
            "http://:50051",
            "http://[::1]:hunter2",
            "https:127.0.0.1",
        ] {
            let error = refused(text);
            assert!(error.contains("the port is no number"), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for text in [
            "http://user:hunter2/path",
            "http://user:hunter2\u{ff20}host",
            "http://host:1/hunter2",
            "http://host:1/?token=hunter2",
            "host#hunter2",
        ] {
            let error = refused(text);
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(refused("http://host:1/?token=x").contains(" \"http://host:1\": "));
        assert!(refused("grpc://host:1").contains(" \"grpc://host:1\": "));
    }

    #[test]
    fn what_grpc_does_not_send_is_refused() {
        for text in [
            "http://host/weir",
            "http://host:1/?token=x",
            "host#fragment",
            "http://host/weir.v1.WatchService/Watch",
        ] {
            let error = refused(text);
            assert!(error.contains("is not sent"), "{error}");
        }
    }
}
