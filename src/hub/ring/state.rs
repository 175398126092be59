//! The contents of a ring, behind its lock.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use tokio::time::Instant;

use crate::{
    error::Error,
    hub::segment::Segment,
    metrics::{GaugeGuard, Metrics},
    model::Stage,
    source::{Anchor, ClusterTime, Position},
};

use super::{
    history::RingHistory,
    join_point::{Barrier, JoinEvidence, JoinPoint},
    match_list::{IdleReaders, MatchList, MatchRange},
    position::{FeedPosition, Invalidation, Seq},
    subscriber_index::GroupId,
};

#[derive(Debug)]
pub(super) struct State {
    pub items: VecDeque<Item>,
    /// The sequence number of the next item.
    pub next: Seq,
    /// The approximate memory of the items in bytes.
    pub cost: usize,
    pub stage: (Stage, &'static str),
    pub ended: Option<Error>,
    /// By group id; `Some` for every group that exists.
    match_lists: Vec<Option<MatchList>>,
    /// The position of the watcher that has read furthest.
    pub furthest: Seq,
    /// The idle ones among the watchers that receive every event.
    idle_unfiltered: IdleReaders,
    /// The number of idle watchers in all groups.
    idle: usize,
    /// The time up to which a catch-up has read the same events.
    read_elsewhere_until: Option<ClusterTime>,
    /// The items that were in the ring when watchers joined at them. A joining watcher needs them even if
    /// no watcher matched them when they came.
    joined_range: Range<Seq>,
    /// `true` while the writer waits for space.
    pub writer_waits: bool,
    history: RingHistory,
    position: Position,
    pub upstream_time: Option<ClusterTime>,
    anchor: Option<Anchor>,
    /// `true` if the last reply was empty and showed that everything was read that had been committed when the one
    /// before it was made.
    pub caught_up: bool,
    /// The local time of the last reply.
    last_reply: Instant,
}

#[derive(Debug)]
pub(super) struct Item {
    pub first: Seq,
    pub content: Content,
    /// `true` if any watcher matched any of it when it was added.
    matched: bool,
    /// Counts its memory in `weir_ring_bytes`.
    _gauge: GaugeGuard,
}

#[derive(Debug)]
pub(super) enum Content {
    Events(Arc<Segment>),
    Invalidated(Invalidation),
}

impl State {
    pub(super) fn new(start: Position, history: RingHistory) -> Self {
        Self {
            items: VecDeque::new(),
            next: 0,
            cost: 0,
            stage: (Stage::Opening, ""),
            ended: None,
            match_lists: Vec::new(),
            furthest: 0,
            read_elsewhere_until: None,
            joined_range: 0..0,
            idle_unfiltered: IdleReaders::default(),
            idle: 0,
            writer_waits: false,
            anchor: history.anchor(),
            history,
            position: start,
            upstream_time: None,
            caught_up: false,
            last_reply: Instant::now(),
        }
    }

    pub(super) fn push(&mut self, content: Content, matched: bool, metrics: &Metrics) {
        let (count, cost) = match &content {
            Content::Events(segment) => (segment.events().len() as Seq, segment.cost()),
            Content::Invalidated(_) => (1, 0),
        };
        if let Some((token, time)) = content.last() {
            self.anchor = Some(Anchor::new(token, time));
            self.upstream_time = self.upstream_time.max(Some(time));
        }
        self.idle -= self.idle_unfiltered.end();
        self.items.push_back(Item {
            first: self.next,
            content,
            matched,
            _gauge: GaugeGuard::bytes(&metrics.ring_bytes, cost),
        });
        self.next += count;
        self.cost += cost;
    }

    pub(super) fn set_position(
        &mut self,
        position: Position,
        upstream_time: Option<ClusterTime>,
        is_quiet: bool,
    ) {
        self.position = position;
        self.caught_up = is_quiet && Some(self.position.time()) >= self.upstream_time;
        // A reply of another member of the replica set may have an earlier time.
        self.upstream_time = self.upstream_time.max(upstream_time);
        self.last_reply = Instant::now();
    }

    /// Returns whether the oldest item may be evicted: a watcher has read it, or no watcher needs it.
    pub(super) fn may_evict(&self, no_subscribers: bool) -> bool {
        self.items.front().is_some_and(|oldest| {
            let in_joined_range =
                oldest.first < self.joined_range.end && self.joined_range.start < oldest.end();
            let needed = oldest.matched || in_joined_range;
            let read = self.furthest >= oldest.end() || self.is_read_elsewhere(oldest);
            no_subscribers || !needed || self.idle > 0 || read
        })
    }

