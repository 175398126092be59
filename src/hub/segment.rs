//! A group of events that the hub handles as a unit, with a cache of their encodings.

mod compressed;
mod encodings;

use std::{
    ops::Range,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use bytes::Bytes;

use crate::{
    filter::{Evaluator, EventFields, MatchTransition},
    hub::{budget::MemoryBudget, ring::Seq},
    metrics::Metrics,
    model::Rendering,
    source::{ClusterTime, Event, Position},
    wire::{self, Compression, EncodedEvent, Frame, TokenContext},
};

use compressed::{CompressedMessages, MessageKey, Run};
use encodings::Encodings;

/// The maximum bytes of events in a segment; a single larger event makes a segment alone. Bounds the
/// time for which encoding a segment blocks a thread.
const MAX_BYTES: usize = 256 << 10;
/// The maximum number of events in a segment.
const MAX_EVENTS: usize = 512;

/// The memory of a segment in bytes beyond its events' own, so that a ring of many small segments stays
/// within its limit.
const OVERHEAD: usize = 512;
/// The memory of each event in bytes beyond its content.
const EVENT_OVERHEAD: usize = 256;

/// The memory of an encoded event in bytes beyond its content, in each rendering.
const ENTRY_BYTES: usize = size_of::<(u32, EncodedEvent)>();

const _: () = assert!(size_of::<Event>() + ENTRY_BYTES <= EVENT_OVERHEAD);

/// Events of one MongoDB reply, in order.
#[derive(Debug)]
pub struct Segment {
    buffer: Bytes,
    events: Vec<Event>,
    cost: usize,
    token_context: TokenContext,
    encodings: RwLock<Encodings>,
    compressed: CompressedMessages,
    budget: Arc<MemoryBudget>,
    metrics: Arc<Metrics>,
}

/// Selected events of one segment, in order: the unit that a watcher reads.
#[derive(Debug, Clone)]
pub struct EventSelection {
    segment: Arc<Segment>,
    /// The sequence number of the segment's first event in its ring; 0 outside a ring.
    first_seq: Seq,
    /// `false` if no other watch reads the segment.
    is_shared: bool,
    indices: SelectedIndices,
}

#[derive(Debug, Clone)]
enum SelectedIndices {
    /// All events of the half-open range.
    Range { from: usize, to: usize },
    /// Indices of events, each with its match transition.
    List(Vec<(u32, MatchTransition)>),
}

/// The encoded events of a selection. Holds a read lock: callers that add an encoding to the segment
/// wait until it is dropped.
#[derive(Debug)]
pub struct EncodedSelection<'a> {
    selection: &'a EventSelection,
    encodings: RwLockReadGuard<'a, Encodings>,
    slot: usize,
}

