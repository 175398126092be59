//! The stages of a plan.

use bson::{Document, doc};

/// A stage of a pipeline, after `$changeStream`. The type says what the stage is for, and what it reads of an
/// event. Two stages with equal BSON read the same.
///
/// `D` is the condition or the client's stage: decoded, or nothing where a plan keeps only its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum PipelineStage<D = Document> {
    /// Passes the namespaces of the scope and the selected operations.
    ScopeAndOperations(D),
    /// Passes the namespaces of the scope.
    Scope(D),
    /// Passes the selected operations.
    Operations(D),
    /// Passes the events that the row filter of the policy allows.
    RowFilter(Reads, D),
    /// Passes the events that the filter of the client may match.
    Filter(Reads, D),
    /// Passes some of the stream's events, by their time or token.
    Part(D),
    /// Passes the events that the stages that read documents reject.
    RejectedByDocuments(D),
    /// Removes all fields but those that identify an event.
    IdentityFields,
    /// A client's own stage, which may remove events and change them.
    Client(D),
}

/// What a condition reads of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reads {
    /// The operation and the document key, which are in the oplog.
    Key,
    /// The document after the change or that before it too. MongoDB may have to look them up.
    Documents,
}

impl<D> PipelineStage<D> {
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

    /// Returns the same stage with what `with` makes of its condition or its client's stage.
    fn map<E>(&self, with: impl FnOnce(&D) -> E) -> PipelineStage<E> {
        match self {
            PipelineStage::ScopeAndOperations(it) => PipelineStage::ScopeAndOperations(with(it)),
            PipelineStage::Scope(it) => PipelineStage::Scope(with(it)),
            PipelineStage::Operations(it) => PipelineStage::Operations(with(it)),
            PipelineStage::RowFilter(reads, it) => PipelineStage::RowFilter(*reads, with(it)),
            PipelineStage::Filter(reads, it) => PipelineStage::Filter(*reads, with(it)),
            PipelineStage::Part(it) => PipelineStage::Part(with(it)),
            PipelineStage::RejectedByDocuments(it) => PipelineStage::RejectedByDocuments(with(it)),
            PipelineStage::IdentityFields => PipelineStage::IdentityFields,
            PipelineStage::Client(it) => PipelineStage::Client(with(it)),
        }
    }
}

impl PipelineStage<()> {
    /// Returns the stage with what it is for MongoDB, which [`to_document`](PipelineStage::to_document) made.
    pub(super) fn with_document(self, mut stage: Document) -> PipelineStage {
        let is_client = self.is_client();
        self.map(|()| match stage.get_document_mut("$match") {
            Ok(condition) if !is_client => std::mem::take(condition),
            _ => stage,
        })
    }
}

impl PipelineStage {
    /// Returns the stage without its document.
    pub(super) fn kind(&self) -> PipelineStage<()> {
        self.map(|_| ())
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
