//! Whether the server is ready for clients, and why not.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// The readiness of the server, which `/readyz` reports.
#[derive(Debug)]
pub struct Readiness {
    ready: AtomicBool,
    /// The reason while it is not ready.
    reason: Mutex<String>,
}

impl Readiness {
    /// Returns the state of a server that is not ready, for this reason. Anyone who reaches the admin port can
    /// read it.
    #[must_use]
    pub fn not_ready(reason: &str) -> Self {
        Self {
            ready: AtomicBool::new(false),
            reason: Mutex::new(reason.to_owned()),
        }
    }

    /// Marks the server as ready.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Marks the server as not ready, for this reason.
    pub fn set_not_ready(&self, reason: &str) {
        let mut current = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        reason.clone_into(&mut current);
        self.ready.store(false, Ordering::Release);
    }

    /// Returns whether the server is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Returns the reason for which the server is not ready, if it is not.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.is_ready()).then(|| reason.clone())
    }
}
