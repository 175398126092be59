//! Limits on how much of something may be in use at once.
//!
//! A [`Limiter`] hands out permits in the order of asking, and [`Turns`] go round by keys. A [`Limit`] is for what
//! its owner counts itself, and a [`TokenBucket`] for a rate. Of each principal or address, a [`Pace`] has the rate, and
//! [`PerKey`] other values. [`CostlyWork`] runs what takes long where it holds up nobody, and [`RepeatedLines`] bound
//! what callers write into the log. Each limit counts what it refuses, and the error of a refused call is made of
//! [`Exceeded`].

mod costly_work;
mod pace;
mod per_key;
mod priority;
mod repeated_lines;
mod token_bucket;
mod turns;

use std::{sync::Arc, time::Duration};

use metrics::Counter;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

pub use costly_work::CostlyWork;
pub use pace::Pace;
pub use per_key::{Member, PerKey};
pub use priority::lower_priority;
pub use repeated_lines::{LineKind, RepeatedLines};
pub use token_bucket::TokenBucket;
pub use turns::{Turn, Turns};

/// A maximum, with the unit that it is counted in.
#[derive(Debug, Clone)]
pub struct Limit {
    unit: &'static str,
    max: usize,
    rejections: Counter,
}

/// More was asked for than a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at most {max} {unit} at once")]
pub struct Exceeded {
    /// The unit of the limit, such as "watches" or "KiB of filters".
    pub unit: &'static str,
    /// The maximum, in this unit.
    pub max: usize,
}

impl Limit {
    /// Creates a limit whose rejections are not counted. `unit` is a plural.
    #[must_use]
    pub fn new(unit: &'static str, max: usize) -> Self {
        Self {
            unit,
            max,
            rejections: Counter::noop(),
        }
    }

    /// Counts the rejections.
    #[must_use]
    pub fn counted_by(self, rejections: Counter) -> Self {
        Self { rejections, ..self }
    }

    /// Returns the maximum, in the limit's unit.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Counts a rejection and returns it.
    #[must_use]
    pub fn reject(&self) -> Exceeded {
        self.rejections.increment(1);
        Exceeded {
            unit: self.unit,
            max: self.max,
        }
    }
}

/// Hands out permits, up to a limit. Its clones share them.
#[derive(Debug, Clone)]
pub struct Limiter {
    limit: Limit,
    free: Arc<Semaphore>,
}

/// What may be used until this is dropped.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Limiter {
    /// Creates a limiter with all permits free. Its limit is at most 2^61 - 1.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        Self {
            free: Arc::new(Semaphore::new(limit.max)),
            limit,
        }
    }

    /// Takes one permit.
    ///
    /// # Errors
    /// None is free. The rejection is counted.
    pub fn try_acquire(&self) -> Result<Permit, Exceeded> {
        self.try_acquire_many(1)
    }

    /// Takes permits for an amount in the limit's unit.
    ///
    /// # Errors
    /// Fewer are free. The rejection is counted.
    pub fn try_acquire_many(&self, amount: usize) -> Result<Permit, Exceeded> {
        let permit = u32::try_from(amount)
            .ok()
            .and_then(|amount| Arc::clone(&self.free).try_acquire_many_owned(amount).ok());
        let _permit = permit.ok_or_else(|| self.reject())?;
        Ok(Permit { _permit })
    }

    /// Waits for one permit, behind all others that wait for one.
    pub async fn acquire(&self) -> Permit {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        Permit {
            _permit: permit.expect("the semaphore is never closed"),
        }
    }

    /// Waits for one permit, for this long at most.
    ///
    /// # Errors
    /// None was free in that time. The rejection is counted.
    pub async fn acquire_within(&self, longest: Duration) -> Result<Permit, Exceeded> {
        let permit = timeout(longest, self.acquire()).await;
        permit.map_err(|_| self.reject())
    }

    /// Fails, and counts a rejection, if no permit is free now.
    ///
    /// # Errors
    /// None is free.
    pub fn check(&self) -> Result<(), Exceeded> {
        match self.free.available_permits() {
            0 => Err(self.reject()),
            _ => Ok(()),
        }
    }

    /// Counts a rejection and returns it, for an owner that refuses for a reason of its own.
    #[must_use]
    pub fn reject(&self) -> Exceeded {
        self.limit.reject()
    }

    /// Returns the number of permits in use.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        self.limit.max - self.free.available_permits()
    }
}

#[cfg(test)]
mod tests;
