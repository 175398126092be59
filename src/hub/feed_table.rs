//! The table of feeds: how many watchers each has, and whether another feed may be opened. It only keeps
//! records; opening and stopping feeds is up to the caller.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    error::Error,
    limit::Limit,
    model::{Caller, FeedMode, Mode, Scope},
    pipeline::Plan,
};

/// The share of all feeds that may be idle, as a divisor.
const IDLE_SHARE: usize = 4;

/// One in so many feeds is kept for other principals, however many one opens.
const KEPT_FOR_OTHERS: usize = 4;

/// The delay before a retry of a watch that needs one feed more than its principal may have opened.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// The time that an idle feed stays that was never read: all who waited for it left before it was open.
const UNREAD_LINGER: Duration = Duration::from_secs(2);

/// Feeds by their plan. Plans are compared by value, so a hash collision cannot make two plans share a feed.
#[derive(Debug)]
pub(super) struct FeedTable<F, S = RandomState> {
    feeds: HashMap<Arc<Plan>, FeedEntry<F>, S>,
    next_id: u64,
    /// The limit on feeds.
    limit: Limit,
    /// The maximum number of dedicated feeds per scope for feed mode AUTO.
    feeds_per_scope: usize,
    /// The time that a lone idle feed stays.
    linger: Duration,
}

#[derive(Debug)]
struct FeedEntry<F> {
    id: u64,
    mode: Mode,
    watchers: usize,
    /// The caller that opened it, or joined it while it was idle, with the number of its watchers. `None` once all
    /// of these have left.
    owner: Option<(Caller, usize)>,
    /// The time at which its last watcher left. `None` while it has watchers.
    idle_since: Option<Instant>,
    /// Whose its last watcher was.
    last_caller: Caller,
    /// `false` while it opens.
    is_open: bool,
    /// Whether it has had a watcher since it is open.
    was_read: bool,
    feed: F,
}

/// Identifies a feed. A feed that replaces another one with the same plan has another id.
#[derive(Debug, Clone)]
pub(super) struct FeedId {
    pub plan: Arc<Plan>,
    pub id: u64,
}

impl<F: Clone, S: BuildHasher + Default> FeedTable<F, S> {
    pub(super) fn new(limit: Limit, feeds_per_scope: usize, linger: Duration) -> Self {
        Self {
            feeds: HashMap::default(),
            next_id: 0,
            limit,
            feeds_per_scope,
            linger,
        }
    }

    /// Decides whether a watch uses a dedicated feed, or its scope's shared one.
    ///
    /// With AUTO a watch gets a dedicated feed while its scope has few of them: then MongoDB filters, and
    /// sends less to Weir. With more of them, a shared feed is cheaper for both.
    pub(super) fn choose_mode(
        &self,
        caller: &Caller,
        requested: FeedMode,
        (dedicated, shared): (&Plan, &Plan),
    ) -> Mode {
        match requested {
            FeedMode::Dedicated => Mode::Dedicated,
            FeedMode::Shared => Mode::Shared,
            FeedMode::Auto if dedicated == shared => Mode::Shared,
            FeedMode::Auto if self.feeds.contains_key(dedicated) => Mode::Dedicated,
            FeedMode::Auto => {
                let (count, has_idle) = self.dedicated_feeds_of(dedicated.scope());
                let few = count < self.feeds_per_scope || has_idle;
                // Reserve one for the shared feed that further watches of the scope will need.
                let reserved = usize::from(!self.feeds.contains_key(shared));
                let has_capacity = self.feeds.len() + reserved < self.limit.max()
                    || self.feeds.values().any(FeedEntry::is_idle);
                let may_open = self.in_use_of(caller) + reserved < self.max_of(caller);
                if few && has_capacity && may_open && self.feeds_per_scope > 0 {
                    Mode::Dedicated
                } else {
                    Mode::Shared
                }
            }
        }
    }

    /// Returns whether there is a feed of a plan.
    pub(super) fn contains(&self, plan: &Plan) -> bool {
        self.feeds.contains_key(plan)
    }

    /// Adds a watcher of a caller to the feed of a plan, if there is one.
    pub(super) fn join(&mut self, plan: &Plan, caller: &Caller) -> Option<(FeedId, F)> {
        let (plan, _) = self.feeds.get_key_value(plan)?;
        let plan = Arc::clone(plan);
        let entry = self.feeds.get_mut(&plan)?;
        if entry.watchers == 0 {
            entry.owner = Some((caller.clone(), 0));
        }
        if let Some(own) = entry.watchers_of_owner(caller) {
            *own += 1;
        }
        entry.watchers += 1;
        entry.idle_since = None;
        entry.was_read |= entry.is_open;
        let id = entry.id;
        Some((FeedId { plan, id }, entry.feed.clone()))
    }

