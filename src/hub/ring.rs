//! The buffer between a feed and its watchers: the newest events in order, bounded in bytes. The feed
//! writes; each watcher reads at its own position.
//!
//! A watcher that needs an event older than the oldest one has fallen behind and must catch up. While
//! the oldest event matches a watcher and no watcher has read it, the writer waits instead of evicting
//! it: a single slow watcher slows its own feed down and loses nothing.
//!
//! There are two locks, taken in this order: `subscribers` and `state`. A reader takes only `state`, for
//! the time it takes to find its position and clone an `Arc`. Neither is held across an await.

mod end_waits;
mod history;
mod join_point;
mod match_list;
mod position;
mod reader;
mod state;
mod subscriber_index;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{
    error::Error,
    filter::{Evaluator, MatchTransition, Residual},
    hub::{
        segment::Segment,
        sync::{Mutex, lock},
    },
    metrics::Metrics,
    model::Stage,
    source::{ClusterTime, Position},
    wire::TokenContext,
};

use match_list::MatchRange;
use state::{Content, State};
use subscriber_index::{SegmentMatches, SubscriberIndex};

pub(super) use history::RingHistory;
pub(super) use join_point::{Barrier, JoinEvidence, JoinPoint};
pub(super) use position::Seq;
pub use position::{FeedPosition, Invalidation};
pub(super) use reader::{RingRead, RingReader};

/// Changes that a feed publishes atomically, so that no watcher sees a position before the events that
/// lead to it.
#[derive(Debug, Default)]
pub(super) struct FeedUpdate {
    pub segments: Vec<Arc<Segment>>,
    pub stage: Option<(Stage, &'static str)>,
    pub invalidation: Option<Invalidation>,
    /// The stream's position, MongoDB's time, and whether the reply was empty.
    pub position: Option<(Position, Option<ClusterTime>, bool)>,
}

#[derive(Debug)]
pub(super) struct Ring {
    subscribers: Mutex<SubscriberIndex>,
    state: Mutex<State>,
    space_freed: Notify,
    capacity: usize,
    /// The context that encodes the tokens of the feed.
    pub token_context: TokenContext,
    metrics: Arc<Metrics>,
}

impl Ring {
    /// Creates an empty ring with a capacity in bytes. One reply may exceed the capacity, so that an
    /// event of any size passes.
    pub(super) fn new(
        capacity: usize,
        token_context: TokenContext,
        metrics: Arc<Metrics>,
        start: Position,
        history: RingHistory,
    ) -> Self {
        Self {
            subscribers: Mutex::default(),
            state: Mutex::new(State::new(start, history)),
            space_freed: Notify::new(),
            capacity,
            token_context,
            metrics,
        }
    }

    /// Adds an update, evicts old events to stay within the capacity, and wakes the subscribers that the
    /// update concerns. Only the feed calls this.
    pub(super) fn publish(&self, update: FeedUpdate) {
        let mut subscribers = lock(&self.subscribers);
        let reached = update.position.as_ref().map(|(at, ..)| at.time());
        let first = lock(&self.state).next;
        let mut next = first;
        let mut segment_matches = Vec::with_capacity(update.segments.len());
        for segment in &update.segments {
            let matches = subscribers.match_segment(segment, next);
            self.count_unmatched(&subscribers, segment, &matches);
            segment_matches.push(matches.matches);
            next += segment.events().len() as Seq;
        }

        let mut state = lock(&self.state);
        for (segment, matches) in update.segments.into_iter().zip(&segment_matches) {
            let matched = subscribers.has_unfiltered() || !matches.is_empty();
            for group_match in matches {
                state.push_match(group_match.group, group_match.range);
            }
            state.push(Content::Events(segment), matched, &self.metrics);
        }
        let concerns_all = update.stage.is_some() || update.invalidation.is_some();
        if let Some(invalidation) = update.invalidation {
            for group in subscribers.groups() {
                let first = state.next;
                let range = MatchRange {
                    first,
                    end: first + 1,
                    transition: Some(MatchTransition::Unspecified),
                };
                state.push_match(group, range);
            }
            state.push(Content::Invalidated(invalidation), true, &self.metrics);
        }
        if let Some(stage) = update.stage {
            state.stage = stage;
        }
        if let Some((position, upstream_time, is_quiet)) = update.position {
            state.set_position(position, upstream_time, is_quiet);
        }
        let no_subscribers = subscribers.is_empty();
        while state.cost > self.capacity && state.may_evict(no_subscribers) {
            state.evict();
        }
        drop(state);

        if let Some(reached) = reached {
            subscribers.wake_at_end(reached);
        }
        if concerns_all || (next > first && subscribers.has_unfiltered()) {
            subscribers.wake_unfiltered();
        }
        if concerns_all {
            subscribers
                .groups()
                .for_each(|group| subscribers.wake_group(group));
        } else {
            let matches = segment_matches.iter().flatten();
            let mut groups: Vec<_> = matches.map(|group_match| group_match.group).collect();
            groups.sort_unstable();
            groups.dedup();
            groups
                .into_iter()
                .for_each(|group| subscribers.wake_group(group));
        }
    }

