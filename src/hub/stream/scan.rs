//! A scan of a stream: its events in order, up to where MongoDB has no further one.
//!
//! The rule of what an empty reply proves stands here. By itself it proves nothing, however long it took: it may
//! come in the midst of the oplog. Once the stream has caught up with the time at which it was opened, no further event
//! from before that is there. A mongos merges its shards in order, and its token must also differ from that of
//! the last event or of the start: it stands for a later time, and for every shard.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::{
    model::Operation,
    pipeline::Plan,
    source::{Batch, BatchSize, ClusterTime, Cursor, Event, Position, Source, SourceError},
};

/// The number of empty replies of a mongos after one event, about one a second, after which no proof is
/// waited for any more. A shard without writes moves its position every ten seconds
/// (`periodicNoopIntervalSecs`).
pub(super) const MAX_QUIET_REPLIES: u32 = 12;

/// The time limit for the question what follows a position.
const PASSED_TIMEOUT: Duration = Duration::from_secs(15);

/// A reader of a stream up to its current end. It keeps one reply at a time.
pub(super) struct Scan {
    cursor: Box<dyn Cursor>,
    proof: EndProof,
    end: Option<ScanEnd>,
    /// MongoDB's time in the first reply: that of the end, if there is no further event.
    opened_at: Option<ClusterTime>,
}

/// What the replies of a stream prove about the events that follow them.
#[derive(Debug)]
pub(super) struct EndProof {
    is_sharded: bool,
    /// The token of the last event, or of the position that the stream starts at. `None` until a mongos has
    /// told the token of a start by time.
    last_token: Option<Bytes>,
    /// A position after that and before every other event.
    later: Option<Position>,
    quiet_replies: u32,
}

/// The knowledge of what follows the last event of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanEnd {
    /// There was no further event.
    NoEvents,
    /// No further event came, which proves nothing.
    Unproven,
    /// The stream ends there.
    Closed,
}

impl Scan {
    /// Opens `plan`'s stream at a position. One attempt.
    ///
    /// # Errors
    /// Those of [`Source::open`].
    pub(super) async fn open(
        source: &dyn Source,
        plan: &Plan,
        at: &Position,
        batch_size: BatchSize,
    ) -> Result<Self, SourceError> {
        let is_sharded = source.is_sharded().await?;
        Ok(Self {
            cursor: source.open(plan, Some(at), batch_size).await?,
            proof: EndProof::new(is_sharded, at),
            end: None,
            opened_at: None,
        })
    }

