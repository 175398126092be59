//! The stages of a plan.

use bson::{Document, doc};

/// A stage of a pipeline, after `$changeStream`. The type says what the stage is for, and what it reads of an
/// event. Two stages with equal BSON read the same.
#[derive(Clone, Debug)]
pub(super) enum PipelineStage {
    /// Passes the namespaces of the scope and the selected operations.
    ScopeAndOperations(Document),
    /// Passes the namespaces of the scope.
    Scope(Document),
    /// Passes the selected operations.
    Operations(Document),
    /// Passes the events that the row filter of the policy allows.
    RowFilter(Reads, Document),
    /// Passes the events that the filter of the client may match.
    Filter(Reads, Document),
    /// Passes some of the stream's events, by their time or token.
    Part(Document),
    /// Passes the events that the stages that read documents reject.
    RejectedByDocuments(Document),
    /// Removes all fields but those that identify an event.
    IdentityFields,
    /// A client's own stage, which may remove events and change them.
    Client(Document),
}

/// What a condition reads of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reads {
    /// The operation and the document key, which are in the oplog.
    Key,
    /// The document after the change or that before it too. MongoDB may have to look them up.
    Documents,
}

impl PipelineStage {
    /// Returns whether the stage may read the document after the change, or that before it.
    pub(super) fn reads_documents(&self) -> bool {
        match self {
            PipelineStage::RowFilter(reads, _) | PipelineStage::Filter(reads, _) => {
                *reads == Reads::Documents
            }
            PipelineStage::RejectedByDocuments(_) | PipelineStage::Client(_) => true,
            PipelineStage::ScopeAndOperations(_)
            | PipelineStage::Scope(_)
            | PipelineStage::Operations(_)
            | PipelineStage::Part(_)
            | PipelineStage::IdentityFields => false,
        }
    }

    /// Returns whether the stage is a client's own.
    pub(super) fn is_client(&self) -> bool {
        matches!(self, PipelineStage::Client(_))
    }

    /// Returns the condition that the stage's events meet; `None` for a stage that is not a condition of Weir.
    pub(super) fn condition(&self) -> Option<&Document> {
        match self {
            PipelineStage::ScopeAndOperations(condition)
            | PipelineStage::Scope(condition)
            | PipelineStage::Operations(condition)
            | PipelineStage::RowFilter(_, condition)
            | PipelineStage::Filter(_, condition)
            | PipelineStage::Part(condition)
            | PipelineStage::RejectedByDocuments(condition) => Some(condition),
            PipelineStage::IdentityFields | PipelineStage::Client(_) => None,
        }
    }

    /// Returns the stage for MongoDB.
    pub(super) fn to_document(&self) -> Document {
        match (self, self.condition()) {
            (_, Some(condition)) => doc! { "$match": condition },
            (PipelineStage::Client(stage), None) => stage.clone(),
            (_, None) => doc! {
                "$project": { "_id": 1, "operationType": 1, "clusterTime": 1, "ns": 1 },
            },
        }
    }
}
