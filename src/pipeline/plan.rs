//! The change-stream pipeline of a feed.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bson::{Document, doc};

use super::change_stream_options::ChangeStreamOptions;
use super::filter_stages::filter_stages;
use super::genuine::{Genuine, may_look_split};
use super::scope_stage::{scope_and_operations, stages_before_client_stages};
use super::stage::PipelineStage;
use super::{Watch, match_stage::all_of};
use crate::digest::sha256;
use crate::model::{BeforeChange, Operation, OperationSet, Scope};

/// The change stream of one feed. Watches with equal plans can share it.
///
/// Two plans are equal if their canonical bytes are: the scope, and the options and stages in BSON as MongoDB
/// gets them. So the order of keys counts, as it does for MongoDB when it compares documents.
///
/// The stages are kept as those bytes only, and decoded where MongoDB is to get them.
#[derive(Clone)]
pub struct Plan {
    scope: Scope,
    options: ChangeStreamOptions,
    /// The stages without their documents, each with the length of its bytes at the end of the identity.
    stages: Box<[(PipelineStage<()>, usize)]>,
    operations: Option<BTreeSet<Operation>>,
    genuine: Genuine,
    /// The canonical bytes of the parts.
    identity: Arc<[u8]>,
}

/// What a plan consists of, decoded.
struct Parts {
    scope: Scope,
    options: ChangeStreamOptions,
    /// The stages after `$changeStream`, without `$changeStreamSplitLargeEvent`.
    stages: Vec<PipelineStage>,
    operations: Option<BTreeSet<Operation>>,
}

/// The first bytes of an identity: whether operations are selected, their set, and the number of stages that
/// are a client's own. They are of use within this process only; the bytes after them are the same in every
/// process and version.
const LOCAL_LEN: usize = 1 + size_of::<u32>() + size_of::<u64>();

impl Parts {
    /// Encodes the parts, with different bytes for different ones. Returns the length of each stage's bytes too,
    /// which are the last.
    fn canonical_bytes(&self) -> (Vec<u8>, Vec<usize>) {
        let Parts {
            scope,
            options,
            stages,
            operations,
        } = self;
        let mut bytes = Vec::new();
        bytes.push(u8::from(operations.is_some()));
        let set: OperationSet = operations.iter().flatten().copied().collect();
        bytes.extend_from_slice(&set.bits().to_be_bytes());
        // Two stages may be equal although one is Weir's and the other a client's.
        let of_client = stages.iter().filter(|it| it.is_client()).count() as u64;
        bytes.extend_from_slice(&of_client.to_be_bytes());

        bytes.extend_from_slice(b"weir plan 1\0");
        let scope = scope.canonical_bytes();
        bytes.extend_from_slice(&(scope.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&scope);
        // A BSON document starts with its length, so concatenation is unambiguous.
        let mut push = |document: Document| {
            let start = bytes.len();
            document
                .to_writer(&mut bytes)
                .expect("validation keeps NUL out of every field name");
            bytes.len() - start
        };
        push(options.to_document());
        let lengths = stages.iter().map(|stage| push(stage.to_document()));
        let lengths = lengths.collect();
        (bytes, lengths)
    }
}

impl Plan {
    /// Returns the plan of a watch that has its own change stream, where MongoDB does all the filtering
    /// that a pipeline can express; see [`Watch::dedicated_residual`](super::Watch::dedicated_residual) for
    /// the rest.
    ///
    /// The stages are `$match`, cheapest first: namespaces and operations, then conditions on the document
    /// key, then conditions on documents. A client's own stages follow, in order.
    pub fn dedicated(watch: &Watch) -> Plan {
        if !watch.client_stages.is_empty() {
            return Plan::with_client_stages(watch);
        }
        let operations = watch.operations.as_ref();
        let mut stages = Vec::from_iter(scope_and_operations(watch, operations));
        if watch.selects_documents() {
            stages.extend(filter_stages(watch));
        }
        Plan::of_watch(watch, stages, watch.operations.clone())
    }

    fn with_client_stages(watch: &Watch) -> Plan {
        let mut stages = stages_before_client_stages(watch);
        if watch.selects_documents() {
            stages.extend(filter_stages(watch));
        }
        let client_stages = watch.client_stages.documents();
        let may_look_split = may_look_split(&client_stages);
        stages.extend(client_stages.into_iter().map(PipelineStage::Client));
        if may_look_split {
            let without = doc! { "$unset": "splitEvent" };
            stages.push(PipelineStage::Client(without));
        }
        // The stages have selected them exactly.
        Plan::of_watch(watch, stages, None)
    }