    /// Returns the next reply with events; `None` at the end, and from then on.
    ///
    /// It has no time limit of its own: it waits as long as MongoDB scans the oplog. Behind a mongos it
    /// waits through [`MAX_QUIET_REPLIES`] for a proof.
    ///
    /// Cancel safe: the next call continues to wait.
    ///
    /// # Errors
    /// Those of [`Cursor::next`], after which the scan must not be used.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, SourceError> {
        while self.end.is_none() {
            let batch = self.cursor.next().await?;
            self.opened_at = self.opened_at.or(batch.operation_time);
            self.end = self.proof.after(&batch);
            if !batch.events.is_empty() {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// The knowledge of what follows; `None` while there may be more.
    pub(super) fn end(&self) -> Option<ScanEnd> {
        self.end
    }

    /// A position after the last event and before every other one, if a mongos has told one.
    pub(super) fn position_after_last(&self) -> Option<&Position> {
        self.proof.later.as_ref()
    }
}

/// Returns whether a stream's position lies behind a time: all events of the scope that follow it are later. `outline`
/// is the plan of all of them. It waits for the next one, or for the proof that there is none.
///
/// # Errors
/// Those of [`Source::open`] and [`Cursor::next`].
pub(in crate::hub) async fn has_passed(
    source: &dyn Source,
    outline: &Plan,
    at: &Position,
    time: ClusterTime,
) -> Result<bool, SourceError> {
    let read = async {
        let mut scan = Scan::open(source, outline, at, BatchSize::One).await?;
        Ok(match scan.next().await? {
            Some(next) => next.events.iter().all(|it| it.cluster_time > time),
            // Another member of the replica set may have an earlier time.
            None => {
                let is_known = scan.opened_at.is_none_or(|opened_at| opened_at >= time);
                scan.end() == Some(ScanEnd::NoEvents) && is_known
            }
        })
    };
    timeout(PASSED_TIMEOUT, read).await.unwrap_or(Ok(false))
}

impl EndProof {
    /// Begins with a stream that is opened at a position.
    pub(super) fn new(is_sharded: bool, at: &Position) -> Self {
        Self {
            is_sharded,
            last_token: at.token().cloned(),
            later: None,
            quiet_replies: 0,
        }
    }

    /// Returns what is known after the next reply; `None` if there may be more events.
    pub(super) fn after(&mut self, batch: &Batch) -> Option<ScanEnd> {
        if let Some(last) = batch.events.last() {
            let token = &batch.buffer[last.token.clone()];
            self.last_token = Some(Bytes::copy_from_slice(token));
            self.later = None;
            self.quiet_replies = 0;
        }
        let ends = |event: &Event| event.operation == Operation::Invalidate;
        if batch.closed || batch.events.iter().any(ends) {
            Some(ScanEnd::Closed)
        } else if !batch.events.is_empty() {
            None
        } else if self.is_sharded {
            self.after_empty_of_mongos(batch)
        } else {
            batch.caught_up.then_some(ScanEnd::NoEvents)
        }
    }

    fn after_empty_of_mongos(&mut self, batch: &Batch) -> Option<ScanEnd> {
        if let Some(position @ Position::HighWater { token, .. }) = &batch.position {
            match &self.last_token {
                // No shard may have read anything beyond the start.
                None => self.last_token = Some(Bytes::copy_from_slice(token)),
                Some(last) if last != token => self.later = Some(position.detached()),
                Some(_) => {}
            }
        }
        self.quiet_replies += u32::from(batch.waited);
        if self.later.is_some() && batch.caught_up {
            Some(ScanEnd::NoEvents)
        } else if self.quiet_replies >= MAX_QUIET_REPLIES {
            Some(ScanEnd::Unproven)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;
    use crate::pipeline::fixtures::watch;
    use crate::source::scripted::{
        Opening, ScriptedSource, Step, after, at, batch, event, insert, quiet, token,
    };
    use bson::doc;

    /// An empty reply in the midst of a scan.
    fn early(name: &str) -> Batch {
        Batch {
            caught_up: false,
            waited: false,
            ..quiet(name, 0)
        }
    }

    fn closed() -> Batch {
        Batch {
            closed: true,
            ..batch(&[])
        }
    }

    /// Scans to the end. Returns the number of events, the end, and the token of the position after them.
    async fn scan(
        is_sharded: bool,
        start: &Position,
        replies: Vec<Batch>,
    ) -> (usize, Option<ScanEnd>, Option<Bytes>) {
        let steps = replies.into_iter().map(Step::Batch).collect();
        let source = ScriptedSource {
            is_sharded,
            ..ScriptedSource::of([Opening::Cursor(steps)])
        };
        let plan = Plan::shared(&watch(pb::WatchRequest::default()));
        let scan = Scan::open(&source, &plan, start, BatchSize::Default);
        let mut scan = scan.await.expect("a scripted cursor");
        let mut events = 0;
        while let Some(batch) = scan.next().await.expect("no scripted failure") {
            events += batch.events.len();
        }
        // It has ended, and asks for nothing more.
        assert!(scan.next().await.expect("the end").is_none());
        let position = scan.position_after_last().and_then(Position::token);
        (events, scan.end(), position.cloned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_mongod_has_no_further_event_once_it_has_caught_up() {
        let start = after("a", 1);
        let one = || batch(&[insert("b", 2)]);
        for (replies, events) in [
            (vec![quiet("a", 1)], 0),
            (vec![early("t"), early("u"), one(), quiet("b", 2)], 1),
            (vec![one(), early("t"), one(), early("t"), quiet("t", 3)], 2),
        ] {
            let end = Some(ScanEnd::NoEvents);
            assert_eq!(scan(false, &start, replies).await, (events, end, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mongos_has_no_further_event_once_its_token_is_a_later_one() {
        let by_time = Position::Time(at(1));
        let by_token = after("a", 1);
        let one = || batch(&[insert("b", 2)]);
        for (start, replies, events) in [
            (
                &by_token,
                vec![early("a"), quiet("a", 1), quiet("later", 1)],
                0,
            ),
            (&by_token, vec![early("later"), quiet("later", 1)], 0),
            (
                &by_token,
                vec![quiet("a", 1), one(), quiet("b", 2), quiet("later", 2)],
                1,
            ),
            (
                &by_token,
                vec![early("t"), one(), quiet("b", 2), quiet("later", 2)],
                1,
            ),
            // The first token of a start by time is that of the start.
            (
                &by_time,
                vec![early("t"), quiet("t", 1), quiet("later", 1)],
                0,
            ),
            (&by_time, vec![quiet("t", 1), one(), quiet("later", 2)], 1),
        ] {
            let expected = (events, Some(ScanEnd::NoEvents), Some(token("later")));
            assert_eq!(scan(true, start, replies).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mongos_without_a_later_token_proves_nothing() {
        let most = MAX_QUIET_REPLIES as usize;
        for (start, name) in [(after("a", 1), "a"), (Position::Time(at(1)), "t")] {
            let end = Some(ScanEnd::Unproven);
            let replies = vec![quiet(name, 1); most];
            assert_eq!(scan(true, &start, replies).await, (0, end, None));
            // An event that comes late is waited for, and a proof after it again.
            let mut replies = vec![quiet(name, 1); most - 1];
            replies.push(batch(&[insert("b", 2)]));
            replies.extend(vec![quiet("b", 2); most]);
            assert_eq!(scan(true, &start, replies).await, (1, end, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_ends_where_the_stream_is_closed() {
        let invalidate = || event("gone", "invalidate", 2, doc! {});
        for is_sharded in [false, true] {
            for (replies, events) in [
                (vec![closed()], 0),
                (vec![batch(&[insert("b", 2)]), closed()], 1),
                (vec![batch(&[insert("b", 2), invalidate()])], 2),
            ] {
                let expected = (events, Some(ScanEnd::Closed), None);
                assert_eq!(scan(is_sharded, &after("a", 1), replies).await, expected);
            }
        }
    }
}
