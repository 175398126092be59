//! What a watch keeps of its request for as long as it is open.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::change_stream_options::ChangeStreamOptions;
use super::client_stages::ClientStages;
use super::watch::Watch;
use crate::filter::{Clauses, Filter, index_bytes};
use crate::model::{
    BeforeChange, FeedMode, MissingImage, Operation, Rendering, Scope, Shard, Start,
};

/// What a watch has of its scope's names beside those of its shape: its own, those in the plan of the shared stream
/// and four times in the bytes that identify it, and those in logs and spans.
const SCOPE_COPIES: usize = 8;

/// What a watch has of the token that it starts at: as it came, and the position in it.
const TOKEN_COPIES: usize = 2;

/// All of a watch that is large and that equal watches share, with what decides how often it is kept: watches of
/// equal shapes have one feed, one group and one rendering.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    scope: Scope,
    options: ChangeStreamOptions,
    feed_mode: FeedMode,
    operations: Option<BTreeSet<Operation>>,
    missing_image: MissingImage,
    shard: Option<Shard>,
    row_filter: Option<Filter>,
    filter: Option<Filter>,
    rendering: Arc<Rendering>,
    client_stages: ClientStages,
}

impl Shape {
    /// Returns the memory that watches of this shape keep together, in bytes: filters with their patterns and their
    /// index, `fields`, and stages.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let filters = [&self.row_filter, &self.filter].into_iter().flatten();
        let filters: usize = filters.map(Filter::heap_bytes).sum();
        let index = index_bytes(&Clauses {
            row_filter: self.row_filter.clone(),
            filter: self.filter.clone(),
            pre_images: self.options.before_change != BeforeChange::Off,
            ..Clauses::default()
        });
        size_of::<Self>()
            + self.scope.heap_bytes()
            + filters
            + index
            + self.rendering.mask.heap_bytes()
            + self.client_stages.heap_bytes()
    }
}

impl Watch {
    /// Returns the shape of the watch.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape {
            scope: self.scope.clone(),
            options: ChangeStreamOptions::new(self),
            feed_mode: self.feed_mode,
            operations: self.operations.clone(),
            missing_image: self.missing_image,
            shard: self.shard,
            row_filter: self.row_filter.clone(),
            filter: self.filter.clone(),
            rendering: Arc::clone(&self.rendering),
            client_stages: self.client_stages.clone(),
        }
    }

    /// Takes the parts of an equal shape in place of its own, so that they are kept once.
    pub fn share(&mut self, shape: &Shape) {
        self.row_filter.clone_from(&shape.row_filter);
        self.filter.clone_from(&shape.filter);
        self.rendering = Arc::clone(&shape.rendering);
        self.client_stages = shape.client_stages.clone();
    }

    /// Returns the memory that the watch keeps of its request beside its shape, in bytes.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        let fields = self.pattern_fields.iter();
        let fields: usize = fields.map(|it| size_of::<String>() + 16 + it.len()).sum();
        let token = match &self.start {
            Start::Token(token) => TOKEN_COPIES * token.len(),
            Start::Now | Start::Time(_) => 0,
        };
        SCOPE_COPIES * self.scope.heap_bytes() + fields + token
    }
}
