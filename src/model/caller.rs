//! Who a watch belongs to, as far as others' shares are concerned.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::escape_controls;

/// The length at which names are truncated in logs, in bytes.
const MAX_LOGGED_BYTES: usize = 128;

/// The caller of a watch: what is scarce goes round by callers. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    /// An authenticated principal, as policies write it, such as `jwt:alice`.
    Principal(Arc<str>),
    /// The address of a client that no authentication tells from others, of IPv6 the /64 network; `None` where it
    /// is not known.
    Address(Option<IpAddr>),
}

impl Caller {
    /// Returns the caller at an address. One host has a whole /64 network of IPv6 (RFC 4291, section 2.5.1), so its
    /// addresses in there are one caller.
    #[must_use]
    pub fn at(address: Option<IpAddr>) -> Self {
        Self::Address(address.map(|it| match it.to_canonical() {
            IpAddr::V6(it) => {
                let [a, b, c, d, ..] = it.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 => v4,
        }))
    }

    /// Returns the name of the principal for logs, truncated and without control characters, and the address, if that
    /// is what tells the caller from others.
    #[must_use]
    pub fn for_logs(&self) -> (String, Option<String>) {
        match self {
            Self::Principal(name) => {
                let end = name.floor_char_boundary(MAX_LOGGED_BYTES);
                let dots = if end < name.len() { "..." } else { "" };
                (format!("{}{dots}", escape_controls(&name[..end])), None)
            }
            Self::Address(address) => {
                let address = address.map(|it| it.to_string());
                ("anonymous".to_owned(), address)
            }
        }
    }
}

impl Default for Caller {
    fn default() -> Self {
        Self::Address(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_host_are_one_caller() {
        let at = |text: &str| Caller::at(Some(text.parse().expect("an address")));
        assert_eq!(at("2001:db8:1:2::3"), at("2001:db8:1:2:ffff::1"));
        assert_ne!(at("2001:db8:1:2::3"), at("2001:db8:1:3::3"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(Caller::at(None), Caller::default());
    }

    #[test]
    fn logs_name_a_caller_by_a_short_name_or_its_address() {
        let named = |name: &str| Caller::Principal(name.into()).for_logs();
        assert_eq!(named("key:a\nb"), (r"key:a\nb".to_owned(), None));
        let (long, _) = named(&"ü".repeat(200));
        assert!(
            long.len() <= MAX_LOGGED_BYTES + 3 && long.ends_with("ü..."),
            "{long}"
        );
        let address = Caller::at(Some([192, 0, 2, 1].into())).for_logs();
        assert_eq!(
            address,
            ("anonymous".to_owned(), Some("192.0.2.1".to_owned()))
        );
    }
}
