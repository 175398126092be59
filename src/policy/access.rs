//! What a watch asks of a policy, and what the policy grants it.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    error::Error,
    filter::Filter,
    model::{BeforeChange, FullDocument, Operation, Scope},
    pipeline::{View, Watch},
};

/// The parts of a watch that a policy checks.
#[derive(Debug, Clone, Copy)]
pub struct AccessRequest<'w> {
    pub(super) scope: &'w Scope,
    /// `None` requests all allowed operations.
    pub(super) operations: Option<&'w BTreeSet<Operation>>,
    pub(super) expanded: bool,
    pub(super) full_document: FullDocument,
    pub(super) before_change: BeforeChange,
    pub(super) filter: Option<&'w Filter>,
    /// `true` if the watch has stages of its own.
    pub pipeline: bool,
    /// `true` if the hash of the `_id` decides which events are delivered.
    pub(super) sharded: bool,
}

/// The access that a policy grants to a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The visible parts of documents, and the tokens that are accepted.
    pub view: Arc<View>,
    /// The operations to deliver; `None` is all.
    pub operations: Option<BTreeSet<Operation>>,
    /// The limits of the deciding rule, if it sets any.
    pub limits: Option<Limits>,
}

/// Why a policy denies a request.
#[derive(Debug)]
pub struct Denial {
    /// The name of the rule that decides; `None` if no rule does.
    pub rule: Option<String>,
    /// The reason for the operator, without details of the request.
    pub reason: &'static str,
    /// The error for the caller, which may reveal less.
    pub error: Error,
}

/// The rule that decides about a caller's requests for a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidingRule {
    /// Its index in the file.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The claims that its filter has placeholders for, sorted.
    pub filter_claims: Vec<String>,
}

/// The limits of a principal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// The rule that sets them. Usage is counted separately for each rule. Empty for the server's default
    /// limits.
    pub rule: Arc<str>,
    /// The maximum number of open watches.
    pub watches: Option<usize>,
    /// The maximum number of new watches per second.
    pub watch_rate: Option<u32>,
    /// The maximum number of bytes per second.
    pub byte_rate: Option<u64>,
}

impl<'w> AccessRequest<'w> {
    /// Creates the request of a watch. `operations` are the requested ones, because those in `watch` may be
    /// narrowed already.
    #[must_use]
    pub fn of(watch: &'w Watch, operations: Option<&'w BTreeSet<Operation>>) -> Self {
        Self {
            scope: &watch.scope,
            operations,
            expanded: watch.expanded,
            full_document: watch.full_document,
            before_change: watch.before_change,
            filter: watch.filter.as_ref(),
            pipeline: !watch.client_stages.is_empty(),
            sharded: watch.shard.is_some(),
        }
    }
}

impl Decision {
    /// Narrows a watch to what its caller may see.
    pub fn narrow(&self, watch: &mut Watch) {
        watch.operations.clone_from(&self.operations);
        watch.restrict_to(&self.view);
    }

    /// Drops the row filter. A watch that the decision has narrowed has it, and shares it with equal watches.
    pub fn drop_row_filter(&mut self) {
        Arc::make_mut(&mut self.view).row_filter = None;
    }

    /// Returns whether `watch`, which this decision has narrowed, delivers the same under another decision.
    #[must_use]
    pub fn same_access(&self, watch: &Watch, other: &Self) -> bool {
        watch.row_filter == other.view.row_filter
            && self.view.field_mask == other.view.field_mask
            && self.view.token_audience == other.view.token_audience
            && self.operations == other.operations
    }
}
