//! The identity of the MongoDB deployment in resume tokens.

use std::sync::{Arc, OnceLock};

use crate::{
    error::Error,
    hub::single_flight::SingleFlight,
    pipeline::Plan,
    source::{ServerFacts, Source},
    wire::{TokenContext, TokenKeys},
};

/// Makes the contexts that encode resume tokens.
pub(super) struct Deployment {
    source: Arc<dyn Source>,
    /// The name from the configuration. `None`: that of the replica set.
    configured: Option<String>,
    /// The name that MongoDB has reported.
    reported: OnceLock<String>,
    facts: SingleFlight<ServerFacts>,
    token_keys: Option<Arc<TokenKeys>>,
}

impl Deployment {
    pub(super) fn new(
        source: Arc<dyn Source>,
        configured: Option<String>,
        token_keys: Option<Arc<TokenKeys>>,
    ) -> Self {
        Self {
            source,
            configured,
            reported: OnceLock::new(),
            facts: SingleFlight::new(),
            token_keys,
        }
    }

    /// The keys that encrypt resume tokens.
    pub(super) fn token_keys(&self) -> Option<&Arc<TokenKeys>> {
        self.token_keys.as_ref()
    }

    /// Returns the context that encodes the tokens of a plan's stream.
    ///
    /// # Errors
    /// MongoDB does not report its name, or has none yet.
    pub(super) async fn token_context(&self, plan: &Plan) -> Result<TokenContext, Error> {
        let name = self.name().await?;
        Ok(TokenContext::new(name, plan).with_keys(self.token_keys.clone()))
    }

    async fn name(&self) -> Result<&str, Error> {
        if let Some(name) = self.configured.as_ref().or(self.reported.get()) {
            return Ok(name);
        }
        let facts = self
            .facts
            .run(|| {
                let source = Arc::clone(&self.source);
                async move { source.facts().await }
            })
            .await
            .map_err(|error| {
                tracing::warn!(code = error.code, %error, "could not read the name of the mongodb deployment");
                Error::from(&error)
            })?;
        // A replica set gets its name when it is initiated. Tokens with an empty name would match any
        // other set that is not initiated.
        if facts.set_name.is_empty() {
            return Err(Error::ChangeStreamsUnsupported(None));
        }
        Ok(self.reported.get_or_init(|| facts.set_name))
    }
}
