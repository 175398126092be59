//! The part of a watch's request that is evaluated in process.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use super::evaluator::Literal;
use super::{Condition, Predicate};
use crate::model::{MissingImage, Operation, OperationSet, Shard};

/// The conditions that the events of a feed must still meet in process, for one watch.
///
/// Its key is made of all clauses, and equality and hash are those of the key.
#[derive(Clone)]
pub struct Residual {
    clauses: Clauses,
    key: Arc<[u8]>,
}

/// The clauses of a residual. By default every event passes.
#[derive(Clone, Debug, Default)]
pub struct Clauses {
    /// The policy's condition, which must certainly hold for every document that an event carries.
    pub row_filter: Option<Predicate>,
    /// The operations that pass; `None` means all.
    pub operations: Option<BTreeSet<Operation>>,
    /// The client's condition on documents.
    pub filter: Option<Predicate>,
    /// The result of the filter where it is unknown for lack of a document.
    pub missing_image: MissingImage,
    /// `true` if the filter also applies to the document before the change.
    pub pre_images: bool,
    /// The share of the documents; `None` means all.
    pub shard: Option<Shard>,
}

impl Residual {
    /// Returns the residual of these clauses.
    pub fn new(clauses: Clauses) -> Residual {
        let key = clauses.key().into();
        Residual { clauses, key }
    }

    /// Returns the residual that every event passes.
    pub fn pass_all() -> Residual {
        Residual::new(Clauses::default())
    }

    /// Returns the encoding of the clauses, with different bytes for different residuals. Options that have no
    /// effect without a filter are left out. The encoding is for use within this process only.
    pub fn key(&self) -> &Arc<[u8]> {
        &self.key
    }
}

impl Clauses {
    /// Returns whether every event passes.
    pub fn passes_everything(&self) -> bool {
        let Clauses {
            row_filter,
            operations,
            filter,
            shard,
            // These have no effect without a filter.
            missing_image: _,
            pre_images: _,
        } = self;
        row_filter.is_none() && operations.is_none() && filter.is_none() && shard.is_none()
    }

    pub(crate) fn operation_set(&self) -> OperationSet {
        match &self.operations {
            None => OperationSet::ALL,
            Some(operations) => operations.iter().copied().collect(),
        }
    }

    fn key(&self) -> Vec<u8> {
        // A clause that is forgotten here does not compile.
        let Clauses {
            row_filter,
            operations,
            filter,
            missing_image,
            pre_images,
            shard,
        } = self;
        let mut key = Vec::new();
        key.push(u8::from(operations.is_some()));
        if operations.is_some() {
            key.extend_from_slice(&self.operation_set().bits().to_be_bytes());
        }
        if let Some(filter) = filter {
            key.push(u8::from(*missing_image == MissingImage::Drop));
            key.push(u8::from(*pre_images));
            push_predicate(&mut key, filter);
        }
        // The encoding of a filter starts with 0 or 1, so with neither of these two bytes.
        if let Some(shard) = shard {
            key.push(b's');
            key.extend_from_slice(&shard.index().to_be_bytes());
            key.extend_from_slice(&shard.count().to_be_bytes());
        }
        if let Some(row_filter) = row_filter {
            key.push(b'g');
            push_predicate(&mut key, row_filter);
        }
        key
    }
}

impl Deref for Residual {
    type Target = Clauses;

    fn deref(&self) -> &Clauses {
        &self.clauses
    }
}

impl fmt::Debug for Residual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clauses.fmt(f)
    }
}

impl PartialEq for Residual {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Residual {}

impl Hash for Residual {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// Appends a tag, then the parts, with their number or their lengths in front.
fn push_predicate(key: &mut Vec<u8>, predicate: &Predicate) {
    let (tag, parts) = match predicate {
        Predicate::Field { path, op } => {
            key.push(b'f');
            push_bytes(key, path.as_bytes());
            push_condition(key, op);
            return;
        }
        Predicate::AllOf(parts) => (b'a', parts),
        Predicate::AnyOf(parts) => (b'o', parts),
        Predicate::NoneOf(parts) => (b'n', parts),
    };
    key.push(tag);
    push_length(key, parts.len());
    for part in parts {
        push_predicate(key, part);
    }
}

fn push_condition(key: &mut Vec<u8>, condition: &Condition) {
    let (tag, values) = match condition {
        Condition::Eq(value) => (0, std::slice::from_ref(value)),
        Condition::Ne(value) => (1, std::slice::from_ref(value)),
        Condition::Gt(value) => (2, std::slice::from_ref(value)),
        Condition::Gte(value) => (3, std::slice::from_ref(value)),
        Condition::Lt(value) => (4, std::slice::from_ref(value)),
        Condition::Lte(value) => (5, std::slice::from_ref(value)),
        Condition::In(values) => (6, values.as_slice()),
        Condition::NotIn(values) => (7, values.as_slice()),
        Condition::Exists(exists) => {
            key.extend_from_slice(&[8, u8::from(*exists)]);
            return;
        }
        Condition::Prefix(prefix) => {
            key.push(9);
            push_bytes(key, prefix.as_bytes());
            return;
        }
        Condition::Regex { pattern, options } => {
            key.push(10);
            push_bytes(key, pattern.as_bytes());
            push_bytes(key, options.as_bytes());
            return;
        }
        Condition::Changed(changed) => {
            key.extend_from_slice(&[11, u8::from(*changed)]);
            return;
        }
    };
    key.push(tag);
    push_length(key, values.len());
    for value in values {
        let literal = Literal::new(value);
        let element = literal.as_element();
        key.push(element.kind as u8);
        push_bytes(key, element.value);
    }
}

fn push_bytes(key: &mut Vec<u8>, bytes: &[u8]) {
    push_length(key, bytes.len());
    key.extend_from_slice(bytes);
}

fn push_length(key: &mut Vec<u8>, length: usize) {
    key.extend_from_slice(&(length as u64).to_be_bytes());
}

#[cfg(test)]
mod tests;