    fn is_read_elsewhere(&self, item: &Item) -> bool {
        let last = item.content.last();
        last.is_some_and(|(_, time)| Some(time) <= self.read_elsewhere_until)
    }

    /// Adds a match for a group, which ends the idleness of its watchers.
    pub(super) fn push_match(&mut self, group: GroupId, range: MatchRange) {
        let list = self.match_list_mut(group);
        list.push(range);
        let ended = list.idle.end();
        self.idle -= ended;
    }

    /// Counts a watcher that has read everything as idle. Returns the round that it is counted in.
    pub(super) fn enter_idle(&mut self, group: Option<GroupId>, counted: Option<u64>) -> u64 {
        let (round, newly_counted) = self.idle_readers_mut(group).enter(counted);
        self.idle += usize::from(newly_counted);
        round
    }

    /// Removes a leaving watcher, which was last counted in a round, from the idle ones.
    pub(super) fn leave_idle(&mut self, group: Option<GroupId>, counted: Option<u64>) {
        if self.idle_readers_mut(group).leave(counted) {
            self.idle -= 1;
        }
    }

    fn idle_readers_mut(&mut self, group: Option<GroupId>) -> &mut IdleReaders {
        match group {
            None => &mut self.idle_unfiltered,
            Some(group) => &mut self.match_list_mut(group).idle,
        }
    }

    /// Records that a watcher starts to read at a sequence number.
    pub(super) fn record_join(&mut self, from: Seq) {
        // The ring need not keep earlier items for this watcher.
        self.furthest = self.furthest.max(from);
        if from == self.next {
            return;
        }
        let range_evicted = self.joined_range.end <= self.head();
        self.joined_range = if range_evicted {
            from..self.next
        } else {
            self.joined_range.start.min(from)..self.next
        };
    }

    pub(super) fn evict(&mut self) {
        let Some(item) = self.items.pop_front() else {
            return;
        };
        if let Some((token, time)) = item.content.last() {
            self.history.record_evicted(token, time);
        }
        if let Content::Events(segment) = &item.content {
            self.cost -= segment.cost();
        }
    }

    pub(super) fn head(&self) -> Seq {
        self.items.front().map_or(self.next, |item| item.first)
    }

    pub(super) fn item_at(&self, seq: Seq) -> Option<&Item> {
        let after = self.items.partition_point(|item| item.first <= seq);
        self.items.get(after.checked_sub(1)?)
    }

    /// The match list of a group.
    ///
    /// # Panics
    /// Panics if there is no such group.
    pub(super) fn match_list_mut(&mut self, group: GroupId) -> &mut MatchList {
        self.match_lists[group]
            .as_mut()
            .expect("every group has a match list")
    }

    pub(super) fn match_list(&self, group: GroupId) -> &MatchList {
        self.match_lists[group]
            .as_ref()
            .expect("every group has a match list")
    }

    pub(super) fn insert_match_list(&mut self, group: GroupId, list: MatchList) {
        if self.match_lists.len() <= group {
            self.match_lists.resize_with(group + 1, || None);
        }
        self.match_lists[group] = Some(list);
    }

    pub(super) fn remove_match_list(&mut self, group: GroupId) {
        self.match_lists[group] = None;
    }

    pub(super) fn position(&self) -> FeedPosition {
        FeedPosition {
            position: self.position.clone(),
            upstream_time: self.upstream_time,
            anchor: self.anchor,
        }
    }

    pub(super) fn lag_seconds(&self) -> f64 {
        if self.caught_up {
            return 0.0;
        }
        let behind = self
            .upstream_time
            .map_or(0, |now| now.seconds_since(self.position.time()));
        f64::from(behind) + self.last_reply.elapsed().as_secs_f64()
    }

    /// Finds the item that follows a join point. The second value returned is the time before which the
    /// watcher skips events. `None` when the ring no longer holds the item, or may not.
    pub(super) fn find(&mut self, point: &JoinPoint<'_>) -> Option<(Seq, Option<ClusterTime>)> {
        let exactly = |seq| Some((seq, None));
        match point {
            JoinPoint::Now => exactly(self.next),
            JoinPoint::After(Position::Time(time), _) => self.find_time(*time),
            JoinPoint::After(Position::HighWater { .. }, None) => None,
            JoinPoint::After(Position::HighWater { .. }, Some(anchor)) => {
                exactly(self.find_anchor(anchor)?)
            }
            JoinPoint::After(Position::EventDigest(event), _) => exactly(self.find_anchor(event)?),
            JoinPoint::After(
                Position::Event { token, time } | Position::Invalidate { token, time },
                _,
            ) => {
                if self.history.ends_with(token) {
                    return exactly(self.head());
                }
                exactly(self.find_event(*time, |other| other == token)?)
            }
            JoinPoint::Barrier(barrier, evidence) => self.find_barrier(barrier, *evidence),
        }
    }

