//! Access control of the admin port, for everything beyond health checks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    extract::connect_info::Connected,
    http::{HeaderMap, StatusCode, Uri, Version, header},
    serve::IncomingStream,
};

use tokio::sync::Mutex;

use super::host::{self, AdminHost};
use crate::{digest::sha256, listen::Listener, metrics::Metrics, reload::ReloadedFiles};

/// The minimum length of a token, in bytes. Shorter ones could be guessed.
const MIN_TOKEN_BYTES: usize = 16;

/// The headers that proxies add to forwarded requests.
const PROXY_HEADERS: [&str; 5] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
];

/// The client address of a request on the admin port.
#[derive(Debug, Clone, Copy)]
pub struct AdminPeer(pub Option<SocketAddr>);

impl Connected<IncomingStream<'_, Listener>> for AdminPeer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Requires the token of `--admin-token-file`; without one, accepts direct callers on this machine.
#[derive(Debug, Default)]
pub struct AdminAuth {
    /// The names by which the port may be called, besides those of this machine and of a cluster.
    hosts: Vec<AdminHost>,
    /// The SHA-256 of the token.
    token: ArcSwapOption<[u8; 32]>,
    /// The token file, until [`follow`](Self::follow) takes it.
    file: Mutex<Option<ReloadedFiles>>,
}

impl AdminAuth {
    /// Reads the file of `--admin-token-file`, if there is one. `hosts` are the names of `--admin-host`.
    ///
    /// # Errors
    /// Fails if the file can't be read, or has no valid token.
    pub async fn read(path: Option<PathBuf>, hosts: Vec<AdminHost>) -> Result<Self, String> {
        let mut auth = Self {
            hosts,
            ..Self::default()
        };
        let Some(path) = path else {
            return Ok(auth);
        };
        let name = path.display().to_string();
        let (file, contents) = ReloadedFiles::read("admin_token", vec![path]).await?;
        auth.set_token(&contents[0])
            .map_err(|why| format!("{name}: {why}"))?;
        auth.file.get_mut().replace(file);
        Ok(auth)
    }

    /// Checks the file for changes every `interval`. Returns at once if there is no file, or if it is already
    /// followed.
    pub async fn follow(&self, interval: Duration, metrics: &Metrics) {
        let file = self.file.lock().await.take();
        if let Some(file) = file {
            file.follow(interval, metrics, |it| self.set_token(&it[0]))
                .await;
        }
    }

    /// Requires the token in the contents of a file from now on.
    ///
    /// # Errors
    /// Fails if the token is not valid. The error does not quote it.
    pub fn set_token(&self, file: &[u8]) -> Result<(), String> {
        let token = file.trim_ascii();
        if token.len() < MIN_TOKEN_BYTES {
            return Err(format!(
                "the token has fewer than {MIN_TOKEN_BYTES} bytes: use a longer one"
            ));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err("the token has spaces or non-ASCII characters: use one line of letters, digits and punctuation".to_owned());
        }
        self.token.store(Some(sha256(token).into()));
        Ok(())
    }

    /// Authorizes a request to read the metrics. Without a token, everybody may who calls the port by a name that
    /// no web page can have. With one, the name does not matter, as no page has the token.
    ///
    /// # Errors
    /// The response that rejects the request.
    pub fn authorize_read(
        &self,
        version: Version,
        target: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        match self.token.load().as_deref() {
            Some(token) => check_bearer(token, headers),
            None if host::is_accepted(version, target, headers, &self.hosts) => Ok(()),
            None => Err(UNKNOWN_HOST),
        }
    }

    /// Authorizes a request to read or change the log level.
    ///
    /// # Errors
    /// The response that rejects the request.
    pub fn authorize_change(&self, peer: AdminPeer, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.token.load().as_deref() {
            Some(token) => check_bearer(token, headers),
            None if is_local(peer) && is_direct(headers) => Ok(()),
            None => Err(FORBIDDEN),
        }
    }
}

/// A rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the response.
    pub status: StatusCode,
    /// The body of the response.
    pub words: &'static str,
    /// The reason, as a label of `weir_admin_refusals_total`.
    pub reason: &'static str,
}

const UNAUTHORIZED: Refusal = Refusal {
    status: StatusCode::UNAUTHORIZED,
    words: "the token of --admin-token-file is required: send Authorization: Bearer TOKEN\n",
    reason: "token",
};

const FORBIDDEN: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    words: "only direct callers on this machine are allowed: call from there, or set --admin-token-file\n",
    reason: "not_local",
};

const UNKNOWN_HOST: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    words: "the Host of the request is a name that a web page could have: call by an IP address, localhost, a \
            name without a dot or NAME.NAMESPACE.svc, list the name in --admin-host, or set --admin-token-file\n",
    reason: "host",
};

