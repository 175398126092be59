//! Tests of what a ring knows about the stream before it, and of its barriers.

use super::*;
use crate::{
    filter::Residual,
    hub::{
        ring::{FeedUpdate, JoinEvidence, JoinPoint, Ring, RingHistory, RingRead},
        segment::Segment,
        subscriber::Subscriber,
    },
    source::{Anchor, ClusterTime},
};

/// A ring whose feed started when MongoDB's time was `now`.
fn ring(now: u32) -> Arc<Ring> {
    let start = Position::HighWater {
        token: token("start"),
        time: at(1),
    };
    let history = RingHistory::starting_at(&start, Some(at(now)));
    let metrics = Arc::new(Metrics::new());
    Arc::new(Ring::new(
        1 << 20,
        any_token_context(),
        metrics,
        start,
        history,
    ))
}

fn publish_idle(ring: &Ring, upstream: ClusterTime) {
    let point = Position::HighWater {
        token: token("quiet"),
        time: upstream,
    };
    ring.publish(FeedUpdate {
        position: Some((point, Some(upstream), true)),
        ..FeedUpdate::default()
    });
}

fn publish_event(ring: &Ring, name: &str, increment: u32) {
    let batch = batch(&[insert(name, increment)]);
    let budget = budget::MemoryBudget::new(usize::MAX);
    let metrics = Arc::new(Metrics::new());
    ring.publish(FeedUpdate {
        segments: Segment::split(
            &batch.buffer,
            batch.events,
            &any_token_context(),
            &budget,
            &metrics,
        ),
        position: Some((after(name, increment), None, false)),
        ..FeedUpdate::default()
    });
}

fn can_join(ring: &Arc<Ring>, point: &JoinPoint<'_>) -> bool {
    let subscriber = Arc::new(Subscriber::default());
    ring.join(&Residual::pass_all(), &subscriber, point)
        .is_some()
}

/// mongod starts a stream after the last operation it has applied, and replies with the majority-committed
/// time, which may be earlier.
#[test]
fn there_is_no_barrier_before_the_feed_has_certainly_started() {
    let ring = ring(10);
    assert!(ring.barrier().is_none(), "MongoDB's time is not known yet");
    publish_idle(&ring, at(8));
    assert!(
        ring.barrier().is_none(),
        "an event at 9 may be in no stream"
    );
    let time = Position::Time(at(9));
    assert!(!can_join(&ring, &JoinPoint::After(&time, None)));
    publish_idle(&ring, at(10));
    assert_eq!(ring.barrier().map(|it| it.time), Some(at(10)));
    let time = Position::Time(at(11));
    assert!(can_join(&ring, &JoinPoint::After(&time, None)));
}

/// A later reply of another member of the replica set may have an earlier time.
#[test]
fn a_barrier_is_never_before_the_events_in_the_ring() {
    let ring = ring(10);
    publish_event(&ring, "a", 20);
    assert_eq!(ring.barrier().map(|it| it.time), Some(at(20)));
    publish_idle(&ring, at(18));
    assert_eq!(ring.barrier().map(|it| it.time), Some(at(20)));
}

#[test]
fn a_ring_learns_its_history_only_from_a_catch_up_that_knows_it() {
    let last = after("x", 5);
    let point = JoinPoint::After(&last, None);
    let anchor = Anchor::new(&token("x"), at(5));
    for (anchor, learned) in [(None, false), (Some(&anchor), true)] {
        let ring = ring(10);
        publish_idle(&ring, at(10));
        let barrier = ring.barrier().expect("the feed has started");
        let evidence = JoinEvidence {
            anchor,
            quiet_from: None,
            not_before: at(6),
        };
        assert!(can_join(&ring, &JoinPoint::Barrier(&barrier, evidence)));
        assert_eq!(can_join(&ring, &point), learned);
    }
}

/// A server's time may count a write that is not visible yet: the event comes after the barrier, with an
/// earlier time. Only what the catch-up has delivered is a repeat.
#[test]
fn an_event_from_before_the_barrier_that_comes_late_is_delivered_unless_it_is_a_repeat() {
    let ring = ring(10);
    publish_idle(&ring, at(20));
    let barrier = ring.barrier().expect("the feed has started");
    let evidence = JoinEvidence {
        anchor: None,
        quiet_from: None,
        not_before: at(13),
    };
    let subscriber = Arc::new(Subscriber::default());
    let mut reader = ring
        .join(
            &Residual::pass_all(),
            &subscriber,
            &JoinPoint::Barrier(&barrier, evidence),
        )
        .expect("the barrier is in the ring");
    assert!(reader.position_if_caught_up().is_some(), "20 is passed");
    for (name, increment) in [("repeat", 12), ("late", 15), ("new", 25)] {
        publish_event(&ring, name, increment);
    }
    let mut seen = Vec::new();
    loop {
        match reader.read() {
            RingRead::Events(selection) => {
                let time = |index| selection.event(index).cluster_time;
                seen.extend((0..selection.len()).map(time));
            }
            RingRead::Stage(..) | RingRead::Yield => {}
            RingRead::Empty => break,
            end => panic!("{end:?}"),
        }
    }
    assert_eq!(seen, [at(15), at(25)]);
}
