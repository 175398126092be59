//! Who may use the admin port for more than asking whether the server is well.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    extract::connect_info::Connected,
    http::{HeaderMap, StatusCode, header},
    serve::IncomingStream,
};
use sha2::{Digest as _, Sha256};

use tokio::sync::Mutex;

use crate::{listen::Port, metrics::Metrics, reload::ReloadedFiles};

/// The shortest token that is taken, in bytes: what is shorter can be guessed.
const MIN_TOKEN: usize = 16;

/// What a proxy adds to a request that it passes on.
const OF_PROXIES: [&str; 5] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
];

/// Where a request on the admin port comes from.
#[derive(Debug, Clone, Copy)]
pub struct AdminPeer(pub Option<SocketAddr>);

impl Connected<IncomingStream<'_, Port>> for AdminPeer {
    fn connect_info(stream: IncomingStream<'_, Port>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Lets in who has the token of `--admin-token-file`; without one, who is on this machine.
#[derive(Debug, Default)]
pub struct Gate {
    /// The token's SHA-256.
    token: ArcSwapOption<[u8; 32]>,
    /// The file that holds it, until it is followed.
    file: Mutex<Option<ReloadedFiles>>,
}

impl Gate {
    /// The gate that a file of `--admin-token-file` asks for.
    ///
    /// # Errors
    /// In words: the file can't be read, or holds no token.
    pub async fn read(path: Option<PathBuf>) -> Result<Self, String> {
        let mut gate = Self::default();
        let Some(path) = path else {
            return Ok(gate);
        };
        let name = path.display().to_string();
        let (file, contents) = ReloadedFiles::read("admin_token", vec![path]).await?;
        gate.demand(&contents[0])
            .map_err(|why| format!("{name}: {why}"))?;
        gate.file.get_mut().replace(file);
        Ok(gate)
    }

    /// Looks every `interval` whether its file has changed. Ends where it has none, or is followed already.
    pub async fn follow(&self, interval: Duration, metrics: &Metrics) {
        let file = self.file.lock().await.take();
        if let Some(file) = file {
            file.follow(interval, metrics, |it| self.demand(&it[0]))
                .await;
        }
    }

    /// Has a token demanded from now on, as a file holds it.
    ///
    /// # Errors
    /// In words that do not tell what it holds.
    pub fn demand(&self, file: &[u8]) -> Result<(), String> {
        let token = file.trim_ascii();
        if token.len() < MIN_TOKEN {
            return Err(format!("the token has fewer than {MIN_TOKEN} bytes"));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err("the token holds what no header can: one line of letters, digits and signs is right".to_owned());
        }
        self.token.store(Some(digest(token).into()));
        Ok(())
    }

    /// Whether a request may read the metrics: anybody's, unless a token is demanded.
    ///
    /// # Errors
    /// How it is refused.
    pub fn admit_reader(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.token.load().as_deref() {
            Some(token) => check(token, headers),
            None => Ok(()),
        }
    }

    /// Whether a request may change something.
    ///
    /// # Errors
    /// How it is refused.
    pub fn admit_operator(&self, peer: AdminPeer, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.token.load().as_deref() {
            Some(token) => check(token, headers),
            None if is_local(peer) && is_direct(headers) => Ok(()),
            None => Err(FORBIDDEN),
        }
    }
}

/// The status and the words of a refusal.
pub type Refusal = (StatusCode, &'static str);

const UNAUTHORIZED: Refusal = (
    StatusCode::UNAUTHORIZED,
    "the token of --admin-token-file is needed: Authorization: Bearer ...\n",
);

const FORBIDDEN: Refusal = (
    StatusCode::FORBIDDEN,
    "only for callers on this machine that come directly, unless --admin-token-file is set\n",
);

fn check(token: &[u8; 32], headers: &HeaderMap) -> Result<(), Refusal> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else {
        return Err(UNAUTHORIZED);
    };
    let (scheme, shown) = shown
        .as_bytes()
        .split_at_checked("Bearer ".len())
        .ok_or(UNAUTHORIZED)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(UNAUTHORIZED);
    }
    // Of equal length whatever is shown, and so compared in equal time.
    verify_slices_are_equal(token, &digest(shown.trim_ascii())).map_err(|_| UNAUTHORIZED)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The machine's own address alone: a mesh's sidecar passes on what comes from outside from others of
/// 127.0.0.0/8.
fn is_local(peer: AdminPeer) -> bool {
    peer.0
        .is_some_and(|address| match address.ip().to_canonical() {
            IpAddr::V4(ip) => ip == Ipv4Addr::LOCALHOST,
            IpAddr::V6(ip) => ip == Ipv6Addr::LOCALHOST,
        })
}

/// Whether nothing tells of a proxy or of a web page in between. A page whose name is made to lead to this
/// machine sends that name as its host; any other page sends its origin.
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
    let is_here = name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok();
    let is_of_page = headers.contains_key(header::ORIGIN);
    is_here && !is_of_page && !OF_PROXIES.iter().any(|name| headers.contains_key(*name))
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
    fn without_a_token_only_callers_on_this_machine_that_come_directly_are_let_in() {
        let gate = Gate::default();
        let direct = headers(&[("host", "localhost:9090")]);
        for address in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            assert_eq!(
                gate.admit_operator(from(address), &direct),
                Ok(()),
                "{address}"
            );
        }
        // The last is where Istio's sidecar passes on from.
        for address in ["10.0.0.7:5", "[2001:db8::1]:5", "127.0.0.6:5"] {
            assert_eq!(
                gate.admit_operator(from(address), &direct),
                Err(FORBIDDEN),
                "{address}"
            );
        }
        assert_eq!(
            gate.admit_operator(AdminPeer(None), &direct),
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
        assert_eq!(gate.admit_reader(&headers(&[])), Ok(()));
    }

    #[test]
    fn with_a_token_nothing_else_will_do() {
        let gate = Gate::default();
        gate.demand(b"correct-horse-battery\n").expect("a token");
        let shown = |value| headers(&[("host", "localhost"), ("authorization", value)]);
        let right = shown("Bearer correct-horse-battery");
        assert_eq!(gate.admit_reader(&right), Ok(()));
        assert_eq!(gate.admit_operator(from("10.0.0.7:5"), &right), Ok(()));
        for wrong in [
            headers(&[("host", "localhost")]),
            shown("Bearer correct-horse-batter"),
            shown("Bearer correct-horse-battery2"),
            shown("Basic correct-horse-battery"),
            shown("Bearer"),
            shown("Bearer "),
            shown("correct-horse-battery"),
            headers(&[
                ("authorization", "Bearer correct-horse-battery"),
                ("authorization", "Bearer correct-horse-battery"),
            ]),
        ] {
            assert_eq!(gate.admit_reader(&wrong), Err(UNAUTHORIZED), "{wrong:?}");
            assert_eq!(
                gate.admit_operator(from("127.0.0.1:5"), &wrong),
                Err(UNAUTHORIZED),
                "{wrong:?}"
            );
        }
        // What can't be used leaves the old one in force.
        for bad in [
            &b""[..],
            b"\n",
            b"short",
            b"two words that are long enough",
            &[0xff; 20],
        ] {
            assert!(gate.demand(bad).is_err(), "{bad:?}");
        }
        assert_eq!(gate.admit_reader(&right), Ok(()));
    }
}
