//! What buckets give and owe, and whose places are counted.

use super::*;
use crate::auth::Method;

fn quotas(each: Limits, together: &Limits) -> Quotas {
    Quotas::new(each, together, Arc::new(Metrics::new()))
}

fn named(name: &str) -> Principal {
    Principal {
        method: Method::Key,
        name: name.to_owned(),
        ..Principal::anonymous()
    }
}

fn retry(opened: Result<Quota, Error>) -> (&'static str, Duration) {
    match opened {
        Err(Error::Quota { limit, retry, .. }) => (limit, retry),
        other => panic!("this was to be refused: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_given_back_when_its_watch_ends() {
    let each = Limits {
        watches: Some(2),
        ..Limits::default()
    };
    let quotas = quotas(each, &Limits::default());
    let (a, b) = (named("a"), named("b"));
    let first = quotas.open(&a, None).expect("the first");
    let _second = quotas.open(&a, None).expect("the second");
    assert_eq!(retry(quotas.open(&a, None)).0, "principal_watches");
    let _others = quotas.open(&b, None).expect("another principal");
    drop(first);
    let _third = quotas.open(&a, None).expect("there is room again");
    assert_eq!(retry(quotas.open(&a, None)).0, "principal_watches");
}

#[tokio::test(start_paused = true)]
async fn a_rule_s_limits_stand_in_place_of_the_server_s_and_are_counted_by_themselves() {
    let each = Limits {
        watches: Some(1),
        ..Limits::default()
    };
    let own = Limits {
        rule: Arc::from("many"),
        watches: Some(3),
        ..Limits::default()
    };
    let unbounded = Limits {
        rule: Arc::from("free"),
        watches: Some(0),
        ..Limits::default()
    };
    let quotas = quotas(each, &Limits::default());
    let a = named("a");
    let open = |own: Option<&Limits>| quotas.open(&a, own);
    let mut held = vec![open(None).expect("the server's one")];
    assert!(open(None).is_err());
    held.extend((0..3).map(|_| open(Some(&own)).expect("three of the rule's")));
    assert!(open(Some(&own)).is_err());
    held.extend((0..10).map(|_| open(Some(&unbounded)).expect("no limit")));
    drop(held);
    assert!(open(None).is_ok());
}

/// The delay that is told is true: not earlier, not later.
#[tokio::test(start_paused = true)]
async fn openings_come_in_bursts_and_then_at_their_rate() {
    let each = Limits {
        watch_rate: Some(2),
        ..Limits::default()
    };
    let quotas = quotas(each, &Limits::default());
    let a = named("a");
    for _ in 0..20 {
        quotas.open(&a, None).expect("ten seconds' worth");
    }
    for _ in 0..5 {
        let (limit, wait) = retry(quotas.open(&a, None));
        assert_eq!(
            (limit, wait),
            ("principal_watch_rate", Duration::from_millis(500))
        );
        tokio::time::advance(wait - Duration::from_millis(1)).await;
        assert_eq!(retry(quotas.open(&a, None)).1, Duration::from_millis(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        quotas.open(&a, None).expect("one more");
    }
    quotas.open(&named("b"), None).expect("another principal");
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refuses_costs_a_principal_nothing() {
    let each = Limits {
        watches: Some(5),
        watch_rate: Some(1),
        ..Limits::default()
    };
    let together = Limits {
        watch_rate: Some(1),
        ..Limits::default()
    };
    let quotas = quotas(each, &together);
    let a = named("a");
    for number in 0..10 {
        quotas
            .open(&named(&number.to_string()), None)
            .expect("ten of all");
    }
    for _ in 0..20 {
        assert_eq!(retry(quotas.open(&a, None)).0, "watch_rate");
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    let held: Vec<_> = (0..5).map(|_| quotas.open(&a, None)).collect();
    assert!(held.iter().all(Result::is_ok), "{held:?}");
}

/// Whoever takes waits until what it owes has come in: on the whole no more is sent than may be, and
/// nobody is starved.
#[tokio::test(start_paused = true)]
async fn bytes_are_sent_at_their_rate_by_turns() {
    const RATE: u64 = 100_000;
    const MESSAGE: u64 = 64_000;
    let each = Limits {
        byte_rate: Some(RATE),
        ..Limits::default()
    };
    let quotas = quotas(each, &Limits::default());
    let a = named("a");
    let mut streams: Vec<_> = (0..10)
        .map(|_| quotas.open(&a, None).expect("a watch"))
        .collect();
    let begin = Instant::now();
    let mut ready = vec![begin; streams.len()];
    let mut sent = vec![0_u64; streams.len()];
    while begin.elapsed() < Duration::from_secs(120) {
        for (at, stream) in streams.iter_mut().enumerate() {
            if ready[at] <= Instant::now() {
                let wait = stream.charge(MESSAGE).unwrap_or_default();
                ready[at] = Instant::now() + wait;
                sent[at] += MESSAGE;
            }
        }
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    let total: u64 = sent.iter().sum();
    // A second's worth was there, and each stream may be ahead by one message.
    let most = RATE * 121 + MESSAGE * 10;
    assert!((RATE * 115..=most).contains(&total), "{total}");
    let (least, most) = (
        sent.iter().min().expect("ten"),
        sent.iter().max().expect("ten"),
    );
    assert!(most - least <= 2 * MESSAGE, "{sent:?}");
}

/// As long as two take what comes in there is never nothing owed: whoever was told to come back then never
/// came in, while its place fell off the oplog.
#[tokio::test(start_paused = true)]
async fn a_watch_that_comes_back_gets_its_turn_though_others_always_owe() {
    const RATE: u64 = 64 << 10;
    let limits = || Limits {
        byte_rate: Some(RATE),
        ..Limits::default()
    };
    for (each, together, name) in [
        (limits(), Limits::default(), "busy"),
        (Limits::default(), limits(), "other"),
    ] {
        let quotas = quotas(each, &together);
        let mut busy: Vec<_> = (0..2)
            .map(|_| quotas.open(&named("busy"), None).expect("a watch"))
            .map(|quota| (quota, Instant::now()))
            .collect();
        // It comes back after a minute, and has its turn in that of one more of them.
        let (back, mut turns) = (Instant::now() + Duration::from_secs(60), 0);
        let mut third: Option<(Quota, Instant)> = None;
        while back + Duration::from_secs(30) > Instant::now() {
            let now = Instant::now();
            for (quota, ready) in &mut busy {
                if *ready <= now {
                    *ready = now + quota.charge(RATE).unwrap_or_default();
                }
            }
            if third.is_none() && back <= now {
                let quota = quotas.open(&named(name), None).expect("it is let in");
                let wait = quota.wait_at_opening().expect("others owe");
                assert!(wait <= Duration::from_secs(2), "{wait:?}");
                third = Some((quota, now + wait));
            }
            if let Some((quota, ready)) = third.as_mut().filter(|(_, ready)| *ready <= now) {
                *ready = now + quota.charge(RATE).unwrap_or_default();
                turns += 1;
            }
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!((8..=12).contains(&turns), "{turns} turns of some 30");
    }
}

/// A catch-up is given up, and its cursor closed, when its watch takes nothing for ten seconds.
#[tokio::test(start_paused = true)]
async fn a_watch_that_will_wait_long_is_sent_what_a_cursor_was_opened_for() {
    const RATE: u64 = 64 << 10;
    let each = Limits {
        byte_rate: Some(RATE),
        ..Limits::default()
    };
    let quotas = quotas(each, &Limits::default());
    let mut streams: Vec<_> = (0..40)
        .map(|_| quotas.open(&named("a"), None).expect("a watch"))
        .map(|quota| (quota, Instant::now(), 0_u64))
        .collect();
    let (begin, mut total, mut long) = (Instant::now(), 0, 0);
    while begin.elapsed() < Duration::from_secs(3_600) {
        let now = Instant::now();
        for (quota, ready, sent) in &mut streams {
            while *ready <= now {
                total += RATE;
                *sent += RATE;
                let Some(wait) = quota.charge(RATE) else {
                    continue;
                };
                if wait > LONG_WAIT {
                    long += 1;
                    assert!(*sent >= BEFORE_LONG_WAIT, "{sent} bytes before {wait:?}");
                }
                *ready = now + wait;
                *sent = 0;
            }
        }
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    assert!(long > 40, "{long}");
    // On the whole it is the rate, but for what each is ahead.
    let most = RATE * 3_601 + 40 * BEFORE_LONG_WAIT;
    assert!((RATE * 3_500..=most).contains(&total), "{total}");
}

/// Names are the callers' own choice with some issuers.
#[tokio::test(start_paused = true)]
async fn principals_that_have_nothing_are_forgotten() {
    let each = Limits {
        watches: Some(1),
        watch_rate: Some(1),
        ..Limits::default()
    };
    let quotas = quotas(each, &Limits::default());
    let kept = quotas.open(&named("kept"), None).expect("a watch");
    for round in 0..50 {
        for number in 0..1_000 {
            quotas
                .open(&named(&format!("{round}-{number}")), None)
                .expect("a watch");
        }
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    let count = lock(&quotas.accounts).of.len();
    assert!(count < 10_000, "{count} are kept in mind");
    assert!(
        quotas.open(&named("kept"), None).is_err(),
        "its watch is still open"
    );
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_principals_than_may_be() {
    let each = Limits {
        watches: Some(1),
        ..Limits::default()
    };
    let quotas = quotas(each, &Limits::default());
    let open = |number: usize| quotas.open(&named(&number.to_string()), None);
    let mut held: Vec<_> = (0..MAX_ACCOUNTS)
        .map(|it| open(it).expect("a watch"))
        .collect();
    assert_eq!(retry(open(MAX_ACCOUNTS)).0, "principals");
    held.clear();
    // To look through all of them at each opening would keep everybody waiting.
    assert_eq!(retry(open(MAX_ACCOUNTS)).0, "principals");
    tokio::time::advance(SWEEP_EVERY).await;
    open(MAX_ACCOUNTS).expect("the others are forgotten");
}

#[tokio::test(start_paused = true)]
async fn without_limits_nobody_is_kept_in_mind() {
    let none = Limits {
        watches: Some(0),
        watch_rate: Some(0),
        byte_rate: Some(0),
        ..Limits::default()
    };
    let quotas = quotas(none.clone(), &none);
    let mut quota = quotas.open(&named("a"), None).expect("a watch");
    assert_eq!(quota.charge(u64::MAX), None);
    assert!(lock(&quotas.accounts).of.is_empty());
}
