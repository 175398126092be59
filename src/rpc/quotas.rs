//! What each principal may take, and all together: watches at once, watches a second, bytes a second.
//!
//! A rate is a bucket that fills as time passes. An opening takes from it what is there, or is refused.
//! Bytes are taken whether they are there or not, and the stream that took them waits until what it owes
//! has come in: so each of a principal's streams waits for its own turn, and none is starved by others. Nor
//! is an opening: while others take what comes in there is never nothing owed, so it is not refused for
//! bytes, but waits its turn as those that are open do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::{auth::Principal, error::Error, metrics::Metrics, policy::Limits};

/// For how long a bucket fills, in seconds: so many seconds' worth may be opened at once.
const OPENINGS_FOR: f64 = 10.0;
/// The same of bytes.
const BYTES_FOR: f64 = 1.0;

/// How many principals are kept in mind at once. Those without watches are forgotten when what they took
/// has come in again; names are the callers' own choice with some issuers.
const MAX_ACCOUNTS: usize = 100_000;
/// How many there are before it is looked for those that can be forgotten.
const SWEEP_FROM: usize = 1_000;

/// How often it is looked for them at most: all openings wait while it is.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What a catch-up, with all that it has read, is not kept for while its watch waits.
const LONG_WAIT: Duration = Duration::from_secs(10);
/// How many bytes a watch is sent before it waits for so long: as much as a catch-up reads ahead, or each of
/// its cursors would be opened for the sake of one message.
const BEFORE_LONG_WAIT: u64 = 1 << 20;

/// When to try again where nobody knows when there will be room.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// What all principals have taken.
#[derive(Debug)]
pub(super) struct Quotas {
    /// What each may take, unless its rule says otherwise.
    each: Limits,
    /// What all may take together.
    together: Arc<Mutex<Buckets>>,
    accounts: Mutex<Accounts>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Accounts {
    /// By rule and name.
    of: HashMap<(Arc<str>, String), Arc<Account>>,
    /// How many there were when it was last looked for those that can be forgotten.
    kept: usize,
    swept: Option<Instant>,
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
    openings: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// What one open watch has of its principal's account; dropped, it gives back its place.
#[derive(Debug)]
pub(super) struct Quota {
    account: Option<Arc<Account>>,
    together: Option<Arc<Mutex<Buckets>>>,
    /// How many bytes its watch was sent since it waited last.
    sent: u64,
}

/// Tokens that come in at a rate, up to a bound. There may be less than none.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    bound: f64,
    level: f64,
    at: Instant,
}

impl Quotas {
    /// `each` is what a principal may take, `together` what all may.
    pub(super) fn new(each: Limits, together: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            each,
            together: Arc::new(Mutex::new(Buckets::of(together, Instant::now()))),
            accounts: Mutex::default(),
            metrics,
        }
    }

    /// Lets a principal open a watch, or says when to try again. `own` are limits of its rule.
    pub(super) fn open(&self, principal: &Principal, own: Option<&Limits>) -> Result<Quota, Error> {
        let opened = self.try_open(principal, own);
        if let Err(Error::Quota { limit, .. }) = &opened {
            self.metrics.count_limit_rejection(limit);
        }
        opened
    }

    fn try_open(&self, principal: &Principal, own: Option<&Limits>) -> Result<Quota, Error> {
        let limits = self.limits(own);
        let now = Instant::now();
        let any =
            limits.watches.is_some() || limits.watch_rate.is_some() || limits.byte_rate.is_some();
        let account = any.then(|| self.account(principal, &limits, now));
        let account = account.transpose()?;
        // In this order everywhere: the account, then what is common to all.
        let mut state = account.as_ref().map(|it| lock(&it.0));
        let mut together = lock(&self.together);
        if let Some(state) = &mut state {
            state.buckets.follow(&limits, now);
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
                .have_room("this principal", "principal_watch_rate", now)?;
        }
        together.have_room("the server", "watch_rate", now)?;
        if let Some(state) = &mut state {
            state.open += 1;
            state.buckets.take_opening();
        }
        together.take_opening();
        let counts_bytes = together.bytes.is_some();
        drop((state, together));
        Ok(Quota {
            account,
            together: counts_bytes.then(|| Arc::clone(&self.together)),
            sent: 0,
        })
    }

