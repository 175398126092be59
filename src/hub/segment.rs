//! A run of events that travels through the hub as one, and what has been made of them so far.

use std::{
    ops::Range,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use bytes::Bytes;

use crate::{
    hub::{budget::Budget, ring::Seq, stream::own},
    metrics::Metrics,
    plan::{Crossing, Format, Judge, Subject, View},
    source::{ClusterTime, Event, EventError, Position},
    wire::{self, EncodedEvent, RenderOptions, TokenContext},
};

/// How many bytes of events a segment holds at most, beyond its first event. Encoding a segment
/// holds a thread for as long as this many bytes take.
const MAX_BYTES: usize = 256 << 10;
/// How many events.
const MAX_EVENTS: usize = 512;

/// What a segment takes in memory beyond its events' bytes, and each event; so that a ring of many
/// small ones is bounded in truth.
const OVERHEAD: usize = 512;
const EVENT_OVERHEAD: usize = 160;

/// Events of one reply, in order.
#[derive(Debug)]
pub struct Segment {
    buffer: Bytes,
    events: Vec<Event>,
    cost: usize,
    token_context: TokenContext,
    encodings: RwLock<Vec<Encoding>>,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

/// The events in one format, as they look in one view: each is there once somebody has asked for it.
#[derive(Debug)]
struct Encoding {
    format: Format,
    view: Arc<View>,
    /// With their places in the segment, in order. Of the many views of a segment most show little of it.
    events: Vec<(u32, EncodedEvent)>,
}

impl Encoding {
    /// Views are compared by value: what two have in common is encoded once, and what was encoded for
    /// one is never another's.
    fn is_for(&self, format: Format, view: &Arc<View>) -> bool {
        self.format == format && (Arc::ptr_eq(&self.view, view) || self.view.looks_like(view))
    }

    fn get(&self, index: usize) -> Option<&EncodedEvent> {
        let at = |place: &(u32, EncodedEvent)| place.0 as usize;
        // Where all are there, each is at its own place.
        let found = match self.events.get(index).filter(|it| at(it) == index) {
            Some(found) => found,
            None => &self.events[self.events.binary_search_by_key(&index, at).ok()?],
        };
        Some(&found.1)
    }

    fn insert(&mut self, new: impl Iterator<Item = (u32, EncodedEvent)>) {
        self.events.extend(new);
        self.events.sort_unstable_by_key(|it| it.0);
    }
}

/// Some events of one segment, in order: what a watcher takes at once.
#[derive(Debug, Clone)]
pub struct Run {
    segment: Arc<Segment>,
    /// The number in its ring of the segment's first event; 0 where there is no ring.
    base: Seq,
    picks: Picks,
}

#[derive(Debug, Clone)]
enum Picks {
    /// All events from one to before another.
    Range { from: usize, to: usize },
    /// These, each with what the change did to the document's match.
    Some(Vec<(u32, Crossing)>),
}

/// The encoded events of a run. Others who need a new encoding wait until it is dropped.
#[derive(Debug)]
pub struct EncodedRun<'a> {
    run: &'a Run,
    encodings: RwLockReadGuard<'a, Vec<Encoding>>,
    slot: usize,
}

impl Segment {
    /// Cuts `events`, which lie in `buffer`, into segments. `token_context` is what their tokens are sealed
    /// with.
    pub(super) fn cut(
        buffer: &Bytes,
        events: Vec<Event>,
        token_context: &TokenContext,
        budget: &Arc<Budget>,
        metrics: &Arc<Metrics>,
    ) -> Vec<Arc<Self>> {
        let mut segments = Vec::new();
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let mut bytes = 0;
            let mut run = Vec::new();
            while let Some(event) = events.next_if(|next| {
                run.is_empty() || (run.len() < MAX_EVENTS && bytes + next.bytes.len() <= MAX_BYTES)
            }) {
                bytes += event.bytes.len();
                run.push(event);
            }
            segments.push(Arc::new(Self {
                buffer: buffer.clone(),
                cost: bytes + OVERHEAD + run.len() * EVENT_OVERHEAD,
                events: run,
                token_context: token_context.clone(),
                encodings: RwLock::default(),
                budget: Arc::clone(budget),
                metrics: Arc::clone(metrics),
            }));
        }
        segments
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The bytes that the events lie in.
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// What the event's tokens are sealed with.
    #[must_use]
    pub fn token_context(&self) -> &TokenContext {
        &self.token_context
    }

    /// About how much memory it takes, in bytes, without its encodings.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// MongoDB's token of one event.
    pub(super) fn token(&self, index: usize) -> &[u8] {
        &self.buffer[self.events[index].token.clone()]
    }

    /// The place right after one event, with a token of its own.
    pub(super) fn position(&self, index: usize) -> Option<Position> {
        let event = self.events.get(index)?;
        Some(own(&event.position(&self.buffer)))
    }

    /// What filters look at in one event.
    pub(super) fn subject(&self, index: usize) -> Subject<'_> {
        let event = &self.events[index];
        Subject::read(event.operation, &self.buffer[event.bytes.clone()])
    }

    fn read_encodings(&self) -> RwLockReadGuard<'_, Vec<Encoding>> {
        // An encoding is complete before it is put in its place.
        self.encodings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes those of `indices` that are not there yet into one chunk.
    fn encode(
        &self,
        format: Format,
        view: &Arc<View>,
        indices: impl Iterator<Item = usize> + Clone,
    ) -> Result<(), EventError> {
        let mut encodings = self
            .encodings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let at = encodings.iter().position(|it| it.is_for(format, view));
        let at = at.unwrap_or_else(|| {
            encodings.push(Encoding {
                format,
                view: Arc::clone(view),
                events: Vec::new(),
            });
            encodings.len() - 1
        });
        let known = &mut encodings[at];
        let missing: Vec<usize> = indices
            .filter(|index| known.get(*index).is_none())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let counter = self.metrics.encodings(format);
        counter.increment(missing.len() as u64);
        let events = missing.iter().map(|index| &self.events[*index]);
        let keep = |chunk| self.budget.keep(chunk);
        let options = RenderOptions { format, view };
        let encoded = wire::encode(&self.buffer, events, &self.token_context, options, keep)?;
        // A segment has a few hundred events at most.
        let places = missing.iter().map(|index| *index as u32);
        known.insert(places.zip(encoded));
        Ok(())
    }
}

