//! Tests of watches that resume from a token: in the ring, or through a catch-up.

use super::*;
use crate::{pipeline::Plan, source::Anchor, wire::TokenContext};

fn token_context(of: &Watch) -> TokenContext {
    TokenContext::new("rs", &Plan::dedicated(of))
}

fn inserts_only() -> pb::WatchRequest {
    pb::WatchRequest {
        operations: vec![pb::OperationType::Insert.into()],
        ..request()
    }
}

fn high_water(name: &str, increment: u32) -> Position {
    Position::HighWater {
        token: token(name),
        time: at(increment),
    }
}

fn events(seen: Vec<Seen>) -> Vec<Seen> {
    seen.into_iter()
        .filter(|it| matches!(it, Seen::Event(_)))
        .collect()
}

fn named(names: &[&str]) -> Vec<Seen> {
    names.iter().map(|name| event_named(name)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_token_in_the_ring_joins_the_ring_without_a_catch_up() {
    let source = ScriptedSource::new([cursor(vec![
        quiet("t0", 0),
        batch(&[insert("a", 1), insert("b", 2), insert("c", 3)]),
    ])]);
    let hub = hub(&source);
    let mut first = Client::open(&hub, &watch(request())).await;
    assert_eq!(events(first.see_all().await), named(&["a", "b", "c"]));
    let token_context = token_context(&watch(request()));
    for (name, increment, rest) in [("a", 1, &["b", "c"][..]), ("b", 2, &["c"]), ("c", 3, &[])] {
        let token = token_context.encode(&after(name, increment), None, None);
        let mut back = Client::open(&hub, &resumed(request(), token)).await;
        assert_eq!(events(back.see_all().await), named(rest), "after {name}");
    }
    assert_eq!(
        source.requested_positions(),
        [None],
        "no catch-up stream was opened"
    );
}

/// A position between two events is identified by the event before it, whichever replica made the token.
#[tokio::test(start_paused = true)]
async fn a_progress_token_joins_after_its_anchor_event() {
    let source = ScriptedSource::new([cursor(vec![
        quiet("t0", 0),
        batch(&[insert("a", 1)]),
        batch(&[insert("b", 5)]),
    ])]);
    let hub = hub(&source);
    let mut first = Client::open(&hub, &watch(request())).await;
    assert_eq!(events(first.see_all().await), named(&["a", "b"]));
    let anchor = Anchor::new(&token("a"), at(1));
    let between = token_context(&watch(request())).encode(
        &high_water("another replica's", 3),
        Some(&anchor),
        None,
    );
    let mut back = Client::open(&hub, &resumed(request(), between)).await;
    assert_eq!(events(back.see_all().await), named(&["b"]));
    assert_eq!(source.requested_positions(), [None]);
}

/// It resumes from the token's position, never silently from now.
#[tokio::test(start_paused = true)]
async fn an_older_token_catches_up_and_joins_at_the_same_event() {
    let source = ScriptedSource::new([
        cursor(vec![
            quiet("t0", 2),
            batch(&[insert("c", 3)]),
            batch(&[insert("d", 4), insert("e", 5)]),
        ]),
        cursor(vec![
            batch(&[insert("b", 2)]),
            batch(&[insert("c", 3), insert("d", 4)]),
        ]),
    ]);
    let hub = hub(&source);
    let token = token_context(&watch(request())).encode(&after("a", 1), None, None);
    let mut back = Client::open(&hub, &resumed(request(), token)).await;
    assert_eq!(events(back.see_all().await), named(&["b", "c", "d", "e"]));
    assert_eq!(source.requested_positions(), [None, Some(after("a", 1))]);
    settle().await;
    assert_eq!(
        metric(&hub, "weir_catch_ups"),
        0.0,
        "the catch-up has ended"
    );
}

/// A token of another plan resumes exactly, on the stream that contains every event.
#[tokio::test(start_paused = true)]
async fn a_token_of_another_filter_resumes_right_after_its_event() {
    let update = event("u", "update", 3, doc! { "documentKey": { "_id": 1 } });
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 3), batch(&[insert("c", 4)])]),
        cursor(vec![batch(&[insert("b", 2), update, insert("c", 4)])]),
    ]);
    let hub = hub(&source);
    let token = token_context(&watch(request())).encode(&after("a", 1), None, None);
    let mut back = Client::open(&hub, &resumed(inserts_only(), token.clone())).await;
    assert_eq!(back.watcher.mode(), Mode::Dedicated);
    assert_eq!(
        back.watcher.start_position().token,
        token,
        "the client's own"
    );
    assert!(!back.watcher.start_position().opened_by_time);
    assert_eq!(events(back.see_all().await), named(&["b", "c"]));
    assert_eq!(
        source.requested_positions(),
        [None, Some(after("a", 1))],
        "never by time"
    );
    settle().await;
    assert_eq!(metric(&hub, "weir_catch_ups"), 0.0);
}

