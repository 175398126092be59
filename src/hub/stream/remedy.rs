//! What is changed after a failure of a stream, so that the next attempt may succeed.

use crate::source::{BatchSize, Failure, Position};

/// A change after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The scope's shared stream is opened: the token may be one of another filter, of an event that the own
    /// stream leaves out.
    SharedPlan,
    /// MongoDB gets some time.
    Wait,
    /// Events are read one per reply: those before the one that fails have not been delivered yet.
    SingleEvents,
    /// The events before the one that fails are read in isolation.
    Isolate,
    /// The stream is opened by the position's time. A filter on a looked-up document may pass an event once
    /// and not again, and then MongoDB does not find its token.
    ResumeByTime,
}

/// A stream that has failed.
#[derive(Debug)]
pub(super) struct FailedStream<'a> {
    pub position: &'a Position,
    pub batch_size: BatchSize,
    /// `true` if the scope's shared stream is another one.
    pub has_shared_plan: bool,
    /// `true` if the events before one that fails were being read.
    pub was_isolating: bool,
    /// `true` if it was not open. An open stream was not refused for its token.
    pub at_opening: bool,
}

/// The positions at which remedies were last tried. At the same one they would fail again.
#[derive(Debug, Default)]
pub(super) struct TriedRemedies {
    pub single_events: Option<Position>,
    pub isolation: Option<Position>,
    /// MongoDB did not find this position's token.
    pub by_time: Option<Position>,
}

impl TriedRemedies {
    /// Chooses a remedy for a failure. `None` if there is none that was not tried.
    pub(super) fn choose(&self, failure: Failure, stream: &FailedStream<'_>) -> Option<Remedy> {
        let is_new = |tried: &Option<Position>| tried.as_ref() != Some(stream.position);
        let is_refused_token = matches!(failure, Failure::TokenNotFound | Failure::TokenInvalid)
            || (stream.at_opening || stream.was_isolating) && failure.may_mean_the_token();
        match failure {
            Failure::TokenNotFound if stream.has_shared_plan => Some(Remedy::SharedPlan),
            // The credentials were accepted when the stream was opened, so this may be temporary.
            Failure::Transient | Failure::Overloaded | Failure::LoginFailed => Some(Remedy::Wait),
            _ if failure.concerns_one_event() => {
                if stream.batch_size == BatchSize::Default && is_new(&self.single_events) {
                    Some(Remedy::SingleEvents)
                } else if !stream.was_isolating && is_new(&self.isolation) {
                    Some(Remedy::Isolate)
                } else {
                    None
                }
            }
            _ if is_refused_token
                && stream.position.can_resume_by_time()
                && is_new(&self.by_time) =>
            {
                Some(Remedy::ResumeByTime)
            }
            _ => None,
        }
    }
}
