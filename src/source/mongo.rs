//! The MongoDB implementation of [`Source`]: the only module that uses the driver's client.
//!
//! It reads raw batches (`aggregate(..).batch()`): events are never decoded, and each reply has its
//! post-batch resume token. In exchange the hub has to resume streams itself. The driver's change
//! stream is no alternative: it resumes without pause or limit, and it hides the token of an empty
//! batch.

mod aggregate;
mod closing;
mod connect;
mod connected;
mod connections;
mod cursor;
mod facts;
mod idle;
mod no_events;
mod opening;
mod options;
mod prover;
mod reply_timeout;
mod retry;
mod uri;
mod values;

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::{
    pipeline::Plan,
    source::{BatchSize, ClusterTime, Cursor, Position, ServerFacts, Source, SourceError},
};

pub use connect::{MongoSource, check_uri};
pub use connections::MongoSettings;
pub(crate) use values::{timestamp, token_document};

use no_events::Following;

impl MongoSource {
    /// Checks that the deployment answers, and that change streams can be opened with the read preference of
    /// the connection string. Returns its facts.
    ///
    /// # Errors
    /// The reason, as of any call.
    pub async fn check(&self) -> Result<ServerFacts, SourceError> {
        let facts = self.facts().await?;
        self.connected().await?.check_read_preference().await?;
        Ok(facts)
    }
}

impl Source for MongoSource {
    fn for_feeds(self: Arc<Self>) -> Arc<dyn Source> {
        Arc::new(self.used_for_feeds())
    }

    fn open<'a>(
        &'a self,
        plan: &'a Plan,
        at: Option<&'a Position>,
        batch_size: BatchSize,
    ) -> BoxFuture<'a, Result<Box<dyn Cursor>, SourceError>> {
        Box::pin(async move {
            let (source, others) = self.for_streams().await?;
            let permit = source.stream_permit().await;
            let open = || source.open_cursor(plan, at, (batch_size, permit.clone()), &others);
            let cursor = source.retried(open).await?.holding(permit);
            Ok(Box::new(cursor) as Box<dyn Cursor>)
        })
    }

    fn oldest_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            source.retried(|| source.oldest_oplog_time()).await
        })
    }

    fn current_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            source.retried(|| source.operation_time()).await
        })
    }

    fn has_no_events<'a>(
        &'a self,
        plan: &'a Plan,
        at: &'a Position,
        until: ClusterTime,
    ) -> BoxFuture<'a, Result<bool, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            let mut look = source.begin_look(plan.clone(), at.clone(), until);
            Ok(look.answer().await? == Following::Nothing)
        })
    }

    fn is_sharded(&self) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            source.retried(|| source.is_sharded()).await
        })
    }

    fn facts(&self) -> BoxFuture<'_, Result<ServerFacts, SourceError>> {
        Box::pin(async move {
            let source = self.connected().await?;
            source.retried(|| source.server_facts()).await
        })
    }
}