/// If even the shared stream does not find the token, its time is the last resort.
#[tokio::test(start_paused = true)]
async fn a_token_that_no_stream_finds_is_resumed_by_its_time() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 3)]),
        Opening::Fail(Failure::TokenNotFound),
        cursor(vec![batch(&[insert("a", 1), insert("b", 2)])]),
    ]);
    let hub = hub(&source);
    let token = token_context(&watch(request())).encode(&after("a", 1), None, None);
    let mut back = Client::open(&hub, &resumed(request(), token)).await;
    assert!(back.watcher.start_position().opened_by_time);
    assert_eq!(events(back.see_all().await), named(&["b"]));
    let requested = [None, Some(after("a", 1)), Some(Position::Time(at(1)))];
    assert_eq!(source.requested_positions(), requested);
}

/// On a quiet collection no event comes at which the catch-up could join.
#[tokio::test(start_paused = true)]
async fn a_catch_up_of_a_quiet_collection_joins_once_mongodb_confirms_that_nothing_is_left() {
    let source = Arc::new(ScriptedSource {
        has_no_events: true,
        ..ScriptedSource::of([cursor(vec![quiet("t0", 9)]), cursor(vec![quiet("t1", 9)])])
    });
    let hub = hub(&source);
    let token = token_context(&watch(request())).encode(&after("a", 1), None, None);
    let mut back = Client::open(&hub, &resumed(request(), token.clone())).await;
    assert_eq!(back.see_all().await, [Seen::Stage(Stage::Live)]);
    settle().await;
    assert_eq!(metric(&hub, "weir_catch_ups"), 0.0);
    // The ring knows its history now: other watches with that token need no catch-up.
    let mut another = Client::open(&hub, &resumed(request(), token)).await;
    assert_eq!(another.see_all().await, [Seen::Stage(Stage::Live)]);
    assert_eq!(source.requested_positions(), [None, Some(after("a", 1))]);
}

#[tokio::test(start_paused = true)]
async fn catch_ups_beyond_the_limit_wait_and_are_served_in_order() {
    let catch_up = || cursor(vec![batch(&[insert("b", 2)])]);
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 2)]),
        catch_up(),
        catch_up(),
        catch_up(),
    ]);
    let hub = hub(&source);
    let token = token_context(&watch(request())).encode(&after("a", 1), None, None);
    let wanted = resumed(request(), token);
    let mut one = Client::open(&hub, &wanted).await;
    let mut two = Client::open(&hub, &wanted).await;
    assert_eq!(events(one.see(1).await), named(&["b"]));
    assert_eq!(events(two.see(1).await), named(&["b"]));
    let mut three = Client::open(&hub, &wanted).await;
    assert_eq!(three.see_all().await, [Seen::Stage(Stage::CatchingUp)]);
    assert_eq!(metric(&hub, "weir_catch_ups"), 2.0);
    drop(one);
    assert_eq!(events(three.see_all().await), named(&["b"]));
}

/// Otherwise catch-ups that alternate on a quiet collection would read the same unmatched events forever.
#[tokio::test(start_paused = true)]
async fn a_catch_up_that_gave_up_resumes_from_the_position_it_reached() {
    let passing = || cursor(vec![quiet("q1", 5), quiet("q2", 6)]);
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 50)]),
        passing(),
        passing(),
        cursor(vec![batch(&[insert("b", 7)])]),
    ]);
    let hub = hub_with(
        &source,
        HubSettings {
            max_catch_ups: 1,
            ..settings()
        },
    );
    let token = token_context(&watch(request())).encode(&after("a", 1), None, None);
    let wanted = resumed(request(), token);
    let mut one = Client::open(&hub, &wanted).await;
    let two = Client::open(&hub, &wanted).await;
    one.see_all().await;
    drop(two);
    let seen = one.see_all().await;
    let further = Position::HighWater {
        token: super::token("q2"),
        time: at(6),
    };
    let requested = source.requested_positions();
    assert_eq!(requested[1..3], [Some(after("a", 1)), Some(after("a", 1))]);
    assert_eq!(requested[3], Some(further));
    assert_eq!(events(seen), named(&["b"]));
}

