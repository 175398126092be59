//! Isolation of the event that MongoDB cannot send, after everything before it.
//!
//! MongoDB discards a whole reply when one of its events fails. With one event in each reply the others
//! come all the same, but a mongos does not pass the batch size on to its shards. And the position right
//! after the event is no way around it, since MongoDB looks up the documents of the event whose token it
//! resumes from before it passes over it (change_stream_large_event_resumption.js in MongoDB's
//! repository).
//!
//! So the events are listed in a stream without documents, and then read in windows: streams with the
//! plan's own options that start by time and select events of the list by their tokens. MongoDB selects
//! before it looks up documents, so a window fails only because of an event in it. Windows grow while they
//! succeed and shrink when they fail. A window of one event that fails is the event.
//!
//! Behind a mongos an empty reply does not prove that a filter on documents rejects the rest of a window. There
//! a second stream reads the events that it rejects, so that every event of the window comes in one of the two.

mod window;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bson::{Document, doc};
use bytes::Bytes;
use tokio::time::timeout;

use crate::{
    hub::stream::{
        scan::{Scan, ScanEnd},
        undeliverable::{Found, is_readable_from, locate},
    },
    model::Operation,
    pipeline::Plan,
    source::{
        Batch, BatchSize, ClusterTime, Event, Position, Source, SourceError, mongo::timestamp,
    },
};

use window::{Listed, Window};

/// The time limit for each reading of the list. MongoDB may scan much of the oplog for the next event.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// The time for which listed events wait for more in their window.
const WINDOW_PATIENCE: Duration = Duration::from_millis(100);
/// The time limit for each check of the event that was found.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit for all these checks. After it, the error is sent without details.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of windows from which no event came, because a filter on documents rejects them all.
const MAX_BARREN_WINDOWS: u32 = 1_000;

/// The maximum number of events in a window.
const MAX_WINDOW: usize = 256;

/// The bytes of listed tokens after which no further reply is listed. A window selects by tokens, and a
/// command may have 16 MiB.
const MAX_LISTED_BYTES: usize = 1 << 20;

/// A token that no event has.
const NO_TOKEN: &str = "00";

/// A reader of the events before the one at which a stream fails.
pub(super) struct Isolation {
    source: Arc<dyn Source>,
    plan: Arc<Plan>,
    /// The error of the stream.
    error: SourceError,
    /// The position after the last event that was returned.
    at: Position,
    /// `true` once an event was returned.
    has_returned: bool,
    /// `true` if MongoDB does not find the token of the start, so that the list starts at its time.
    by_time: bool,
    /// The token of the start in a list that starts at its time, until its event has come: those up to it were
    /// delivered before.
    sought: Option<Bytes>,
    /// `true` if MongoDB refused the token of the start.
    is_token_refused: bool,
    /// The scan of the list, once it is open.
    list: Option<Scan>,
    /// Events after the ones that were returned, in order.
    listed: VecDeque<Listed>,
    listed_bytes: usize,
    window: Option<Window>,
    /// The number of events for the next window.
    window_size: usize,
    /// The number of windows without an event since the last one.
    barren_windows: u32,
    found: Option<Found>,
}

impl Isolation {
    /// Starts after a position from which the plan's stream fails with `error`. `by_time`: MongoDB does not
    /// find the position's token, and the stream was opened at its time.
    pub(super) fn new(
        source: Arc<dyn Source>,
        plan: Arc<Plan>,
        error: SourceError,
        at: Position,
        by_time: bool,
    ) -> Self {
        // The scope's outline, which is listed then, contains the token's event.
        let by_time = by_time && !plan.has_client_stages();
        Self {
            source,
            plan,
            error,
            sought: at.token().filter(|_| by_time).cloned(),
            at,
            has_returned: false,
            by_time,
            is_token_refused: false,
            list: None,
            listed: VecDeque::new(),
            listed_bytes: 0,
            window: None,
            window_size: 1,
            barren_windows: 0,
            found: None,
        }
    }

