//! Tests of one feed with one watch: failures of MongoDB, invalidation and reconnecting.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lost_cursor_is_opened_again_right_after_the_last_event() {
    let source = ScriptedSource::new([
        cursor_that_fails(
            vec![quiet("t0", 0), batch(&[insert("a", 1)])],
            Failure::Transient,
        ),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(5).await;
    assert_eq!(
        seen,
        [
            Seen::Stage(Stage::Live),
            event_named("a"),
            Seen::Stage(Stage::Reconnecting),
            event_named("b"),
            Seen::Stage(Stage::Live),
        ]
    );
    assert_eq!(source.requested_positions(), [None, Some(after("a", 1))]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_opened_again_at_its_newest_position() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t0", 0), quiet("t1", 5)], Failure::Transient),
        cursor(vec![quiet("t2", 6)]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    client.see(3).await;
    let position = Position::HighWater {
        token: token("t1"),
        time: at(5),
    };
    assert_eq!(source.requested_positions(), [None, Some(position)]);
}

/// Attempts are spaced out, and their number is bounded by the grace period.
#[tokio::test(start_paused = true)]
async fn an_outage_ends_the_watch_after_the_grace_period() {
    let source = ScriptedSource::new([cursor_that_fails(vec![quiet("t0", 0)], Failure::Transient)]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let lost = Instant::now();
    let seen = client.see(9).await;
    assert_eq!(
        seen,
        [
            Seen::Stage(Stage::Live),
            Seen::Stage(Stage::Reconnecting),
            Seen::Ended("UPSTREAM_UNAVAILABLE"),
        ]
    );
    assert!(lost.elapsed() >= GRACE && lost.elapsed() < GRACE + Duration::from_secs(1));
    let attempts = source.requested_positions().len();
    assert!(
        (10..40).contains(&attempts),
        "{attempts} attempts in {GRACE:?}"
    );
}

/// A server that opens streams and fails every read of them must not be retried in a tight loop, or
/// forever.
#[tokio::test(start_paused = true)]
async fn a_stream_that_opens_but_fails_every_read_ends_after_the_grace_period() {
    let failing = || cursor_that_fails(vec![quiet("t", 0)], Failure::Transient);
    let source = ScriptedSource::new(std::iter::repeat_with(failing).take(500));
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let lost = Instant::now();
    let seen = client.see(500).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("UPSTREAM_UNAVAILABLE")));
    assert!(lost.elapsed() >= GRACE);
    assert!(
        source.requested_positions().len() < 40,
        "{} attempts",
        source.requested_positions().len()
    );
}

/// The filter no longer passes the token's event, so MongoDB does not find the token.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_found_again_is_resumed_by_its_time() {
    let source = ScriptedSource::new([
        cursor_that_fails(
            vec![batch(&[insert("a", 1), insert("b", 2)])],
            Failure::TokenNotFound,
        ),
        cursor(vec![batch(&[insert("b", 2), insert("c", 3)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(4).await;
    assert_eq!(
        seen,
        [
            event_named("a"),
            event_named("b"),
            Seen::Stage(Stage::Live),
            event_named("c")
        ]
    );
    assert_eq!(
        source.requested_positions(),
        [None, Some(Position::Time(at(2)))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_lost_by_token_and_by_time_ends_the_watch_at_once() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::TokenNotFound),
        Opening::Fail(Failure::TokenNotFound),
        Opening::Fail(Failure::HistoryLost),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(9).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("RESUME_TOKEN_EXPIRED")));
    assert_eq!(
        source.requested_positions().len(),
        3,
        "one attempt by time and a look for the history, never a loop"
    );
}

#[tokio::test(start_paused = true)]
async fn lost_history_ends_the_watch_without_another_attempt() {
    let source = ScriptedSource::new([cursor_that_fails(
        vec![batch(&[insert("a", 1)])],
        Failure::HistoryLost,
    )]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    assert_eq!(
        client.see(9).await.last(),
        Some(&Seen::Ended("RESUME_TOKEN_EXPIRED"))
    );
    assert_eq!(source.requested_positions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn permanent_failures_end_the_watch_with_their_own_reason() {
    for (failure, reason) in [
        (Failure::AccessDenied, "UPSTREAM_ACCESS_DENIED"),
        (Failure::Unsupported, "CHANGE_STREAMS_UNSUPPORTED"),
        (Failure::ShardRemoved, "SHARD_REMOVED"),
        (Failure::Refused, "UPSTREAM_REFUSED"),
        (Failure::Unexpected, "INTERNAL"),
    ] {
        let source = ScriptedSource::new([cursor_that_fails(vec![quiet("t", 0)], failure)]);
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(request())).await;
        assert_eq!(client.see(9).await.last(), Some(&Seen::Ended(reason)));
        assert_eq!(source.requested_positions().len(), 1, "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_to_open_is_reported_to_the_client_at_once() {
    let source = ScriptedSource::new([Opening::Fail(Failure::Transient)]);
    let error = hub(&source).subscribe(&watch(request())).await.unwrap_err();
    assert_eq!(error.reason(), "UPSTREAM_UNAVAILABLE");
    assert_eq!(source.requested_positions().len(), 1);
}

/// Some servers close the cursor of a dropped collection without an `invalidate`.
#[tokio::test(start_paused = true)]
async fn a_cursor_that_is_closed_without_an_error_is_opened_again() {
    let closed = Batch {
        closed: true,
        ..batch(&[insert("a", 1)])
    };
    let source =
        ScriptedSource::new([cursor(vec![closed]), cursor(vec![batch(&[insert("b", 2)])])]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(4).await;
    assert!(seen.contains(&event_named("b")), "{seen:?}");
    assert_eq!(source.requested_positions(), [None, Some(after("a", 1))]);
}

fn dropped() -> Batch {
    let drop = event("drop", "drop", 8, doc! {});
    let mut invalidate = event("gone", "invalidate", 8, doc! {});
    invalidate.remove("ns");
    Batch {
        closed: true,
        ..batch(&[drop, invalidate])
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_names_its_cause_even_if_the_watch_did_not_ask_for_that_operation() {
    let source = ScriptedSource::new([cursor(vec![dropped()])]);
    let inserts_only = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert.into()],
        ..request()
    };
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(inserts_only)).await;
    assert_eq!(
        client.see(9).await,
        [
            Seen::Invalidated(Some(Operation::Drop)),
            Seen::Ended("WATCH_INVALIDATED"),
        ]
    );
}

/// MongoDB rejects `resumeAfter` with the token of an `invalidate`.
#[tokio::test(start_paused = true)]
async fn a_watch_that_continues_starts_after_the_invalidate() {
    let source = ScriptedSource::new([
        cursor(vec![dropped()]),
        cursor(vec![batch(&[insert("new", 9)])]),
    ]);
    let continue_request = pb::WatchRequest {
        invalidate_policy: pb::InvalidatePolicy::Continue.into(),
        ..request()
    };
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(continue_request)).await;
    assert_eq!(
        client.see(4).await,
        [
            event_named("drop"),
            Seen::Invalidated(Some(Operation::Drop)),
            Seen::Stage(Stage::Live),
            event_named("new"),
        ]
    );
    let position = Position::Invalidate {
        token: token("gone"),
        time: at(8),
    };
    assert_eq!(source.requested_positions(), [None, Some(position)]);
}

/// A resume by the time of an `invalidate` would return the same `invalidate` again.
#[tokio::test(start_paused = true)]
async fn an_invalidate_that_is_not_found_again_ends_the_watch_at_once() {
    let source = ScriptedSource::new([
        cursor(vec![dropped()]),
        Opening::Fail(Failure::TokenNotFound),
        Opening::Fail(Failure::HistoryLost),
    ]);
    let continue_request = pb::WatchRequest {
        invalidate_policy: pb::InvalidatePolicy::Continue.into(),
        ..request()
    };
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(continue_request)).await;
    let seen = client.see(9).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("RESUME_TOKEN_EXPIRED")));
    // The last one looks for the history.
    assert_eq!(source.requested_positions().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_with_its_collection_does_not_end_the_feed_for_others() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t", 0), dropped()]),
        cursor(vec![batch(&[insert("new", 9)])]),
    ]);
    let hub = hub(&source);
    let continue_request = pb::WatchRequest {
        invalidate_policy: pb::InvalidatePolicy::Continue.into(),
        ..request()
    };
    let mut ends = Client::open(&hub, &watch(request())).await;
    let mut continuing = Client::open(&hub, &watch(continue_request)).await;
    let gone = Seen::Invalidated(Some(Operation::Drop));
    let seen = ends.see(9).await;
    assert_eq!(
        seen[seen.len() - 2..],
        [gone, Seen::Ended("WATCH_INVALIDATED")]
    );
    assert_eq!(continuing.see(4).await.last(), Some(&event_named("new")));
}

#[tokio::test(start_paused = true)]
async fn a_lone_watch_that_does_not_read_pauses_its_feed_and_loses_nothing() {
    let batches = (1..=8)
        .map(|n| batch(&[big(&format!("e{n}"), n)]))
        .collect();
    let source = ScriptedSource::new([cursor(batches)]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    // The clock is paused, so this returns once nothing else can run.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bytes = metric(&hub, "weir_ring_bytes");
    assert!(bytes > 1e6 && bytes < 3e6, "{bytes} bytes held");
    let seen = client.see(9).await;
    let events = seen.iter().filter(|it| matches!(it, Seen::Event(_)));
    assert_eq!(events.count(), 8, "and nothing is lost: {seen:?}");
    assert_eq!(metric(&hub, "weir_watches_fell_behind_total"), 0.0);
}

/// A stream that is opened by time and loses its position again is not reopened forever.
#[tokio::test(start_paused = true)]
async fn a_position_that_is_lost_again_after_a_resume_by_time_ends_the_watch() {
    let lost = || cursor_that_fails(Vec::new(), Failure::TokenNotFound);
    let source = ScriptedSource::new(
        [cursor_that_fails(
            vec![batch(&[insert("a", 1)])],
            Failure::TokenNotFound,
        )]
        .into_iter()
        .chain(
            std::iter::repeat_with(|| {
                cursor_that_fails(vec![quiet("t", 0)], Failure::TokenNotFound)
            })
            .take(1),
        )
        .chain(std::iter::repeat_with(lost).take(50)),
    );
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(9).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("RESUME_TOKEN_EXPIRED")));
    let attempts = source.requested_positions().len();
    assert!(attempts < 6, "{attempts} attempts");
}

/// The denial of an opening with a token may be the token's alone. That of an open stream is not, and neither
/// is one without a token.
#[tokio::test(start_paused = true)]
async fn a_denied_token_gets_one_attempt_by_time() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::Transient),
        Opening::Fail(Failure::AccessDenied),
        cursor(vec![batch(&[insert("a", 1), insert("b", 2)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(5).await;
    assert!(seen.contains(&event_named("b")), "{seen:?}");
    let by_time = Some(Position::Time(at(1)));
    assert_eq!(
        source.requested_positions(),
        [None, Some(after("a", 1)), by_time.clone()]
    );

    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::Transient),
        Opening::Fail(Failure::AccessDenied),
        Opening::Fail(Failure::AccessDenied),
    ]);
    let hub = super::hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(9).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("UPSTREAM_ACCESS_DENIED")));
    assert_eq!(source.requested_positions().last(), Some(&by_time));
}

/// An overload passes, and is the reason of the end if it does not.
#[tokio::test(start_paused = true)]
async fn an_overload_is_waited_for_as_long_as_an_outage() {
    let overloaded = |count| (0..count).map(|_| Opening::Fail(Failure::Overloaded));
    let lost = || cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::Overloaded);
    let back = cursor(vec![batch(&[insert("b", 2)])]);
    let openings = [lost()].into_iter().chain(overloaded(5)).chain([back]);
    let source = ScriptedSource::new(openings);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(5).await;
    assert!(seen.contains(&event_named("b")), "{seen:?}");

    let source = ScriptedSource::new([lost()].into_iter().chain(overloaded(500)));
    let hub = super::hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(9).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("UPSTREAM_OVERLOADED")));
}

