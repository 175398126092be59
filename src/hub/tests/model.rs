//! Tests of the ring and of joining it under a model checker, which tries many interleavings and finds
//! deadlocks: `cargo test --features shuttle --lib hub::tests::model`.

use std::{
    future::poll_fn,
    sync::{Arc, LazyLock},
    task::Poll,
};

use shuttle::{Config, Runner, future::block_on, scheduler::RandomScheduler, sync::Mutex, thread};

use super::super::{
    budget::MemoryBudget,
    ring::{FeedUpdate, JoinPoint, Ring, RingHistory, RingRead, RingReader},
    segment::Segment,
    subscriber::Subscriber,
};
use super::any_token_context;
use crate::{
    filter::{Clauses, Residual},
    metrics::Metrics,
    model::{EndTime, MissingImage, Operation},
    source::{
        ClusterTime, Position,
        scripted::{after, at, batch, event, insert},
    },
};

/// The number of interleavings that each test runs.
const INTERLEAVINGS: usize = 3_000;

/// The stack of each thread of a model, in bytes. What the checker gives by itself, 32 KiB, is too little for an
/// unoptimized build that plans a watch.
const STACK_BYTES: usize = 512 << 10;

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::new()));

/// Runs `model` in many random interleavings.
fn check(model: impl Fn() + Send + Sync + 'static, interleavings: usize) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    Runner::new(RandomScheduler::new(interleavings), config).run(model);
}

fn ring(capacity: usize) -> Arc<Ring> {
    let start = Position::Time(at(0));
    let history = RingHistory::starting_at(&start, None);
    Arc::new(Ring::new(
        capacity,
        any_token_context(),
        Arc::clone(&METRICS),
        start,
        history,
    ))
}

/// Event `n`: an update when it is divisible by three, else an insert.
fn segment(n: u32) -> Vec<Arc<Segment>> {
    let name = n.to_string();
    let raw = if n.is_multiple_of(3) {
        event(&name, "update", n, bson::Document::new())
    } else {
        insert(&name, n)
    };
    let batch = batch(&[raw]);
    let budget = MemoryBudget::new(usize::MAX);
    Segment::split(
        &batch.buffer,
        batch.events,
        &any_token_context(),
        &budget,
        &METRICS,
    )
}

fn publish(ring: &Ring, n: u32) {
    ring.publish(FeedUpdate {
        segments: segment(n),
        position: Some((after(&n.to_string(), n), Some(at(n)), false)),
        ..FeedUpdate::default()
    });
}

fn everything() -> Residual {
    Residual::pass_all()
}

fn updates() -> Residual {
    Residual::new(Clauses {
        operations: Some([Operation::Update].into()),
        filter: None,
        missing_image: MissingImage::Deliver,
        pre_images: false,
        ..Clauses::default()
    })
}

/// Reads until event `last` was seen, or until the ring no longer holds the next event. Only a wake-up ends
/// the wait.
fn read_until(
    reader: &mut RingReader,
    subscriber: &Subscriber,
    last: u32,
    seen: &mut Vec<u32>,
) -> RingRead {
    block_on(poll_fn(|context| {
        loop {
            subscriber.register_waker(context);
            match reader.read() {
                RingRead::Events(selection) => {
                    let event = |index: usize| selection.event(index).cluster_time.increment;
                    seen.extend((0..selection.len()).map(event));
                    if seen.last() == Some(&last) {
                        return Poll::Ready(RingRead::Empty);
                    }
                }
                RingRead::Stage(..) | RingRead::Yield => {}
                RingRead::Undecided(_) => unreachable!("no filter of the model is costly"),
                RingRead::Empty => return Poll::Pending,
                end @ (RingRead::FellBehind | RingRead::Ended(_) | RingRead::Invalidated(_)) => {
                    return Poll::Ready(end);
                }
            }
        }
    }))
}

fn expected(after: u32, to: u32, residual: &Residual) -> Vec<u32> {
    let all = residual.passes_everything();
    (after + 1..=to)
        .filter(|n| all || n.is_multiple_of(3))
        .collect()
}

/// Every reader gets each matching event once and in order, and nobody waits forever, while the feed writes,
/// another reader joins and leaves, and old events are evicted.
#[test]
fn readers_lose_no_event_and_are_always_woken() {
    const EVENTS: u32 = 6;
    check(
        || {
            let ring = ring(2_000);
            let join = |residual: &Residual, subscriber: &Arc<Subscriber>| {
                let point = JoinPoint::Now;
                ring.join(residual, subscriber, &point)
                    .expect("a watch can always join now")
            };
            let start_reader = |residual: Residual| {
                let subscriber = Arc::new(Subscriber::default());
                let mut reader = join(&residual, &subscriber);
                thread::spawn(move || {
                    let mut seen = Vec::new();
                    let end = read_until(&mut reader, &subscriber, EVENTS, &mut seen);
                    let all_matching = expected(0, EVENTS, &residual);
                    match end {
                        RingRead::Empty => assert_eq!(seen, all_matching),
                        _ => assert!(
                            all_matching.starts_with(&seen),
                            "{seen:?} of {all_matching:?}"
                        ),
                    }
                })
            };
            let readers = [everything(), updates(), everything()].map(start_reader);
            let guest = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let subscriber = Arc::new(Subscriber::default());
                    let point = JoinPoint::Now;
                    drop(ring.join(&updates(), &subscriber, &point));
                })
            };
            for n in 1..=EVENTS {
                block_on(ring.wait_writable());
                publish(&ring, n);
            }
            readers.into_iter().for_each(|it| it.join().unwrap());
            guest.join().unwrap();
        },
        INTERLEAVINGS,
    );
}