    /// Counts the events that no subscriber matches.
    fn count_unmatched(
        &self,
        subscribers: &SubscriberIndex,
        segment: &Segment,
        matches: &SegmentMatches,
    ) {
        if subscribers.has_unfiltered() || subscribers.is_empty() {
            return;
        }
        let unmatched = segment.events().len() - matches.events;
        self.metrics.events_filtered.increment(unmatched as u64);
    }

    /// The earliest time that a subscriber waits for the stream to pass.
    pub(super) fn first_end(&self) -> Option<ClusterTime> {
        lock(&self.subscribers).first_end()
    }

    /// Records that the feed does not keep up with MongoDB: the reported lag grows from now on.
    pub(super) fn mark_not_caught_up(&self) {
        lock(&self.state).caught_up = false;
    }

    /// Waits until there is space for more: until a watcher has read the oldest events, or no watcher
    /// needs them.
    pub(super) async fn wait_writable(&self) {
        loop {
            let freed = self.space_freed.notified();
            {
                let subscribers = lock(&self.subscribers);
                let mut state = lock(&self.state);
                if state.cost < self.capacity || state.may_evict(subscribers.is_empty()) {
                    state.writer_waits = false;
                    return;
                }
                state.writer_waits = true;
                // The feed stops reading although there may be more: the lag grows from now on.
                state.caught_up = false;
            }
            freed.await;
        }
    }

    /// Ends the ring with a reason. Only the first reason counts.
    pub(super) fn end(&self, why: Error) {
        let subscribers = lock(&self.subscribers);
        lock(&self.state).ended.get_or_insert(why);
        subscribers.wake_unfiltered();
        subscribers
            .groups()
            .for_each(|group| subscribers.wake_group(group));
    }

    /// Evicts the oldest events, read or not, until the ring holds at most `bytes`. Watchers that have
    /// not read them fall behind.
    pub(super) fn shrink_to(&self, bytes: usize) {
        let mut state = lock(&self.state);
        while state.cost > bytes && !state.items.is_empty() {
            state.evict();
        }
        self.wake_writer(&mut state);
    }

    /// Returns the evaluator of a residual: that of an equal group, or a new one. Building one takes
    /// long, so it is done outside of the locks. `None` if the residual passes every event.
    fn evaluator_for(&self, residual: &Residual) -> Option<Arc<Evaluator>> {
        if residual.passes_everything() {
            return None;
        }
        let existing = lock(&self.subscribers).evaluator_for(residual);
        Some(existing.unwrap_or_else(|| Arc::new(Evaluator::new(residual))))
    }

    /// Returns a barrier at the current end, if MongoDB's time is known and the feed had started by then.
    pub(super) fn barrier(&self) -> Option<Barrier> {
        lock(&self.state).barrier()
    }

    /// Records that a catch-up has read up to a time. A feed that is behind this, because its watchers do
    /// not read, stops waiting for them: they can catch up too.
    pub(super) fn mark_read_elsewhere(&self, time: ClusterTime) {
        let mut state = lock(&self.state);
        if state.mark_read_elsewhere(time) {
            self.wake_writer(&mut state);
        }
    }

    /// Returns whether the ring has no subscribers.
    pub(super) fn has_no_subscribers(&self) -> bool {
        lock(&self.subscribers).is_empty()
    }

    /// The approximate memory of the ring's items in bytes.
    pub(super) fn cost(&self) -> usize {
        lock(&self.state).cost
    }

    /// Returns the segment whose first event has this sequence number. `None` if it was evicted.
    pub(super) fn segment(&self, first: Seq) -> Option<Arc<Segment>> {
        let state = lock(&self.state);
        let item = state.item_at(first).filter(|item| item.first == first)?;
        match &item.content {
            Content::Events(segment) => Some(Arc::clone(segment)),
            Content::Invalidated(_) => None,
        }
    }

    pub(super) fn position(&self) -> FeedPosition {
        lock(&self.state).position()
    }

    /// The lag of the feed behind MongoDB in seconds: 0 when the feed had read everything, else the
    /// distance by MongoDB's clock at the last reply plus the time since that reply.
    pub(super) fn lag_seconds(&self) -> f64 {
        lock(&self.state).lag_seconds()
    }

    /// Wakes the writer, if it waits.
    fn wake_writer(&self, state: &mut State) {
        if std::mem::take(&mut state.writer_waits) {
            self.space_freed.notify_one();
        }
    }
}
