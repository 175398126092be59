//! What a catch-up hands to the one watcher it reads for: a queue bounded in bytes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::timeout};

use crate::{
    error::Error,
    hub::{
        ring::{Cursor, Invalidation, Tail},
        seat::Seat,
        segment::Run,
        sync::{Mutex, lock},
    },
    metrics::Stage,
};

/// How many bytes of events wait for the watcher at most, beyond the last of them.
const CAPACITY: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Relay {
    state: Mutex<State>,
    room: Notify,
    seat: Arc<Seat>,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Where the catch-up is, once all entries are taken.
    tail: Option<Tail>,
    end: Option<End>,
}

/// What a watcher takes, in order.
#[derive(Debug)]
pub(super) enum Entry {
    Run(Run),
    Stage(Stage, &'static str),
    Invalidated(Invalidation),
}

/// What follows the last entry.
#[derive(Debug)]
pub(super) enum End {
    /// The ring goes on right here.
    Joined(Cursor),
    /// The watcher did not read, and the turn went to another: it is to start over from its place.
    GivenUp,
    Failed(Error),
}

/// What there is to read.
#[derive(Debug)]
pub(super) enum Read {
    Entry(Entry),
    End(End),
    Nothing,
}

impl Relay {
    pub(super) fn new(seat: Arc<Seat>) -> Self {
        Self {
            state: Mutex::default(),
            room: Notify::new(),
            seat,
        }
    }

    pub(super) fn push(&self, entry: Entry) {
        let mut state = lock(&self.state);
        match &entry {
            Entry::Run(run) => state.bytes += run.segment().cost(),
            Entry::Invalidated(_) => {}
            Entry::Stage(..) => {
                state.entries.push_back(entry);
                drop(state);
                return self.seat.wake();
            }
        }
        // The place from before this entry is none to be told after it.
        state.tail = None;
        state.entries.push_back(entry);
        drop(state);
        self.seat.wake();
    }

    /// Says how far the catch-up is.
    pub(super) fn reach(&self, tail: Tail) {
        lock(&self.state).tail = Some(tail);
    }

    /// Whether there is room for more.
    pub(super) fn is_writable(&self) -> bool {
        lock(&self.state).bytes < CAPACITY
    }

    /// Waits until the watcher has taken enough to make room for more.
    pub(super) async fn writable(&self) {
        loop {
            let room = self.room.notified();
            if self.is_writable() {
                return;
            }
            room.await;
        }
    }

    /// Waits until the watcher has taken everything.
    pub(super) async fn taken(&self) {
        loop {
            let room = self.room.notified();
            if lock(&self.state).entries.is_empty() {
                return;
            }
            room.await;
        }
    }

    /// Waits until nothing of what there is has been taken for so long.
    pub(super) async fn unread_for(&self, limit: Duration) {
        loop {
            let room = self.room.notified();
            if lock(&self.state).entries.is_empty() {
                room.await;
            } else if timeout(limit, room).await.is_err() {
                return;
            }
        }
    }

    /// Says what follows. Giving up takes back what was not read, and with it the place after that.
    pub(super) fn end(&self, end: End) {
        let mut state = lock(&self.state);
        if matches!(end, End::GivenUp) {
            let is_of_events = |entry: &Entry| !matches!(entry, Entry::Stage(..));
            if state.entries.iter().any(is_of_events) {
                state.tail = None;
            }
            state.entries.clear();
            state.bytes = 0;
        }
        state.end = Some(end);
        drop(state);
        self.seat.wake();
    }

    /// Takes what there is to read.
    pub(super) fn read(&self) -> Read {
        let mut state = lock(&self.state);
        let Some(entry) = state.entries.pop_front() else {
            return state.end.take().map_or(Read::Nothing, Read::End);
        };
        if let Entry::Run(run) = &entry {
            state.bytes -= run.segment().cost();
        }
        drop(state);
        self.room.notify_one();
        Read::Entry(entry)
    }

    /// Takes back the rest of a run: it is to be read again.
    pub(super) fn put_back(&self, rest: Run) {
        let mut state = lock(&self.state);
        // Given up meanwhile, it would come again from its own place.
        if matches!(state.end, Some(End::GivenUp)) {
            state.tail = None;
        } else {
            state.bytes += rest.segment().cost();
            state.entries.push_front(Entry::Run(rest));
        }
    }

    /// Where a catch-up that has given up was, if everything up to there has been taken: what it passed
    /// over need not be read again.
    pub(super) fn left_at(&self) -> Option<Tail> {
        lock(&self.state).tail.take()
    }

    /// Where the catch-up is, if everything up to there has been taken.
    pub(super) fn tail_if_read(&self) -> Option<Tail> {
        let state = lock(&self.state);
        if state.entries.is_empty() && state.end.is_none() {
            state.tail.clone()
        } else {
            None
        }
    }
}
