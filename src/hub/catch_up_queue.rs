//! The queue from a catch-up to its watcher, bounded in bytes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    error::Error,
    hub::{
        ring::{FeedPosition, Invalidation, RingReader},
        segment::EventSelection,
        subscriber::Subscriber,
        sync::{Mutex, lock},
    },
    model::Stage,
};

/// The capacity in bytes of events. The last item may exceed it.
const CAPACITY: usize = 1 << 20;

/// The bytes of events of which more is taken only for a client that reads. One that does not is sent the first window
/// of HTTP/2, which is 64 KiB to 2 MiB in the clients of gRPC, and the server holds up to four messages for it.
const MAX_UNREAD: usize = 4 << 20;

/// The time that a watcher waits for events until its catch-up counts as one with nothing to read. Where MongoDB has
/// more at hand, it replies sooner.
const NOTHING_TO_READ: Duration = Duration::from_millis(50);

/// A queue with one writer, the catch-up, and one reader, the watcher.
#[derive(Debug)]
pub(super) struct CatchUpQueue {
    state: Mutex<State>,
    item_taken: Notify,
    /// Notified when there is something to take, and nothing was before.
    filled: Notify,
    /// Notified when it becomes known that the client reads, and when the watcher begins to wait.
    read_on: Notify,
    subscriber: Arc<Subscriber>,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<QueueItem>,
    bytes: usize,
    /// The time since which nothing was taken although there is something.
    unread_since: Option<Instant>,
    /// The bytes of events that were taken, counted until it is known that the client reads.
    taken: usize,
    /// The same at the read before. A watcher asks once more for the message that it has filled already, and after
    /// that when the client has room for another.
    taken_before: usize,
    /// Whether the client is known to read, or to have read everything.
    is_read: bool,
    /// The time since which the watcher waits for events.
    waits_since: Option<Instant>,
    /// The stage that was pushed last.
    stage: Option<Stage>,
    /// The position of the catch-up after all items.
    position: Option<FeedPosition>,
    outcome: Option<CatchUpOutcome>,
}

/// An item of the queue.
#[derive(Debug)]
pub(super) enum QueueItem {
    Events(EventSelection),
    Stage(Stage, &'static str),
    Invalidated(Invalidation),
}

/// The end of a catch-up, after the last item.
#[derive(Debug)]
pub(super) enum CatchUpOutcome {
    /// The watcher has joined the ring right after the last item.
    Joined(RingReader),
    /// The client did not read, and the catch-up gave its permit back. The watcher must start another one
    /// from its last token.
    GivenUp,
    Failed(Error),
}

/// The result of a read.
#[derive(Debug)]
pub(super) enum QueueRead {
    Item(QueueItem),
    End(CatchUpOutcome),
    Empty,
}

impl CatchUpQueue {
    pub(super) fn new(subscriber: Arc<Subscriber>) -> Self {
        Self {
            state: Mutex::default(),
            item_taken: Notify::new(),
            filled: Notify::new(),
            read_on: Notify::new(),
            subscriber,
        }
    }

    pub(super) fn push(&self, item: QueueItem) {
        let mut state = lock(&self.state);
        if let QueueItem::Stage(stage, _) = &item
            && state.stage.replace(*stage) == Some(*stage)
        {
            return;
        }
        if let QueueItem::Events(selection) = &item {
            state.bytes += selection.segment().cost();
            state.waits_since = None;
        }
        if !matches!(item, QueueItem::Stage(..)) {
            // The position before this item must not be reported after it.
            state.position = None;
        }
        let was_empty = state.items.is_empty();
        state.items.push_back(item);
        if was_empty {
            state.unread_since = Some(Instant::now());
            self.filled.notify_one();
        }
        drop(state);
        self.subscriber.wake();
    }

    /// Records the position of the catch-up after all items.
    pub(super) fn set_position(&self, position: FeedPosition) {
        let time = position.position.time();
        lock(&self.state).position = Some(position);
        self.subscriber.wake_if_past_end(time);
    }

    /// Returns whether there is space for another item.
    pub(super) fn is_writable(&self) -> bool {
        lock(&self.state).bytes < CAPACITY
    }

    /// Waits until there is space for another item.
    pub(super) async fn wait_writable(&self) {
        loop {
            let item_taken = self.item_taken.notified();
            if self.is_writable() {
                return;
            }
            item_taken.await;
        }
    }

