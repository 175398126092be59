//! What stands between a feed, which reads from MongoDB, and its watchers: the newest events in order,
//! bounded in bytes. One writes, many read, each at its own place.
//!
//! A watcher that falls behind the oldest event has fallen off and must catch up by itself. While
//! nobody has read the oldest one, though somebody wants it, the writer waits instead: a lone slow
//! watcher holds up its own stream and loses nothing.
//!
//! Two locks, taken in this order: who reads (`audience`), and what there is to read (`state`). A
//! reader takes the second alone, for as long as it takes to find its place and share a pointer.
//! Neither is held across an await.

mod before;
mod cursor;
mod state;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{
    error::Error,
    hub::{
        audience::{Audience, SegmentHits},
        hits::{HitRun, Hits},
        segment::Segment,
        sync::{Mutex, lock},
    },
    metrics::{Metrics, Stage},
    plan::{Crossing, Judge, Operation, Residual},
    source::{ClusterTime, Position},
    wire::{Anchor, TokenContext},
};

use super::seat::Seat;
use state::{Content, Item, State};

pub(super) use before::Before;
pub(super) use cursor::{Cursor, Read};

/// Counts everything that a ring has ever held, from 0.
pub(super) type Seq = u64;

/// An `invalidate` event, with what caused it.
#[derive(Debug, Clone)]
pub struct Invalidation {
    /// The operation that did it, where MongoDB told.
    pub cause: Option<Operation>,
    /// The place right after.
    pub position: Position,
}

/// How far a feed has come.
#[derive(Debug, Clone)]
pub struct Tail {
    /// The place after everything that was published.
    pub position: Position,
    /// MongoDB's own time when it was last heard of.
    pub upstream: Option<ClusterTime>,
    /// The last event before the place.
    pub anchor: Option<Anchor>,
}

/// What a feed has to tell at once, so that no watcher sees a place whose events it has not been
/// offered.
#[derive(Debug, Default)]
pub(super) struct News {
    pub segments: Vec<Arc<Segment>>,
    pub stage: Option<(Stage, &'static str)>,
    pub invalidation: Option<Invalidation>,
    /// Where the stream is now, MongoDB's time, and whether nothing was left to read.
    pub tail: Option<(Position, Option<ClusterTime>, bool)>,
}

/// A place to join a ring at.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// After all that there is, where MongoDB does not tell its time.
    Now,
    /// After a place that a token stands for, with the last event before it where that is known.
    After(&'a Position, Option<&'a Anchor>),
    /// Where the ring ended at a moment up to which everything else is known.
    Fence(&'a Fence, Known<'a>),
}

/// Where a ring ended at some moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fence {
    at: Seq,
    /// MongoDB's time at that moment: no event of the ring before the fence is later.
    pub time: ClusterTime,
}

/// What somebody who read up to a fence knows of the stream right before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// The last event before it.
    pub anchor: Option<&'a Anchor>,
    /// A time from which on there was no event.
    pub quiet_from: Option<ClusterTime>,
}

#[derive(Debug)]
pub(super) struct Ring {
    audience: Mutex<Audience>,
    state: Mutex<State>,
    room: Notify,
    capacity: usize,
    /// What the tokens of the feed are sealed with.
    pub token_context: TokenContext,
    metrics: Arc<Metrics>,
}

impl Ring {
    /// An empty ring that takes events until they are worth `capacity` bytes; a reply may go over, so
    /// that an event of any size passes.
    pub(super) fn new(
        capacity: usize,
        token_context: TokenContext,
        metrics: Arc<Metrics>,
        start: Position,
        before: Before,
    ) -> Self {
        Self {
            audience: Mutex::default(),
            state: Mutex::new(State::new(start, before)),
            room: Notify::new(),
            capacity,
            token_context,
            metrics,
        }
    }

    /// Adds what is new, makes room for it, and wakes those whom it concerns. Only the feed does.
    pub(super) fn publish(&self, news: News) {
        let mut audience = lock(&self.audience);
        let first = lock(&self.state).next;
        let mut next = first;
        let mut taken = Vec::with_capacity(news.segments.len());
        for segment in &news.segments {
            let hits = audience.hits(segment, next);
            self.count_unwanted(&audience, segment, &hits);
            taken.push(hits.hits);
            next += segment.events().len() as Seq;
        }

        let mut state = lock(&self.state);
        for (segment, hits) in news.segments.into_iter().zip(&taken) {
            let wanted = audience.has_everyone() || !hits.is_empty();
            for hit in hits {
                state.hit(hit.group, hit.run);
            }
            state.push(Content::Events(segment), wanted, &self.metrics);
        }
        let to_all = news.stage.is_some() || news.invalidation.is_some();
        if let Some(invalidation) = news.invalidation {
            for group in audience.groups() {
                let first = state.next;
                let run = HitRun {
                    first,
                    end: first + 1,
                    crossing: Crossing::Untold,
                };
                state.hit(group, run);
            }
            state.push(Content::Invalidated(invalidation), true, &self.metrics);
        }
        if let Some(stage) = news.stage {
            state.stage = stage;
        }
        if let Some((position, upstream, caught_up)) = news.tail {
            state.heard(position, upstream, caught_up);
        }
        let deserted = audience.is_empty();
        while state.cost > self.capacity && state.may_evict(deserted) {
            state.evict();
        }
        drop(state);

        if to_all || (next > first && audience.has_everyone()) {
            audience.wake_everyone();
        }
        if to_all {
            audience
                .groups()
                .for_each(|group| audience.wake_group(group));
        } else {
            let hits = taken.iter().flatten();
            let mut groups: Vec<_> = hits.map(|hit| hit.group).collect();
            groups.sort_unstable();
            groups.dedup();
            groups
                .into_iter()
                .for_each(|group| audience.wake_group(group));
        }
    }

