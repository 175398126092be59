//! The limit of a port's connections. Beyond it a port refuses new connections, or closes old ones in their favour.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use metrics::Counter;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::limit::{Exceeded, Limit, Limiter, Permit};

/// The permits of a listener.
#[derive(Debug)]
pub(super) struct ConnectionPermits {
    total: Limiter,
    /// The open connections, if they make room for new ones.
    open: Option<Arc<OpenConnections>>,
}

/// Permission for one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    _permit: Permit,
    /// Dropped after the permit, as it tells who waits for one.
    place: Option<Place>,
}

impl ConnectionPermits {
    pub(super) fn new(max: usize, rejections: Counter) -> Self {
        Self {
            total: Limiter::new(Limit::new("connections", max).counted_by(rejections)),
            open: None,
        }
    }

    /// Closes an open connection for each new one beyond the limit: the oldest one of the address that has the
    /// most. So neither a crowd from one address nor one from many keeps anybody out.
    pub(super) fn with_newest_first(self) -> Self {
        Self {
            open: Some(Arc::default()),
            ..self
        }
    }

    /// Returns a permit for a connection from an address. May wait until the one that makes room is closed.
    ///
    /// # Errors
    /// The limit is reached, or a connection without an address is closed already.
    pub(super) async fn acquire(
        &self,
        from: Option<SocketAddr>,
    ) -> Result<ConnectionPermit, Exceeded> {
        let Some(open) = &self.open else {
            let _permit = self.total.try_acquire()?;
            return Ok(ConnectionPermit {
                _permit,
                place: None,
            });
        };
        let address = from.ok_or_else(|| self.total.reject())?.ip().to_canonical();
        loop {
            let mut one_closed = pin!(open.one_closed.notified());
            one_closed.as_mut().enable();
            if let Ok(_permit) = self.total.try_acquire() {
                let place = Some(open.add(address));
                return Ok(ConnectionPermit { _permit, place });
            }
            open.close_one();
            one_closed.await;
        }
    }
}

impl ConnectionPermit {
    /// Completes when the connection must close to make room for another one.
    pub(super) fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.place {
            Some(place) => place.withdrawn.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// The open connections of a port by their addresses, the oldest first.
#[derive(Debug, Default)]
struct OpenConnections {
    all: Mutex<Connections>,
    one_closed: Notify,
}

#[derive(Debug, Default)]
struct Connections {
    /// The number of connections so far, which numbers them.
    count: u64,
    by_address: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
}

/// A connection among the open ones, until it is dropped.
#[derive(Debug)]
struct Place {
    open: Arc<OpenConnections>,
    address: IpAddr,
    number: u64,
    withdrawn: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl OpenConnections {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, address: IpAddr) -> Place {
        let withdrawal = CancellationToken::new();
        let withdrawn = Box::pin(withdrawal.clone().cancelled_owned());
        let mut all = self.lock();
        all.count += 1;
        let number = all.count;
        all.by_address
            .entry(address)
            .or_default()
            .insert(number, withdrawal);
        Place {
            open: Arc::clone(self),
            address,
            number,
            withdrawn,
        }
    }

    /// Withdraws the permit of the oldest connection from the address with the most.
    fn close_one(&self) {
        let mut all = self.lock();
        let crowded = all.by_address.iter().max_by_key(|(_, connections)| {
            let oldest = connections.keys().next().copied();
            (connections.len(), std::cmp::Reverse(oldest))
        });
        let Some(address) = crowded.map(|(address, _)| *address) else {
            return;
        };
        let oldest = all
            .by_address
            .get_mut(&address)
            .and_then(BTreeMap::pop_first);
        if let Some((number, withdrawal)) = oldest {
            all.remove(address, number);
            drop(all);
            withdrawal.cancel();
        }
    }
}

impl Connections {
    /// Removes a connection, which may be removed already.
    fn remove(&mut self, address: IpAddr, number: u64) {
        if let Some(connections) = self.by_address.get_mut(&address) {
            connections.remove(&number);
            if connections.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().remove(self.address, self.number);
        self.open.one_closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn from(address: &str) -> Option<SocketAddr> {
        Some(address.parse().unwrap())
    }

    /// Holds a connection until its permit is withdrawn.
    async fn hold(mut permit: ConnectionPermit) {
        poll_fn(|cx| permit.poll_withdrawn(cx)).await;
    }

    #[tokio::test]
    async fn beyond_the_limit_connections_are_refused() {
        let permits = ConnectionPermits::new(3, Counter::noop());
        let mut held = Vec::new();
        for last in 1..=4 {
            held.push(permits.acquire(from(&format!("10.0.0.{last}:1"))).await);
        }
        assert_eq!(held.iter().flatten().count(), 3);
        held.clear();
        assert_eq!(permits.total.in_use(), 0);
    }

    #[tokio::test]
    async fn the_oldest_connection_of_the_most_crowded_address_makes_room() {
        let permits = ConnectionPermits::new(5, Counter::noop()).with_newest_first();
        let mut held = Vec::new();
        // The third is the second address, written differently.
        for (name, address) in [
            ("alone", "10.0.0.1:1"),
            ("first", "10.0.0.2:1"),
            ("second", "[::ffff:10.0.0.2]:2"),
            ("third", "10.0.0.2:3"),
            ("fourth", "10.0.0.2:4"),
        ] {
            let permit = permits.acquire(from(address)).await.unwrap();
            held.push((name, tokio::spawn(hold(permit))));
        }
        let mut closed_for = async |address: &str| {
            let new = permits.acquire(from(address)).await.unwrap();
            assert_eq!(permits.total.in_use(), 5);
            let at = held.iter().position(|(_, task)| task.is_finished());
            let (name, _) = held.remove(at.expect("one is closed"));
            held.push(("new", tokio::spawn(hold(new))));
            name
        };
        assert_eq!(closed_for("10.0.0.3:1").await, "first");
        assert_eq!(closed_for("10.0.0.2:5").await, "second");
        assert_eq!(closed_for("10.0.0.4:1").await, "third");
        // Two of the second address are left, and three addresses with one each.
        assert_eq!(closed_for("10.0.0.5:1").await, "fourth");
        // All have one: the oldest is closed.
        assert_eq!(closed_for("10.0.0.6:1").await, "alone");
        held.iter().for_each(|(_, task)| task.abort());
        for (_, task) in held {
            let _ = task.await;
        }
        assert_eq!(permits.total.in_use(), 0);
        let open = permits.open.as_ref().expect("they are known");
        assert!(open.lock().by_address.is_empty());
    }
}