    /// Waits until the watcher has taken every item.
    pub(super) async fn wait_drained(&self) {
        loop {
            let item_taken = self.item_taken.notified();
            if lock(&self.state).items.is_empty() {
                return;
            }
            item_taken.await;
        }
    }

    /// Waits until there are items. Returns the time since which the watcher has taken none.
    pub(super) async fn wait_unread(&self) -> Instant {
        loop {
            let filled = self.filled.notified();
            if let Some(since) = lock(&self.state).unread_since {
                return since;
            }
            filled.await;
        }
    }

    /// Notes that there is nothing more to read for now.
    pub(super) fn note_all_read(&self) {
        lock(&self.state).is_read = true;
        self.read_on.notify_one();
    }

    /// Waits until the client is known to read, or has had nothing to read for a while since `from`. Cancel safe.
    pub(super) async fn wait_read(&self, from: Instant) {
        loop {
            let read_on = self.read_on.notified();
            let waits_since = {
                let state = lock(&self.state);
                if state.is_read {
                    return;
                }
                state.waits_since
            };
            let Some(since) = waits_since else {
                read_on.await;
                continue;
            };
            let until = since.max(from) + NOTHING_TO_READ;
            if until <= Instant::now() {
                return;
            }
            // Events may come meanwhile.
            let _ = timeout_at(until, read_on).await;
        }
    }

    /// Returns whether the watcher has taken something in this time, or there is nothing to take.
    pub(super) fn was_read_within(&self, time: Duration) -> bool {
        let unread_since = lock(&self.state).unread_since;
        unread_since.is_none_or(|since| since.elapsed() < time)
    }

    /// Ends the queue. [`CatchUpOutcome::GivenUp`] drops the items that were not taken, and the position
    /// after them.
    pub(super) fn end(&self, outcome: CatchUpOutcome) {
        let mut state = lock(&self.state);
        if matches!(outcome, CatchUpOutcome::GivenUp) {
            let is_event = |item: &QueueItem| !matches!(item, QueueItem::Stage(..));
            if state.items.iter().any(is_event) {
                state.position = None;
            }
            state.items.clear();
            state.bytes = 0;
            state.unread_since = None;
        }
        state.outcome = Some(outcome);
        drop(state);
        self.subscriber.wake();
    }

    /// Takes the next item, or the outcome after the last one.
    pub(super) fn read(&self) -> QueueRead {
        let mut state = lock(&self.state);
        if !state.is_read {
            self.note_read(&mut state);
        }
        let Some(item) = state.items.pop_front() else {
            return state
                .outcome
                .take()
                .map_or(QueueRead::Empty, QueueRead::End);
        };
        if let QueueItem::Events(selection) = &item {
            state.bytes -= selection.segment().cost();
            if !state.is_read {
                state.taken += selection.bytes();
            }
        }
        state.unread_since = (!state.items.is_empty()).then(Instant::now);
        drop(state);
        self.item_taken.notify_one();
        QueueRead::Item(item)
    }

    /// Notes what a read says about the client.
    fn note_read(&self, state: &mut State) {
        state.is_read = state.taken_before > MAX_UNREAD;
        state.taken_before = state.taken;
        let begins_to_wait = state.items.is_empty() && state.waits_since.is_none();
        if begins_to_wait {
            state.waits_since = Some(Instant::now());
        }
        if state.is_read || begins_to_wait {
            self.read_on.notify_one();
        }
    }

    /// Puts the rest of a selection back to the front of the queue.
    pub(super) fn put_back(&self, rest: EventSelection) {
        let mut state = lock(&self.state);
        // After giving up, the watcher reads these events again from its last token.
        if matches!(state.outcome, Some(CatchUpOutcome::GivenUp)) {
            state.position = None;
        } else {
            state.bytes += rest.segment().cost();
            if !state.is_read {
                state.taken = state.taken.saturating_sub(rest.bytes());
            }
            state.items.push_front(QueueItem::Events(rest));
            state.unread_since = Some(Instant::now());
            self.filled.notify_one();
        }
    }

    /// Takes the position of a catch-up that has given up, if every item before it was taken. The next
    /// catch-up can start there instead of at the last token.
    pub(super) fn take_position(&self) -> Option<FeedPosition> {
        lock(&self.state).position.take()
    }

    /// Returns the position of the catch-up, if every item before it was taken.
    pub(super) fn position_if_caught_up(&self) -> Option<FeedPosition> {
        let state = lock(&self.state);
        if state.items.is_empty() && state.outcome.is_none() {
            state.position.clone()
        } else {
            None
        }
    }
}
