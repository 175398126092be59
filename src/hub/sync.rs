//! The mutex of the hub: that of `std`, or that of the model checker (`make model`).

#[cfg(not(feature = "shuttle"))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(feature = "shuttle")]
pub(super) use shuttle::sync::{Mutex, MutexGuard};

/// Locks a mutex. Ignores poisoning, as no holder here panics halfway through a change.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
