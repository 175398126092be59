//! What is left to decide in process for one watch.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use super::judge::Literal;
use super::{BeforeChange, Condition, MissingImage, Operation, Predicate, Watch};

/// What is left to decide in process about the events of a feed, for one watch.
///
/// Two are equal when their [keys](Residual::key) are.
#[derive(Clone, Debug)]
pub struct Residual {
    /// What must surely hold for every document that an event carries.
    pub guard: Option<Predicate>,
    /// The operations that pass; `None` means all.
    pub operations: Option<BTreeSet<Operation>>,
    /// The condition on documents.
    pub filter: Option<Predicate>,
    /// What the filter decides without a document.
    pub missing_image: MissingImage,
    /// Whether the document before the change is judged too.
    pub pre_images: bool,
}

impl Residual {
    /// Nothing: every event of the feed passes.
    pub fn nothing() -> Residual {
        Residual {
            guard: None,
            operations: None,
            filter: None,
            missing_image: MissingImage::default(),
            pre_images: false,
        }
    }

    /// All that the watch asks for: for a feed that many watches share, on
    /// [`Plan::shared`](super::Plan::shared).
    pub fn of(watch: &Watch) -> Residual {
        let operations = watch.operations.clone();
        let on_documents = operations
            .as_ref()
            .is_none_or(|asked| asked.iter().any(|operation| operation.is_document()));
        let guard = watch.view.guard.clone().filter(|_| on_documents);
        match &watch.filter {
            Some(filter) if on_documents => Residual {
                guard,
                operations,
                filter: Some(filter.clone()),
                missing_image: watch.missing_image,
                pre_images: watch.before_change != BeforeChange::Off,
            },
            _ => Residual {
                guard,
                operations,
                ..Residual::nothing()
            },
        }
    }

    /// What MongoDB leaves on the feed of [`Plan::dedicated`](super::Plan::dedicated): all of it
    /// where the filter says what a pipeline can't, or where pre-images let it be told how a
    /// change moved the document; nothing otherwise. The guard stays whatever MongoDB did with it: who
    /// may see what rests on one thing the less.
    pub fn beyond(watch: &Watch) -> Residual {
        let whole = Residual::of(watch);
        match &whole.filter {
            Some(filter) if whole.pre_images || filter.uses_changed() => whole,
            _ => Residual {
                guard: whole.guard,
                ..Residual::nothing()
            },
        }
    }

    /// Whether there is nothing to decide.
    pub fn passes_everything(&self) -> bool {
        self.guard.is_none() && self.operations.is_none() && self.filter.is_none()
    }

    /// The residual as bytes: equal for equal ones, different for different ones. What has no
    /// meaning without a filter is no part of it. The bytes are for this process only.
    pub fn key(&self) -> Vec<u8> {
        let mut key = Vec::new();
        match &self.operations {
            None => key.push(0),
            Some(_) => {
                key.push(1);
                key.extend_from_slice(&self.operation_set().0.to_be_bytes());
            }
        }
        if let Some(filter) = &self.filter {
            key.push(u8::from(self.missing_image == MissingImage::Drop));
            key.push(u8::from(self.pre_images));
            push_predicate(&mut key, filter);
        }
        // No filter begins so.
        if let Some(guard) = &self.guard {
            key.push(b'g');
            push_predicate(&mut key, guard);
        }
        key
    }

    pub(super) fn operation_set(&self) -> Operations {
        match &self.operations {
            None => Operations::ALL,
            Some(operations) => operations.iter().copied().collect(),
        }
    }
}

impl PartialEq for Residual {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Residual {}

impl Hash for Residual {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// A set of operations, a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Operations(u16);

impl Operations {
    pub(super) const ALL: Operations = Operations(u16::MAX);

    pub(super) const fn contains(self, operation: Operation) -> bool {
        self.0 & Operations::bit(operation) != 0
    }

    /// Those of both.
    pub(super) const fn and(self, other: Operations) -> Operations {
        Operations(self.0 & other.0)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn bit(operation: Operation) -> u16 {
        1 << operation as u16
    }
}

impl FromIterator<Operation> for Operations {
    fn from_iter<I: IntoIterator<Item = Operation>>(operations: I) -> Self {
        Operations(
            operations
                .into_iter()
                .fold(0, |set, operation| set | Operations::bit(operation)),
        )
    }
}

/// A tag, then the parts, each with its length or their number in front.
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