impl Segment {
    /// Splits `events`, whose bytes are in `buffer`, into segments. `token_context` encodes their tokens.
    pub(super) fn split(
        buffer: &Bytes,
        events: Vec<Event>,
        token_context: &TokenContext,
        budget: &Arc<MemoryBudget>,
        metrics: &Arc<Metrics>,
    ) -> Vec<Arc<Self>> {
        let mut segments = Vec::new();
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let mut bytes = 0;
            let mut chunk = Vec::new();
            while let Some(event) = events.next_if(|next| {
                chunk.is_empty()
                    || (chunk.len() < MAX_EVENTS && bytes + next.bytes.len() <= MAX_BYTES)
            }) {
                bytes += event.bytes.len();
                chunk.push(event);
            }
            segments.push(Arc::new(Self {
                buffer: buffer.clone(),
                cost: bytes + OVERHEAD + chunk.len() * EVENT_OVERHEAD,
                events: chunk,
                token_context: token_context.clone(),
                encodings: RwLock::default(),
                compressed: CompressedMessages::default(),
                budget: Arc::clone(budget),
                metrics: Arc::clone(metrics),
            }));
        }
        segments
    }

    /// The events, in the order of the stream.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The bytes that the events' ranges refer to.
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// The context that encodes the events' tokens.
    #[must_use]
    pub fn token_context(&self) -> &TokenContext {
        &self.token_context
    }

    /// The approximate memory in bytes, without the encodings.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// MongoDB's token of an event.
    pub(super) fn token(&self, index: usize) -> &[u8] {
        &self.buffer[self.events[index].token.clone()]
    }

    /// The position right after an event, with a copied token.
    pub(super) fn position(&self, index: usize) -> Option<Position> {
        let event = self.events.get(index)?;
        Some(event.position(&self.buffer).detached())
    }

    /// The fields of an event that filters read.
    pub(super) fn event_fields(&self, index: usize) -> EventFields<'_> {
        let event = &self.events[index];
        EventFields::new(
            event.operation,
            &self.buffer[event.bytes.clone()],
            &event.index,
        )
    }

    fn read_encodings(&self) -> RwLockReadGuard<'_, Encodings> {
        // A panic while the lock is held leaves no incomplete encoding.
        self.encodings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes those of `indices` that are not encoded yet into one buffer.
    fn encode(&self, rendering: &Arc<Rendering>, indices: impl Iterator<Item = usize> + Clone) {
        let mut encodings = self
            .encodings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let at = encodings.find_or_add(rendering);
        let encoding = encodings.get_mut(at);
        let missing: Vec<usize> = indices
            .filter(|index| encoding.get(*index).is_none())
            .collect();
        if missing.is_empty() {
            return;
        }
        let counter = self.metrics.encodings.of(rendering.format);
        counter.increment(missing.len() as u64);
        let events = missing.iter().map(|index| &self.events[*index]);
        // The overhead of an event has room for one rendering.
        let entries = if at == 0 { 0 } else { missing.len() };
        let charge = |chunk| self.budget.charge_with(chunk, entries * ENTRY_BYTES);
        let encoded = wire::encode(&self.buffer, events, &self.token_context, rendering, charge);
        // A segment has at most `MAX_EVENTS` events, so the cast does not truncate.
        let indices = missing.iter().map(|index| *index as u32);
        encoding.insert(indices.zip(encoded));
    }
}

impl EventSelection {
    /// Selects the events of a segment in the half-open range of `from` to `to`.
    pub(super) fn range(segment: Arc<Segment>, first_seq: Seq, from: usize, to: usize) -> Self {
        Self {
            segment,
            first_seq,
            is_shared: true,
            indices: SelectedIndices::Range { from, to },
        }
    }

    /// Selects events of a segment, each with its match transition.
    pub(super) fn list(
        segment: Arc<Segment>,
        first_seq: Seq,
        indices: Vec<(u32, MatchTransition)>,
    ) -> Self {
        Self {
            segment,
            first_seq,
            is_shared: true,
            indices: SelectedIndices::List(indices),
        }
    }

    /// Selects the events of a range that match. `None` if no event does.
    pub(super) fn matching(
        segment: &Arc<Segment>,
        first_seq: Seq,
        range: Range<usize>,
        evaluator: &Evaluator,
    ) -> Option<Self> {
        let indices: Vec<_> = range
            .filter_map(|index| {
                let transition = evaluator.evaluate(&segment.event_fields(index))?;
                Some((u32::try_from(index).ok()?, transition))
            })
            .collect();
        (!indices.is_empty()).then(|| Self::list(Arc::clone(segment), first_seq, indices))
    }

    /// The same selection of a segment that no other watch reads: its compressed messages are not kept.
    pub(super) fn unshared(self) -> Self {
        Self {
            is_shared: false,
            ..self
        }
    }

