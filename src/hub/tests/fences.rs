//! What a ring claims to know of the stream before it, and of the time up to which it is whole.

use super::*;
use crate::{
    hub::{
        ring::{Before, Known, News, Place, Ring},
        segment::Segment,
    },
    plan::Residual,
    source::ClusterTime,
    wire::Anchor,
};

/// A ring whose feed began when MongoDB's time was `now`.
fn ring(now: u32) -> Arc<Ring> {
    let start = Position::HighWater {
        token: token("start"),
        time: at(1),
    };
    let before = Before::beginning(&start, Some(at(now)));
    let metrics = Arc::new(Metrics::new());
    Arc::new(Ring::new(
        1 << 20,
        any_token_context(),
        metrics,
        start,
        before,
    ))
}

fn hears(ring: &Ring, upstream: ClusterTime) {
    let place = Position::HighWater {
        token: token("quiet"),
        time: upstream,
    };
    ring.publish(News {
        tail: Some((place, Some(upstream), true)),
        ..News::default()
    });
}

fn publishes(ring: &Ring, name: &str, increment: u32) {
    let batch = batch(&[insert(name, increment)]);
    let budget = budget::Budget::new(usize::MAX);
    let metrics = Arc::new(Metrics::new());
    ring.publish(News {
        segments: Segment::cut(
            &batch.buffer,
            batch.events,
            &any_token_context(),
            &budget,
            &metrics,
        ),
        tail: Some((after(name, increment), None, false)),
        ..News::default()
    });
}

fn joins(ring: &Arc<Ring>, place: &Place<'_>) -> bool {
    let seat = Arc::new(Seat::default());
    ring.join(&Residual::nothing(), &seat, place).is_some()
}

/// mongod begins a stream after the last operation it has applied, and tells with its answer a time
/// that is confirmed and may be earlier.
#[test]
fn there_is_no_fence_before_the_feed_has_surely_begun() {
    let ring = ring(10);
    assert!(ring.fence().is_none(), "nothing was heard yet");
    hears(&ring, at(8));
    assert!(ring.fence().is_none(), "what came at 9 may be in no stream");
    let time = Position::Time(at(9));
    assert!(!joins(&ring, &Place::After(&time, None)));
    hears(&ring, at(10));
    assert_eq!(ring.fence().map(|it| it.time), Some(at(10)));
    let time = Position::Time(at(11));
    assert!(joins(&ring, &Place::After(&time, None)));
}

/// Another member of the set may answer after the first, and be behind it.
#[test]
fn a_fence_is_never_before_the_events_that_the_ring_holds() {
    let ring = ring(10);
    publishes(&ring, "a", 20);
    assert_eq!(ring.fence().map(|it| it.time), Some(at(20)));
    hears(&ring, at(18));
    assert_eq!(ring.fence().map(|it| it.time), Some(at(20)));
}

#[test]
fn a_ring_learns_what_came_before_it_only_from_those_who_know() {
    let last = after("x", 5);
    let place = Place::After(&last, None);
    let anchor = Anchor::new(&token("x"), at(5));
    for (anchor, learned) in [(None, false), (Some(&anchor), true)] {
        let ring = ring(10);
        hears(&ring, at(10));
        let fence = ring.fence().expect("the feed has begun");
        let known = Known {
            anchor,
            quiet_from: None,
        };
        assert!(joins(&ring, &Place::Fence(&fence, known)));
        assert_eq!(joins(&ring, &place), learned);
    }
}