    /// Returns the next events before the one that fails. `None` if there is none: then the stream can be
    /// opened again at the position after the last batch.
    ///
    /// # Errors
    /// The error of the stream: the event that fails comes next, or it cannot be determined. Or one that
    /// passes by itself, or the refusal of the position's token.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, SourceError> {
        match self.advance().await {
            Ok(batch) => Ok(batch),
            Err(error) if error.failure.is_passing() || self.is_token_refused => Err(error),
            Err(error) => {
                if error.failure != self.error.failure {
                    tracing::debug!(code = error.code, %error, "could not isolate the undeliverable event");
                }
                Err(self.error.clone())
            }
        }
    }

    /// The event that fails, if it was determined.
    pub(super) fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    async fn advance(&mut self) -> Result<Option<Batch>, SourceError> {
        loop {
            let mut window = match self.window.take() {
                Some(window) => window,
                None => {
                    self.list_for_window().await?;
                    if self.listed.is_empty() {
                        return Ok(self.position_after_nothing());
                    }
                    let count = self.window_size.min(self.listed.len());
                    let events = self.listed.iter().take(count).cloned().collect();
                    match Window::open(&*self.source, &self.plan, events).await {
                        Ok(window) => window,
                        Err(error) => {
                            self.shrink(count, error).await?;
                            continue;
                        }
                    }
                }
            };
            let read = window.next(&*self.source).await;
            for listed in self.listed.drain(..window.take_passed()) {
                self.listed_bytes -= listed.token.len();
            }
            match read {
                Ok(Some(batch)) => {
                    self.window = Some(window);
                    self.at = batch
                        .position
                        .as_ref()
                        .map_or_else(|| self.at.clone(), Position::detached);
                    self.has_returned = true;
                    self.barren_windows = 0;
                    return Ok(Some(batch));
                }
                Ok(None) => {
                    self.window_size = (self.window_size * 2).min(MAX_WINDOW);
                    self.barren_windows += 1;
                    if self.barren_windows > MAX_BARREN_WINDOWS {
                        return Ok(None);
                    }
                }
                Err(error) => self.shrink(window.left(), error).await?,
            }
        }
    }

    /// Chooses a smaller window after one failed with `left` events left.
    ///
    /// # Errors
    /// The event that fails is found, or the failure is another one.
    async fn shrink(&mut self, left: usize, error: SourceError) -> Result<(), SourceError> {
        if error.failure != self.error.failure {
            return Err(error);
        }
        if left <= 1 {
            let described = timeout(DESCRIBE_TIMEOUT, self.describe()).await;
            self.found = described.unwrap_or_else(|_| Err(too_late()))?;
            return Err(error);
        }
        self.window_size = left / 2;
        Ok(())
    }

    /// Lists at least one event, or to the end. Further ones for the next window are not waited for: they may
    /// be far away in the oplog, or not written yet.
    async fn list_for_window(&mut self) -> Result<(), SourceError> {
        self.list(1).await?;
        let more = timeout(WINDOW_PATIENCE, self.list(self.window_size)).await;
        more.unwrap_or(Ok(()))
    }

    /// Lists at least `count` events, or to the end. Cancel safe.
    async fn list(&mut self, count: usize) -> Result<(), SourceError> {
        while (self.listed.len() < count || self.sought.is_some())
            && self.listed_bytes < MAX_LISTED_BYTES
        {
            let read = timeout(LIST_TIMEOUT, self.next_of_list()).await;
            let Some(batch) = read.unwrap_or_else(|_| Err(too_late()))? else {
                break;
            };
            let is_listed = |event: &&Event| event.operation != Operation::Invalidate;
            for event in batch.events.iter().take_while(is_listed) {
                let token = Bytes::copy_from_slice(&batch.buffer[event.token.clone()]);
                if self.sought.as_ref() == Some(&token) {
                    self.sought = None;
                    self.listed.clear();
                    self.listed_bytes = 0;
                    continue;
                }
                if event.cluster_time > self.at.time() {
                    self.sought = None;
                }
                self.listed_bytes += token.len();
                self.listed.push_back(Listed {
                    token,
                    time: event.cluster_time,
                    operation: event.operation,
                });
            }
        }
        // It did not come, so that events of its time may be delivered again.
        self.sought = None;
        Ok(())
    }

    async fn next_of_list(&mut self) -> Result<Option<Batch>, SourceError> {
        let mut read = self.read_list().await;
        // MongoDB looks for the token's event before it sends one.
        let mut may_be_refused = !self.by_time && self.listed.is_empty() && !self.has_returned;
        if may_be_refused
            && self.plan.has_client_stages()
            && self.at.can_resume_by_time()
            && matches!(&read, Err(error) if error.failure.may_mean_the_token())
        {
            may_be_refused = false;
            self.by_time = true;
            self.sought = self.at.token().cloned();
            self.list = None;
            read = self.read_list().await;
        }
        self.is_token_refused = may_be_refused
            && matches!(&read, Err(error) if error.failure.may_mean_the_token())
            && self.at.token().is_some();
        read
    }

    /// The plan of the list. A client's stages leave out events of which it is not known which they are, and any of
    /// the scope may be that of the start.
    fn list_plan(&self) -> Plan {
        if self.plan.has_client_stages() {
            self.plan.scope_outline()
        } else {
            self.plan.identity_only()
        }
    }

    async fn read_list(&mut self) -> Result<Option<Batch>, SourceError> {
        if let Some(list) = &mut self.list {
            return list.next().await;
        }
        let plan = self.list_plan();
        let start = if self.by_time {
            Position::Time(self.at.time())
        } else {
            self.at.clone()
        };
        let list = Scan::open(&*self.source, &plan, &start, BatchSize::Default).await?;
        self.list.insert(list).next().await
    }

    /// The batch that moves the stream past the event of its own position, if that is what fails: no event
    /// follows, so the next one has a later time.
    fn position_after_nothing(&self) -> Option<Batch> {
        let list = self.list.as_ref()?;
        match &self.at {
            Position::Event { time, .. }
                if list.end() == Some(ScanEnd::NoEvents) && !self.has_returned =>
            {
                Some(Batch {
                    buffer: Bytes::new(),
                    events: Vec::new(),
                    position: Some(position_after(*time, list)),
                    operation_time: None,
                    closed: false,
                    caught_up: true,
                    waited: true,
                })
            }
            _ => None,
        }
    }

    /// Describes the first listed event, which fails in a window of its own.
    async fn describe(&mut self) -> Result<Option<Found>, SourceError> {
        let is_sharded = self.source.is_sharded().await?;
        if !is_sharded && !self.selects_before_look_ups().await? {
            return locate(&*self.source, &self.plan, self.error.failure, &self.at).await;
        }
        self.list(2).await?;
        let Some(event) = self.listed.front().cloned() else {
            return Ok(None);
        };
        let next = match (self.listed.get(1), &self.list) {
            // No stream can start between two events of one time. From the event's own token this server
            // isolates those that follow it.
            (Some(follower), _) if follower.time <= event.time => Position::Event {
                token: event.token,
                time: event.time,
            },
            (Some(_), _) => Position::Time(event.time.successor()),
            (None, Some(list)) if list.end() == Some(ScanEnd::NoEvents) => {
                position_after(event.time, list)
            }
            (None, _) => return Ok(None),
        };
        let is_proven = match &next {
            _ if is_sharded => self.is_proven_behind_a_mongos(&next).await?,
            Position::Event { .. } => true,
            next => is_readable_from(&*self.source, &self.plan, next).await,
        };
        Ok(is_proven.then_some(Found {
            time: event.time,
            next,
        }))
    }

    /// Returns whether it is certain that the event which fails in a window of its own is the one, and not a
    /// later one that a server which looks up before it selects fails at. `next` is the position after it.
    async fn is_proven_behind_a_mongos(&mut self, next: &Position) -> Result<bool, SourceError> {
        let read = read_from(&*self.source, &self.plan, next);
        match timeout(CHECK_TIMEOUT, read).await {
            Ok(Err(error)) if error.failure.concerns_one_event() => {
                self.selects_before_look_ups().await
            }
            Ok(Err(error)) if error.failure.is_passing() => Err(error),
            Ok(Err(_)) => Ok(false),
            // MongoDB has accepted the position, and reads or scans on.
            Ok(Ok(())) | Err(_) => Ok(true),
        }
    }

    /// Returns whether the server selects events before it looks up their documents: a stream that starts
    /// at the event and leaves it out does not fail. Other servers fail at any event that they read.
    async fn selects_before_look_ups(&mut self) -> Result<bool, SourceError> {
        self.list(2).await?;
        let Some(time) = self.listed.front().map(|event| event.time) else {
            return Ok(false);
        };
        let at = timestamp(time);
        // The next event shows it soonest, unless that fails too.
        let later = doc! { "clusterTime": { "$gt": at } };
        let nothing = doc! { "clusterTime": { "$gt": at, "$lt": timestamp(time.successor()) } };
        if !self.can_read(later, time).await? && !self.can_read(nothing, time).await? {
            return Ok(false);
        }
        // Events of one time are told apart by their tokens only.
        let is_alone = self.at.time() < time && self.listed.get(1).is_none_or(|it| it.time > time);
        if is_alone {
            return Ok(true);
        }
        let none = doc! {
            "clusterTime": { "$gte": at, "$lte": at },
            "_id": { "$in": [{ "_data": NO_TOKEN }] },
        };
        self.can_read(none, time).await
    }

    /// Returns whether the stream of the events that meet a condition is read without the failure.
    async fn can_read(
        &mut self,
        condition: Document,
        from: ClusterTime,
    ) -> Result<bool, SourceError> {
        let plan = self.plan.narrowed_to(condition);
        let from = Position::Time(from);
        let read = read_from(&*self.source, &plan, &from);
        match timeout(CHECK_TIMEOUT, read).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) if error.failure != self.error.failure => Err(error),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }
}

/// Reads a stream up to its first event, or to its end.
async fn read_from(source: &dyn Source, plan: &Plan, at: &Position) -> Result<(), SourceError> {
    let mut cursor = source.open(plan, Some(at), BatchSize::One).await?;
    loop {
        let batch = cursor.next().await?;
        if !batch.events.is_empty() || batch.caught_up || batch.closed {
            return Ok(());
        }
    }
}

/// The position after an event of this time that no event of the list follows, once the list has ended there.
fn position_after(time: ClusterTime, list: &Scan) -> Position {
    let told = list.position_after_last().cloned();
    told.unwrap_or(Position::Time(time.successor()))
}

fn too_late() -> SourceError {
    SourceError::unexpected("no reply in time")
}
