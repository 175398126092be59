//! A scripted source, for tests of the readers of sources.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bson::{Document, doc};
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    pipeline::Plan,
    source::{
        Batch, BatchSize, ClusterTime, Cursor, Event, Failure, Position, ServerFacts, Source,
        SourceError,
    },
};

/// The result of one `next` of a scripted cursor. After its last step a cursor waits forever.
pub(crate) enum Step {
    Batch(Batch),
    Fail(Failure),
}

/// The result of one `open`.
pub(crate) enum Opening {
    Cursor(Vec<Step>),
    Fail(Failure),
}

/// A source that returns its openings in order and records the requested positions. After the last one,
/// every opening fails as if MongoDB were unavailable.
#[derive(Default)]
pub(crate) struct ScriptedSource {
    pub(crate) openings: Mutex<VecDeque<Opening>>,
    pub(crate) requested_positions: Mutex<Vec<Option<Position>>>,
    /// The plan and the batch size of each opening.
    pub(crate) plans: Mutex<Vec<(Plan, BatchSize)>>,
    pub(crate) oldest: Option<ClusterTime>,
    /// The number of calls of `current_time`, which returns that number, so that time passes.
    pub(crate) time_requests: AtomicU32,
    /// The duration of a call of `current_time`.
    pub(crate) time_delay: Duration,
    /// `true` to make `current_time` fail.
    pub(crate) time_fails: bool,
    /// The replica set names that `facts` returns one after the other, and "" after the last.
    pub(crate) set_names: Mutex<VecDeque<&'static str>>,
    /// The number of calls of `facts`.
    pub(crate) facts_requests: AtomicU32,
    /// The duration of a call of `facts`.
    pub(crate) facts_delay: Duration,
    /// The number of calls of `facts` that fail, from the first on.
    pub(crate) failing_facts_requests: u32,
    /// The result of `has_no_events`.
    pub(crate) has_no_events: bool,
    /// The result of `is_sharded`.
    pub(crate) is_sharded: bool,
}

impl ScriptedSource {
    pub(crate) fn new(openings: impl IntoIterator<Item = Opening>) -> Arc<Self> {
        Arc::new(Self::of(openings))
    }

    pub(crate) fn of(openings: impl IntoIterator<Item = Opening>) -> Self {
        Self {
            openings: Mutex::new(openings.into_iter().collect()),
            ..Self::default()
        }
    }

    pub(crate) fn facts_requests(&self) -> u32 {
        self.facts_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn time_requests(&self) -> u32 {
        self.time_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn batch_sizes(&self) -> Vec<BatchSize> {
        let plans = self.plans.lock().unwrap();
        plans.iter().map(|(_, batch_size)| *batch_size).collect()
    }

    pub(crate) fn requested_positions(&self) -> Vec<Option<Position>> {
        self.requested_positions.lock().unwrap().clone()
    }
}

struct ScriptedCursor(VecDeque<Step>);

impl Source for ScriptedSource {
    fn for_feeds(self: Arc<Self>) -> Arc<dyn Source> {
        self
    }

    fn open<'a>(
        &'a self,
        plan: &'a Plan,
        at: Option<&'a Position>,
        batch_size: BatchSize,
    ) -> BoxFuture<'a, Result<Box<dyn Cursor>, SourceError>> {
        self.requested_positions.lock().unwrap().push(at.cloned());
        self.plans.lock().unwrap().push((plan.clone(), batch_size));
        let opening = self.openings.lock().unwrap().pop_front();
        Box::pin(async move {
            match opening.unwrap_or(Opening::Fail(Failure::Transient)) {
                Opening::Cursor(steps) => {
                    Ok(Box::new(ScriptedCursor(steps.into())) as Box<dyn Cursor>)
                }
                Opening::Fail(failure) => Err(SourceError::new(failure, "scripted")),
            }
        })
    }