/// A watch that fell behind holds nothing but its token.
#[tokio::test(start_paused = true)]
async fn a_catch_up_whose_client_does_not_read_returns_its_permit_and_starts_over() {
    let bigs = || {
        (2..=12)
            .map(|n| batch(&[big(&format!("e{n}"), n)]))
            .collect()
    };
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 12)]),
        cursor(bigs()),
        cursor(bigs()),
    ]);
    let hub = hub(&source);
    let token = token_context(&watch(request())).encode(&after("a", 1), None, None);
    let mut back = Client::open(&hub, &resumed(request(), token)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    settle().await;
    assert_eq!(metric(&hub, "weir_catch_ups"), 0.0);
    assert_eq!(hub.scraped_gauges().memory_used_bytes, 0);
    let seen = back.see(12).await;
    assert_eq!(seen[0], Seen::Stage(Stage::CatchingUp));
    let names: Vec<String> = (2..=12).map(|n| format!("e{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(events(seen), named(&names));
}

#[tokio::test(start_paused = true)]
async fn a_slow_watch_falls_behind_catches_up_and_rejoins_while_another_reads_on() {
    let names: Vec<String> = (1..=9).map(|n| format!("e{n}")).collect();
    let bigs = |from: u32| -> Vec<Batch> {
        (from..=9)
            .map(|n| batch(&[big(&format!("e{n}"), n)]))
            .collect()
    };
    let source = ScriptedSource::new([
        cursor([vec![quiet("t0", 0)], bigs(1)].concat()),
        cursor(bigs(1)),
    ]);
    let hub = hub(&source);
    let (mut fast, mut slow) = two_clients(&hub).await;
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(events(fast.see(10).await), named(&all));
    assert_eq!(events(slow.see(11).await), named(&all));
    assert_eq!(metric(&hub, "weir_watches_fell_behind_total"), 1.0);
    settle().await;
    assert_eq!(metric(&hub, "weir_catch_ups"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_start_time_before_the_oldest_oplog_entry_is_rejected_without_opening_a_stream() {
    let source = Arc::new(ScriptedSource {
        oldest: Some(at(5)),
        ..ScriptedSource::of([cursor(vec![quiet("t0", 9)])])
    });
    let started = pb::WatchRequest {
        start: Some(pb::watch_request::Start::StartTime(
            prost_types::Timestamp {
                seconds: 99,
                nanos: 0,
            },
        )),
        ..request()
    };
    let error = hub(&source).subscribe(&watch(started)).await.unwrap_err();
    assert_eq!(error.reason(), "RESUME_TOKEN_EXPIRED");
    assert_eq!(
        source.requested_positions(),
        [None],
        "the feed's own, from now"
    );
}

/// The watch has started, so it reports the outage and waits, like a live watch.
#[tokio::test(start_paused = true)]
async fn a_watch_that_waited_for_a_permit_survives_a_short_outage() {
    let catch_up = || cursor(vec![batch(&[insert("b", 2)])]);
    for failure in [Failure::Transient, Failure::LoginFailed] {
        let source = ScriptedSource::new([
            cursor(vec![quiet("t0", 2)]),
            catch_up(),
            // The second attempt is made at once, and the third after a delay.
            Opening::Fail(failure),
            Opening::Fail(failure),
            catch_up(),
        ]);
        let settings = HubSettings {
            max_catch_ups: 1,
            ..settings()
        };
        let hub = hub_with(&source, settings);
        let token = token_context(&watch(request())).encode(&after("a", 1), None, None);
        let wanted = resumed(request(), token);
        let first = Client::open(&hub, &wanted).await;
        let mut waits = Client::open(&hub, &wanted).await;
        assert_eq!(waits.see_all().await, [Seen::Stage(Stage::CatchingUp)]);
        drop(first);
        let seen = waits.see(2).await;
        let expected = [Seen::Stage(Stage::Reconnecting), event_named("b")];
        assert_eq!(seen, expected, "{failure:?}");
    }
}

/// A feed that waits for its only watch must not keep others from joining.
#[tokio::test(start_paused = true)]
async fn a_watch_that_does_not_read_does_not_keep_catch_ups_from_joining() {
    let bigs: Vec<_> = (1..=8).map(|n| big(&format!("e{n}"), n)).collect();
    let one_by_one = bigs.iter().cloned().map(|event| batch(&[event])).collect();
    let source = ScriptedSource::new([
        cursor([vec![quiet("t0", 0)], one_by_one].concat()),
        // In one reply, which reaches further than the feed.
        cursor([vec![batch(&bigs)], vec![quiet("t1", 9); 40]].concat()),
    ]);
    let hub = hub(&source);
    let _deaf = Client::open(&hub, &watch(request())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let token = token_context(&watch(request())).encode(&after("before", 0), None, None);
    let mut back = Client::open(&hub, &resumed(request(), token)).await;
    let names: Vec<String> = (1..=8).map(|n| format!("e{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut seen = back.see(8).await;
    seen.extend(back.see_all().await);
    assert_eq!(events(seen), named(&names));
    settle().await;
    assert_eq!(
        metric(&hub, "weir_catch_ups"),
        0.0,
        "the catch-up has ended"
    );
}