fn check_bearer(token: &[u8; 32], headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(UNAUTHORIZED);
    };
    let (scheme, bearer) = value
        .as_bytes()
        .split_at_checked("Bearer ".len())
        .ok_or(UNAUTHORIZED)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(UNAUTHORIZED);
    }
    // Both are hashes of equal length, compared in constant time.
    verify_slices_are_equal(token, &sha256(bearer.trim_ascii())).map_err(|_| UNAUTHORIZED)
}

/// Returns whether the client address is exactly 127.0.0.1 or ::1. The sidecar of a mesh forwards outside
/// requests from other addresses of 127.0.0.0/8.
fn is_local(peer: AdminPeer) -> bool {
    peer.0
        .is_some_and(|address| match address.ip().to_canonical() {
            IpAddr::V4(ip) => ip == Ipv4Addr::LOCALHOST,
            IpAddr::V6(ip) => ip == Ipv6Addr::LOCALHOST,
        })
}

/// Returns whether a request shows no sign of a proxy or web page. A page whose DNS name points to this
/// machine sends that name as its host; other pages send their origin.
fn is_direct(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return false,
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(name);
    let names_this_machine =
        name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok();
    let is_from_page = headers.contains_key(header::ORIGIN);
    names_this_machine
        && !is_from_page
        && !PROXY_HEADERS.iter().any(|name| headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().expect("a header"));
        }
        map
    }

    fn from(address: &str) -> AdminPeer {
        AdminPeer(Some(address.parse().expect("an address")))
    }

    #[test]
    fn without_a_token_only_direct_local_callers_are_allowed() {
        let auth = AdminAuth::default();
        let direct = headers(&[("host", "localhost:9090")]);
        for address in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            assert_eq!(
                auth.authorize_change(from(address), &direct),
                Ok(()),
                "{address}"
            );
        }
        // Istio's sidecar forwards from the last address.
        for address in ["10.0.0.7:5", "[2001:db8::1]:5", "127.0.0.6:5"] {
            assert_eq!(
                auth.authorize_change(from(address), &direct),
                Err(FORBIDDEN),
                "{address}"
            );
        }
        assert_eq!(
            auth.authorize_change(AdminPeer(None), &direct),
            Err(FORBIDDEN)
        );
        for good in ["127.0.0.1:9090", "[::1]:9090", "localhost", "127.0.0.1"] {
            assert!(is_direct(&headers(&[("host", good)])), "{good}");
        }
        for bad in [
            &[][..],
            &[("host", "evil.example:9090")],
            &[("host", "localhost.evil.example")],
            &[("host", "localhost"), ("host", "localhost")],
            &[("host", "localhost"), ("origin", "http://localhost:3000")],
            &[("host", "localhost"), ("x-forwarded-for", "10.0.0.7")],
            &[("host", "localhost"), ("forwarded", "for=10.0.0.7")],
        ] {
            assert!(!is_direct(&headers(bad)), "{bad:?}");
        }
        let read = |host| {
            let (version, target) = (Version::HTTP_11, Uri::from_static("/metrics"));
            auth.authorize_read(version, &target, &headers(&[("host", host)]))
        };
        assert_eq!(read("10.0.0.7:9090"), Ok(()));
        assert_eq!(read("evil.example:9090"), Err(UNKNOWN_HOST));
    }

    #[test]
    fn with_a_token_only_the_token_is_accepted() {
        let auth = AdminAuth::default();
        auth.set_token(b"correct-horse-battery\n").expect("a token");
        let with_header = |value| headers(&[("host", "localhost"), ("authorization", value)]);
        let read = |headers: &HeaderMap| {
            auth.authorize_read(Version::HTTP_11, &Uri::from_static("/metrics"), headers)
        };
        let right = with_header("Bearer correct-horse-battery");
        assert_eq!(read(&right), Ok(()));
        let elsewhere = headers(&[
            ("host", "metrics.example"),
            ("authorization", "Bearer correct-horse-battery"),
        ]);
        assert_eq!(read(&elsewhere), Ok(()));
        assert_eq!(auth.authorize_change(from("10.0.0.7:5"), &right), Ok(()));
        for wrong in [
            headers(&[("host", "localhost")]),
            with_header("Bearer correct-horse-batter"),
            with_header("Bearer correct-horse-battery2"),
            with_header("Basic correct-horse-battery"),
            with_header("Bearer"),
            with_header("Bearer "),
            with_header("correct-horse-battery"),
            headers(&[
                ("authorization", "Bearer correct-horse-battery"),
                ("authorization", "Bearer correct-horse-battery"),
            ]),
        ] {
            assert_eq!(read(&wrong), Err(UNAUTHORIZED), "{wrong:?}");
            assert_eq!(
                auth.authorize_change(from("127.0.0.1:5"), &wrong),
                Err(UNAUTHORIZED),
                "{wrong:?}"
            );
        }
        // An invalid file leaves the previous token in force.
        for bad in [
            &b""[..],
            b"\n",
            b"short",
            b"two words that are long enough",
            &[0xff; 20],
        ] {
            assert!(auth.set_token(bad).is_err(), "{bad:?}");
        }
        assert_eq!(read(&right), Ok(()));
    }
}
