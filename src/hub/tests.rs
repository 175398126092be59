//! Feeds against a source that plays a script, on paused time.

use std::{sync::Arc, time::Duration};

use bson::doc;
use tokio::time::{Instant, timeout};

use super::*;
use crate::{
    plan::Operation,
    source::{
        Batch, Failure,
        script::{Opening, ScriptedSource, Step, after, at, batch, event, insert, quiet, token},
    },
};

const GRACE: Duration = Duration::from_secs(60);

fn hub(source: &Arc<ScriptedSource>) -> Hub {
    let settings = HubSettings {
        max_feeds: 2,
        ring_bytes: 1 << 20,
        upstream_grace: GRACE,
        deployment_name: Some("rs".to_owned()),
    };
    let source: Arc<dyn Source> = Arc::<ScriptedSource>::clone(source);
    Hub::new(source, settings, Arc::new(Metrics::new()))
}

fn request() -> crate::pb::WatchRequest {
    crate::pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        ..Default::default()
    }
}

fn watch(request: crate::pb::WatchRequest) -> Watch {
    let limits = crate::config::ServeConfig::for_uri("mongodb://x").request_limits();
    Watch::from_request(request, &limits).unwrap()
}

fn cursor(batches: Vec<Batch>) -> Opening {
    Opening::Cursor(batches.into_iter().map(Step::Batch).collect())
}

fn cursor_that_fails(batches: Vec<Batch>, failure: Failure) -> Opening {
    let steps = batches.into_iter().map(Step::Batch);
    Opening::Cursor(steps.chain([Step::Fail(failure)]).collect())
}

/// What a reader was given, in short: events by name, stages, an invalidation, the end.
#[derive(Debug, PartialEq)]
enum Seen {
    Event(String),
    Stage(Stage),
    Invalidated(Option<Operation>),
    Ended(&'static str),
}

fn event_named(name: &str) -> Seen {
    Seen::Event(name.to_owned())
}

/// Reads until `count` things were seen, or the feed has ended.
async fn see(reader: &Reader, count: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match reader.read() {
            Read::Entry(Entry::Events(segment)) => {
                for event in segment.events() {
                    let token = &segment.buffer()[event.token.clone()];
                    let token = bson::Document::from_reader(token).unwrap();
                    seen.push(event_named(token.get_str("_data").unwrap()));
                }
            }
            Read::Entry(Entry::Stage(stage, _)) => seen.push(Seen::Stage(stage)),
            Read::Entry(Entry::Invalidated(it)) => seen.push(Seen::Invalidated(it.cause)),
            Read::Ended(error) => {
                seen.push(Seen::Ended(error.reason()));
                break;
            }
            Read::Nothing(_) => timeout(Duration::from_secs(3600), reader.readable())
                .await
                .unwrap_or_else(|_| panic!("nothing follows {seen:?}")),
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_lost_cursor_is_opened_again_right_after_the_last_event() {
    let source = ScriptedSource::new([
        cursor_that_fails(
            vec![quiet("t0", 0), batch(&[insert("a", 1)])],
            Failure::Transient,
        ),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
    let seen = see(&reader, 5).await;
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
    assert_eq!(source.asked(), [None, Some(after("a", 1))]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_opened_again_at_its_newest_place() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t0", 0), quiet("t1", 5)], Failure::Transient),
        cursor(vec![quiet("t2", 6)]),
    ]);
    let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
    see(&reader, 3).await;
    let place = Position::HighWater {
        token: token("t1"),
        time: at(5),
    };
    assert_eq!(source.asked(), [None, Some(place)]);
}

/// T29: attempts are spaced out, and their number is bounded by the grace period.
#[tokio::test(start_paused = true)]
async fn a_database_that_stays_away_ends_the_watch_after_the_grace_period() {
    let source = ScriptedSource::new([cursor_that_fails(vec![quiet("t0", 0)], Failure::Transient)]);
    let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
    let lost = Instant::now();
    let seen = see(&reader, 9).await;
    assert_eq!(
        seen,
        [
            Seen::Stage(Stage::Live),
            Seen::Stage(Stage::Reconnecting),
            Seen::Ended("UPSTREAM_UNAVAILABLE"),
        ]
    );
    assert!(lost.elapsed() >= GRACE && lost.elapsed() < GRACE + Duration::from_secs(1));
    let attempts = source.asked().len();
    assert!(
        (10..40).contains(&attempts),
        "{attempts} attempts in {GRACE:?}"
    );
}

/// A server that opens streams and fails every read of them must not be tried in a tight loop, nor
/// for ever.
#[tokio::test(start_paused = true)]
async fn a_stream_that_opens_but_never_reads_ends_too() {
    let failing = || cursor_that_fails(vec![quiet("t", 0)], Failure::Transient);
    let source = ScriptedSource::new(std::iter::repeat_with(failing).take(500));
    let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
    let lost = Instant::now();
    let seen = see(&reader, 500).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("UPSTREAM_UNAVAILABLE")));
    assert!(lost.elapsed() >= GRACE);
    assert!(
        source.asked().len() < 40,
        "{} attempts",
        source.asked().len()
    );
}

/// T4, T5: the filter no longer passes the token's event, so MongoDB does not find the token.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_found_again_is_replaced_by_its_time() {
    let source = ScriptedSource::new([
        cursor_that_fails(
            vec![batch(&[insert("a", 1), insert("b", 2)])],
            Failure::TokenNotFound,
        ),
        cursor(vec![batch(&[insert("b", 2), insert("c", 3)])]),
    ]);
    let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
    let seen = see(&reader, 4).await;
    assert_eq!(
        seen,
        [
            event_named("a"),
            event_named("b"),
            Seen::Stage(Stage::Live),
            event_named("c")
        ]
    );
    assert_eq!(source.asked(), [None, Some(Position::Time(at(2)))]);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_lost_by_token_and_by_time_ends_the_watch_at_once() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::TokenNotFound),
        Opening::Fail(Failure::TokenNotFound),
    ]);
    let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
    let seen = see(&reader, 9).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("RESUME_TOKEN_EXPIRED")));
    assert_eq!(source.asked().len(), 2, "one attempt by time, never a loop");
}

