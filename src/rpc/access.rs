//! What decides who a caller is and what it may watch.

use crate::{auth::Authenticator, policy::Policy};

/// Authentication and authorization of callers.
#[derive(Debug, Clone)]
pub struct Access {
    /// Identifies the caller.
    pub authenticator: Authenticator,
    /// Decides what the caller may watch.
    pub policy: Policy,
}