    /// The number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.indices {
            SelectedIndices::Range { from, to } => to - from,
            SelectedIndices::List(indices) => indices.len(),
        }
    }

    /// Returns whether the selection has no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size of the events in BSON, in bytes.
    pub(super) fn bytes(&self) -> usize {
        (0..self.len()).map(|at| self.event(at).bytes.len()).sum()
    }

    /// The position right after the last event.
    pub(super) fn last_position(&self) -> Option<Position> {
        self.segment
            .position(self.index(self.len().checked_sub(1)?))
    }

    /// The segment that contains the events.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The event at an index of the selection.
    ///
    /// # Panics
    /// Panics if the index is out of range.
    #[must_use]
    pub fn event(&self, at: usize) -> &Event {
        &self.segment.events[self.index(at)]
    }

    /// The match transition of the event at an index of the selection.
    #[must_use]
    pub fn transition(&self, at: usize) -> MatchTransition {
        match &self.indices {
            SelectedIndices::Range { .. } => MatchTransition::Unspecified,
            SelectedIndices::List(indices) => indices[at].1,
        }
    }

    /// Returns the events in a rendering. Encodes those that no other watch has encoded yet.
    #[must_use]
    pub fn encoded(&self, rendering: &Arc<Rendering>) -> EncodedSelection<'_> {
        let indices = (0..self.len()).map(|at| self.index(at));
        let complete = |encodings: &Encodings| {
            let slot = encodings.find(rendering)?;
            indices
                .clone()
                .all(|index| encodings.get(slot).get(index).is_some())
                .then_some(slot)
        };
        loop {
            let encodings = self.segment.read_encodings();
            if let Some(slot) = complete(&encodings) {
                return EncodedSelection {
                    selection: self,
                    encodings,
                    slot,
                };
            }
            drop(encodings);
            self.segment.encode(rendering, indices.clone());
        }
    }

    /// Returns `message` compressed, which holds the first `count` events in a rendering and nothing
    /// else, not even another token. Compresses it if no watch with the same events has done so. `None` if it
    /// is not worth it.
    #[must_use]
    pub fn compressed(
        &self,
        rendering: &Arc<Rendering>,
        count: usize,
        compression: Compression,
        message: &Frame,
    ) -> Option<Bytes> {
        let segment = &self.segment;
        let compress = || {
            segment.metrics.compressions.of(compression).increment(1);
            let message = message.compress(compression)?;
            Some(segment.budget.charge(message))
        };
        if !self.is_shared {
            return compress();
        }
        let encodings = segment.read_encodings();
        let encoding = encodings.find(rendering);
        drop(encodings);
        let key = MessageKey {
            encoding: encoding?,
            compression,
            run: self.run(count),
        };
        // What watches share should not take more than the events themselves.
        segment.compressed.get(key, segment.cost, compress)
    }

    /// Returns the identity of the first `count` events among the runs of the segment.
    fn run(&self, count: usize) -> Run {
        match &self.indices {
            // A segment has at most `MAX_EVENTS` events, so the casts do not truncate.
            SelectedIndices::Range { from, .. } => Run::Range(*from as u32, (from + count) as u32),
            SelectedIndices::List(indices) => Run::List(indices[..count].into()),
        }
    }

    /// Removes the leading events that are earlier than `time`. `None` if no event is left.
    pub(super) fn not_before(self, time: ClusterTime) -> Option<Self> {
        let old = (0..self.len())
            .take_while(|at| self.event(*at).cluster_time < time)
            .count();
        (old < self.len()).then(|| self.starting_at(old))
    }

    /// The events from an index on.
    pub(super) fn starting_at(self, at: usize) -> Self {
        let indices = match self.indices {
            SelectedIndices::Range { from, to } => SelectedIndices::Range {
                from: from + at,
                to,
            },
            SelectedIndices::List(mut indices) => {
                indices.drain(..at);
                SelectedIndices::List(indices)
            }
        };
        Self { indices, ..self }
    }

    /// The sequence number of the event at an index of the selection.
    pub(super) fn seq(&self, at: usize) -> Seq {
        self.first_seq + self.index(at) as Seq
    }

    fn index(&self, at: usize) -> usize {
        match &self.indices {
            SelectedIndices::Range { from, .. } => from + at,
            SelectedIndices::List(indices) => indices[at].0 as usize,
        }
    }
}

impl EncodedSelection<'_> {
    /// The encoded event at an index of the selection.
    ///
    /// # Panics
    /// Panics if the index is out of range.
    #[must_use]
    pub fn event(&self, at: usize) -> &EncodedEvent {
        self.encodings
            .get(self.slot)
            .get(self.selection.index(at))
            .expect("`encoded` has encoded every event of the selection")
    }
}
