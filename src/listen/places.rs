//! How many connections there may be, and how many of them from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Peers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Room for connections.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// How many one address may hold, where that is bounded, and how many each does.
    of_one: Option<usize>,
    held: Peers,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    of: Option<(IpAddr, Peers)>,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(max)),
            of_one: None,
            held: Peers::default(),
        }
    }

    /// The same with at most so many for each address.
    pub(super) fn with_most_of_one(self, most: usize) -> Self {
        Self {
            of_one: Some(most),
            ..self
        }
    }

    /// A place for a connection from there, if there is one.
    pub(super) fn take(&self, from: Option<SocketAddr>) -> Option<Place> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let of = match self.of_one {
            None => None,
            Some(most) => {
                // One that has gone already has no address, and needs no place.
                let address = from?.ip().to_canonical();
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                let held_by_it = held.entry(address).or_default();
                if *held_by_it >= most {
                    return None;
                }
                *held_by_it += 1;
                Some((address, Arc::clone(&self.held)))
            }
        };
        Some(Place {
            _permit: permit,
            of,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((address, held)) = &self.of else {
            return;
        };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held_by_it) = held.get_mut(address) {
            *held_by_it -= 1;
            if *held_by_it == 0 {
                held.remove(address);
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
    fn one_address_leaves_room_for_another_and_gets_its_places_back() {
        let places = Places::new(5).with_most_of_one(2);
        let first = [
            places.take(from("10.0.0.1:1")),
            places.take(from("10.0.0.1:2")),
        ];
        assert!(first.iter().all(Option::is_some));
        assert!(places.take(from("10.0.0.1:3")).is_none());
        // The same address in other words.
        assert!(places.take(from("[::ffff:10.0.0.1]:3")).is_none());
        let other = places.take(from("10.0.0.2:1"));
        assert!(other.is_some());
        drop(first);
        assert!(places.take(from("10.0.0.1:4")).is_some());
        drop(other);
        assert!(places.held.lock().unwrap().is_empty());
        assert_eq!(places.all.available_permits(), 5);
    }

    #[test]
    fn all_addresses_together_have_so_many_and_no_more() {
        let places = Places::new(3).with_most_of_one(2);
        let held: Vec<_> = (1..=4)
            .map(|last| places.take(from(&format!("10.0.0.{last}:1"))))
            .collect();
        assert_eq!(held.iter().flatten().count(), 3);
    }
}
