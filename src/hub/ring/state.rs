//! What a ring holds, under its lock.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use tokio::time::Instant;

use crate::{
    error::Error,
    hub::{
        audience::GroupId,
        hits::{HitRun, Hits, Idle},
        segment::Segment,
        stream::next_time,
    },
    metrics::{GaugeGuard, Metrics, Stage},
    source::{ClusterTime, Position},
    wire::Anchor,
};

use super::{Before, Fence, Invalidation, Known, Place, Seq, Tail};

#[derive(Debug)]
pub(super) struct State {
    pub items: VecDeque<Item>,
    /// The next one's number.
    pub next: Seq,
    /// What the items are worth in memory, in bytes.
    pub cost: usize,
    pub stage: (Stage, &'static str),
    pub ended: Option<Error>,
    /// By group; complete for those that exist.
    hits: Vec<Option<Hits>>,
    /// How far the foremost watcher has read.
    pub furthest: Seq,
    /// Those who take everything, and have.
    idle_everyone: Idle,
    /// How many watchers, of whatever group, have read all that concerns them.
    idle: usize,
    /// A time up to which somebody has read the same events elsewhere.
    overtaken: Option<ClusterTime>,
    /// What was there when somebody joined who wants it, though it may have come for nobody.
    claimed: Range<Seq>,
    /// Whether the writer waits for room.
    pub writer_waits: bool,
    before: Before,
    position: Position,
    pub upstream: Option<ClusterTime>,
    anchor: Option<Anchor>,
    /// Whether there was nothing left to read when MongoDB was last heard of.
    pub caught_up: bool,
    /// When that was, by the local clock that only counts.
    heard: Instant,
}

#[derive(Debug)]
pub(super) struct Item {
    pub first: Seq,
    pub content: Content,
    /// Whether anybody took any of it when it came.
    wanted: bool,
    /// Counts it in `weir_ring_bytes`.
    _gauge: GaugeGuard,
}

#[derive(Debug)]
pub(super) enum Content {
    Events(Arc<Segment>),
    Invalidated(Invalidation),
}

impl State {
    pub(super) fn new(start: Position, before: Before) -> Self {
        Self {
            items: VecDeque::new(),
            next: 0,
            cost: 0,
            stage: (Stage::Opening, ""),
            ended: None,
            hits: Vec::new(),
            furthest: 0,
            overtaken: None,
            claimed: 0..0,
            idle_everyone: Idle::default(),
            idle: 0,
            writer_waits: false,
            anchor: before.anchor(),
            before,
            position: start,
            upstream: None,
            caught_up: false,
            heard: Instant::now(),
        }
    }

    pub(super) fn push(&mut self, content: Content, wanted: bool, metrics: &Metrics) {
        let (count, cost) = match &content {
            Content::Events(segment) => (segment.events().len() as Seq, segment.cost()),
            Content::Invalidated(_) => (1, 0),
        };
        if let Some((token, time)) = content.last() {
            self.anchor = Some(Anchor::new(token, time));
            self.upstream = self.upstream.max(Some(time));
        }
        let ended = self.idle_everyone.end();
        self.idle -= ended;
        self.items.push_back(Item {
            first: self.next,
            content,
            wanted,
            _gauge: GaugeGuard::bytes(&metrics.ring_bytes, cost),
        });
        self.next += count;
        self.cost += cost;
    }

    pub(super) fn heard(
        &mut self,
        position: Position,
        upstream: Option<ClusterTime>,
        caught_up: bool,
    ) {
        self.position = position;
        // Another member of the set may be behind the one that was read before.
        self.upstream = self.upstream.max(upstream);
        self.caught_up = caught_up;
        self.heard = Instant::now();
    }

    /// Whether the oldest item may go: somebody has read it, or nobody is there who would.
    pub(super) fn may_evict(&self, deserted: bool) -> bool {
        self.items.front().is_some_and(|oldest| {
            let claimed = oldest.first < self.claimed.end && self.claimed.start < oldest.end();
            let wanted = oldest.wanted || claimed;
            let read = self.furthest >= oldest.end() || self.is_overtaken(oldest);
            deserted || !wanted || self.idle > 0 || read
        })
    }

    fn is_overtaken(&self, item: &Item) -> bool {
        let last = item.content.last();
        last.is_some_and(|(_, time)| Some(time) <= self.overtaken)
    }

    /// A hit for a group: none of its watchers has read everything any more.
    pub(super) fn hit(&mut self, group: GroupId, run: HitRun) {
        let hits = self.hits_of(group);
        hits.push(run);
        let ended = hits.idle.end();
        self.idle -= ended;
    }

    /// A watcher has read everything. Gives the round that it is counted in.
    pub(super) fn enter_idle(&mut self, group: Option<GroupId>, before: Option<u64>) -> u64 {
        let (round, anew) = self.idle_of(group).enter(before);
        self.idle += usize::from(anew);
        round
    }

    /// A watcher that was counted in a round leaves.
    pub(super) fn leave_idle(&mut self, group: Option<GroupId>, counted: Option<u64>) {
        if self.idle_of(group).leave(counted) {
            self.idle -= 1;
        }
    }

