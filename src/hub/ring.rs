//! What stands between a feed, which reads from MongoDB, and its watcher: entries in order, bounded
//! in bytes. When it is full the feed waits, so a watcher that does not read holds up its own
//! change stream and nothing else.
//!
//! No lock is held across an await.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    error::Error,
    hub::segment::Segment,
    metrics::Stage,
    plan::Operation,
    source::{ClusterTime, Position},
};

/// What a watcher reads, in order.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Events.
    Events(Arc<Segment>),
    /// The feed goes on in another stage.
    Stage(Stage, &'static str),
    /// The watched collection or database is gone.
    Invalidated(Invalidation),
}

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
    /// The place after everything that is in the ring or was taken from it.
    pub position: Position,
    /// MongoDB's own time when it was last heard of.
    pub upstream: Option<ClusterTime>,
    /// Whether there was nothing left to read then.
    pub caught_up: bool,
    /// When it was last heard of, by the local clock that only counts.
    pub heard: Instant,
}

impl Tail {
    /// How far the feed is behind MongoDB, in seconds: 0 when nothing was left to read, else the
    /// distance by MongoDB's own clock when it was last heard of, and the time since.
    pub(super) fn lag_seconds(&self) -> f64 {
        if self.caught_up {
            return 0.0;
        }
        let behind = self
            .upstream
            .map_or(0, |now| now.seconds_since(self.position.time()));
        f64::from(behind) + self.heard.elapsed().as_secs_f64()
    }
}

/// What there is to read.
#[derive(Debug)]
pub enum Read {
    /// The next entry.
    Entry(Entry),
    /// Nothing now: everything up to this place has been read.
    Nothing(Tail),
    /// The feed has ended, and everything before that has been read.
    Ended(Error),
}

#[derive(Debug)]
pub(super) struct Ring {
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
    capacity: usize,
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    tail: Tail,
    ended: Option<Error>,
}

impl Ring {
    /// A ring that takes entries until it holds `capacity` bytes of events; the last one may go
    /// over, so that an event of any size passes.
    pub(super) fn new(capacity: usize, tail: Tail) -> Self {
        Self {
            state: Mutex::new(State {
                entries: VecDeque::new(),
                bytes: 0,
                tail,
                ended: None,
            }),
            readable: Notify::new(),
            writable: Notify::new(),
            capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way through a change.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds entries and moves the tail in one step, so that no reader sees a place whose events it
    /// has not been offered.
    pub(super) fn push(&self, entries: impl IntoIterator<Item = Entry>, tail: Option<Tail>) {
        let mut state = self.lock();
        let mut news = false;
        for entry in entries {
            news = true;
            if let Entry::Events(segment) = &entry {
                state.bytes += segment.bytes();
            }
            state.entries.push_back(entry);
        }
        if let Some(tail) = tail {
            state.tail = tail;
        }
        drop(state);
        if news {
            self.readable.notify_one();
        }
    }

    /// Says that MongoDB is away: from here on the lag grows.
    pub(super) fn lost_touch(&self) {
        self.lock().tail.caught_up = false;
    }

    /// Waits until there is room for more.
    pub(super) async fn writable(&self) {
        loop {
            let writable = self.writable.notified();
            {
                let mut state = self.lock();
                if state.bytes < self.capacity {
                    return;
                }
                // There is more to read, and it has to wait: from here on the lag grows.
                state.tail.caught_up = false;
            }
            writable.await;
        }
    }

    /// Says that nothing follows, and why. The first reason stands.
    pub(super) fn end(&self, why: Error) {
        self.lock().ended.get_or_insert(why);
        self.readable.notify_one();
    }

    /// Takes what there is to read.
    pub(super) fn read(&self) -> Read {
        let mut state = self.lock();
        match state.entries.pop_front() {
            Some(entry) => {
                if let Entry::Events(segment) = &entry {
                    state.bytes -= segment.bytes();
                    drop(state);
                    self.writable.notify_one();
                }
                Read::Entry(entry)
            }
            None => match &state.ended {
                Some(why) => Read::Ended(why.clone()),
                None => Read::Nothing(state.tail.clone()),
            },
        }
    }

    /// Waits until [`Ring::read`] may have more to give. May return early, never late.
    pub(super) async fn readable(&self) {
        self.readable.notified().await;
    }

    pub(super) fn tail(&self) -> Tail {
        self.lock().tail.clone()
    }
}