/// A client reads from the oplog, joins the ring, falls behind and starts over. It gets the exact sequence.
#[test]
fn a_catch_up_joins_the_ring_without_a_lost_or_repeated_event() {
    const EVENTS: u32 = 6;
    check(
        || {
            let ring = ring(1_400);
            // The oplog: it holds an event before the feed reads it.
            let oplog = Arc::new(Mutex::new(0));
            let clients: Vec<_> = [everything(), updates()]
                .into_iter()
                .map(|residual| {
                    let (ring, oplog) = (Arc::clone(&ring), Arc::clone(&oplog));
                    thread::spawn(move || {
                        let subscriber = Arc::new(Subscriber::default());
                        let mut seen: Vec<u32> = Vec::new();
                        let mut last = 0;
                        loop {
                            let point = after(&last.to_string(), last);
                            let point = JoinPoint::After(&point, None);
                            if seen.last() == Some(&EVENTS) {
                                break;
                            }
                            if let Some(mut reader) = ring.join(&residual, &subscriber, &point) {
                                match read_until(&mut reader, &subscriber, EVENTS, &mut seen) {
                                    RingRead::Empty => break,
                                    // Back to the oplog, after the last event seen.
                                    _ => last = seen.last().copied().unwrap_or(last),
                                }
                            } else if last < *oplog.lock().unwrap() {
                                last += 1;
                                if !expected(last - 1, last, &residual).is_empty() {
                                    seen.push(last);
                                }
                            } else {
                                thread::yield_now();
                            }
                        }
                        assert_eq!(seen, expected(0, EVENTS, &residual));
                    })
                })
                .collect();
            for n in 1..=EVENTS {
                *oplog.lock().unwrap() = n;
                block_on(ring.wait_writable());
                publish(&ring, n);
            }
            clients.into_iter().for_each(|it| it.join().unwrap());
        },
        INTERLEAVINGS,
    );
}

/// A slow watcher that is alone makes the writer wait, and so never falls behind.
#[test]
fn a_lone_reader_never_falls_behind() {
    const EVENTS: u32 = 6;
    check(
        || {
            let ring = ring(1_000);
            let subscriber = Arc::new(Subscriber::default());
            let point = JoinPoint::Now;
            let mut reader = ring
                .join(&everything(), &subscriber, &point)
                .expect("a watch can always join now");
            let reader_thread = thread::spawn(move || {
                let mut seen = Vec::new();
                let end = read_until(&mut reader, &subscriber, EVENTS, &mut seen);
                assert!(matches!(end, RingRead::Empty), "{end:?}");
                assert_eq!(seen, expected(0, EVENTS, &everything()));
            });
            for n in 1..=EVENTS {
                block_on(ring.wait_writable());
                publish(&ring, n);
            }
            reader_thread.join().unwrap();
        },
        INTERLEAVINGS,
    );
}

/// A watch that waits for its end is woken by the position that passes it, whenever it joins.
#[test]
fn a_reader_is_woken_when_the_position_passes_its_end() {
    const LAST_SECOND: u32 = 100;
    check(
        || {
            let ring = ring(2_000);
            let start_reader = |residual: Residual| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let end_time = EndTime::after_second(LAST_SECOND);
                    let subscriber = Arc::new(Subscriber::until(Some(end_time)));
                    let mut reader = ring
                        .join(&residual, &subscriber, &JoinPoint::Now)
                        .expect("a watch can always join now");
                    block_on(poll_fn(|context| {
                        subscriber.register_waker(context);
                        while !matches!(reader.read(), RingRead::Empty) {}
                        let reached = reader.position_if_caught_up();
                        match reached.map(|it| it.position.time().seconds) {
                            Some(second) if end_time.is_past(second) => Poll::Ready(()),
                            _ => Poll::Pending,
                        }
                    }));
                })
            };
            let readers = [everything(), updates()].map(start_reader);
            publish(&ring, 1);
            let past = Position::Time(ClusterTime {
                seconds: LAST_SECOND + 1,
                increment: 1,
            });
            ring.publish(FeedUpdate {
                position: Some((past, None, true)),
                ..FeedUpdate::default()
            });
            readers.into_iter().for_each(|it| it.join().unwrap());
        },
        INTERLEAVINGS,
    );
}
