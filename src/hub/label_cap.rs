//! Limits the number of label values in the metrics of feeds.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
};

/// The maximum number of scopes with a label of their own while the server runs. Clients choose the names,
/// also of collections that do not exist, and Prometheus keeps each label value that it has seen.
const MAX_LABELS: usize = 1_000;

/// The label of all further scopes.
const OVERFLOW_LABEL: &str = "(others)";

/// The scopes with a label of their own. Stores hashes, as names may be long.
#[derive(Debug, Default)]
pub(super) struct LabelCap {
    labelled: HashSet<u64>,
    hasher: RandomState,
}

impl LabelCap {
    /// Returns the label for the scope with this name.
    pub(super) fn label(&mut self, name: String) -> String {
        let hash = self.hasher.hash_one(&name);
        if self.labelled.contains(&hash) {
            return name;
        }
        if self.labelled.len() == MAX_LABELS {
            return OVERFLOW_LABEL.to_owned();
        }
        self.labelled.insert(hash);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_beyond_the_maximum_share_one_label() {
        let mut cap = LabelCap::default();
        let names = (0..10_000).map(|number| format!("shop.{number}"));
        let labels: HashSet<String> = names.map(|name| cap.label(name)).collect();
        assert_eq!(labels.len(), MAX_LABELS + 1);
        assert_eq!(cap.label("shop.7".to_owned()), "shop.7");
        assert_eq!(cap.label("shop.later".to_owned()), OVERFLOW_LABEL);
    }
}
