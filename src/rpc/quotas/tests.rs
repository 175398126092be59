//! Token buckets, limits of rules, and the accounts of principals.

use super::*;
use crate::auth::Method;

fn quotas(per_principal: Limits, global: &Limits) -> Quotas {
    Quotas::new(per_principal, global, Arc::new(Metrics::new()))
}

fn principal(name: &str) -> Principal {
    Principal {
        method: Method::Key,
        name: name.to_owned(),
        ..Principal::anonymous()
    }
}

fn retry(opened: Result<WatchQuota, Error>) -> (&'static str, Duration) {
    match opened {
        Err(Error::Quota { limit, retry, .. }) => (limit, retry),
        other => panic!("expected a rejection: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_no_longer_counted_when_it_ends() {
    let per_principal = Limits {
        watches: Some(2),
        ..Limits::default()
    };
    let quotas = quotas(per_principal, &Limits::default());
    let (a, b) = (principal("a"), principal("b"));
    let first = quotas.open(&a, None).expect("the first");
    let _second = quotas.open(&a, None).expect("the second");
    assert_eq!(retry(quotas.open(&a, None)).0, "principal_watches");
    let _others = quotas.open(&b, None).expect("another principal");
    drop(first);
    let _third = quotas.open(&a, None).expect("one watch has ended");
    assert_eq!(retry(quotas.open(&a, None)).0, "principal_watches");
}

#[tokio::test(start_paused = true)]
async fn limits_of_a_rule_replace_the_server_limits_and_count_separately() {
    let per_principal = Limits {
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
    let quotas = quotas(per_principal, &Limits::default());
    let a = principal("a");
    let open = |own: Option<&Limits>| quotas.open(&a, own);
    let mut held = vec![open(None).expect("one by the server's limit")];
    assert!(open(None).is_err());
    held.extend((0..3).map(|_| open(Some(&own)).expect("three by the rule's limit")));
    assert!(open(Some(&own)).is_err());
    held.extend((0..10).map(|_| open(Some(&unbounded)).expect("no limit")));
    drop(held);
    assert!(open(None).is_ok());
}

/// The reported retry delay is exact.
#[tokio::test(start_paused = true)]
async fn watches_open_in_a_burst_and_then_at_the_rate() {
    let per_principal = Limits {
        watch_rate: Some(2),
        ..Limits::default()
    };
    let quotas = quotas(per_principal, &Limits::default());
    let a = principal("a");
    for _ in 0..20 {
        quotas.open(&a, None).expect("a burst of ten seconds");
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
    quotas
        .open(&principal("b"), None)
        .expect("another principal");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_by_the_global_rate_does_not_charge_the_principal() {
    let per_principal = Limits {
        watches: Some(5),
        watch_rate: Some(1),
        ..Limits::default()
    };
    let global = Limits {
        watch_rate: Some(1),
        ..Limits::default()
    };
    let quotas = quotas(per_principal, &global);
    let a = principal("a");
    for number in 0..10 {
        quotas
            .open(&principal(&number.to_string()), None)
            .expect("a burst of ten");
    }
    for _ in 0..20 {
        assert_eq!(retry(quotas.open(&a, None)).0, "watch_rate");
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    let held: Vec<_> = (0..5).map(|_| quotas.open(&a, None)).collect();
    assert!(held.iter().all(Result::is_ok), "{held:?}");
}

/// In total no more is sent than the rate allows, and no stream is starved. The waits are short.
#[tokio::test(start_paused = true)]
async fn streams_share_the_byte_rate_fairly() {
    const RATE: u64 = 1_000_000;
    const MESSAGE: u64 = 64_000;
    let per_principal = Limits {
        byte_rate: Some(RATE),
        ..Limits::default()
    };
    let quotas = quotas(per_principal, &Limits::default());
    let a = principal("a");
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
    // The bucket starts full, with one second of the rate, and each stream may be ahead by one message.
    let most = RATE * 121 + MESSAGE * 10;
    assert!((RATE * 115..=most).contains(&total), "{total}");
    let (least, most) = (
        sent.iter().min().expect("ten"),
        sent.iter().max().expect("ten"),
    );
    assert!(most - least <= 2 * MESSAGE, "{sent:?}");
}

/// While two streams use up the rate, the bucket is always below zero. A watch that was rejected for this
/// reason would never get in, until its resume position fell off the oplog.
#[tokio::test(start_paused = true)]
async fn a_returning_watch_is_admitted_while_others_owe_bytes() {
    const RATE: u64 = 64 << 10;
    // The waits are short.
    const MESSAGE: u64 = RATE / 4;
    let limits = || Limits {
        byte_rate: Some(RATE),
        ..Limits::default()
    };
    for (per_principal, global, name) in [
        (limits(), Limits::default(), "busy"),
        (Limits::default(), limits(), "other"),
    ] {
        let quotas = quotas(per_principal, &global);
        let mut busy: Vec<_> = (0..2)
            .map(|_| quotas.open(&principal("busy"), None).expect("a watch"))
            .map(|quota| (quota, Instant::now()))
            .collect();
        // The third watch returns after a minute and shares the rate with the other two.
        let (back, mut messages) = (Instant::now() + Duration::from_secs(60), 0);
        let mut third: Option<(WatchQuota, Instant)> = None;
        while back + Duration::from_secs(30) > Instant::now() {
            let now = Instant::now();
            for (quota, ready) in &mut busy {
                if *ready <= now {
                    *ready = now + quota.charge(MESSAGE).unwrap_or_default();
                }
            }
            if third.is_none() && back <= now {
                let quota = quotas.open(&principal(name), None).expect("it is admitted");
                let wait = quota.initial_wait().expect("others owe bytes");
                assert!(wait <= Duration::from_secs(2), "{wait:?}");
                third = Some((quota, now + wait));
            }
            if let Some((quota, ready)) = third.as_mut().filter(|(_, ready)| *ready <= now) {
                *ready = now + quota.charge(MESSAGE).unwrap_or_default();
                messages += 1;
            }
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!(
            (32..=48).contains(&messages),
            "{messages} messages of about 120"
        );
    }
}

/// A catch-up may end, and its cursor be closed, when its watch takes nothing for a second.
#[tokio::test(start_paused = true)]
async fn a_watch_is_sent_a_minimum_of_bytes_before_a_long_wait() {
    const RATE: u64 = 64 << 10;
    let per_principal = Limits {
        byte_rate: Some(RATE),
        ..Limits::default()
    };
    let quotas = quotas(per_principal, &Limits::default());
    let mut streams: Vec<_> = (0..40)
        .map(|_| quotas.open(&principal("a"), None).expect("a watch"))
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
                if wait >= LONG_WAIT {
                    long += 1;
                    assert!(
                        *sent >= MIN_BYTES_BEFORE_LONG_WAIT,
                        "{sent} bytes before {wait:?}"
                    );
                }
                *ready = now + wait;
                *sent = 0;
            }
        }
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    assert!(long > 40, "{long}");
    // In total the rate holds, apart from what each stream is ahead.
    let most = RATE * 3_601 + 40 * MIN_BYTES_BEFORE_LONG_WAIT;
    assert!((RATE * 3_500..=most).contains(&total), "{total}");
}

/// Some issuers let callers choose their names, so the number of names has no bound.
#[tokio::test(start_paused = true)]
async fn idle_principals_are_removed() {
    let per_principal = Limits {
        watches: Some(1),
        watch_rate: Some(1),
        ..Limits::default()
    };
    let quotas = quotas(per_principal, &Limits::default());
    let kept = quotas.open(&principal("kept"), None).expect("a watch");
    for round in 0..50 {
        for number in 0..1_000 {
            quotas
                .open(&principal(&format!("{round}-{number}")), None)
                .expect("a watch");
        }
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    let count = lock(&quotas.accounts).by_key.len();
    assert!(count < 10_000, "{count} accounts are kept");
    assert!(
        quotas.open(&principal("kept"), None).is_err(),
        "its watch is still open"
    );
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_principals_is_bounded() {
    let per_principal = Limits {
        watches: Some(1),
        ..Limits::default()
    };
    let quotas = quotas(per_principal, &Limits::default());
    let open = |number: usize| quotas.open(&principal(&number.to_string()), None);
    let mut held: Vec<_> = (0..MAX_ACCOUNTS)
        .map(|it| open(it).expect("a watch"))
        .collect();
    assert_eq!(retry(open(MAX_ACCOUNTS)).0, "principals");
    held.clear();
    // Idle accounts are not removed on each opening, which would delay everybody.
    assert_eq!(retry(open(MAX_ACCOUNTS)).0, "principals");
    tokio::time::advance(SWEEP_INTERVAL).await;
    open(MAX_ACCOUNTS).expect("idle accounts are removed");
}

#[tokio::test(start_paused = true)]
async fn without_limits_no_accounts_are_kept() {
    let none = Limits {
        watches: Some(0),
        watch_rate: Some(0),
        byte_rate: Some(0),
        ..Limits::default()
    };
    let quotas = quotas(none.clone(), &none);
    let mut quota = quotas.open(&principal("a"), None).expect("a watch");
    assert_eq!(quota.charge(u64::MAX), None);
    assert!(lock(&quotas.accounts).by_key.is_empty());
}