    fn oldest_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        Box::pin(async { Ok(self.oldest) })
    }

    fn current_time(&self) -> BoxFuture<'_, Result<Option<ClusterTime>, SourceError>> {
        let requests = self.time_requests.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            // A suspension point, as a request has, so that other callers can run meanwhile.
            tokio::task::yield_now().await;
            if !self.time_delay.is_zero() {
                tokio::time::sleep(self.time_delay).await;
            }
            if self.time_fails {
                return Err(SourceError::new(Failure::Transient, "scripted"));
            }
            Ok(Some(at(requests)))
        })
    }

    fn has_no_events<'a>(
        &'a self,
        _plan: &'a Plan,
        _at: &'a Position,
        _until: ClusterTime,
    ) -> BoxFuture<'a, Result<bool, SourceError>> {
        Box::pin(async { Ok(self.has_no_events) })
    }

    fn is_sharded(&self) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(async { Ok(self.is_sharded) })
    }

    fn facts(&self) -> BoxFuture<'_, Result<ServerFacts, SourceError>> {
        let requests = self.facts_requests.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            tokio::task::yield_now().await;
            if !self.facts_delay.is_zero() {
                tokio::time::sleep(self.facts_delay).await;
            }
            if requests <= self.failing_facts_requests {
                return Err(SourceError::new(Failure::Transient, "scripted"));
            }
            let set_name = self.set_names.lock().unwrap().pop_front();
            Ok(ServerFacts {
                set_name: set_name.unwrap_or_default().to_owned(),
                ..ServerFacts::default()
            })
        })
    }
}

impl Cursor for ScriptedCursor {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, SourceError>> {
        Box::pin(async {
            // The delay of a reply, so that readers see each batch before the next one arrives.
            tokio::time::sleep(Duration::from_millis(1)).await;
            match self.0.pop_front() {
                Some(Step::Batch(batch)) => Ok(batch),
                Some(Step::Fail(failure)) => Err(SourceError::new(failure, "scripted")),
                None => std::future::pending().await,
            }
        })
    }
}

/// Returns a cluster time within second 100, as all scripted events have.
pub(crate) fn at(increment: u32) -> ClusterTime {
    ClusterTime {
        seconds: 100,
        increment,
    }
}

/// Returns a token in the form of MongoDB's: a document with one string.
pub(crate) fn token(name: &str) -> Bytes {
    doc! { "_data": name }.to_vec().unwrap().into()
}

/// Returns the position right after the event that [`event`] makes with that name.
pub(crate) fn after(name: &str, increment: u32) -> Position {
    Position::Event {
        token: token(name),
        time: at(increment),
    }
}

/// Returns an event named `name`, with `fields` in addition to those of every event.
pub(crate) fn event(name: &str, operation: &str, increment: u32, fields: Document) -> Document {
    let mut event = doc! {
        "_id": { "_data": name },
        "operationType": operation,
        "clusterTime": bson::Timestamp { time: 100, increment },
        "ns": { "db": "shop", "coll": "orders" },
    };
    event.extend(fields);
    event
}

/// Returns a batch of raw events, with the position after the last one. With events the stream counts as caught up:
/// they come after it was opened.
pub(crate) fn batch(events: &[Document]) -> Batch {
    let mut buffer = Vec::new();
    let mut ranges = Vec::new();
    for event in events {
        let start = buffer.len();
        buffer.extend(event.to_vec().unwrap());
        ranges.push(start..buffer.len());
    }
    let buffer = Bytes::from(buffer);
    let caught_up = !ranges.is_empty();
    let events: Vec<Event> = ranges
        .into_iter()
        .map(|range| Event::parse(&buffer, range).unwrap())
        .collect();
    Batch {
        position: events.last().map(|event| event.position(&buffer)),
        events,
        buffer,
        operation_time: Some(at(1000)),
        closed: false,
        caught_up,
        waited: false,
    }
}

/// Returns an insert of a document whose `_id` is its name.
pub(crate) fn insert(name: &str, increment: u32) -> Document {
    event(
        name,
        "insert",
        increment,
        doc! { "documentKey": { "_id": name }, "fullDocument": { "_id": name } },
    )
}

/// Returns an empty batch whose post-batch token has that name.
pub(crate) fn quiet(name: &str, increment: u32) -> Batch {
    Batch {
        position: Some(Position::HighWater {
            token: token(name),
            time: at(increment),
        }),
        caught_up: true,
        waited: true,
        ..batch(&[])
    }
}
