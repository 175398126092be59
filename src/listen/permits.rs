//! Limits on the number of connections, in total and per address.

use std::net::{IpAddr, SocketAddr};

use metrics::Counter;

use crate::limit::{Exceeded, Limit, Limiter, Member, PerKey, Permit};

/// The limits of a listener.
#[derive(Debug)]
pub(super) struct ConnectionPermits {
    total: Limiter,
    /// The maximum number per address, if limited.
    max_per_address: Option<usize>,
    by_address: PerKey<IpAddr, ()>,
}

/// Permission for one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    _permit: Permit,
    _of_address: Option<Member<IpAddr, ()>>,
}

impl ConnectionPermits {
    pub(super) fn new(max: usize, rejections: Counter) -> Self {
        Self {
            total: Limiter::new(Limit::new("connections", max).counted_by(rejections)),
            max_per_address: None,
            by_address: PerKey::default(),
        }
    }

    /// Limits the connections from each address to `max`.
    pub(super) fn with_max_per_address(self, max: usize) -> Self {
        Self {
            max_per_address: Some(max),
            ..self
        }
    }

    /// Returns a permit for a connection from an address.
    ///
    /// # Errors
    /// A limit is reached, or a connection without an address is closed already.
    pub(super) fn try_acquire(
        &self,
        from: Option<SocketAddr>,
    ) -> Result<ConnectionPermit, Exceeded> {
        let permit = self.total.try_acquire()?;
        let of_address = match self.max_per_address {
            None => None,
            Some(max) => {
                let address = from.map(|from| from.ip().to_canonical());
                let member = address.and_then(|address| self.by_address.join(address, max, || ()));
                let (member, ()) = member.ok_or_else(|| self.total.reject())?;
                Some(member)
            }
        };
        Ok(ConnectionPermit {
            _permit: permit,
            _of_address: of_address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Option<SocketAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn the_limit_per_address_leaves_permits_for_others_and_is_released() {
        let permits = ConnectionPermits::new(5, Counter::noop()).with_max_per_address(2);
        let first = [
            permits.try_acquire(from("10.0.0.1:1")),
            permits.try_acquire(from("10.0.0.1:2")),
        ];
        assert!(first.iter().all(Result::is_ok));
        assert!(permits.try_acquire(from("10.0.0.1:3")).is_err());
        // The same address, written differently.
        assert!(permits.try_acquire(from("[::ffff:10.0.0.1]:3")).is_err());
        let other = permits.try_acquire(from("10.0.0.2:1"));
        assert!(other.is_ok());
        drop(first);
        assert!(permits.try_acquire(from("10.0.0.1:4")).is_ok());
        drop(other);
        assert!(permits.by_address.is_empty());
        assert_eq!(permits.total.in_use(), 0);
    }

    #[test]
    fn the_total_limit_applies_to_all_addresses_together() {
        let permits = ConnectionPermits::new(3, Counter::noop()).with_max_per_address(2);
        let held: Vec<_> = (1..=4)
            .map(|last| permits.try_acquire(from(&format!("10.0.0.{last}:1"))))
            .collect();
        assert_eq!(held.iter().flatten().count(), 3);
    }
}