    /// Adds a new feed with its first watcher, which is of this caller. The second value returned are the idle feeds
    /// that were removed to make room; the caller must stop them.
    ///
    /// # Errors
    /// The maximum number of feeds is reached and none of them is idle, or as many as one principal may have opened are
    /// in use by those of this one.
    pub(super) fn insert(
        &mut self,
        (plan, mode): (&Arc<Plan>, Mode),
        feed: F,
        caller: &Caller,
    ) -> Result<(FeedId, Vec<F>), Error> {
        let (max, in_use) = (self.max_of(caller), self.in_use_of(caller));
        if in_use >= max {
            return Err(self.reject(max));
        }
        let is_full = self.feeds.len() >= self.limit.max();
        if is_full && !self.feeds.values().any(FeedEntry::is_idle) {
            return Err(self.limit.reject().into());
        }
        let mut retired = Vec::new();
        let (count, _) = self.dedicated_feeds_of(plan.scope());
        if mode == Mode::Dedicated && count >= self.feeds_per_scope {
            // An idle feed does not count against its scope, so it makes room.
            let of_scope = |plan_: &Plan, entry: &FeedEntry<F>| {
                entry.mode == Mode::Dedicated && plan_.scope() == plan.scope()
            };
            retired.extend(self.retire_idle(caller, of_scope));
        }
        // Else it could have more in use by coming back to those.
        let own_idle = self.feeds.values().filter(|it| it.is_idle_of(caller));
        if in_use + own_idle.count() >= max {
            retired.extend(self.retire_idle(caller, |_, entry| entry.is_idle_of(caller)));
        }
        if self.feeds.len() >= self.limit.max() {
            retired.extend(self.retire_idle(caller, |_, _| true));
        }
        let id = self.next_id;
        self.next_id += 1;
        let entry = FeedEntry {
            id,
            mode,
            watchers: 1,
            owner: Some((caller.clone(), 1)),
            idle_since: None,
            last_caller: Caller::default(),
            is_open: false,
            was_read: false,
            feed,
        };
        self.feeds.insert(Arc::clone(plan), entry);
        let plan = Arc::clone(plan);
        Ok((FeedId { plan, id }, retired))
    }

    /// Notes that a feed is open. Returns whether nobody waits for it any more.
    pub(super) fn opened(&mut self, feed_id: &FeedId) -> bool {
        let Some(entry) = self.entry_mut(feed_id) else {
            return false;
        };
        entry.is_open = true;
        entry.was_read = entry.watchers > 0;
        if !entry.was_read {
            entry.idle_since = Some(Instant::now());
        }
        !entry.was_read
    }

    /// Removes a watcher of a caller. Returns whether it was the last one of its feed.
    pub(super) fn leave(&mut self, feed_id: &FeedId, caller: &Caller) -> bool {
        let Some(entry) = self.entry_mut(feed_id) else {
            return false;
        };
        entry.watchers -= 1;
        if let Some(own) = entry.watchers_of_owner(caller) {
            *own -= 1;
            if *own == 0 {
                entry.owner = None;
            }
        }
        let last = entry.watchers == 0;
        entry.idle_since = last.then(Instant::now);
        entry.last_caller = caller.clone();
        last
    }

    /// Removes the feeds that have been idle for too long. Returns them, and the time at which the next one will have
    /// been.
    ///
    /// The idle feeds that a caller has left share the linger time: of n, the one that is idle for longest stays for
    /// an n-th of it. Beyond a share of all feeds, the caller that has left the most loses the one that is idle for
    /// longest. So each change stream that is kept for clients that may come back costs the others of its caller, and
    /// none of another caller while that one has fewer.
    pub(super) fn expire(&mut self) -> (Vec<F>, Option<Instant>) {
        let now = Instant::now();
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        let mut by_caller: HashMap<&Caller, Vec<(Instant, &Arc<Plan>)>> = HashMap::new();
        for (plan, entry) in &self.feeds {
            let Some(since) = entry.idle_since.filter(|_| entry.is_open) else {
                continue;
            };
            let unread_until = since + self.linger.min(UNREAD_LINGER);
            if !entry.was_read && unread_until <= now {
                expired.push(Arc::clone(plan));
                continue;
            }
            if !entry.was_read {
                next = earlier(next, unread_until);
            }
            let idle = by_caller.entry(&entry.last_caller).or_default();
            idle.push((since, plan));
        }
        let mut by_caller: Vec<VecDeque<_>> = by_caller
            .into_values()
            .map(|mut idle| {
                idle.sort_by_key(|(since, _)| *since);
                idle.into()
            })
            .collect();
        for idle in &mut by_caller {
            while let Some((since, plan)) = idle.front() {
                // A feed table never has that many feeds.
                let share = u32::try_from(idle.len()).unwrap_or(u32::MAX);
                let until = *since + self.linger / share;
                if until > now {
                    next = earlier(next, until);
                    break;
                }
                expired.push(Arc::clone(plan));
                idle.pop_front();
            }
        }
        let max_idle = (self.limit.max() / IDLE_SHARE).max(1);
        let mut count: usize = by_caller.iter().map(VecDeque::len).sum();
        while count > max_idle {
            let longest = |idle: &VecDeque<(Instant, _)>| {
                let since = idle.front().map(|(since, _)| *since);
                (idle.len(), Reverse(since))
            };
            let most = by_caller.iter_mut().max_by_key(|idle| longest(idle));
            let Some((_, plan)) = most.and_then(VecDeque::pop_front) else {
                break;
            };
            expired.push(Arc::clone(plan));
            count -= 1;
        }
        let removed = expired.iter().filter_map(|plan| self.feeds.remove(plan));
        (removed.map(|entry| entry.feed).collect(), next)
    }

