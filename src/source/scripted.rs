//! A source that plays a script, for tests of what reads from sources.

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
    plan::Plan,
    source::{
        Batch, BatchSize, ClusterTime, Cursor, Event, Failure, Position, ServerFacts, Source,
        SourceError,
    },
};

/// What one `next` of a scripted cursor does. When a cursor's steps are used up it waits for ever.
pub(crate) enum Step {
    Batch(Batch),
    Fail(Failure),
}

/// What one `open` does.
pub(crate) enum Opening {
    Cursor(Vec<Step>),
    Fail(Failure),
}

/// Plays openings in order and notes where each was asked for. When they are used up, every further
/// opening fails as MongoDB does when it is away.
#[derive(Default)]
pub(crate) struct ScriptedSource {
    pub(crate) openings: Mutex<VecDeque<Opening>>,
    pub(crate) asked: Mutex<Vec<Option<Position>>>,
    /// What was opened there, and how.
    pub(crate) plans: Mutex<Vec<(Plan, BatchSize)>>,
    pub(crate) oldest: Option<ClusterTime>,
    /// How often the time was asked for; the answer is that number, so that time passes.
    pub(crate) time_asked: AtomicU32,
    /// How long the answer is on its way.
    pub(crate) time_takes: Duration,
    /// Whether it is a failure.
    pub(crate) time_fails: bool,
    /// The names of the replica set that are told one after the other, and "" after the last.
    pub(crate) set_names: Mutex<VecDeque<&'static str>>,
    /// How often the facts were asked for.
    pub(crate) facts_asked: AtomicU32,
    /// How long the answer is on its way.
    pub(crate) facts_take: Duration,
    /// How many of the first answers to that are failures.
    pub(crate) facts_fail: u32,
    /// Whether a stream is said to be quiet.
    pub(crate) quiet: bool,
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

    pub(crate) fn facts_asked(&self) -> u32 {
        self.facts_asked.load(Ordering::Relaxed)
    }

    pub(crate) fn time_asked(&self) -> u32 {
        self.time_asked.load(Ordering::Relaxed)
    }

    pub(crate) fn batch_sizes(&self) -> Vec<BatchSize> {
        let plans = self.plans.lock().unwrap();
        plans.iter().map(|(_, batch_size)| *batch_size).collect()
    }

    pub(crate) fn asked(&self) -> Vec<Option<Position>> {
        self.asked.lock().unwrap().clone()
    }
}

struct ScriptedCursor(VecDeque<Step>);

impl Source for ScriptedSource {
    fn open<'a>(
        &'a self,
        plan: &'a Plan,
        at: Option<&'a Position>,
        batch_size: BatchSize,
    ) -> BoxFuture<'a, Result<Box<dyn Cursor>, SourceError>> {
        self.asked.lock().unwrap().push(at.cloned());
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
        let asked = self.time_asked.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            // As long as a question takes, so that others can come meanwhile.
            tokio::task::yield_now().await;
            if !self.time_takes.is_zero() {
                tokio::time::sleep(self.time_takes).await;
            }
            if self.time_fails {
                return Err(SourceError::new(Failure::Transient, "scripted"));
            }
            Ok(Some(at(asked)))
        })
    }

    fn has_no_events<'a>(
        &'a self,
        _plan: &'a Plan,
        _at: &'a Position,
        _until: ClusterTime,
    ) -> BoxFuture<'a, Result<bool, SourceError>> {
        Box::pin(async { Ok(self.quiet) })
    }

    fn facts(&self) -> BoxFuture<'_, Result<ServerFacts, SourceError>> {
        let asked = self.facts_asked.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            tokio::task::yield_now().await;
            if !self.facts_take.is_zero() {
                tokio::time::sleep(self.facts_take).await;
            }
            if asked <= self.facts_fail {
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
            // As long as a reply takes, so that readers see each before the next one comes.
            tokio::time::sleep(Duration::from_millis(1)).await;
            match self.0.pop_front() {
                Some(Step::Batch(batch)) => Ok(batch),
                Some(Step::Fail(failure)) => Err(SourceError::new(failure, "scripted")),
                None => std::future::pending().await,
            }
        })
    }
}

/// A cluster time within second 100, where every scripted event lives.
pub(crate) fn at(increment: u32) -> ClusterTime {
    ClusterTime {
        seconds: 100,
        increment,
    }
}

/// A token as MongoDB's look from outside: a document with one string.
pub(crate) fn token(name: &str) -> Bytes {
    doc! { "_data": name }.to_vec().unwrap().into()
}

/// The place right after the event that [`event`] makes under that name.
pub(crate) fn after(name: &str, increment: u32) -> Position {
    Position::Event {
        token: token(name),
        time: at(increment),
    }
}

/// A raw event named `name`; `fields` come on top of what every event has.
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

/// A batch of raw events, with the place after the last one.
pub(crate) fn batch(events: &[Document]) -> Batch {
    let mut buffer = Vec::new();
    let mut ranges = Vec::new();
    for event in events {
        let start = buffer.len();
        buffer.extend(event.to_vec().unwrap());
        ranges.push(start..buffer.len());
    }
    let buffer = Bytes::from(buffer);
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
        idle: false,
    }
}

/// An insert of a document that holds its own name.
pub(crate) fn insert(name: &str, increment: u32) -> Document {
    event(
        name,
        "insert",
        increment,
        doc! { "documentKey": { "_id": name }, "fullDocument": { "_id": name } },
    )
}

/// A reply without events, whose post-batch token has that name.
pub(crate) fn quiet(name: &str, increment: u32) -> Batch {
    Batch {
        position: Some(Position::HighWater {
            token: token(name),
            time: at(increment),
        }),
        idle: true,
        ..batch(&[])
    }
}
