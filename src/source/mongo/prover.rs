//! The question how far a stream is, where its replies do not tell.
//!
//! A token of MongoDB's own form tells the time of a position. Other tokens do not, and a token may stay where it is
//! while MongoDB scans. Then the next event in a stream that leaves nothing out tells how far the position is,
//! or that nothing follows it.

use tokio::{
    task::JoinHandle,
    time::{Duration, Instant, timeout_at},
};

use crate::{
    pipeline::Plan,
    source::{Batch, ClusterTime, Position, SourceError, reply::ReplyDecoder},
};

use super::{connected::Connected, no_events::Following};

/// The shortest time between two questions.
const PAUSE: Duration = Duration::from_millis(250);
/// The time between two questions of a stream that has not caught up, if its server never waits for an event.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// The time limit for an answer, during which the stream waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time between two questions of a stream for which nobody waits. Where tokens tell their times none is asked, and
/// a mongod's move once in ten seconds on a quiet deployment (`periodicNoopIntervalSecs`).
const QUIET_PAUSE: Duration = Duration::from_secs(5);

/// Asks for what the replies of one stream do not tell.
pub(super) struct Prover {
    source: Connected,
    plan: Plan,
    /// The time that a watch waits for.
    awaited: Option<ClusterTime>,
    asked: Option<Instant>,
    opened: Instant,
    look: Option<Look>,
}

/// A question that is being asked.
struct Look {
    until: ClusterTime,
    answer: JoinHandle<Result<Following, SourceError>>,
    give_up_at: Instant,
}

impl Prover {
    /// Returns one for `plan`'s stream.
    pub(super) fn new(source: Connected, plan: &Plan) -> Self {
        Self {
            source,
            plan: plan.clone(),
            awaited: None,
            asked: None,
            opened: Instant::now(),
            look: None,
        }
    }

    /// Says which time a watch waits for.
    pub(super) fn set_awaited_time(&mut self, time: Option<ClusterTime>) {
        self.awaited = time;
    }

    /// Begins a question about the position of a reply, if it is needed and one is due.
    pub(super) fn begin(&mut self, decoder: &ReplyDecoder, batch: &Batch) {
        if let (Some(at), Some(now)) = (&batch.position, batch.operation_time)
            && decoder.is_untold()
            && self.asked.is_none_or(|asked| asked.elapsed() >= PAUSE)
            && self.is_needed(decoder, batch, now)
        {
            let begin = Instant::now();
            let outline = self.plan.unfiltered().identity_only();
            let look = self.source.begin_look(outline, at.detached(), now);
            self.asked = Some(begin);
            self.look = Some(Look {
                until: now,
                answer: look,
                give_up_at: begin + PATIENCE,
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

    /// Waits for the answer, if a question is being asked, and tells it to the decoder and to the batch. Cancel safe.
    pub(super) async fn finish(&mut self, decoder: &mut ReplyDecoder, ready: &mut [Batch]) {
        let Some(look) = &mut self.look else {
            return;
        };
        let answer = timeout_at(look.give_up_at, &mut look.answer).await;
        let until = look.until;
        self.look = None;
        let found = match answer {
            Ok(Ok(Ok(found))) => found,
            Ok(Ok(Err(error))) => {
                tracing::debug!(code = error.code, %error, "could not look for the next event");
                return;
            }
            Ok(Err(_)) | Err(_) => return,
        };
        let Some(reached) = found.reached(until) else {
            return;
        };
        decoder.raise(reached);
        if let Some(batch) = ready.last_mut() {
            batch.caught_up |= decoder.has_caught_up();
            if let Some(Position::HighWater { time, .. }) = &mut batch.position {
                *time = reached.max(*time);
            }
        }
    }
}
