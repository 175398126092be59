//! A bucket of tokens.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that fills at a rate, up to its capacity. More may be taken than it holds; then its level is below zero.
#[derive(Debug)]
pub struct TokenBucket {
    /// In tokens per second.
    rate: f64,
    capacity: f64,
    level: f64,
    updated: Instant,
}

impl TokenBucket {
    /// Creates a full bucket. `rate` is in tokens per second, and above zero.
    #[must_use]
    pub fn full(rate: f64, capacity: f64, now: Instant) -> Self {
        Self {
            rate,
            capacity,
            level: capacity,
            updated: now,
        }
    }

    /// Returns the rate, in tokens per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Changes the rate and the capacity. The level stays, as far as the bucket holds it.
    pub fn set_rate(&mut self, rate: f64, capacity: f64, now: Instant) {
        self.fill(now);
        self.rate = rate;
        self.capacity = capacity;
        self.level = self.level.min(capacity);
    }

    /// Takes this many tokens, whether they are there or not.
    pub fn take(&mut self, tokens: f64, now: Instant) {
        self.fill(now);
        self.level -= tokens;
    }

    /// Takes this many tokens, but never so many that its level falls below `least`.
    pub fn take_down_to(&mut self, least: f64, tokens: f64, now: Instant) {
        self.fill(now);
        self.level = (self.level - tokens).max(self.level.min(least));
    }

    /// Returns whether the bucket has so many tokens.
    pub fn has(&mut self, tokens: f64, now: Instant) -> bool {
        self.fill(now);
        self.level >= tokens
    }

    /// Returns whether more was taken than was there, by the last look at the clock: it may have filled up since.
    #[must_use]
    pub fn was_overdrawn(&self) -> bool {
        self.level < 0.0
    }

    /// Returns whether the bucket is full: then it is as good as a new one.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level >= self.capacity
    }

    /// Returns the time until the bucket reaches `level`, or `None` if it has. Rounded up to whole
    /// milliseconds, so that a client that retries then is not too early.
    pub fn wait_for(&mut self, level: f64, now: Instant) -> Option<Duration> {
        self.fill(now);
        // Tolerates the rounding errors of floating-point sums.
        let missing = level - self.level - 1e-6;
        let millis = (missing / self.rate * 1000.0).ceil();
        // Casts from float to integer saturate.
        (missing > 0.0).then(|| Duration::from_millis(millis as u64))
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.capacity);
        self.updated = self.updated.max(now);
    }
}