    /// Removes a feed that has ended.
    pub(super) fn remove(&mut self, feed_id: &FeedId) {
        if self.entry_mut(feed_id).is_some() {
            self.feeds.remove(&feed_id.plan);
        }
    }

    pub(super) fn feeds(&self) -> impl Iterator<Item = (&Plan, &F)> {
        self.feeds
            .iter()
            .map(|(plan, entry)| (&**plan, &entry.feed))
    }

    fn entry_mut(&mut self, feed_id: &FeedId) -> Option<&mut FeedEntry<F>> {
        let entry = self.feeds.get_mut(&feed_id.plan);
        entry.filter(|entry| entry.id == feed_id.id)
    }

    /// The number of dedicated feeds of a scope, and whether one of them is idle.
    fn dedicated_feeds_of(&self, scope: &Scope) -> (usize, bool) {
        let feeds = self.feeds.iter();
        let dedicated = feeds
            .filter(|(plan, entry)| entry.mode == Mode::Dedicated && plan.scope() == scope)
            .map(|(_, entry)| entry);
        dedicated.fold((0, false), |(count, has_idle), entry| {
            (count + 1, has_idle || entry.is_idle())
        })
    }

    /// The maximum number of feeds that a caller may have opened. Clients without authentication share addresses, so
    /// these have all.
    fn max_of(&self, caller: &Caller) -> usize {
        let max = self.limit.max();
        match caller {
            Caller::Principal(_) => max - max / KEPT_FOR_OTHERS,
            Caller::Address(_) => usize::MAX,
        }
    }

    /// The number of feeds that a caller has opened and watches.
    fn in_use_of(&self, caller: &Caller) -> usize {
        let owners = self.feeds.values().filter_map(|it| it.owner.as_ref());
        owners.filter(|(owner, _)| owner == caller).count()
    }

    /// Counts a rejection and returns it: one principal may have opened no more than `max` feeds.
    fn reject(&self, max: usize) -> Error {
        let all = self.limit.reject().max;
        Error::Quota {
            owner: "this principal",
            limit: "feeds",
            allowed: format!("{max} of the {all} feeds at once"),
            retry: RETRY_LATER,
        }
    }

    /// Removes an idle feed among these: the caller's own that is idle for longest, or else that of the caller that
    /// has left the most.
    fn retire_idle(
        &mut self,
        caller: &Caller,
        is_among: impl Fn(&Plan, &FeedEntry<F>) -> bool,
    ) -> Option<F> {
        let mut left: HashMap<&Caller, usize> = HashMap::new();
        for entry in self.feeds.values().filter(|it| it.is_idle()) {
            *left.entry(&entry.last_caller).or_default() += 1;
        }
        let idle = self.feeds.iter().filter_map(|(plan, entry)| {
            let since = entry.idle_since.filter(|_| is_among(plan, entry))?;
            let by = &entry.last_caller;
            Some(((by == caller, left.get(by).copied(), Reverse(since)), plan))
        });
        let (_, plan) = idle.max_by_key(|(rank, _)| *rank)?;
        let plan = Arc::clone(plan);
        self.feeds.remove(&plan).map(|entry| entry.feed)
    }
}

impl<F> FeedEntry<F> {
    fn is_idle(&self) -> bool {
        self.idle_since.is_some()
    }

    fn is_idle_of(&self, caller: &Caller) -> bool {
        self.is_idle() && self.last_caller == *caller
    }

    /// The number of the owner's watchers, if that is this caller.
    fn watchers_of_owner(&mut self, caller: &Caller) -> Option<&mut usize> {
        let owner = self.owner.as_mut().filter(|(owner, _)| owner == caller);
        owner.map(|(_, watchers)| watchers)
    }
}

fn earlier(next: Option<Instant>, at: Instant) -> Option<Instant> {
    Some(next.map_or(at, |next| next.min(at)))
}

#[cfg(test)]
mod tests;
