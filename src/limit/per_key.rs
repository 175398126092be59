//! Values for each principal or address, for as long as it has members.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A value for each key that has members, such as the calls of a principal. A value is made for the first
/// member and removed with the last one, so the members bound the memory.
#[derive(Debug)]
pub struct PerKey<K, V>(Arc<Table<K, V>>);

#[derive(Debug)]
struct Table<K, V>(Mutex<HashMap<K, (V, usize)>>);

/// One member of a key, until it is dropped.
#[derive(Debug)]
pub struct Member<K: Eq + Hash, V> {
    key: K,
    table: Arc<Table<K, V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> PerKey<K, V> {
    /// Adds a member to a key that has fewer than `max`. Returns it with the key's value.
    pub fn join(&self, key: K, max: usize, new: impl FnOnce() -> V) -> Option<(Member<K, V>, V)> {
        let mut all = self.0.lock();
        let members = all.get(&key).map_or(0, |(_, members)| *members);
        if members >= max {
            return None;
        }
        let (value, members) = all.entry(key.clone()).or_insert_with(|| (new(), 0));
        *members += 1;
        let value = value.clone();
        drop(all);
        let table = Arc::clone(&self.0);
        Some((Member { key, table }, value))
    }

    /// Returns whether no key has members.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl<K, V> Default for PerKey<K, V> {
    fn default() -> Self {
        Self(Arc::new(Table(Mutex::default())))
    }
}

impl<K, V> Table<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, (V, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V> Drop for Member<K, V> {
    fn drop(&mut self) {
        let mut all = self.table.lock();
        if let Some((_, members)) = all.get_mut(&self.key) {
            *members -= 1;
            if *members == 0 {
                all.remove(&self.key);
            }
        }
    }
}