    /// Returns the plan that all watches of this scope with these image options share. It selects
    /// namespaces only; operations and documents are left to
    /// [`Watch::shared_residual`](super::Watch::shared_residual).
    pub fn shared(watch: &Watch) -> Plan {
        let stages = Vec::from_iter(scope_and_operations(watch, None));
        Plan::of_watch(watch, stages, None)
    }

    fn of_watch(
        watch: &Watch,
        stages: Vec<PipelineStage>,
        operations: Option<BTreeSet<Operation>>,
    ) -> Plan {
        Plan::new(Parts {
            scope: watch.scope.clone(),
            options: ChangeStreamOptions::new(watch),
            stages,
            operations,
        })
    }

    fn new(parts: Parts) -> Plan {
        let (identity, lengths) = parts.canonical_bytes();
        let genuine = Genuine::after(parts.stages.iter().filter_map(|stage| match stage {
            PipelineStage::Client(stage) => Some(stage),
            _ => None,
        }));
        Plan {
            stages: parts
                .stages
                .iter()
                .map(PipelineStage::kind)
                .zip(lengths)
                .collect(),
            scope: parts.scope,
            options: parts.options,
            operations: parts.operations,
            genuine,
            identity: identity.into(),
        }
    }

    /// Decodes the stages.
    fn decoded(&self) -> Vec<PipelineStage> {
        let total: usize = self.stages.iter().map(|(_, length)| length).sum();
        let mut rest = self
            .identity
            .len()
            .checked_sub(total)
            .and_then(|start| self.identity.get(start..));
        let decode = |(kind, length): &(PipelineStage<()>, usize)| {
            let (bytes, after) = rest?.split_at_checked(*length)?;
            rest = Some(after);
            // It was encoded from one.
            let document = Document::from_reader(bytes).ok()?;
            Some(kind.with_document(document))
        };
        self.stages.iter().filter_map(decode).collect()
    }

    /// Returns the memory that the plan takes, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.stages)
            + self.identity.len()
            + self.scope.heap_bytes()
    }

    /// Returns the collection, database or deployment to open the stream on.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Returns the options of the `$changeStream` stage, except the start position.
    #[must_use]
    pub fn options(&self) -> ChangeStreamOptions {
        self.options
    }

    /// Returns the operations to deliver; `None` means all. The stream also contains the events that show why
    /// a watch was invalidated; the feed drops those after reading them.
    #[must_use]
    pub fn operations(&self) -> Option<&BTreeSet<Operation>> {
        self.operations.as_ref()
    }

    /// Returns the stages for MongoDB after `$changeStream`, without `$changeStreamSplitLargeEvent`.
    #[must_use]
    pub fn stages(&self) -> Vec<Document> {
        self.decoded()
            .iter()
            .map(PipelineStage::to_document)
            .collect()
    }

    /// Returns whether the stream fails if a pre-image is missing.
    #[must_use]
    pub fn requires_pre_image(&self) -> bool {
        self.options.before_change == BeforeChange::Required
    }

    /// Returns whether documents decide which events the stream contains.
    #[must_use]
    pub fn filters_documents(&self) -> bool {
        self.stages.iter().any(|(it, _)| it.reads_documents())
    }

    /// Returns whether the stream has stages of a client, which may remove events and change them.
    #[must_use]
    pub fn has_client_stages(&self) -> bool {
        self.stages.iter().any(|(it, _)| it.is_client())
    }

    /// Returns whether the stream has every event of the namespace that it is opened on.
    #[must_use]
    pub fn leaves_no_event_out(&self) -> bool {
        let mut stages = self.stages.iter();
        !matches!(self.scope(), Scope::Collections { .. })
            && stages.all(|(stage, _)| matches!(stage, PipelineStage::IdentityFields))
    }

    /// Returns what of the stream's events is certainly as MongoDB made it.
    #[must_use]
    pub fn genuine(&self) -> Genuine {
        self.genuine
    }

    /// Returns whether the streams of both plans are the same, whatever each selects from its own.
    #[must_use]
    pub fn has_stream_of(&self, other: &Plan) -> bool {
        self.stream_identity() == other.stream_identity()
    }

