//! The points at which a watcher can join a ring.

use crate::source::{Anchor, ClusterTime, Position};

use super::position::Seq;

/// The point at which a watcher joins a ring.
#[derive(Debug)]
pub(in crate::hub) enum JoinPoint<'a> {
    /// After all events of the ring. For deployments that do not report their time.
    Now,
    /// After a position, with the last event before it where that is known.
    After(&'a Position, Option<&'a Anchor>),
    /// At a barrier up to which the watcher has read everything.
    Barrier(&'a Barrier, JoinEvidence<'a>),
}

/// The end of a ring at one moment.
#[derive(Debug, Clone, Copy)]
pub(in crate::hub) struct Barrier {
    pub(super) at: Seq,
    /// MongoDB's time at that moment: no event of the ring before the barrier is later.
    pub time: ClusterTime,
    /// A time that the stream had certainly passed.
    pub passed: ClusterTime,
}

/// Facts about the stream before a barrier, from a catch-up that has read up to it.
#[derive(Debug, Clone, Copy)]
pub(in crate::hub) struct JoinEvidence<'a> {
    /// The last event before the barrier.
    pub anchor: Option<&'a Anchor>,
    /// A time at or after which there was no event.
    pub quiet_from: Option<ClusterTime>,
    /// The first time that may be new to the watch: the feed may still read earlier events, which the catch-up has
    /// delivered. It is not the barrier's time: a server whose time counts writes that are not visible yet may
    /// send an event from before the barrier later.
    pub not_before: ClusterTime,
}
