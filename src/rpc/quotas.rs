//! Limits per principal and for all principals together: open watches, new watches per second and bytes per
//! second.
//!
//! Each rate is a token bucket. Opening a watch takes a token, or is rejected if there is none. Sent bytes are
//! always taken, so the bucket may go below zero; the stream that took them then waits until the bucket is
//! back at zero. Each stream waits only for its own bytes, so none is starved by the others. A new watch is
//! never rejected because of bytes: under constant load the bucket is always below zero, so the new watch
//! waits like the open ones.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    auth::Principal, error::Error, hub::UNREAD_LIMIT, limit::TokenBucket, metrics::Metrics,
    policy::Limits,
};

/// The capacity of the bucket for new watches, in seconds of its rate: the size of a burst.
const OPENING_BURST_SECONDS: f64 = 10.0;
/// The capacity of the bucket for bytes, in seconds of its rate.
const BYTE_BURST_SECONDS: f64 = 1.0;

/// The maximum number of accounts. Accounts without open watches are removed once their buckets are full
/// again. The bound is needed because some issuers let callers choose their names.
const MAX_ACCOUNTS: usize = 100_000;
/// The number of accounts from which idle accounts are removed.
const MIN_ACCOUNTS_TO_SWEEP: usize = 1_000;

/// The minimum interval between removals: all openings wait during one.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The wait from which a catch-up may be given up, with all events that it has read.
const LONG_WAIT: Duration = UNREAD_LIMIT;
/// The minimum number of bytes that a watch is sent between long waits: as much as a catch-up reads ahead.
/// With less, a cursor would be opened for each message.
const MIN_BYTES_BEFORE_LONG_WAIT: u64 = 1 << 20;

/// The retry delay where no better estimate exists.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// The usage of all principals.
#[derive(Debug)]
pub(super) struct Quotas {
    /// The limits of each principal, unless its rule sets others.
    per_principal: Limits,
    /// The rates of all principals together.
    global: Arc<Mutex<Buckets>>,
    accounts: Mutex<Accounts>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Accounts {
    /// The accounts by rule name and principal.
    by_key: HashMap<(Arc<str>, String), Arc<Account>>,
    /// The number of accounts after the last removal of idle ones.
    count_after_sweep: usize,
    last_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Account(Mutex<State>);

#[derive(Debug)]
struct State {
    open: usize,
    buckets: Buckets,
}

#[derive(Debug)]
struct Buckets {
    openings: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
}

/// The share of one open watch in its principal's account. Dropping it ends the count of the watch.
#[derive(Debug)]
pub(super) struct WatchQuota {
    account: Option<Arc<Account>>,
    global: Option<Arc<Mutex<Buckets>>>,
    /// The bytes sent to the watch since its last wait.
    sent: u64,
}

impl Quotas {
    /// Creates the accounting. `per_principal` limits each principal, `global` all of them together.
    pub(super) fn new(per_principal: Limits, global: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            per_principal,
            global: Arc::new(Mutex::new(Buckets::new(global, Instant::now()))),
            accounts: Mutex::default(),
            metrics,
        }
    }

    /// Counts a new watch of a principal, or returns an error with the retry delay. `rule_limits` are the
    /// limits of the policy rule that applies.
    pub(super) fn open(
        &self,
        principal: &Principal,
        rule_limits: Option<&Limits>,
    ) -> Result<WatchQuota, Error> {
        let opened = self.try_open(principal, rule_limits);
        if let Err(Error::Quota { limit, .. }) = &opened {
            self.metrics.limit_rejections.of(limit).increment(1);
        }
        opened
    }

    fn try_open(
        &self,
        principal: &Principal,
        rule_limits: Option<&Limits>,
    ) -> Result<WatchQuota, Error> {
        let limits = self.effective_limits(rule_limits);
        let now = Instant::now();
        let any =
            limits.watches.is_some() || limits.watch_rate.is_some() || limits.byte_rate.is_some();
        let account = any.then(|| self.account(principal, &limits, now));
        let account = account.transpose()?;
        // Lock order everywhere: the account, then the global buckets.
        let mut state = account.as_ref().map(|it| lock(&it.0));
        let mut global = lock(&self.global);
        if let Some(state) = &mut state {
            state.buckets.set_limits(&limits, now);
            if let Some(max) = limits.watches.filter(|max| state.open >= *max) {
                return Err(Error::Quota {
                    owner: "this principal",
                    limit: "principal_watches",
                    allowed: format!("{max} watches at once"),
                    retry: RETRY_LATER,
                });
            }
            state
                .buckets
                .check_opening("this principal", "principal_watch_rate", now)?;
        }
        global.check_opening("the server", "watch_rate", now)?;
        if let Some(state) = &mut state {
            state.open += 1;
            state.buckets.take_opening(now);
        }
        global.take_opening(now);
        let counts_bytes = global.bytes.is_some();
        drop((state, global));
        Ok(WatchQuota {
            account,
            global: counts_bytes.then(|| Arc::clone(&self.global)),
            sent: 0,
        })
    }

    /// Returns the limits of a rule, completed by the server's defaults; 0 means no limit.
    fn effective_limits(&self, rule_limits: Option<&Limits>) -> Limits {
        let own = rule_limits.cloned().unwrap_or_default();
        let per_principal = &self.per_principal;
        Limits {
            watches: own.watches.or(per_principal.watches).filter(|it| *it > 0),
            watch_rate: own
                .watch_rate
                .or(per_principal.watch_rate)
                .filter(|it| *it > 0),
            byte_rate: own
                .byte_rate
                .or(per_principal.byte_rate)
                .filter(|it| *it > 0),
            rule: own.rule,
        }
    }

    fn account(
        &self,
        principal: &Principal,
        limits: &Limits,
        now: Instant,
    ) -> Result<Arc<Account>, Error> {
        let mut accounts = lock(&self.accounts);
        let key = (Arc::clone(&limits.rule), principal.to_string());
        if let Some(account) = accounts.by_key.get(&key) {
            return Ok(Arc::clone(account));
        }
        let may_sweep = accounts
            .last_sweep
            .is_none_or(|at| at + SWEEP_INTERVAL <= now);
        if may_sweep
            && accounts.by_key.len()
                >= MIN_ACCOUNTS_TO_SWEEP
                    .max(2 * accounts.count_after_sweep)
                    .min(MAX_ACCOUNTS)
        {
            accounts.last_sweep = Some(now);
            accounts.by_key.retain(|_, account| !account.is_idle(now));
            accounts.count_after_sweep = accounts.by_key.len();
        }
        if accounts.by_key.len() >= MAX_ACCOUNTS {
            return Err(Error::Quota {
                owner: "the server",
                limit: "principals",
                allowed: format!("{MAX_ACCOUNTS} principals at once"),
                retry: RETRY_LATER,
            });
        }
        let account = Arc::new(Account(Mutex::new(State {
            open: 0,
            buckets: Buckets::new(limits, now),
        })));
        accounts.by_key.insert(key, Arc::clone(&account));
        Ok(account)
    }
}

impl Account {
    /// Returns whether a new account would be the same. The table is locked, so nobody else can get a
    /// reference now.
    fn is_idle(self: &Arc<Self>, now: Instant) -> bool {
        let mut state = lock(&self.0);
        Arc::strong_count(self) == 1 && state.open == 0 && state.buckets.are_full(now)
    }
}

impl WatchQuota {
    /// Takes the bytes of a sent message. Returns how long the watch must wait before the next message.
    pub(super) fn charge(&mut self, bytes: u64) -> Option<Duration> {
        let wait = self.charge_buckets(bytes)?;
        self.sent = self.sent.saturating_add(bytes);
        if wait >= LONG_WAIT && self.sent < MIN_BYTES_BEFORE_LONG_WAIT {
            return None;
        }
        self.sent = 0;
        Some(wait)
    }

