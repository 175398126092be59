//! The kinds of change that MongoDB tells about.

use crate::pb;

/// A kind of change, as MongoDB's `operationType` names it.
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
    /// A collection was resharded.
    ReshardCollection,
    /// The end of a collection's or database's stream. Never asked for and never delivered as a
    /// change: the service tells it as `Invalidated`.
    Invalidate,
    /// Any `operationType` without a name here.
    Other,
}

impl Operation {
    /// Every operation, in the order of the API's numbers, then `Invalidate` and `Other`.
    pub const ALL: [Operation; 16] = [
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
        Operation::Invalidate,
        Operation::Other,
    ];

    /// The operations that change a document, and so the only ones that filters judge.
    pub const DOCUMENT: [Operation; 4] = [
        Operation::Insert,
        Operation::Update,
        Operation::Replace,
        Operation::Delete,
    ];

    /// MongoDB's name for the operation. `Other` has none; its name here, `other`, is for logs and
    /// metrics only.
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
            Operation::Invalidate => "invalidate",
            Operation::Other => "other",
        }
    }

    /// Reads MongoDB's `operationType`. A name that is not known here is `Other`, since MongoDB
    /// adds names and they must pass through.
    pub fn from_name(name: &str) -> Operation {
        Operation::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
            .unwrap_or(Operation::Other)
    }

    /// Whether the operation changes a document.
    pub const fn is_document(self) -> bool {
        matches!(
            self,
            Operation::Insert | Operation::Update | Operation::Replace | Operation::Delete
        )
    }

    /// Whether MongoDB tells of the operation only with `showExpandedEvents`.
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
        )
    }

    /// The API's number for the operation. `Invalidate` has none and gives `Unspecified`.
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
            Operation::Other => pb::OperationType::Other,
            Operation::Invalidate => pb::OperationType::Unspecified,
        }
    }

    /// The operation behind the API's number, `None` for `Unspecified`.
    pub fn from_pb(number: pb::OperationType) -> Option<Operation> {
        Operation::ALL
            .into_iter()
            .filter(|operation| *operation != Operation::Invalidate)
            .find(|operation| operation.to_pb() == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_unknown_names_are_other() {
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.name()), operation);
        }
        assert_eq!(Operation::from_name("startIndexBuild"), Operation::Other);
        assert_eq!(Operation::from_name(""), Operation::Other);
        assert_eq!(Operation::from_name("Insert"), Operation::Other);
    }

    #[test]
    fn every_number_of_the_api_but_unspecified_has_an_operation() {
        for number in 0..=15 {
            let number = pb::OperationType::try_from(number).unwrap();
            let operation = Operation::from_pb(number);
            if number == pb::OperationType::Unspecified {
                assert_eq!(operation, None);
            } else {
                assert_eq!(operation.unwrap().to_pb(), number);
            }
        }
        assert!(
            pb::OperationType::try_from(16).is_err(),
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
