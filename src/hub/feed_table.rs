//! The table of feeds: how many watchers each has, and whether another feed may be opened. It only keeps
//! records; opening and stopping feeds is up to the caller.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    limit::{Exceeded, Limit},
    model::{Caller, FeedMode, Mode, Scope},
    pipeline::Plan,
};

/// The share of all feeds that may be idle, as a divisor.
const IDLE_SHARE: usize = 4;

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
    pub(super) fn choose_mode(&self, requested: FeedMode, dedicated: &Plan, shared: &Plan) -> Mode {
        match requested {
            FeedMode::Dedicated => Mode::Dedicated,
            FeedMode::Shared => Mode::Shared,
            FeedMode::Auto if dedicated == shared => Mode::Shared,
            FeedMode::Auto if self.feeds.contains_key(dedicated) => Mode::Dedicated,
            FeedMode::Auto => {
                let (count, idle) = self.dedicated_feeds_of(dedicated.scope());
                let few = count < self.feeds_per_scope || idle.is_some();
                // Reserve one for the shared feed that further watches of the scope will need.
                let reserved = usize::from(!self.feeds.contains_key(shared));
                let has_capacity =
                    self.feeds.len() + reserved < self.limit.max() || self.longest_idle().is_some();
                if few && has_capacity && self.feeds_per_scope > 0 {
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

    /// Adds a watcher to the feed of a plan, if there is one.
    pub(super) fn join(&mut self, plan: &Plan) -> Option<(FeedId, F)> {
        let (plan, _) = self.feeds.get_key_value(plan)?;
        let plan = Arc::clone(plan);
        let entry = self.feeds.get_mut(&plan)?;
        entry.watchers += 1;
        entry.idle_since = None;
        entry.was_read |= entry.is_open;
        let id = entry.id;
        Some((FeedId { plan, id }, entry.feed.clone()))
    }

    /// Adds a new feed with its first watcher. The second value returned is the idle feed that was removed
    /// to make room, if any; the caller must stop it.
    ///
    /// # Errors
    /// The maximum number of feeds is reached, and none of them is idle.
    pub(super) fn insert(
        &mut self,
        plan: &Arc<Plan>,
        mode: Mode,
        feed: F,
    ) -> Result<(FeedId, Option<F>), Exceeded> {
        let mut retired = None;
        if self.feeds.len() >= self.limit.max() {
            retired = Some(self.longest_idle().ok_or_else(|| self.limit.reject())?);
        } else if mode == Mode::Dedicated {
            // An idle feed does not count against its scope, so it makes room.
            let (count, idle) = self.dedicated_feeds_of(plan.scope());
            retired = idle.filter(|_| count >= self.feeds_per_scope);
        }
        let retired = retired.and_then(|plan| self.feeds.remove(&plan));
        let retired = retired.map(|entry| entry.feed);
        let id = self.next_id;
        self.next_id += 1;
        let entry = FeedEntry {
            id,
            mode,
            watchers: 1,
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
                (idle.len(), std::cmp::Reverse(since))
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

    /// The number of dedicated feeds of a scope, and the one that has been idle for longest.
    fn dedicated_feeds_of(&self, scope: &Scope) -> (usize, Option<Arc<Plan>>) {
        let dedicated = || {
            let feeds = self.feeds.iter();
            feeds.filter(|(plan, entry)| entry.mode == Mode::Dedicated && plan.scope() == scope)
        };
        (dedicated().count(), longest_idle(dedicated()))
    }

    fn longest_idle(&self) -> Option<Arc<Plan>> {
        longest_idle(self.feeds.iter())
    }
}

fn earlier(next: Option<Instant>, at: Instant) -> Option<Instant> {
    Some(next.map_or(at, |next| next.min(at)))
}

fn longest_idle<'a, F: 'a>(
    feeds: impl Iterator<Item = (&'a Arc<Plan>, &'a FeedEntry<F>)>,
) -> Option<Arc<Plan>> {
    let idle = feeds.filter_map(|(plan, entry)| Some((entry.idle_since?, plan)));
    let longest = idle.min_by_key(|(since, _)| *since);
    longest.map(|(_, plan)| Arc::clone(plan))
}

#[cfg(test)]
mod tests;
