use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt as _;
use tokio::time::Instant;

use super::*;

/// A limiter, and a function that tells how often it has refused.
fn limiter(max: usize) -> (Limiter, impl Fn() -> u64) {
    let refused = Arc::new(AtomicU64::new(0));
    let limit = Limit::new("things", max).counted_by(Counter::from_arc(Arc::clone(&refused)));
    (Limiter::new(limit), move || refused.load(Ordering::Relaxed))
}

const EXCEEDED: Exceeded = Exceeded {
    unit: "things",
    max: 3,
};

#[test]
fn a_permit_gives_back_its_amount_and_each_refusal_is_counted_once() {
    let (limiter, refused) = limiter(3);
    let two = limiter.try_acquire_many(2).expect("two are free");
    assert_eq!(limiter.try_acquire_many(2).err(), Some(EXCEEDED));
    // Nothing was taken by the refused one.
    let one = limiter.clone().try_acquire().expect("one is free");
    assert_eq!(limiter.in_use(), 3);
    assert_eq!(limiter.check(), Err(EXCEEDED));
    assert_eq!(limiter.try_acquire().err(), Some(EXCEEDED));
    assert_eq!(refused(), 3);
    drop((one, two));
    assert_eq!(limiter.in_use(), 0);
    assert_eq!(limiter.check(), Ok(()));
    assert!(limiter.try_acquire_many(0).is_ok());
    assert_eq!(limiter.try_acquire_many(usize::MAX).err(), Some(EXCEEDED));
    assert_eq!(refused(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_a_permit_or_with_a_counted_refusal() {
    let (limiter, refused) = limiter(3);
    let mut held: Vec<Permit> = Vec::new();
    for _ in 0..3 {
        held.push(limiter.acquire().await);
    }
    let begin = Instant::now();
    let longest = Duration::from_secs(5);
    let late = limiter.acquire_within(longest).await;
    assert_eq!(late.err(), Some(EXCEEDED));
    assert_eq!((begin.elapsed(), refused()), (longest, 1));
    let mut first = Box::pin(limiter.acquire_within(longest));
    let mut second = Box::pin(limiter.acquire());
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    held.pop();
    assert!((&mut second).now_or_never().is_none(), "it came later");
    assert!(matches!((&mut first).now_or_never(), Some(Ok(_))));
    assert!((&mut second).now_or_never().is_some());
    assert_eq!(refused(), 1);
}

#[test]
fn a_key_has_its_value_until_its_last_member_leaves() {
    let keys = PerKey::default();
    let (first, value) = keys.join("a", 2, || 1).expect("the first");
    assert_eq!(value, 1);
    let (second, value) = keys.join("a", 2, || 2).expect("the second");
    assert_eq!(value, 1, "they share the value");
    assert!(keys.join("a", 2, || 3).is_none());
    assert_eq!(keys.join("b", 2, || 4).expect("another key").1, 4);
    drop(first);
    assert!(keys.join("a", 2, || 5).is_some());
    drop(second);
    assert!(keys.is_empty());
    assert!(keys.join("a", 0, || 6).is_none());
    assert!(keys.is_empty(), "a refusal leaves nothing");
}
