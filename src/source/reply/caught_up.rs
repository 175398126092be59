//! The proof that a stream has caught up: has read everything that had been committed when it was opened.

use bytes::Bytes;

use crate::source::{ClusterTime, Position};

/// What the replies of one stream have proved.
///
/// The stream has caught up once its position lies behind the operation time of the first reply, the target. That is
/// shown by an event after the target, or by a token of MongoDB's own form: a high-water mark of a later time, since it
/// stands before the events of its time; and, with an empty reply, a mark of the target's own time to which the
/// stream has moved since it was opened. MongoDB makes such a mark only when it has read the entry of that time
/// and has returned what the entry holds (`PlanExecutorPipeline::_performChangeStreamsAccounting`).
///
/// Where tokens do not tell, an empty reply shows it only if the stream leaves nothing out.
#[derive(Debug)]
pub(super) struct CaughtUpProof {
    /// The operation time of the first reply that has one, and no time before that of the position at which the stream
    /// was opened: the member that replies may be behind the one that the position is of.
    pub target: Option<ClusterTime>,
    pub caught_up: bool,
    /// `true` if the last reply was empty and did not tell how far the stream is.
    pub is_untold: bool,
    /// `true` if the last token did not tell a time.
    pub has_opaque_tokens: bool,
    /// `true` after the first reply.
    has_begun: bool,
    /// The time of the position at which the stream was opened.
    opened_at_least: Option<ClusterTime>,
    /// The token, or the time, with which the stream was opened; from now, those of the first reply.
    opened_with: (Option<Bytes>, Option<ClusterTime>),
    /// The token of the last reply, if that was empty.
    last: Option<Bytes>,
}

/// What one reply tells.
pub(super) struct Told<'a> {
    /// The stream was opened from now, so no event lies before its first reply.
    pub from_now: bool,
    pub operation_time: Option<ClusterTime>,
    /// The time of its last event.
    pub last_event: Option<ClusterTime>,
    /// The post-batch token, if it counts.
    pub token: Option<&'a [u8]>,
    /// Its time, if it has MongoDB's own form.
    pub time: Option<ClusterTime>,
    /// It has no event, and the cursor is open.
    pub is_empty: bool,
    /// Nothing was left to read, as the stream leaves nothing out.
    pub is_end: bool,
    pub waited: bool,
}

impl CaughtUpProof {
    pub(super) fn new(at: Option<&Position>) -> Self {
        let time = match at {
            Some(Position::Time(_) | Position::EventDigest(_)) => at.map(Position::time),
            _ => None,
        };
        Self {
            target: None,
            caught_up: false,
            is_untold: false,
            has_opaque_tokens: false,
            has_begun: false,
            opened_at_least: at.map(Position::time),
            opened_with: (at.and_then(Position::token).cloned(), time),
            last: None,
        }
    }

    /// Returns the time that the events before a token of this time have reached. Each event of that time lies before
    /// the token or in its reply, except that nothing was read yet where the stream was opened: MongoDB opens a stream
    /// from now at the first time after its last entry, which may be that of the next event.
    pub(super) fn reached_by(&self, token: Option<&[u8]>, time: ClusterTime) -> ClusterTime {
        if self.has_moved(token, Some(time)) {
            time
        } else {
            time.predecessor()
        }
    }

    fn has_moved(&self, token: Option<&[u8]>, time: Option<ClusterTime>) -> bool {
        let (opened_with, opened_at) = &self.opened_with;
        (self.has_begun || opened_with.is_some() || opened_at.is_some())
            && token != opened_with.as_deref()
            && time > *opened_at
    }

    /// Adds the next reply.
    pub(super) fn add(&mut self, reply: &Told<'_>) {
        if reply.from_now && !self.has_begun {
            self.opened_with = (reply.token.map(Bytes::copy_from_slice), reply.time);
        }
        let now = reply.operation_time;
        self.target = self
            .target
            .or_else(|| now.map(|now| now.max(self.opened_at_least.unwrap_or(now))));
        let repeats =
            reply.is_empty && reply.token.is_some() && reply.token == self.last.as_deref();
        // Several in a row without a change may mean that the token does not move.
        self.is_untold = reply.is_empty && !reply.is_end && (reply.time.is_none() || repeats);
        self.last = match reply.token {
            Some(_) if repeats => self.last.take(),
            Some(token) if reply.is_empty => Some(Bytes::copy_from_slice(token)),
            _ => None,
        };
        if reply.token.is_some() {
            self.has_opaque_tokens = reply.time.is_none();
        }
        self.caught_up |= reply.from_now || reply.is_end || self.shows_end(reply);
        self.has_begun = true;
    }

    /// Returns whether a reply has come.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn shows_end(&self, reply: &Told<'_>) -> bool {
        let Some(target) = self.target else {
            // Without any time of MongoDB's nothing better is known.
            return reply.waited && self.has_begun;
        };
        let has_moved = self.has_moved(reply.token, reply.time);
        reply.last_event.max(reply.time) > Some(target)
            || reply.is_empty && reply.time == Some(target) && has_moved
    }
}