    /// A barrier at the current end, if MongoDB's time is known and the stream had started by then.
    pub(super) fn barrier(&self) -> Option<Barrier> {
        let time = self.upstream_time?;
        self.history.had_started_by(time).then_some(Barrier {
            at: self.next,
            time,
            passed: self.position.time(),
        })
    }

    /// Records that a catch-up of the same events has read up to a time. Returns whether the feed is behind
    /// it.
    pub(super) fn mark_read_elsewhere(&mut self, time: ClusterTime) -> bool {
        self.read_elsewhere_until = self.read_elsewhere_until.max(Some(time));
        self.position.time() < time
    }

    /// Finds the item after the event with this anchor.
    fn find_anchor(&self, anchor: &Anchor) -> Option<Seq> {
        if self.history.is_anchored(anchor) {
            return Some(self.head());
        }
        self.find_event(anchor.time, |token| anchor.matches(token))
    }

    /// Finds the item after the last event with this time and a token that `is_it` accepts. Where events do not have
    /// their own times, the token decides alone.
    fn find_event(&self, time: ClusterTime, is_it: impl Fn(&[u8]) -> bool) -> Option<Seq> {
        let is_exact = self.history.has_exact_times();
        let is_before = |item: &Item| item.content.last().is_some_and(|(_, last)| last < time);
        let from = self
            .items
            .partition_point(|item| is_exact && is_before(item));
        let mut found = None;
        for item in self.items.range(from..) {
            match &item.content {
                Content::Events(segment) => {
                    let events = segment.events();
                    if is_exact && events.first().is_some_and(|it| it.cluster_time > time) {
                        break;
                    }
                    let here = events
                        .iter()
                        .enumerate()
                        .rev()
                        .filter(|(_, event)| event.cluster_time == time || !is_exact)
                        .find(|(index, _)| is_it(segment.token(*index)));
                    if let Some((index, _)) = here {
                        found = Some(item.first + index as Seq + 1);
                    }
                }
                Content::Invalidated(invalidation) => {
                    if invalidation
                        .position
                        .token()
                        .is_some_and(|token| is_it(token))
                    {
                        found = Some(item.first + 1);
                    }
                }
            }
        }
        found
    }

    /// Finds the first event at or after a time, if the ring reaches back to that time.
    fn find_time(&self, time: ClusterTime) -> Option<(Seq, Option<ClusterTime>)> {
        if !self.history.is_complete_from(time) {
            return None;
        }
        let at = self
            .items
            .partition_point(|item| item.content.last().is_some_and(|(_, last)| last < time));
        let seq = match self.items.get(at) {
            None => self.next,
            Some(item) => match &item.content {
                Content::Events(segment) => {
                    let older = segment
                        .events()
                        .partition_point(|event| event.cluster_time < time);
                    item.first + older as Seq
                }
                Content::Invalidated(_) => item.first,
            },
        };
        // The feed may not have reached the time yet, so the watcher skips earlier events.
        Some((seq, Some(time)))
    }

    fn find_barrier(
        &mut self,
        barrier: &Barrier,
        evidence: JoinEvidence<'_>,
    ) -> Option<(Seq, Option<ClusterTime>)> {
        let head = self.head();
        if barrier.at < head {
            return None;
        }
        // The ring was empty at the barrier, or everything before it was evicted: facts about the stream
        // before the barrier are facts about the stream before the ring.
        if barrier.at == head {
            self.history.learn(evidence.anchor, evidence.quiet_from);
            if self.items.is_empty() {
                self.anchor = self.history.anchor();
            }
        }
        Some((barrier.at, Some(evidence.not_before)))
    }
}

impl Item {
    /// The sequence number of the next item.
    pub(super) fn end(&self) -> Seq {
        match &self.content {
            Content::Events(segment) => self.first + segment.events().len() as Seq,
            Content::Invalidated(_) => self.first + 1,
        }
    }
}

impl Content {
    /// The token and the time of the last event.
    fn last(&self) -> Option<(&[u8], ClusterTime)> {
        match self {
            Self::Events(segment) => {
                let events = segment.events();
                let last = events.last()?;
                Some((segment.token(events.len() - 1), last.cluster_time))
            }
            Self::Invalidated(invalidation) => {
                let position = &invalidation.position;
                Some((position.token()?, position.time()))
            }
        }
    }
}
