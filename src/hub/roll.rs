//! Which feeds there are, who reads them, and whether another may be opened. Bookkeeping alone:
//! nothing here opens or stops anything.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    metrics::Mode,
    plan::{FeedMode, Plan, Scope},
};

/// Feeds by the plan whose stream they read. Plans are compared by value: two that merely share a hash
/// never share a feed.
#[derive(Debug)]
pub(super) struct Roll<F, S = RandomState> {
    feeds: HashMap<Arc<Plan>, Entry<F>, S>,
    next_id: u64,
    /// How many feeds there may be.
    max_feeds: usize,
    /// How many dedicated feeds one scope may have before AUTO shares.
    feeds_per_scope: usize,
}

#[derive(Debug)]
struct Entry<F> {
    id: u64,
    mode: Mode,
    watchers: usize,
    /// Since when nobody reads it.
    idle_since: Option<Instant>,
    feed: F,
}

/// A watcher's part in a feed.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub plan: Arc<Plan>,
    pub id: u64,
}

/// No further feed may be opened.
#[derive(Debug)]
pub(super) struct Full;

impl<F: Clone, S: BuildHasher + Default> Roll<F, S> {
    pub(super) fn new(max_feeds: usize, feeds_per_scope: usize) -> Self {
        Self {
            feeds: HashMap::default(),
            next_id: 0,
            max_feeds,
            feeds_per_scope,
        }
    }

    /// Whether a watch is served by a stream for its own plan, or by its scope's shared one.
    ///
    /// By itself a watch gets a stream of its own while its scope has few: then MongoDB filters, and
    /// less is sent to Weir. Beyond that sharing is cheaper for both.
    pub(super) fn choose(&self, wish: FeedMode, dedicated: &Plan, shared: &Plan) -> Mode {
        match wish {
            FeedMode::Dedicated => Mode::Dedicated,
            FeedMode::Shared => Mode::Shared,
            FeedMode::Auto if dedicated == shared => Mode::Shared,
            FeedMode::Auto if self.feeds.contains_key(dedicated) => Mode::Dedicated,
            FeedMode::Auto => {
                let (count, idle) = self.dedicated_to(&dedicated.scope);
                let few = count < self.feeds_per_scope || idle.is_some();
                // One place is kept for the shared feed that the others of the scope will need.
                let kept = usize::from(!self.feeds.contains_key(shared));
                let room =
                    self.feeds.len() + kept < self.max_feeds || self.longest_idle().is_some();
                if few && room && self.feeds_per_scope > 0 {
                    Mode::Dedicated
                } else {
                    Mode::Shared
                }
            }
        }
    }

    /// Takes part in the feed of a plan, if there is one.
    pub(super) fn join(&mut self, plan: &Plan) -> Option<(Ticket, F)> {
        let (plan, _) = self.feeds.get_key_value(plan)?;
        let plan = Arc::clone(plan);
        let entry = self.feeds.get_mut(&plan)?;
        entry.watchers += 1;
        entry.idle_since = None;
        let id = entry.id;
        Some((Ticket { plan, id }, entry.feed.clone()))
    }

    /// Enters a new feed, with its first watcher. Gives the feed that had to make room, if one had to.
    pub(super) fn open(
        &mut self,
        plan: &Arc<Plan>,
        mode: Mode,
        feed: F,
    ) -> Result<(Ticket, Option<F>), Full> {
        let mut retired = None;
        if self.feeds.len() >= self.max_feeds {
            retired = Some(self.longest_idle().ok_or(Full)?);
        } else if mode == Mode::Dedicated {
            // One that only lingers does not count for its scope, and so has to go.
            let (count, idle) = self.dedicated_to(&plan.scope);
            retired = idle.filter(|_| count >= self.feeds_per_scope);
        }
        let retired = retired.and_then(|plan| self.feeds.remove(&plan));
        let retired = retired.map(|entry| entry.feed);
        let id = self.next_id;
        self.next_id += 1;
        let entry = Entry {
            id,
            mode,
            watchers: 1,
            idle_since: None,
            feed,
        };
        self.feeds.insert(Arc::clone(plan), entry);
        let plan = Arc::clone(plan);
        Ok((Ticket { plan, id }, retired))
    }

    /// Takes a watcher out. Tells whether it was the last one.
    pub(super) fn leave(&mut self, ticket: &Ticket) -> bool {
        let Some(entry) = self.entry(ticket) else {
            return false;
        };
        entry.watchers -= 1;
        let last = entry.watchers == 0;
        entry.idle_since = last.then(Instant::now);
        last
    }

    /// Takes out a feed that nobody has read for so long.
    pub(super) fn expire(&mut self, ticket: &Ticket, linger: Duration) -> Option<F> {
        let idle = self.entry(ticket)?.idle_since?;
        if idle.elapsed() < linger {
            return None;
        }
        self.feeds.remove(&ticket.plan).map(|entry| entry.feed)
    }

    /// Takes out a feed that has ended.
    pub(super) fn forget(&mut self, ticket: &Ticket) {
        if self.entry(ticket).is_some() {
            self.feeds.remove(&ticket.plan);
        }
    }

    pub(super) fn feeds(&self) -> impl Iterator<Item = (&Plan, &F)> {
        self.feeds
            .iter()
            .map(|(plan, entry)| (&**plan, &entry.feed))
    }

    fn entry(&mut self, ticket: &Ticket) -> Option<&mut Entry<F>> {
        let entry = self.feeds.get_mut(&ticket.plan);
        entry.filter(|entry| entry.id == ticket.id)
    }

    /// How many dedicated feeds a scope has, and the one of them that has been idle for longest.
    fn dedicated_to(&self, scope: &Scope) -> (usize, Option<Arc<Plan>>) {
        let dedicated = || {
            let feeds = self.feeds.iter();
            feeds.filter(|(plan, entry)| entry.mode == Mode::Dedicated && plan.scope == *scope)
        };
        (dedicated().count(), longest_idle(dedicated()))
    }

    fn longest_idle(&self) -> Option<Arc<Plan>> {
        longest_idle(self.feeds.iter())
    }
}

fn longest_idle<'a, F: 'a>(
    feeds: impl Iterator<Item = (&'a Arc<Plan>, &'a Entry<F>)>,
) -> Option<Arc<Plan>> {
    let idle = feeds.filter_map(|(plan, entry)| Some((entry.idle_since?, plan)));
    let longest = idle.min_by_key(|(since, _)| *since);
    longest.map(|(_, plan)| Arc::clone(plan))
}

#[cfg(test)]
mod tests;