/// A temporary failure says nothing about the position, so the stream is opened by time again.
#[tokio::test(start_paused = true)]
async fn a_position_that_was_resumed_by_time_is_so_again_after_a_temporary_failure() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::TokenNotFound),
        cursor_that_fails(vec![batch(&[])], Failure::Transient),
        cursor(vec![batch(&[insert("a", 1), insert("b", 2)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(5).await;
    assert!(seen.contains(&event_named("b")), "{seen:?}");
    let by_time = Some(Position::Time(at(1)));
    assert_eq!(
        source.requested_positions(),
        [None, by_time.clone(), by_time]
    );
}

/// The credentials were accepted before, so the failure may be temporary.
#[tokio::test(start_paused = true)]
async fn a_failed_login_is_retried_for_the_grace_period() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t0", 0)], Failure::Transient),
        Opening::Fail(Failure::LoginFailed),
        Opening::Fail(Failure::LoginFailed),
        cursor(vec![batch(&[insert("a", 1)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(4).await;
    assert!(seen.contains(&event_named("a")), "{seen:?}");

    let refused = (0..500).map(|_| Opening::Fail(Failure::LoginFailed));
    let lost = cursor_that_fails(vec![quiet("t0", 0)], Failure::Transient);
    let source = ScriptedSource::new(std::iter::once(lost).chain(refused));
    let hub = hub_with(&source, settings());
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = client.see(9).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("UPSTREAM_UNAVAILABLE")));
    assert!(
        source.requested_positions().len() < 40,
        "{} attempts",
        source.requested_positions().len()
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_login_at_the_start_is_reported_at_once() {
    let source = ScriptedSource::new([Opening::Fail(Failure::LoginFailed)]);
    let error = hub(&source).subscribe(&watch(request())).await.unwrap_err();
    assert_eq!(error.reason(), "UPSTREAM_ACCESS_DENIED");
}