    fn idle_of(&mut self, group: Option<GroupId>) -> &mut Idle {
        match group {
            None => &mut self.idle_everyone,
            Some(group) => &mut self.hits_of(group).idle,
        }
    }

    /// A watcher begins to read at a place.
    pub(super) fn claim(&mut self, from: Seq) {
        // What came before is nothing that this watcher could lose.
        self.furthest = self.furthest.max(from);
        if from == self.next {
            return;
        }
        let unclaimed = self.claimed.end <= self.head();
        self.claimed = if unclaimed {
            from..self.next
        } else {
            self.claimed.start.min(from)..self.next
        };
    }

    pub(super) fn evict(&mut self) {
        let Some(item) = self.items.pop_front() else {
            return;
        };
        if let Some((token, time)) = item.content.last() {
            self.before.has_left(token, time);
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

    /// A group's hits.
    ///
    /// # Panics
    /// When there is no such group.
    pub(super) fn hits_of(&mut self, group: GroupId) -> &mut Hits {
        self.hits[group]
            .as_mut()
            .expect("a group has hits from its first watcher to its last")
    }

    pub(super) fn hits_ref(&self, group: GroupId) -> &Hits {
        self.hits[group]
            .as_ref()
            .expect("a group has hits from its first watcher to its last")
    }

    pub(super) fn set_hits(&mut self, group: GroupId, hits: Hits) {
        if self.hits.len() <= group {
            self.hits.resize_with(group + 1, || None);
        }
        self.hits[group] = Some(hits);
    }

    pub(super) fn drop_hits(&mut self, group: GroupId) {
        self.hits[group] = None;
    }

    pub(super) fn tail(&self) -> Tail {
        Tail {
            position: self.position.clone(),
            upstream: self.upstream,
            anchor: self.anchor,
        }
    }

    pub(super) fn lag_seconds(&self) -> f64 {
        if self.caught_up {
            return 0.0;
        }
        let behind = self
            .upstream
            .map_or(0, |now| now.seconds_since(self.position.time()));
        f64::from(behind) + self.heard.elapsed().as_secs_f64()
    }

    /// The number of what follows a place, and the time that events must have reached to be wanted.
    /// `None` when the ring can't tell, or no longer holds it.
    pub(super) fn find(&mut self, place: &Place<'_>) -> Option<(Seq, Option<ClusterTime>)> {
        let exactly = |seq| Some((seq, None));
        match place {
            Place::Now => exactly(self.next),
            Place::After(Position::Time(time), _) => self.find_time(*time),
            Place::After(Position::HighWater { .. }, None) => None,
            Place::After(Position::HighWater { .. }, Some(anchor)) => {
                if self.before.is_anchored(anchor) {
                    return exactly(self.head());
                }
                exactly(self.find_event(anchor.time, |token| anchor.matches(token))?)
            }
            Place::After(
                Position::Event { token, time } | Position::Invalidate { token, time },
                _,
            ) => {
                if self.before.ends_with(token) {
                    return exactly(self.head());
                }
                exactly(self.find_event(*time, |other| other == token)?)
            }
            Place::Fence(fence, known) => self.find_fence(fence, *known),
        }
    }

    /// Where it ends now, if MongoDB's time is known and the stream had begun by then.
    pub(super) fn fence(&self) -> Option<Fence> {
        let time = self.upstream?;
        self.before.had_begun_at(time).then_some(Fence {
            at: self.next,
            time,
        })
    }

    /// A catch-up of the same events has read up to a time. Tells whether the feed is behind that.
    pub(super) fn overtaken(&mut self, time: ClusterTime) -> bool {
        self.overtaken = self.overtaken.max(Some(time));
        self.position.time() < time
    }

    /// The place after the last event of a time that `is_it` knows by its token. Only events of that
    /// very time are looked at.
    fn find_event(&self, time: ClusterTime, is_it: impl Fn(&[u8]) -> bool) -> Option<Seq> {
        let from = self
            .items
            .partition_point(|item| item.content.last().is_some_and(|(_, last)| last < time));
        let mut found = None;
        for item in self.items.range(from..) {
            match &item.content {
                Content::Events(segment) => {
                    let events = segment.events();
                    if events.first().is_some_and(|it| it.cluster_time > time) {
                        break;
                    }
                    let here = events
                        .iter()
                        .enumerate()
                        .rev()
                        .filter(|(_, event)| event.cluster_time == time)
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

    /// The first event of a time or later, if the ring reaches back to that time.
    fn find_time(&self, time: ClusterTime) -> Option<(Seq, Option<ClusterTime>)> {
        if !self.before.is_complete_from(time) {
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
        // The feed may itself not have come so far yet.
        Some((seq, Some(time)))
    }

    fn find_fence(
        &mut self,
        fence: &Fence,
        known: Known<'_>,
    ) -> Option<(Seq, Option<ClusterTime>)> {
        let head = self.head();
        if fence.at < head {
            return None;
        }
        // Nothing had come into the ring, or everything had gone again: what is known before the
        // fence is known before the ring.
        if fence.at == head {
            self.before.learn(known.anchor, known.quiet_from);
            if self.items.is_empty() {
                self.anchor = self.before.anchor();
            }
        }
        Some((fence.at, Some(next_time(fence.time))))
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
