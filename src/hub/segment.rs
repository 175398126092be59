//! A run of events that travels through the hub as one, and is encoded as one.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::{
    metrics::{Charge, Metrics},
    plan::Format,
    source::{Event, EventError},
    wire::{self, Encoded, Stamp},
};

/// How many bytes of events a segment holds at most, beyond its first event. Encoding a segment
/// holds a thread for as long as this many bytes take, and a client waits for its whole.
const MAX_BYTES: usize = 256 << 10;
/// How many events.
const MAX_EVENTS: usize = 512;

/// Events of one reply, in order, with what has been made of them so far.
#[derive(Debug)]
pub struct Segment {
    buffer: Bytes,
    events: Vec<Event>,
    encoded: [OnceLock<Result<Encoded, EventError>>; 4],
    _charge: Charge,
}

impl Segment {
    /// Cuts `events`, which lie in `buffer`, into segments.
    pub(super) fn cut(buffer: &Bytes, events: Vec<Event>, metrics: &Metrics) -> Vec<Arc<Self>> {
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
                events: run,
                encoded: Default::default(),
                _charge: Charge::new(&metrics.ring_bytes, bytes),
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

    /// The raw size of the events, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.bytes.len()).sum()
    }

    /// The events in a format; encoded on first use, once.
    ///
    /// # Errors
    /// When an event is not well-formed BSON.
    pub fn encoded(
        &self,
        format: Format,
        stamp: &Stamp,
        metrics: &Metrics,
    ) -> Result<&Encoded, &EventError> {
        let slot = match format {
            Format::Bson => 0,
            Format::Json => 1,
            Format::CanonicalJson => 2,
            Format::Struct => 3,
        };
        self.encoded[slot]
            .get_or_init(|| {
                metrics
                    .encodings(format)
                    .increment(self.events.len() as u64);
                wire::encode(&self.buffer, &self.events, stamp, format)
            })
            .as_ref()
    }
}
