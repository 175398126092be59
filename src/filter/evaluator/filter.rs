//! A filter as it is kept for the life of a watch.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use super::literal::ALLOCATION;
use super::node::Node;
use crate::filter::Predicate;

/// A compiled predicate, with its literals as raw BSON and nothing decoded beside them. Clones share it.
///
/// Equality is by value. The hash is computed once, and differs between processes.
#[derive(Clone)]
pub struct Filter(Arc<Inner>);

struct Inner {
    root: Node,
    hash: u64,
}

impl Filter {
    /// Compiles a predicate.
    pub fn new(predicate: &Predicate) -> Filter {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let root = Node::new(predicate);
        let hash = HASHER.hash_one(&root);
        Filter(Arc::new(Inner { root, hash }))
    }

    /// Decodes it into the predicate that it was made from.
    pub fn predicate(&self) -> Predicate {
        self.0.root.predicate()
    }

    /// Returns the paths of all conditions, including `changed`, possibly with duplicates.
    pub fn paths(&self) -> Vec<&str> {
        let mut paths = Vec::new();
        self.0.root.push_paths(&mut paths);
        paths
    }

    /// Returns whether any condition is `changed`, which MongoDB's query language cannot express.
    pub fn uses_changed(&self) -> bool {
        self.0.root.uses_changed()
    }

    /// Returns the memory that it takes, with its compiled patterns, in bytes.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Inner>() + ALLOCATION + self.0.root.heap_bytes()
    }

    /// Returns where it is: the same for all clones, and for no other filter.
    #[cfg(test)]
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    pub(in crate::filter) fn root(&self) -> &Node {
        &self.0.root
    }
}

impl From<Predicate> for Filter {
    fn from(predicate: Predicate) -> Filter {
        Filter::new(&predicate)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.hash == other.0.hash && self.0.root == other.0.root)
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.predicate().fmt(f)
    }
}