    /// A rule's own limits, with the server's where it has none; 0 is none.
    fn limits(&self, own: Option<&Limits>) -> Limits {
        let own = own.cloned().unwrap_or_default();
        let each = &self.each;
        Limits {
            watches: own.watches.or(each.watches).filter(|it| *it > 0),
            watch_rate: own.watch_rate.or(each.watch_rate).filter(|it| *it > 0),
            byte_rate: own.byte_rate.or(each.byte_rate).filter(|it| *it > 0),
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
        if let Some(account) = accounts.of.get(&key) {
            return Ok(Arc::clone(account));
        }
        let may_sweep = accounts.swept.is_none_or(|at| at + SWEEP_EVERY <= now);
        if may_sweep && accounts.of.len() >= SWEEP_FROM.max(2 * accounts.kept).min(MAX_ACCOUNTS) {
            accounts.swept = Some(now);
            accounts
                .of
                .retain(|_, account| !account.can_be_forgotten(now));
            accounts.kept = accounts.of.len();
        }
        if accounts.of.len() >= MAX_ACCOUNTS {
            return Err(Error::Quota {
                owner: "the server",
                limit: "principals",
                allowed: format!("{MAX_ACCOUNTS} principals at once"),
                retry: RETRY_LATER,
            });
        }
        let account = Arc::new(Account(Mutex::new(State {
            open: 0,
            buckets: Buckets::of(limits, now),
        })));
        accounts.of.insert(key, Arc::clone(&account));
        Ok(account)
    }
}

impl Account {
    /// Whether a new one would be the same. Nobody has it now but the table, which is locked.
    fn can_be_forgotten(self: &Arc<Self>, now: Instant) -> bool {
        let mut state = lock(&self.0);
        Arc::strong_count(self) == 1 && state.open == 0 && state.buckets.are_full(now)
    }
}

impl Quota {
    /// Takes the bytes of a message that is sent. Gives how long the watch is to wait before its next one.
    pub(super) fn charge(&mut self, bytes: u64) -> Option<Duration> {
        let wait = self.take(bytes)?;
        self.sent = self.sent.saturating_add(bytes);
        if wait > LONG_WAIT && self.sent < BEFORE_LONG_WAIT {
            return None;
        }
        self.sent = 0;
        Some(wait)
    }

    /// How long a watch that is opened now is to wait, behind those that were sent too much.
    pub(super) fn wait_at_opening(&self) -> Option<Duration> {
        self.take(0)
    }

    fn take(&self, bytes: u64) -> Option<Duration> {
        if self.account.is_none() && self.together.is_none() {
            return None;
        }
        let now = Instant::now();
        let own = self.account.as_ref();
        let own = own.and_then(|it| lock(&it.0).buckets.charge(bytes, now));
        let all = self.together.as_ref();
        let all = all.and_then(|it| lock(it).charge(bytes, now));
        own.max(all)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            lock(&account.0).open -= 1;
        }
    }
}

impl Buckets {
    fn of(limits: &Limits, now: Instant) -> Self {
        let mut buckets = Self {
            openings: None,
            bytes: None,
        };
        buckets.follow(limits, now);
        buckets
    }

    /// Takes on other limits; 0 is none.
    fn follow(&mut self, limits: &Limits, now: Instant) {
        let openings = limits.watch_rate.map(f64::from).filter(|it| *it > 0.0);
        let bytes = limits.byte_rate.map(|rate| rate as f64);
        let bytes = bytes.filter(|it| *it > 0.0);
        Bucket::follow(&mut self.openings, openings, OPENINGS_FOR, now);
        Bucket::follow(&mut self.bytes, bytes, BYTES_FOR, now);
    }

    /// Whether a watch may be opened now, without taking anything. `limit` names what is limited, as the
    /// metric does.
    fn have_room(
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
                allowed: format!("{} new watches a second", bucket.rate),
                retry,
            }),
            None => Ok(()),
        }
    }

    fn take_opening(&mut self) {
        if let Some(bucket) = &mut self.openings {
            bucket.level -= 1.0;
        }
    }

    fn charge(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        let bucket = self.bytes.as_mut()?;
        bucket.fill(now);
        bucket.level -= bytes as f64;
        bucket.wait_for(0.0, now)
    }

    fn are_full(&mut self, now: Instant) -> bool {
        let full = |bucket: &mut Option<Bucket>| {
            bucket.as_mut().is_none_or(|bucket| {
                bucket.fill(now);
                bucket.level >= bucket.bound
            })
        };
        full(&mut self.openings) && full(&mut self.bytes)
    }
}

impl Bucket {
    fn follow(bucket: &mut Option<Self>, rate: Option<f64>, seconds: f64, now: Instant) {
        let Some(rate) = rate else {
            *bucket = None;
            return;
        };
        let bound = rate * seconds;
        match bucket {
            Some(known) => {
                known.fill(now);
                known.rate = rate;
                known.bound = bound;
                known.level = known.level.min(bound);
            }
            None => {
                *bucket = Some(Self {
                    rate,
                    bound,
                    level: bound,
                    at: now,
                });
            }
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.bound);
        self.at = self.at.max(now);
    }

    /// How long until there is this much; `None` if there is. In whole milliseconds, rounded up, so that
    /// who comes back then is not too early.
    fn wait_for(&mut self, level: f64, now: Instant) -> Option<Duration> {
        self.fill(now);
        // What is as good as there is there: sums of fractions do not come out even.
        let missing = level - self.level - 1e-6;
        let millis = (missing / self.rate * 1000.0).ceil();
        // A float's cast to an integer stays within it.
        (missing > 0.0).then(|| Duration::from_millis(millis as u64))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