/// T2: history that is gone is said once.
#[tokio::test(start_paused = true)]
async fn lost_history_ends_the_watch_without_another_attempt() {
    let source = ScriptedSource::new([cursor_that_fails(
        vec![batch(&[insert("a", 1)])],
        Failure::HistoryLost,
    )]);
    let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
    assert_eq!(
        see(&reader, 9).await.last(),
        Some(&Seen::Ended("RESUME_TOKEN_EXPIRED"))
    );
    assert_eq!(source.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_that_nothing_mends_end_the_watch_with_their_own_reason() {
    for (failure, reason) in [
        (Failure::ImageMissing, "IMAGE_UNAVAILABLE"),
        (Failure::EventTooLarge, "UPSTREAM_EVENT_TOO_LARGE"),
        (Failure::AccessDenied, "UPSTREAM_ACCESS_DENIED"),
        (Failure::Unsupported, "CHANGE_STREAMS_UNSUPPORTED"),
        (Failure::Broken, "INTERNAL"),
    ] {
        let source = ScriptedSource::new([cursor_that_fails(vec![quiet("t", 0)], failure)]);
        let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
        assert_eq!(see(&reader, 9).await.last(), Some(&Seen::Ended(reason)));
        assert_eq!(source.asked().len(), 1, "{failure:?}");
    }
}

/// T28: an opening that fails is not tried again.
#[tokio::test(start_paused = true)]
async fn an_opening_that_fails_is_told_to_the_client_at_once() {
    let source = ScriptedSource::new([Opening::Fail(Failure::Transient)]);
    let error = hub(&source).subscribe(&watch(request())).await.unwrap_err();
    assert_eq!(error.reason(), "UPSTREAM_UNAVAILABLE");
    assert_eq!(source.asked().len(), 1);
}

/// T14: some servers close the cursor of a dropped collection without an `invalidate`.
#[tokio::test(start_paused = true)]
async fn a_cursor_that_is_closed_without_a_word_is_opened_again() {
    let closed = Batch {
        closed: true,
        ..batch(&[insert("a", 1)])
    };
    let source =
        ScriptedSource::new([cursor(vec![closed]), cursor(vec![batch(&[insert("b", 2)])])]);
    let reader = hub(&source).subscribe(&watch(request())).await.unwrap();
    let seen = see(&reader, 4).await;
    assert!(seen.contains(&event_named("b")), "{seen:?}");
    assert_eq!(source.asked(), [None, Some(after("a", 1))]);
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
async fn an_invalidation_is_told_with_its_cause_even_when_the_cause_was_not_asked_for() {
    let source = ScriptedSource::new([cursor(vec![dropped()])]);
    let inserts_only = crate::pb::WatchRequest {
        operations: vec![crate::pb::OperationType::Insert.into()],
        ..request()
    };
    let reader = hub(&source).subscribe(&watch(inserts_only)).await.unwrap();
    assert_eq!(
        see(&reader, 9).await,
        [
            Seen::Stage(Stage::Live),
            Seen::Invalidated(Some(Operation::Drop)),
            Seen::Ended("WATCH_INVALIDATED"),
        ]
    );
}

/// T7: MongoDB refuses `resumeAfter` with the token of an invalidate.
#[tokio::test(start_paused = true)]
async fn a_watch_that_continues_starts_after_the_invalidate() {
    let source = ScriptedSource::new([
        cursor(vec![dropped()]),
        cursor(vec![batch(&[insert("new", 9)])]),
    ]);
    let on = crate::pb::WatchRequest {
        invalidate_policy: crate::pb::InvalidatePolicy::Continue.into(),
        ..request()
    };
    let reader = hub(&source).subscribe(&watch(on)).await.unwrap();
    assert_eq!(
        see(&reader, 4).await,
        [
            event_named("drop"),
            Seen::Stage(Stage::Live),
            Seen::Invalidated(Some(Operation::Drop)),
            event_named("new"),
        ]
    );
    let place = Position::Invalidate {
        token: token("gone"),
        time: at(8),
    };
    assert_eq!(source.asked(), [None, Some(place)]);
}

/// Going on by the time of an invalidate would meet the same invalidate again.
#[tokio::test(start_paused = true)]
async fn an_invalidate_that_is_not_found_again_ends_the_watch_at_once() {
    let source = ScriptedSource::new([
        cursor(vec![dropped()]),
        Opening::Fail(Failure::TokenNotFound),
    ]);
    let on = crate::pb::WatchRequest {
        invalidate_policy: crate::pb::InvalidatePolicy::Continue.into(),
        ..request()
    };
    let reader = hub(&source).subscribe(&watch(on)).await.unwrap();
    let seen = see(&reader, 9).await;
    assert_eq!(seen.last(), Some(&Seen::Ended("RESUME_TOKEN_EXPIRED")));
    assert_eq!(source.asked().len(), 2);
}

/// T3: an event's token is not tried with another pipeline; a progress token is.
#[tokio::test(start_paused = true)]
async fn a_token_of_another_filter_starts_at_its_time_unless_it_stands_for_no_event() {
    let other = crate::pb::WatchRequest {
        operations: vec![crate::pb::OperationType::Insert.into()],
        ..request()
    };
    let made_by = Stamp::new("rs", &Plan::dedicated(&watch(request())));
    let high_water = Position::HighWater {
        token: token("t"),
        time: at(3),
    };
    for (place, asked) in [
        (after("a", 3), Position::Time(at(3))),
        (high_water.clone(), high_water),
    ] {
        let source = ScriptedSource::new([cursor(vec![quiet("q", 9)])]);
        let resumed = crate::pb::WatchRequest {
            start: Some(crate::pb::watch_request::Start::ResumeToken(
                made_by.seal(&place),
            )),
            ..other.clone()
        };
        let reader = hub(&source).subscribe(&watch(resumed)).await.unwrap();
        assert_eq!(source.asked(), [Some(asked)]);
        assert_eq!(
            reader.start_token,
            made_by.seal(&place),
            "the client's own token stands"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_before_the_oldest_oplog_entry_is_refused_without_opening() {
    let source = Arc::new(ScriptedSource {
        oldest: Some(at(5)),
        ..ScriptedSource::default()
    });
    let started = crate::pb::WatchRequest {
        start: Some(crate::pb::watch_request::Start::StartTime(
            prost_types::Timestamp {
                seconds: 99,
                nanos: 0,
            },
        )),
        ..request()
    };
    let error = hub(&source).subscribe(&watch(started)).await.unwrap_err();
    assert_eq!(error.reason(), "RESUME_TOKEN_EXPIRED");
    assert!(source.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_holds_up_its_own_feed_only() {
    let big = |name: &str, increment| {
        let padding = "x".repeat(700 << 10);
        event(
            name,
            "insert",
            increment,
            doc! { "fullDocument": { "padding": padding } },
        )
    };
    let batches = (1..=8)
        .map(|n| batch(&[big(&format!("e{n}"), n)]))
        .collect();
    let source = ScriptedSource::new([cursor(batches)]);
    let hub = hub(&source);
    let reader = hub.subscribe(&watch(request())).await.unwrap();
    // The clock is paused, so this returns once nothing else can run.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let page = hub.metrics.render(&[]);
    let held = page
        .lines()
        .find_map(|line| line.strip_prefix("weir_ring_bytes "));
    let held: f64 = held.unwrap().parse().unwrap();
    assert!(held > 1e6 && held < 3e6, "{held} bytes held");
    let seen = see(&reader, 9).await;
    let events: Vec<&Seen> = seen
        .iter()
        .filter(|it| matches!(it, Seen::Event(_)))
        .collect();
    assert_eq!(events.len(), 8, "and nothing is lost: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_gives_its_place_back() {
    let source = ScriptedSource::new((0..4).map(|_| cursor(vec![quiet("t", 0)])));
    let hub = hub(&source);
    let first = hub.subscribe(&watch(request())).await.unwrap();
    let _second = hub.subscribe(&watch(request())).await.unwrap();
    let refused = hub.subscribe(&watch(request())).await.unwrap_err();
    assert_eq!(refused.reason(), "WATCH_LIMIT_EXCEEDED");
    drop(first);
    let _third = hub.subscribe(&watch(request())).await.unwrap();
    drop((_second, _third));
    hub.close().await;
    assert!(hub.lags().is_empty());
}
