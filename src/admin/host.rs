//! The names by which the admin port may be called.
//!
//! A web page can have its own DNS name resolve to the address of this port (DNS rebinding), and then read what the
//! port answers, from the browser of somebody who can reach it. Such a page always calls by its public name, so only
//! names that nobody can have registered are accepted, and those that the operator lists.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, Version, header, uri::Authority};

/// The endings of names that only a cluster's own DNS has, and that of this machine.
const LOCAL_SUFFIXES: [&str; 3] = [".localhost", ".svc", ".svc.cluster.local"];

/// A name of `--admin-host`: exact, or `*.` and what its names end in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminHost(String);

impl std::str::FromStr for AdminHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_label = |label: &str| {
            let in_alphabet = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
            !label.is_empty() && label.bytes().all(in_alphabet)
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(
                "not a DNS name without a port: use one such as weir.example.com, or *.example.com"
                    .to_owned(),
            );
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl AdminHost {
    fn covers(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            None => name == self.0,
        }
    }
}

/// Returns whether a request calls the port by an accepted name: an address, `localhost`, a name without a dot, a
/// Service of Kubernetes, or a listed one. A request of HTTP/1.0 may have no name; no browser sends one.
pub(super) fn is_accepted(
    version: Version,
    target: &Uri,
    headers: &HeaderMap,
    listed: &[AdminHost],
) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (None, _) => version < Version::HTTP_11,
        (Some(host), None) => host
            .to_str()
            .ok()
            .and_then(|host| host.parse::<Authority>().ok())
            .is_some_and(|host| is_accepted_name(host.host(), listed)),
        (Some(_), Some(_)) => false,
    };
    // The name of a target in absolute form takes the place of the header.
    named
        && target
            .host()
            .is_none_or(|host| is_accepted_name(host, listed))
}

fn is_accepted_name(host: &str, listed: &[AdminHost]) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    if bracketed.unwrap_or(host).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_local =
        !name.contains('.') || LOCAL_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    !name.is_empty() && (is_local || listed.iter().any(|it| it.covers(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(hosts: &[&str], target: &str, version: Version) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        let listed = ["metrics.example.com", "*.Shop.example"].map(|it| it.parse().unwrap());
        is_accepted(version, &target.parse().unwrap(), &headers, &listed)
    }

    #[test]
    fn only_names_that_no_stranger_can_register_and_listed_ones_are_accepted() {
        for host in [
            "127.0.0.1",
            "10.0.0.7:9090",
            "[::1]",
            "[2001:db8::7]:9090",
            "localhost:9090",
            "LOCALHOST.",
            "a.localhost",
            "weir-1:9090",
            "weir-admin.shop.svc:9090",
            "weir-admin.shop.svc.cluster.local.:9090",
            "metrics.example.com:443",
            "METRICS.example.com",
            "a.shop.example",
            "a.b.shop.example.",
        ] {
            assert!(accepts(&[host], "/metrics", Version::HTTP_11), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9090",
            "evil.example.",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "weir.shop.svc.evil.example",
            "weir.shop",
            "printer.local",
            "shop.example",
            "evilshop.example",
            "a.metrics.example.com",
            "localhost:9090@evil.example",
            "",
            ".",
            ":9090",
            "[::1",
            "a b",
            "localhost, evil.example",
        ] {
            assert!(!accepts(&[host], "/metrics", Version::HTTP_11), "{host:?}");
        }
    }

    #[test]
    fn a_missing_host_and_an_absolute_target_are_judged_too() {
        assert!(accepts(&[], "/metrics", Version::HTTP_10));
        assert!(!accepts(&[], "/metrics", Version::HTTP_11));
        assert!(!accepts(
            &["localhost", "localhost"],
            "/metrics",
            Version::HTTP_11
        ));
        for (target, expected) in [
            ("http://localhost:9090/metrics", true),
            ("http://[::1]:9090/metrics", true),
            ("http://evil.example/metrics", false),
            ("http://localhost@evil.example/metrics", false),
        ] {
            assert_eq!(
                accepts(&["localhost"], target, Version::HTTP_11),
                expected,
                "{target}"
            );
        }
        assert!(!accepts(
            &["evil.example"],
            "http://localhost/metrics",
            Version::HTTP_11
        ));
        assert!(!accepts(
            &[],
            "http://evil.example/metrics",
            Version::HTTP_10
        ));
    }

    #[test]
    fn a_listed_name_is_a_name_and_nothing_else() {
        for bad in [
            "",
            "*",
            "*.",
            "a..b",
            "a:9090",
            "http://a",
            "a b",
            "*a.example",
            "ä.example",
        ] {
            assert!(bad.parse::<AdminHost>().is_err(), "{bad}");
        }
    }
}
