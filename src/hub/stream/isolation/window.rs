//! A stream of some events that are known beforehand.

use std::collections::{HashSet, VecDeque};

use bson::doc;
use bytes::Bytes;

use crate::{
    hub::stream::scan::{MAX_QUIET_REPLIES, has_passed},
    model::Operation,
    pipeline::Plan,
    source::{
        Batch, BatchSize, ClusterTime, Cursor, Event, Position, Source, SourceError,
        mongo::{timestamp, token_document},
    },
};

/// An event of the list.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub token: Bytes,
    pub time: ClusterTime,
    pub operation: Operation,
}

/// A stream of some of the listed events.
///
/// It is no [`Scan`](crate::hub::stream::scan::Scan): it knows which events must come, so a token that stands
/// for a time between them proves nothing, and it ends with the last of them.
pub(super) struct Window {
    cursor: Box<dyn Cursor>,
    /// Behind a mongos, a stream of those among them that the plan's filter on documents rejects. `None` once
    /// it is closed.
    rejects: Option<Box<dyn Cursor>>,
    /// The tokens of the events that have come in it.
    rejected: HashSet<Bytes>,
    /// All events of the window.
    events: Vec<Listed>,
    /// Those that have not come yet.
    expected: VecDeque<Listed>,
    /// The number of events that have come or were rejected since the last call of `take_passed`.
    passed: usize,
    /// `true` if every one of them must come in the plan's own stream.
    is_complete: bool,
    /// Whether MongoDB is a mongos, whose empty replies prove nothing.
    is_sharded: bool,
    /// The plan of all events of the scope, if the stream has a client's stages, and they can't be asked what they
    /// reject.
    outline: Option<Plan>,
    /// The number of empty replies of a mongos that are still waited through.
    quiet_replies_left: u32,
    /// The number of empty replies to `rejects` since the last reply to `cursor`.
    replies_missed: u32,
}

/// The maximum number of empty replies to one of the two streams without any to the other, whose connection
/// then counts as dead: its own time limit begins anew with each of them. A mongos replies once a second.
const MAX_REPLIES_MISSED: u32 = 2 * MAX_QUIET_REPLIES;