    /// Returns how long a new watch must wait, behind watches that were sent too much.
    pub(super) fn initial_wait(&self) -> Option<Duration> {
        self.charge_buckets(0)
    }

    fn charge_buckets(&self, bytes: u64) -> Option<Duration> {
        if self.account.is_none() && self.global.is_none() {
            return None;
        }
        let now = Instant::now();
        let own = self.account.as_ref();
        let own = own.and_then(|it| lock(&it.0).buckets.charge(bytes, now));
        let all = self.global.as_ref();
        let all = all.and_then(|it| lock(it).charge(bytes, now));
        own.max(all)
    }
}

impl Drop for WatchQuota {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            lock(&account.0).open -= 1;
        }
    }
}

impl Buckets {
    fn new(limits: &Limits, now: Instant) -> Self {
        let mut buckets = Self {
            openings: None,
            bytes: None,
        };
        buckets.set_limits(limits, now);
        buckets
    }

    /// Applies other limits; 0 means no limit.
    fn set_limits(&mut self, limits: &Limits, now: Instant) {
        let openings = limits.watch_rate.map(f64::from).filter(|it| *it > 0.0);
        let bytes = limits.byte_rate.map(|rate| rate as f64);
        let bytes = bytes.filter(|it| *it > 0.0);
        set_rate(&mut self.openings, openings, OPENING_BURST_SECONDS, now);
        set_rate(&mut self.bytes, bytes, BYTE_BURST_SECONDS, now);
    }

    /// Checks that a watch may be opened now, without taking a token. `limit` is the label of the metric.
    fn check_opening(
        &mut self,
        owner: &'static str,
        limit: &'static str,
        now: Instant,
    ) -> Result<(), Error> {
        let Some(bucket) = &mut self.openings else {
            return Ok(());
        };
        match bucket.wait_for(1.0, now) {
            Some(retry) => Err(Error::Quota {
                owner,
                limit,
                allowed: format!("{} new watches a second", bucket.rate()),
                retry,
            }),
            None => Ok(()),
        }
    }

    fn take_opening(&mut self, now: Instant) {
        if let Some(bucket) = &mut self.openings {
            bucket.take(1.0, now);
        }
    }

    fn charge(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        let bucket = self.bytes.as_mut()?;
        bucket.take(bytes as f64, now);
        bucket.wait_for(0.0, now)
    }

    fn are_full(&mut self, now: Instant) -> bool {
        let full = |bucket: &mut Option<TokenBucket>| {
            bucket.as_mut().is_none_or(|bucket| bucket.is_full(now))
        };
        full(&mut self.openings) && full(&mut self.bytes)
    }
}

/// Changes the rate of a bucket to one that has this many seconds of it as its capacity; `None` removes it.
fn set_rate(bucket: &mut Option<TokenBucket>, rate: Option<f64>, seconds: f64, now: Instant) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.set_rate(rate, rate * seconds, now),
        (_, rate) => *bucket = rate.map(|rate| TokenBucket::full(rate, rate * seconds, now)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
