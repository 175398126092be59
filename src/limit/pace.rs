//! How often each principal or address may do something in the long run.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::TokenBucket;

/// The number of keys that have a bucket at once. Further ones have as many tokens as they like: so many in a few
/// seconds are no repetition.
const MAX_KEYS: usize = 1_024;

/// The interval at which full buckets are removed.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(1);

/// A [`TokenBucket`] for each key that has taken tokens, until it is full again. [`MAX_KEYS`] bounds the memory.
#[derive(Debug)]
pub struct Pace<K> {
    /// In tokens per second.
    rate: f64,
    capacity: f64,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    buckets: HashMap<K, TokenBucket>,
    next_removal: Instant,
}

impl<K: Clone + Eq + Hash> Pace<K> {
    /// Creates a pace at which all buckets are full. `rate` is in tokens per second, and above zero.
    #[must_use]
    pub fn new(rate: f64, capacity: f64) -> Self {
        Self {
            rate,
            capacity,
            state: Mutex::new(State {
                buckets: HashMap::new(),
                next_removal: Instant::now(),
            }),
        }
    }

    /// Returns whether a key has a token left.
    pub fn has_token(&self, key: &K) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = state.buckets.get_mut(key);
        bucket.is_none_or(|bucket| bucket.has(1.0, Instant::now()))
    }

    /// Takes a token from a key, whether it has one or not. Returns the time until its level is back at zero, or `None`
    /// if it is not below.
    pub fn take(&self, key: &K) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.next_removal <= now {
            state.buckets.retain(|_, bucket| !bucket.is_full(now));
            state.next_removal = now + REMOVAL_INTERVAL;
        }
        if state.buckets.len() >= MAX_KEYS && !state.buckets.contains_key(key) {
            return None;
        }
        let new = || TokenBucket::full(self.rate, self.capacity, now);
        let bucket = state.buckets.entry(key.clone()).or_insert_with(new);
        bucket.take(1.0, now);
        bucket.wait_for(0.0, now)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn keys(pace: &Pace<usize>) -> Vec<usize> {
        let mut keys: Vec<_> = pace.state.lock().unwrap().buckets.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_takes_its_capacity_at_once_and_its_rate_after_that() {
        let pace = Pace::new(10.0, 3.0);
        for _ in 0..3 {
            assert!(pace.has_token(&1));
            assert_eq!(pace.take(&1), None);
        }
        assert!(!pace.has_token(&1));
        assert_eq!(pace.take(&1), Some(Duration::from_millis(100)));
        assert_eq!(pace.take(&1), Some(Duration::from_millis(200)));
        assert!(pace.has_token(&2), "another key");
        advance(Duration::from_millis(200)).await;
        assert!(!pace.has_token(&1));
        advance(Duration::from_millis(100)).await;
        assert!(pace.has_token(&1));
        assert_eq!(pace.take(&1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn full_buckets_are_removed_and_the_others_are_bounded() {
        let pace = Pace::new(10.0, 10.0);
        for _ in 0..5 {
            pace.take(&0);
        }
        for key in 1..2 * MAX_KEYS {
            assert_eq!(pace.take(&key), None);
        }
        assert_eq!(keys(&pace).len(), MAX_KEYS);
        advance(REMOVAL_INTERVAL / 5).await;
        pace.take(&1);
        assert_eq!(keys(&pace).len(), MAX_KEYS, "not so soon");
        advance(REMOVAL_INTERVAL * 4 / 5).await;
        pace.take(&1);
        // The first one has taken more, and the second one just now.
        advance(REMOVAL_INTERVAL).await;
        pace.take(&2);
        assert_eq!(keys(&pace), [2]);
    }
}
