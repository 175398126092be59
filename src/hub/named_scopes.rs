//! What feeds are called on the page of metrics.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
};

/// How many scopes are told apart while the server runs. Clients choose what they watch, whether there is
/// such a collection or not, and Prometheus keeps each name that it has seen.
const MAX: usize = 1_000;

/// What all further ones are called.
const OTHERS: &str = "(others)";

/// The scopes that were called by their names. By a hash, as names may be long.
#[derive(Debug, Default)]
pub(super) struct NamedScopes {
    known: HashSet<u64>,
    hasher: RandomState,
}

impl NamedScopes {
    /// What the scope of this name is called.
    pub(super) fn call(&mut self, name: String) -> String {
        let hash = self.hasher.hash_one(&name);
        if self.known.contains(&hash) {
            return name;
        }
        if self.known.len() == MAX {
            return OTHERS.to_owned();
        }
        self.known.insert(hash);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever watches one name after the other makes a bounded number of time series.
    #[test]
    fn so_many_scopes_have_names_and_no_more() {
        let mut scopes = NamedScopes::default();
        let names = (0..10_000).map(|number| format!("shop.{number}"));
        let called: HashSet<String> = names.map(|name| scopes.call(name)).collect();
        assert_eq!(called.len(), MAX + 1);
        assert_eq!(scopes.call("shop.7".to_owned()), "shop.7");
        assert_eq!(scopes.call("shop.later".to_owned()), OTHERS);
    }
}
