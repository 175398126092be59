//! The question how far a stream is, where its replies do not tell.
//!
//! A token of MongoDB's own form tells the time of a position. Other tokens do not, and a token may stay where it is
//! while MongoDB scans. Then the next event in a stream that leaves nothing out tells how far the position is,
//! or that nothing follows it.

use std::future::pending;

use bytes::Bytes;
use tokio::time::{Duration, Instant, timeout_at};

use crate::{
    pipeline::Plan,
    source::{Batch, ClusterTime, Position, reply::ReplyDecoder},
};

use super::{connected::Connected, no_events::Look};

/// The shortest time between two questions.
const PAUSE: Duration = Duration::from_millis(250);
/// The time between two questions of a stream that has not caught up, if its server never waits for an event.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// The time limit for an answer. The stream is read meanwhile, and whoever gives up waits behind all others again: longer
/// than many looks at a slow server take, of which four run at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time between two questions of a stream for which nobody waits. Where tokens tell their times none is asked, and
/// a mongod's move once in ten seconds on a quiet deployment (`periodicNoopIntervalSecs`).
const QUIET_PAUSE: Duration = Duration::from_secs(5);

/// Asks for what the replies of one stream do not tell.
pub(super) struct Prover {
    /// On other connections than the stream's.
    source: Connected,
    plan: Plan,
    /// The time that a watch waits for.
    awaited: Option<ClusterTime>,
    asked: Option<Instant>,
    opened: Instant,
    question: Option<Question>,
}

/// A question that is being asked.
struct Question {
    until: ClusterTime,
    look: Look,
    give_up_at: Instant,
    /// The position after the last reply, while no event has come since the question.
    position: Option<Position>,
}

impl Prover {
    /// Returns one for `plan`'s stream, which asks on the connections of `source`.
    pub(super) fn new(source: Connected, plan: &Plan) -> Self {
        Self {
            source,
            plan: plan.clone(),
            awaited: None,
            asked: None,
            opened: Instant::now(),
            question: None,
        }
    }

    /// Says which time a watch waits for.
    pub(super) fn set_awaited_time(&mut self, time: Option<ClusterTime>) {
        self.awaited = time;
    }

    /// Sees the batches of a reply. Begins a question about its position, if it is needed and one is due.
    pub(super) fn observe(&mut self, decoder: &ReplyDecoder, batches: &[Batch]) {
        let empty = match batches {
            [batch] if batch.events.is_empty() => batch.position.as_ref(),
            _ => None,
        };
        if let Some(question) = &mut self.question {
            question.position = question.position.take().and(empty.map(Position::detached));
            return;
        }
        if let ([batch], Some(at)) = (batches, empty)
            && let Some(now) = batch.operation_time
            && decoder.is_untold()
            && self.asked.is_none_or(|asked| asked.elapsed() >= PAUSE)
            && self.is_needed(decoder, batch, now)
        {
            let (begin, at) = (Instant::now(), at.detached());
            let outline = self.plan.unfiltered().identity_only();
            self.asked = Some(begin);
            self.question = Some(Question {
                until: now,
                look: self.source.begin_look(outline, at.clone(), now),
                give_up_at: begin + PATIENCE,
                position: Some(at),
            });
        }
    }

    fn is_needed(&self, decoder: &ReplyDecoder, batch: &Batch, now: ClusterTime) -> bool {
        let reached = decoder.reached_time().unwrap_or_default();
        let is_awaited = self.awaited.is_some_and(|it| reached < it && it <= now);
        let since = self.asked.unwrap_or(self.opened).elapsed();
        // A busy server may never wait.
        let is_catching_up = !decoder.has_caught_up() && (batch.waited || since >= BUSY_PAUSE);
        // Some servers reply at once to each event that a client's stages leave out.
        let is_busy =
            self.plan.has_client_stages() && !batch.waited && now.seconds > reached.seconds;
        let is_behind =
            decoder.has_opaque_tokens() && reached < now && (since >= QUIET_PAUSE || is_busy);
        is_catching_up || is_awaited || is_behind
    }

    /// Returns a time that the stream's position has reached, when an answer tells one, with that position and the
    /// time that was asked about. Waits forever while nothing is asked. Cancel safe.
    pub(super) async fn answer(&mut self) -> Proved {
        loop {
            let Some(question) = &mut self.question else {
                pending::<()>().await;
                continue;
            };
            let answer = timeout_at(question.give_up_at, question.look.answer()).await;
            let Some(question) = self.question.take() else {
                continue;
            };
            match answer {
                Ok(Ok(found)) => {
                    if let Some(reached) = found.reached(question.until) {
                        return Proved {
                            reached,
                            position: question.position,
                            until: question.until,
                        };
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(code = error.code, %error, "could not look for the next event");
                }
                Err(_) => {}
            }
        }
    }
}

/// What an answer tells.
pub(super) struct Proved {
    /// No event lies between the position and this time, and none at it.
    reached: ClusterTime,
    position: Option<Position>,
    until: ClusterTime,
}

impl Proved {
    /// Tells it to the decoder. Returns a batch without an event that tells it to others, unless events have come since
    /// the question: later batches tell more then.
    pub(super) fn tell(self, decoder: &mut ReplyDecoder) -> Option<Batch> {
        decoder.raise(self.reached);
        let mut position = self.position?;
        if let Position::HighWater { time, .. } = &mut position {
            *time = self.reached.max(*time);
        }
        Some(Batch {
            buffer: Bytes::new(),
            events: Vec::new(),
            position: Some(position),
            operation_time: Some(self.until),
            closed: false,
            caught_up: decoder.has_caught_up(),
            waited: false,
        })
    }
}