    /// Counts the events that were read for nobody.
    fn count_unwanted(&self, audience: &Audience, segment: &Segment, hits: &SegmentHits) {
        if audience.has_everyone() || audience.is_empty() {
            return;
        }
        let unwanted = segment.events().len() - hits.events;
        self.metrics.events_filtered.increment(unwanted as u64);
    }

    /// Says that MongoDB is away: from here on the lag grows.
    pub(super) fn lost_touch(&self) {
        lock(&self.state).caught_up = false;
    }

    /// Waits until there is room for more: until the oldest events have been read by somebody, or are
    /// wanted by nobody.
    pub(super) async fn writable(&self) {
        loop {
            let room = self.room.notified();
            {
                let audience = lock(&self.audience);
                let mut state = lock(&self.state);
                if state.cost < self.capacity || state.may_evict(audience.is_empty()) {
                    state.writer_waits = false;
                    return;
                }
                state.writer_waits = true;
                // There is more to read, and it has to wait: from here on the lag grows.
                state.caught_up = false;
            }
            room.await;
        }
    }

    /// Says that nothing follows, and why. The first reason stands.
    pub(super) fn end(&self, why: Error) {
        let audience = lock(&self.audience);
        lock(&self.state).ended.get_or_insert(why);
        audience.wake_everyone();
        audience
            .groups()
            .for_each(|group| audience.wake_group(group));
    }

    /// Drops the oldest events, read or not, until the ring is worth at most so many bytes: memory is
    /// short. Whoever has not read them catches up by itself.
    pub(super) fn shrink_to(&self, bytes: usize) {
        let mut state = lock(&self.state);
        while state.cost > bytes && !state.items.is_empty() {
            state.evict();
        }
        self.tell_writer(&mut state);
    }

    /// Seats a watcher at a place, if the ring holds all that follows the place.
    pub(super) fn join(
        self: &Arc<Self>,
        residual: &Residual,
        seat: &Arc<Seat>,
        place: &Place<'_>,
    ) -> Option<Cursor> {
        let judge = self.judge(residual);
        let mut audience = lock(&self.audience);
        let mut state = lock(&self.state);
        let (at, since) = state.find(place)?;
        let (member, new_group) = audience.join(residual, judge.as_ref(), Arc::clone(seat));
        if let Some(group) = member.group
            && new_group
        {
            let floor = state.next;
            state.set_hits(group, Hits::new(floor));
        }
        state.claim(at);
        self.tell_writer(&mut state);
        drop(state);
        drop(audience);
        Some(Cursor::new(Arc::clone(self), member, judge, at, since))
    }

    /// The judge of a residual: that of others who ask for the same, or a new one, which takes a while to
    /// make and is made without holding up anybody.
    fn judge(&self, residual: &Residual) -> Option<Arc<Judge>> {
        if residual.passes_everything() {
            return None;
        }
        let known = lock(&self.audience).known(&residual.key());
        Some(known.unwrap_or_else(|| Arc::new(Judge::new(residual))))
    }

    /// Where the ring ends now, if MongoDB's time is known.
    pub(super) fn fence(&self) -> Option<Fence> {
        lock(&self.state).fence()
    }

    /// Says that a catch-up has come to a time. Where the feed is behind that, because its watchers do
    /// not read, it need not wait for them: they can catch up as well.
    pub(super) fn overtaken_at(&self, time: ClusterTime) {
        let mut state = lock(&self.state);
        if state.overtaken(time) {
            self.tell_writer(&mut state);
        }
    }

    /// Whether nobody reads it.
    pub(super) fn is_deserted(&self) -> bool {
        lock(&self.audience).is_empty()
    }

    /// How many bytes it holds, about.
    pub(super) fn cost(&self) -> usize {
        lock(&self.state).cost
    }

    pub(super) fn tail(&self) -> Tail {
        lock(&self.state).tail()
    }

    /// How far the feed is behind MongoDB, in seconds: 0 when nothing was left to read, else the
    /// distance by MongoDB's own clock when it was last heard of, and the time since.
    pub(super) fn lag_seconds(&self) -> f64 {
        lock(&self.state).lag_seconds()
    }

    /// Lets the writer look again, if it waits.
    fn tell_writer(&self, state: &mut State) {
        if std::mem::take(&mut state.writer_waits) {
            self.room.notify_one();
        }
    }
}

impl Item {
    fn end(&self) -> Seq {
        match &self.content {
            Content::Events(segment) => self.first + segment.events().len() as Seq,
            Content::Invalidated(_) => self.first + 1,
        }
    }
}