impl Run {
    /// All events of a segment from one to before another.
    pub(super) fn range(segment: Arc<Segment>, base: Seq, from: usize, to: usize) -> Self {
        Self {
            segment,
            base,
            picks: Picks::Range { from, to },
        }
    }

    /// Some events of a segment, each with its crossing.
    pub(super) fn some(segment: Arc<Segment>, base: Seq, picks: Vec<(u32, Crossing)>) -> Self {
        Self {
            segment,
            base,
            picks: Picks::Some(picks),
        }
    }

    /// Those events of a segment from one to before another that a judge passes, if any.
    pub(super) fn judged(
        segment: &Arc<Segment>,
        base: Seq,
        range: Range<usize>,
        judge: &Judge,
    ) -> Option<Self> {
        let picks: Vec<_> = range
            .filter_map(|index| {
                let crossing = judge.judge(&segment.subject(index))?;
                Some((u32::try_from(index).ok()?, crossing))
            })
            .collect();
        (!picks.is_empty()).then(|| Self::some(Arc::clone(segment), base, picks))
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.picks {
            Picks::Range { from, to } => to - from,
            Picks::Some(picks) => picks.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place right after the last event.
    pub(super) fn last_position(&self) -> Option<Position> {
        self.segment
            .position(self.index(self.len().checked_sub(1)?))
    }

    /// The segment that the events are of.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The event at a place of the run.
    #[must_use]
    pub fn event(&self, at: usize) -> &Event {
        &self.segment.events[self.index(at)]
    }

    /// What the change did to the document's match, at a place of the run.
    #[must_use]
    pub fn crossing(&self, at: usize) -> Crossing {
        match &self.picks {
            Picks::Range { .. } => Crossing::Untold,
            Picks::Some(picks) => picks[at].1,
        }
    }

    /// The events in a format, as they look in a view; each is encoded on first use, once for all who
    /// want it so.
    ///
    /// # Errors
    /// When an event is not well-formed BSON.
    pub fn encoded(&self, format: Format, view: &Arc<View>) -> Result<EncodedRun<'_>, EventError> {
        let indices = (0..self.len()).map(|at| self.index(at));
        let complete = |encodings: &[Encoding]| {
            let slot = encodings.iter().position(|it| it.is_for(format, view))?;
            indices
                .clone()
                .all(|index| encodings[slot].get(index).is_some())
                .then_some(slot)
        };
        loop {
            let encodings = self.segment.read_encodings();
            if let Some(slot) = complete(&encodings) {
                return Ok(EncodedRun {
                    run: self,
                    encodings,
                    slot,
                });
            }
            drop(encodings);
            self.segment.encode(format, view, indices.clone())?;
        }
    }

    /// Leaves out the events of before a time. Gives nothing when none is left.
    pub(super) fn since(self, time: ClusterTime) -> Option<Self> {
        let old = (0..self.len())
            .take_while(|at| self.event(*at).cluster_time < time)
            .count();
        (old < self.len()).then(|| self.rest(old))
    }

    /// The events from one on.
    pub(super) fn rest(self, at: usize) -> Self {
        let picks = match self.picks {
            Picks::Range { from, to } => Picks::Range {
                from: from + at,
                to,
            },
            Picks::Some(mut picks) => {
                picks.drain(..at);
                Picks::Some(picks)
            }
        };
        Self { picks, ..self }
    }

    /// The number in its ring of the event at a place of the run.
    pub(super) fn seq(&self, at: usize) -> Seq {
        self.base + self.index(at) as Seq
    }

    fn index(&self, at: usize) -> usize {
        match &self.picks {
            Picks::Range { from, .. } => from + at,
            Picks::Some(picks) => picks[at].0 as usize,
        }
    }
}

impl EncodedRun<'_> {
    /// The event at a place of the run, encoded.
    ///
    /// # Panics
    /// When the run is shorter.
    #[must_use]
    pub fn event(&self, at: usize) -> &EncodedEvent {
        self.encodings[self.slot]
            .get(self.run.index(at))
            .expect("all events of the run were encoded before it was handed out")
    }
}
