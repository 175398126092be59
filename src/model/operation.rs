//! The kinds of change events.

use crate::pb;

/// A kind of change event: MongoDB's `operationType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// A document was inserted.
    Insert,
    /// Fields of a document were changed.
    Update,
    /// A document was replaced as a whole.
    Replace,
    /// A document was deleted.
    Delete,
    /// A collection was dropped.
    Drop,
    /// A collection was renamed.
    Rename,
    /// A database was dropped.
    DropDatabase,
    /// A collection, view or time series was created.
    Create,
    /// Indexes were created.
    CreateIndexes,
    /// Indexes were dropped.
    DropIndexes,
    /// A collection's options or indexes were changed.
    Modify,
    /// A collection was sharded.
    ShardCollection,
    /// A shard key was refined.
    RefineCollectionShardKey,
    /// A collection was resharded, moved or unsharded.
    ReshardCollection,
    /// A transaction has ended.
    EndOfTransaction,
    /// The end of the stream of a collection or database. Clients cannot select it, and receive it as the
    /// message `Invalidated`, not as a change.
    Invalidate,
    /// Any other `operationType`.
    Other,
}

impl Operation {
    /// Every operation: those with names that the API has numbers for, in their order, then `Invalidate`
    /// and `Other`.
    pub const ALL: [Operation; 17] = [
        Operation::Insert,
        Operation::Update,
        Operation::Replace,
        Operation::Delete,
        Operation::Drop,
        Operation::Rename,
        Operation::DropDatabase,
        Operation::Create,
        Operation::CreateIndexes,
        Operation::DropIndexes,
        Operation::Modify,
        Operation::ShardCollection,
        Operation::RefineCollectionShardKey,
        Operation::ReshardCollection,
        Operation::EndOfTransaction,
        Operation::Invalidate,
        Operation::Other,
    ];

    /// The operations that change a document. Filters apply to these only.
    pub const DOCUMENT: [Operation; 4] = [
        Operation::Insert,
        Operation::Update,
        Operation::Replace,
        Operation::Delete,
    ];

    /// Returns MongoDB's name for the operation. The name of `Other`, `other`, is for logs and metrics only.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Replace => "replace",
            Operation::Delete => "delete",
            Operation::Drop => "drop",
            Operation::Rename => "rename",
            Operation::DropDatabase => "dropDatabase",
            Operation::Create => "create",
            Operation::CreateIndexes => "createIndexes",
            Operation::DropIndexes => "dropIndexes",
            Operation::Modify => "modify",
            Operation::ShardCollection => "shardCollection",
            Operation::RefineCollectionShardKey => "refineCollectionShardKey",
            Operation::ReshardCollection => "reshardCollection",
            Operation::EndOfTransaction => "endOfTransaction",
            Operation::Invalidate => "invalidate",
            Operation::Other => "other",
        }
    }

    /// Returns the operation of MongoDB's `operationType`; `Other` for an unknown name, because later
    /// versions of MongoDB add names.
    pub fn from_name(name: &str) -> Operation {
        Operation::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
            .unwrap_or(Operation::Other)
    }

    /// Returns whether the operation changes a document.
    pub const fn is_document(self) -> bool {
        matches!(
            self,
            Operation::Insert | Operation::Update | Operation::Replace | Operation::Delete
        )
    }

    /// Returns whether MongoDB sends the operation only with `showExpandedEvents`. It sends
    /// `endOfTransaction` only with a feature flag too (MongoDB 7.1 to 9.0, SERVER-78269).
    pub const fn needs_expanded(self) -> bool {
        matches!(
            self,
            Operation::Create
                | Operation::CreateIndexes
                | Operation::DropIndexes
                | Operation::Modify
                | Operation::ShardCollection
                | Operation::RefineCollectionShardKey
                | Operation::ReshardCollection
                | Operation::EndOfTransaction
        )
    }

    /// Returns the value of the API; `Unspecified` for `Invalidate`, which has none.
    pub const fn to_pb(self) -> pb::OperationType {
        match self {
            Operation::Insert => pb::OperationType::Insert,
            Operation::Update => pb::OperationType::Update,
            Operation::Replace => pb::OperationType::Replace,
            Operation::Delete => pb::OperationType::Delete,
            Operation::Drop => pb::OperationType::Drop,
            Operation::Rename => pb::OperationType::Rename,
            Operation::DropDatabase => pb::OperationType::DropDatabase,
            Operation::Create => pb::OperationType::Create,
            Operation::CreateIndexes => pb::OperationType::CreateIndexes,
            Operation::DropIndexes => pb::OperationType::DropIndexes,
            Operation::Modify => pb::OperationType::Modify,
            Operation::ShardCollection => pb::OperationType::ShardCollection,
            Operation::RefineCollectionShardKey => pb::OperationType::RefineCollectionShardKey,
            Operation::ReshardCollection => pb::OperationType::ReshardCollection,
            Operation::EndOfTransaction => pb::OperationType::EndOfTransaction,
            Operation::Other => pb::OperationType::Other,
            Operation::Invalidate => pb::OperationType::Unspecified,
        }
    }

    /// Returns the operation of a value of the API, `None` for `Unspecified`.
    pub fn from_pb(number: pb::OperationType) -> Option<Operation> {
        Operation::ALL
            .into_iter()
            .filter(|operation| *operation != Operation::Invalidate)
            .find(|operation| operation.to_pb() == number)
    }
}

/// A set of operations, as a bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OperationSet(u32);

// A shift beyond the last bit wraps in a release build: one operation would count as another.
const _: () = assert!(Operation::ALL.len() <= u32::BITS as usize);

impl OperationSet {
    pub(crate) const ALL: OperationSet = OperationSet(u32::MAX);

    pub(crate) const fn contains(self, operation: Operation) -> bool {
        self.0 & OperationSet::bit(operation) != 0
    }

    /// Returns the intersection.
    pub(crate) const fn and(self, other: OperationSet) -> OperationSet {
        OperationSet(self.0 & other.0)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The bits, one for each operation of the set; all for [`ALL`](Self::ALL).
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    const fn bit(operation: Operation) -> u32 {
        1 << operation as u32
    }
}

impl FromIterator<Operation> for OperationSet {
    fn from_iter<I: IntoIterator<Item = Operation>>(operations: I) -> Self {
        OperationSet(
            operations
                .into_iter()
                .fold(0, |set, operation| set | OperationSet::bit(operation)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_are_other() {
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.name()), operation);
        }
        assert_eq!(Operation::from_name("startIndexBuild"), Operation::Other);
        assert_eq!(Operation::from_name(""), Operation::Other);
        assert_eq!(Operation::from_name("Insert"), Operation::Other);
    }

    #[test]
    fn every_api_value_except_unspecified_has_an_operation() {
        for number in 0..=16 {
            let number = pb::OperationType::try_from(number).unwrap();
            let operation = Operation::from_pb(number);
            if number == pb::OperationType::Unspecified {
                assert_eq!(operation, None);
            } else {
                assert_eq!(operation.unwrap().to_pb(), number);
            }
        }
        assert!(
            pb::OperationType::try_from(17).is_err(),
            "a new number: add its operation"
        );
    }

    #[test]
    fn document_operations_are_the_four_that_change_a_document() {
        let document: Vec<_> = Operation::ALL
            .into_iter()
            .filter(|operation| operation.is_document())
            .collect();
        assert_eq!(document, Operation::DOCUMENT);
    }
}
