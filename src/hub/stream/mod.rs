//! One change stream of MongoDB, opened at a position and kept open through failures.
//!
//! In reading order; a file names only those of its own step and of the steps before it:
//! 1. A [`scan`] reads ahead to where MongoDB has no further event, and holds the rule of what proves that.
//!    [`history`] says whether MongoDB still has the events since a position.
//! 2. What a position needs before its stream can go on there: [`event_lookup`] finds the event of a token that
//!    holds only its digest, and the [`resume_deduplicator`] skips what was delivered before, where MongoDB
//!    starts by time. [`passed_events`] does both for a stream whose events a client's stages leave out.
//! 3. An event that MongoDB cannot send: [`undeliverable`] determines and describes it, and [`isolation`] reads
//!    what comes before it.
//! 4. [`open`](mod@open) opens a stream by whatever way is left; without one, the client is told a
//!    [`final_error`].
//! 5. After each failure [`reconnecting`] opens it again, with another [`remedy`] or after the pauses of
//!    [`backoff`].

mod backoff;
mod event_lookup;
mod final_error;
mod history;
mod isolation;
mod open;
mod passed_events;
mod reconnecting;
mod remedy;
mod resume_deduplicator;
mod scan;
pub(super) mod undeliverable;

pub(super) use open::{OpenedStream, StreamPlans, open};
pub(super) use reconnecting::{ReconnectingStream, StageObserver};
pub(super) use scan::has_passed;