    /// Returns a hash that identifies the events of this plan's stream. It is the same in every process
    /// and version, so a resume token can record the stream that it came from. The operations are left out,
    /// because they select from the stream.
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&sha256(self.stream_identity())[..16]);
        fingerprint
    }

    fn stream_identity(&self) -> &[u8] {
        &self.identity[LOCAL_LEN..]
    }
}

/// Plans that are derived from another one.
impl Plan {
    /// Returns the plan without its stages, widened to the whole database if it selects some collections.
    /// Its stream skips no event, so an empty reply means that there was none.
    #[must_use]
    pub fn unfiltered(&self) -> Plan {
        let scope = match self.scope() {
            Scope::Collections { database, .. } => Scope::Database {
                database: database.clone(),
            },
            scope => scope.clone(),
        };
        Plan::new(Parts {
            scope,
            options: self.options,
            stages: Vec::new(),
            operations: None,
        })
    }

    /// Returns the plan of all events of the scope, with `invalidate`, and without their documents. They carry only
    /// the fields that identify them.
    #[must_use]
    pub fn scope_outline(&self) -> Plan {
        let mut stages = self.decoded();
        stages.retain(|stage| matches!(stage, PipelineStage::Scope(_)));
        stages.push(PipelineStage::IdentityFields);
        Plan::new(Parts {
            scope: self.scope.clone(),
            options: self.options.without_documents(),
            stages,
            operations: None,
        })
    }

    /// Returns the plan without the stages that read documents. MongoDB looks up the same documents for
    /// its stream, and skips no event because of them.
    #[must_use]
    pub fn without_document_stages(&self) -> Plan {
        self.with_stages(self.stages_without_documents())
    }

    /// Returns the plan without documents, so that MongoDB looks up none. Its events carry only the fields
    /// that identify them.
    #[must_use]
    pub fn identity_only(&self) -> Plan {
        let mut stages = self.stages_without_documents();
        stages.push(PipelineStage::IdentityFields);
        self.with(self.options.without_documents(), stages)
    }

    /// Returns the plan of those events among its own that meet a condition, which reads no document.
    ///
    /// MongoDB applies such a condition before it looks up documents: it moves a `$match` before the stages
    /// that add them, and rewrites conditions on `clusterTime` for oplog entries
    /// (`change_stream_pipeline_helpers.cpp` and `change_stream_rewrite_helpers.cpp` in its repository). So
    /// an event that is left out cannot fail.
    #[must_use]
    pub fn narrowed_to(&self, condition: Document) -> Plan {
        let mut stages = self.decoded();
        stages.insert(0, PipelineStage::Part(condition));
        self.with_stages(stages)
    }

    /// Returns the plan of the events that the stages that read documents reject, and all others pass: together
    /// with those of this plan they are the events of
    /// [`without_document_stages`](Self::without_document_stages). `None` if a client's own stages are among
    /// them: those are no conditions that could be turned round.
    #[must_use]
    pub fn rejected_by_documents(&self) -> Option<Plan> {
        if self.has_client_stages() {
            return None;
        }
        let (on_documents, mut stages): (Vec<_>, Vec<_>) = self
            .decoded()
            .into_iter()
            .partition(PipelineStage::reads_documents);
        let conditions = on_documents
            .iter()
            .filter_map(PipelineStage::condition)
            .cloned()
            .collect();
        stages.push(PipelineStage::RejectedByDocuments(
            doc! { "$nor": [all_of(conditions)] },
        ));
        Some(self.with_stages(stages))
    }

    fn stages_without_documents(&self) -> Vec<PipelineStage> {
        let mut stages = self.decoded();
        stages.retain(|stage| !stage.reads_documents());
        stages
    }

    fn with_stages(&self, stages: Vec<PipelineStage>) -> Plan {
        self.with(self.options, stages)
    }

    fn with(&self, options: ChangeStreamOptions, stages: Vec<PipelineStage>) -> Plan {
        Plan::new(Parts {
            scope: self.scope.clone(),
            options,
            stages,
            operations: self.operations.clone(),
        })
    }
}

impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for Plan {}

impl Hash for Plan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("scope", &self.scope)
            .field("options", &self.options)
            .field("stages", &self.decoded())
            .field("operations", &self.operations)
            .finish()
    }
}

#[cfg(test)]
mod tests;
