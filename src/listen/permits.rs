//! Limits on the number of connections, in total and per address.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type AddressCounts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The limits of a listener.
#[derive(Debug)]
pub(super) struct ConnectionPermits {
    total: Arc<Semaphore>,
    /// The maximum number per address, if limited, and the current number of each address.
    max_per_address: Option<usize>,
    counts: AddressCounts,
}

/// Permission for one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    address_count: Option<(IpAddr, AddressCounts)>,
}

impl ConnectionPermits {
    pub(super) fn new(max: usize) -> Self {
        Self {
            total: Arc::new(Semaphore::new(max)),
            max_per_address: None,
            counts: AddressCounts::default(),
        }
    }

    /// Limits the connections from each address to `max`.
    pub(super) fn with_max_per_address(self, max: usize) -> Self {
        Self {
            max_per_address: Some(max),
            ..self
        }
    }

    /// Returns a permit for a connection from an address, if the limits allow it.
    pub(super) fn try_acquire(&self, from: Option<SocketAddr>) -> Option<ConnectionPermit> {
        let permit = Arc::clone(&self.total).try_acquire_owned().ok()?;
        let address_count = match self.max_per_address {
            None => None,
            Some(max) => {
                // A connection without an address is closed already.
                let address = from?.ip().to_canonical();
                let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
                let count = counts.entry(address).or_default();
                if *count >= max {
                    return None;
                }
                *count += 1;
                Some((address, Arc::clone(&self.counts)))
            }
        };
        Some(ConnectionPermit {
            _permit: permit,
            address_count,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let Some((address, counts)) = &self.address_count else {
            return;
        };
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(address);
            }
        }
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
        let permits = ConnectionPermits::new(5).with_max_per_address(2);
        let first = [
            permits.try_acquire(from("10.0.0.1:1")),
            permits.try_acquire(from("10.0.0.1:2")),
        ];
        assert!(first.iter().all(Option::is_some));
        assert!(permits.try_acquire(from("10.0.0.1:3")).is_none());
        // The same address, written differently.
        assert!(permits.try_acquire(from("[::ffff:10.0.0.1]:3")).is_none());
        let other = permits.try_acquire(from("10.0.0.2:1"));
        assert!(other.is_some());
        drop(first);
        assert!(permits.try_acquire(from("10.0.0.1:4")).is_some());
        drop(other);
        assert!(permits.counts.lock().unwrap().is_empty());
        assert_eq!(permits.total.available_permits(), 5);
    }

    #[test]
    fn the_total_limit_applies_to_all_addresses_together() {
        let permits = ConnectionPermits::new(3).with_max_per_address(2);
        let held: Vec<_> = (1..=4)
            .map(|last| permits.try_acquire(from(&format!("10.0.0.{last}:1"))))
            .collect();
        assert_eq!(held.iter().flatten().count(), 3);
    }
}
