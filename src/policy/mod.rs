//! Who may watch what: from a [`Principal`] and what it asks for, to a [`View`].

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    auth::Principal,
    error::Error,
    plan::{View, Watch},
};

/// The policy in force.
#[derive(Debug, Clone)]
pub struct Policy {
    changes: watch::Receiver<u64>,
    _sender: Arc<watch::Sender<u64>>,
}

impl Policy {
    /// Lets everybody watch everything.
    #[must_use]
    pub fn open() -> Self {
        let (sender, changes) = watch::channel(0);
        Self {
            changes,
            _sender: Arc::new(sender),
        }
    }

    /// What a principal sees of what it asks for.
    ///
    /// # Errors
    /// [`Error::AccessDenied`] when it may not watch that. Nothing is told of the namespace.
    pub fn judge(&self, _principal: &Principal, _watch: &Watch) -> Result<View, Error> {
        Ok(View::whole())
    }

    /// Moves whenever [`judge`](Self::judge) may answer otherwise than before.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