impl Window {
    /// Opens a stream of some events of `plan`'s stream, at least one.
    ///
    /// # Errors
    /// Those of [`Source::open`].
    pub(super) async fn open(
        source: &dyn Source,
        plan: &Plan,
        events: Vec<Listed>,
    ) -> Result<Self, SourceError> {
        let is_sharded = source.is_sharded().await?;
        let is_complete = !plan.filters_documents();
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Err(SourceError::unexpected("a window needs an event"));
        };
        let tokens = events.iter().map(|it| token_document(&it.token));
        let tokens = tokens.collect::<Result<Vec<_>, SourceError>>()?;
        let outline = plan.has_client_stages().then(|| plan.scope_outline());
        let plan = plan.narrowed_to(doc! {
            "clusterTime": { "$gte": timestamp(first.time), "$lte": timestamp(last.time) },
            "_id": { "$in": tokens },
        });
        let at = Position::Time(first.time);
        let rejects = match plan.rejected_by_documents() {
            Some(plan) if is_sharded && !is_complete => {
                let opening = source.open(&plan, Some(&at), BatchSize::One);
                Some(opening.await?)
            }
            _ => None,
        };
        Ok(Self {
            cursor: source.open(&plan, Some(&at), BatchSize::One).await?,
            rejects,
            rejected: HashSet::new(),
            expected: events.iter().cloned().collect(),
            events,
            passed: 0,
            is_complete,
            is_sharded,
            outline,
            quiet_replies_left: MAX_QUIET_REPLIES,
            replies_missed: 0,
        })
    }

    /// The number of events that have not come yet.
    pub(super) fn left(&self) -> usize {
        self.expected.len()
    }

    /// Returns the next events, or `None` at the end of the window.
    pub(super) async fn next(&mut self, source: &dyn Source) -> Result<Option<Batch>, SourceError> {
        while !self.expected.is_empty() {
            let batch = match &mut self.rejects {
                None => self.cursor.next().await?,
                Some(rejects) => tokio::select! {
                    batch = self.cursor.next() => {
                        self.replies_missed = 0;
                        batch?
                    }
                    batch = rejects.next() => {
                        self.reject(&batch?)?;
                        continue;
                    }
                },
            };
            if batch.events.is_empty() {
                self.end_after_empty(source, &batch).await?;
                continue;
            }
            for event in &batch.events {
                self.expect(&batch.buffer, event)?;
            }
            self.pass_rejected();
            return Ok(Some(Batch {
                // The reply's own position may be after events that the window leaves out.
                position: batch.events.last().map(|it| it.position(&batch.buffer)),
                closed: false,
                caught_up: false,
                waited: false,
                ..batch
            }));
        }
        Ok(None)
    }

    /// Notes what an empty reply of the plan's own stream shows.
    async fn end_after_empty(
        &mut self,
        source: &dyn Source,
        batch: &Batch,
    ) -> Result<(), SourceError> {
        // The events may be known from another member than the one that replies, and that one be behind.
        let is_early = match (&batch.position, self.events.last()) {
            (Some(at), Some(last)) => at.time() < last.time,
            _ => false,
        };
        if !batch.closed && !self.is_sharded && is_early {
            return Ok(());
        }
        // Behind a mongos a token may stay where it is, so that the wait for a proof ends.
        let is_end = batch.closed || batch.caught_up || self.is_sharded && batch.waited;
        if !is_end {
            return Ok(());
        }
        // Behind a mongos only a stream that is closed has certainly read everything.
        let is_at_end = batch.closed || !self.is_sharded || self.is_behind(source, batch).await?;
        if is_at_end && !self.is_complete {
            self.passed += self.expected.len();
            self.expected.clear();
        } else if is_at_end || self.quiet_replies_left == 0 {
            return Err(SourceError::unexpected("an event of the list did not come"));
        } else {
            self.quiet_replies_left -= 1;
        }
        Ok(())
    }

    /// Returns whether the position of a reply to a stream with a client's stages lies behind the window: all events
    /// of the scope that follow it are later. A mongos merges its shards in order, so that its position stands for
    /// every shard.
    async fn is_behind(&mut self, source: &dyn Source, batch: &Batch) -> Result<bool, SourceError> {
        let (Some(outline), Some(at), Some(last)) =
            (&self.outline, &batch.position, self.events.last())
        else {
            return Ok(false);
        };
        has_passed(source, outline, at, last.time).await
    }

    /// Notes the events that the filter rejects.
    ///
    /// # Errors
    /// The plan's own stream does not reply any more.
    fn reject(&mut self, batch: &Batch) -> Result<(), SourceError> {
        if batch.waited {
            self.replies_missed += 1;
        }
        if self.replies_missed > MAX_REPLIES_MISSED {
            return Err(SourceError::unexpected("no reply to one of two streams"));
        }
        for event in &batch.events {
            let token = &batch.buffer[event.token.clone()];
            let same_time =
                |it: &&Listed| it.time == event.cluster_time && it.operation == event.operation;
            let mut may_be_split = self.events.iter().filter(same_time);
            let is_listed = self.events.iter().find(|it| it.token == token);
            // A split event has the token of its last fragment. Of several it is not known which one it is.
            let is_split = may_be_split
                .next()
                .filter(|_| may_be_split.next().is_none());
            if let Some(listed) = is_listed.or(is_split) {
                self.rejected.insert(listed.token.clone());
            }
        }
        self.pass_rejected();
        if batch.closed {
            self.rejects = None;
        }
        Ok(())
    }

    /// Passes the next events as far as they are known to be rejected.
    fn pass_rejected(&mut self) {
        while let Some(next) = self.expected.front()
            && self.rejected.contains(&next.token)
        {
            self.expected.pop_front();
            self.passed += 1;
        }
    }

    pub(super) fn take_passed(&mut self) -> usize {
        std::mem::take(&mut self.passed)
    }

    /// Removes an event from the expected ones. A server that does not select sends others.
    fn expect(&mut self, buffer: &[u8], event: &Event) -> Result<(), SourceError> {
        let token = &buffer[event.token.clone()];
        // The filter passes it now, because its document has changed.
        if self.rejected.contains(token) && self.expected.iter().all(|it| it.token != token) {
            return Ok(());
        }
        while let Some(expected) = self.expected.pop_front() {
            self.passed += 1;
            // A split event has the token of its last fragment. A client's stages may have changed what it is:
            // then it counts as the first that it can be, so that none is lost.
            let looks_same = if self.outline.is_some() {
                event.is_merged
            } else {
                expected.time == event.cluster_time && expected.operation == event.operation
            };
            let is_split = looks_same && !self.expected.iter().any(|it| it.token == token);
            if expected.token == token || is_split {
                return Ok(());
            }
            if self.is_complete {
                break;
            }
        }
        Err(SourceError::unexpected(
            "an event came that was not selected",
        ))
    }
}
