//! Tests of how the stream that a token belongs to is found, and the event of a token without one.

use super::*;
use crate::{pipeline::Plan, source::Anchor, wire::TokenContext};

/// The name of an event whose token is replaced by its digest.
fn long(name: &str) -> String {
    name.repeat(4 << 10)
}

fn inserts_only() -> pb::WatchRequest {
    pb::WatchRequest {
        operations: vec![pb::OperationType::Insert.into()],
        ..request()
    }
}

fn token_of(position: &Position) -> bytes::Bytes {
    TokenContext::new("rs", &Plan::shared(&watch(request()))).encode(position, None, None)
}

fn update(name: &str, increment: u32) -> bson::Document {
    event(
        name,
        "update",
        increment,
        doc! { "documentKey": { "_id": name } },
    )
}

fn events(seen: Vec<Seen>) -> Vec<Seen> {
    seen.into_iter()
        .filter(|it| matches!(it, Seen::Event(_)))
        .collect()
}

fn named(names: &[&str]) -> Vec<Seen> {
    names.iter().map(|name| event_named(name)).collect()
}

fn plans(source: &ScriptedSource) -> Vec<Plan> {
    let plans = source.plans.lock().unwrap();
    plans.iter().map(|(plan, _)| plan.clone()).collect()
}

/// The reply that a mongos sends first: empty, and without having read anything.
fn nothing_yet() -> Batch {
    Batch {
        caught_up: false,
        waited: false,
        position: None,
        ..quiet("", 0)
    }
}

/// MongoDB looks for the token's event only among those that pass the filter.
#[tokio::test(start_paused = true)]
async fn a_token_that_the_own_stream_lacks_is_found_on_the_shared_stream() {
    let further = || Position::HighWater {
        token: token("q"),
        time: at(1),
    };
    for (first, resumed_at) in [
        (None, after("a", 1)),
        // A mongos finds out in a later reply.
        (Some(nothing_yet()), after("a", 1)),
        // Then the stream has passed everything up to where it is.
        (Some(quiet("q", 1)), further()),
    ] {
        let mut openings = vec![cursor(vec![quiet("t0", 3), batch(&[insert("c", 4)])])];
        match first.clone() {
            None => openings.push(Opening::Fail(Failure::TokenNotFound)),
            Some(first) => {
                openings.push(cursor_that_fails(vec![first], Failure::TokenNotFound));
                // The question whether the ring can be joined.
                openings.push(Opening::Fail(Failure::Unexpected));
            }
        }
        openings.push(cursor(vec![batch(&[
            insert("b", 2),
            update("u", 3),
            insert("c", 4),
        ])]));
        let source = ScriptedSource::new(openings);
        let hub = hub(&source);
        let wanted = resumed(inserts_only(), token_of(&after("a", 1)));
        let mut back = Client::open(&hub, &wanted).await;
        assert!(!back.watcher.start_position().opened_by_time);
        assert_eq!(events(back.see_all().await), named(&["b", "c"]));
        let requested = source.requested_positions();
        assert_eq!(requested[..2], [None, Some(after("a", 1))]);
        assert_eq!(requested.last(), Some(&Some(resumed_at)));
        assert_eq!(requested.len(), 3 + usize::from(first.is_some()));
        let dedicated = Plan::dedicated(&wanted);
        let plans = plans(&source);
        assert_eq!(plans[..2], [dedicated.clone(), dedicated]);
        assert_eq!(plans.last(), Some(&Plan::shared(&wanted)));
        settle().await;
        assert_eq!(metric(&hub, "weir_catch_ups"), 0.0, "it has joined");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_own_stream_contains_is_resumed_there() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 3), batch(&[insert("c", 4)])]),
        cursor(vec![batch(&[insert("b", 2), insert("c", 4)])]),
    ]);
    let hub = hub(&source);
    let wanted = resumed(inserts_only(), token_of(&after("a", 1)));
    let mut back = Client::open(&hub, &wanted).await;
    assert_eq!(events(back.see_all().await), named(&["b", "c"]));
    let dedicated = Plan::dedicated(&wanted);
    assert_eq!(plans(&source), [dedicated.clone(), dedicated]);
}

/// One attempt each, and never a loop.
#[tokio::test(start_paused = true)]
async fn a_token_that_no_stream_contains_is_resumed_by_its_time_on_the_shared_stream() {
    let at_once = || vec![Opening::Fail(Failure::TokenNotFound)];
    let later = || {
        vec![cursor_that_fails(
            vec![nothing_yet()],
            Failure::TokenNotFound,
        )]
    };
    let later_and_asked = || {
        let mut later = later();
        // The question whether the ring can be joined, which is asked once before the stream has caught up.
        later.push(Opening::Fail(Failure::Unexpected));
        later
    };
    for attempts in [[at_once(), at_once()], [later_and_asked(), later()]] {
        let replies = vec![batch(&[insert("z", 1), insert("a", 1), insert("b", 1)])];
        let mut openings = vec![cursor(vec![quiet("t0", 3)])];
        openings.extend(attempts.into_iter().flatten());
        openings.push(cursor(replies));
        let source = ScriptedSource::new(openings);
        let hub = hub(&source);
        let wanted = resumed(inserts_only(), token_of(&after("a", 1)));
        let mut back = Client::open(&hub, &wanted).await;
        assert_eq!(events(back.see_all().await), named(&["b"]));
        let requested = source.requested_positions();
        assert_eq!(requested[1], Some(after("a", 1)));
        assert_eq!(requested.last(), Some(&Some(Position::Time(at(1)))));
        assert_eq!(plans(&source).last(), Some(&Plan::shared(&wanted)));
    }
}

/// A filter on looked-up documents may pass an event once and not again.
#[tokio::test(start_paused = true)]
async fn a_stream_that_had_events_resumes_by_time_on_its_own_plan() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 9)]),
        cursor_that_fails(vec![batch(&[insert("b", 2)])], Failure::TokenNotFound),
        cursor(vec![batch(&[insert("b", 2), insert("c", 2)])]),
    ]);
    let hub = hub(&source);
    let wanted = resumed(inserts_only(), token_of(&after("a", 1)));
    let mut back = Client::open(&hub, &wanted).await;
    assert_eq!(events(back.see_all().await), named(&["b", "c"]));
    let requested = source.requested_positions();
    assert_eq!(requested[2..], [Some(Position::Time(at(2)))]);
    assert_eq!(plans(&source)[2], Plan::dedicated(&wanted));
}

/// Two large replies of one time, and the token's event behind them.
#[tokio::test(start_paused = true)]
async fn a_resume_by_time_is_exact_however_many_events_share_the_time() {
    let large = |name: &str| {
        let fields = doc! { "fullDocument": { "padding": "x".repeat(9 << 20) } };
        batch(&[event(name, "insert", 1, fields)])
    };
    let lost = || Opening::Fail(Failure::TokenNotFound);
    // With the token's event, the events before it are skipped. Without it, all come.
    for (last, expected) in [("a", &["b"][..]), ("z", &["x", "y", "z", "b"])] {
        let replies = || {
            cursor(vec![
                large("x"),
                large("y"),
                batch(&[insert(last, 1), insert("b", 2)]),
            ])
        };
        let source =
            ScriptedSource::new([cursor(vec![quiet("t0", 3)]), lost(), replies(), replies()]);
        let hub = hub(&source);
        let wanted = resumed(request(), token_of(&after("a", 1)));
        let mut back = Client::open(&hub, &wanted).await;
        assert!(back.watcher.start_position().opened_by_time);
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(events(back.see_all().await));
        }
        assert_eq!(seen, named(expected));
        let mut requested = vec![None, Some(after("a", 1)), Some(Position::Time(at(1)))];
        if last == "z" {
            requested.push(Some(Position::Time(at(1))));
        }
        assert_eq!(source.requested_positions(), requested);
    }
}

/// A mongos replies without events while one of its shards has not replied.
#[tokio::test(start_paused = true)]
async fn behind_a_mongos_a_resume_by_time_waits_for_the_event_of_its_token() {
    let mut source = ScriptedSource::of([
        cursor(vec![quiet("t0", 3)]),
        Opening::Fail(Failure::TokenNotFound),
        cursor(vec![
            nothing_yet(),
            quiet("start", 1),
            quiet("start", 1),
            batch(&[insert("z", 1)]),
            quiet("z", 1),
            batch(&[insert("a", 1), insert("b", 1)]),
        ]),
    ]);
    source.is_sharded = true;
    let source = Arc::new(source);
    let hub = hub(&source);
    let mut back = Client::open(&hub, &resumed(request(), token_of(&after("a", 1)))).await;
    assert!(back.watcher.start_position().opened_by_time);
    assert_eq!(events(back.see_all().await), named(&["b"]));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_huge_key_is_found_by_its_digest() {
    let (a, b) = (long("a"), long("b"));
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 3)]),
        cursor(vec![
            batch(&[insert("z", 1)]),
            batch(&[insert(&a, 1), insert(&b, 1)]),
        ]),
        cursor(vec![batch(&[insert(&b, 1), insert("c", 2)])]),
    ]);
    let hub = hub(&source);
    let wanted = resumed(inserts_only(), token_of(&after(&a, 1)));
    let mut back = Client::open(&hub, &wanted).await;
    assert!(!back.watcher.start_position().opened_by_time);
    assert_eq!(events(back.see_all().await), named(&[&b, "c"]));
    let requested = source.requested_positions();
    assert_eq!(
        requested[1..],
        [Some(Position::Time(at(1))), Some(after(&a, 1))]
    );
    // The lookup reads no document.
    let plans = plans(&source);
    assert_eq!(plans[1], Plan::shared(&wanted).identity_only());
    assert_eq!(plans[2], Plan::dedicated(&wanted));
}

/// A mongos replies without events while one of its shards has not replied.
#[tokio::test(start_paused = true)]
async fn behind_a_mongos_the_event_of_a_digest_is_waited_for() {
    let a = long("a");
    let mut source = ScriptedSource::of([
        cursor(vec![quiet("t0", 3)]),
        cursor(vec![
            nothing_yet(),
            quiet("start", 1),
            quiet("start", 1),
            batch(&[insert(&a, 1), insert("b", 2)]),
        ]),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    source.is_sharded = true;
    let source = Arc::new(source);
    let hub = hub(&source);
    let wanted = resumed(request(), token_of(&after(&a, 1)));
    let mut back = Client::open(&hub, &wanted).await;
    assert!(!back.watcher.start_position().opened_by_time);
    assert_eq!(events(back.see_all().await), named(&["b"]));
    let requested = source.requested_positions();
    assert_eq!(requested[2..], [Some(after(&a, 1))]);
}

/// The token of a split event is that of its last fragment, and fragments depend on the documents.
#[tokio::test(start_paused = true)]
async fn a_split_event_is_found_by_its_digest() {
    let a = long("a");
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 3)]),
        cursor(vec![batch(&[insert("whole", 1), insert("b", 2)])]),
        cursor(vec![batch(&[insert(&a, 1), insert("b", 2)])]),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    let hub = hub(&source);
    let wanted = resumed(request(), token_of(&after(&a, 1)));
    let mut back = Client::open(&hub, &wanted).await;
    assert_eq!(events(back.see_all().await), named(&["b"]));
    let requested = source.requested_positions();
    assert_eq!(requested[3..], [Some(after(&a, 1))]);
    assert_eq!(plans(&source)[2], Plan::shared(&wanted));
}

/// For example an event that only a watch of expanded events gets.
#[tokio::test(start_paused = true)]
async fn an_event_that_is_not_found_by_its_digest_is_resumed_by_its_time() {
    for none in [
        vec![batch(&[insert("b", 1), insert("c", 2)])],
        vec![batch(&[insert("b", 1)]), quiet("t", 9)],
    ] {
        let source = ScriptedSource::new([
            cursor(vec![quiet("t0", 3)]),
            cursor(none.clone()),
            cursor(none),
            cursor(vec![batch(&[insert("b", 1), insert("c", 2)])]),
        ]);
        let hub = hub(&source);
        let wanted = resumed(request(), token_of(&after(&long("a"), 1)));
        let mut back = Client::open(&hub, &wanted).await;
        assert!(back.watcher.start_position().opened_by_time);
        assert_eq!(events(back.see_all().await), named(&["b", "c"]));
        let by_time = Some(Position::Time(at(1)));
        assert_eq!(
            source.requested_positions()[1..],
            [(); 3].map(|()| by_time.clone())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_digest_in_the_ring_joins_the_ring_without_a_catch_up() {
    let (a, b) = (long("a"), long("b"));
    let source = ScriptedSource::new([cursor(vec![
        quiet("t0", 0),
        batch(&[insert(&a, 1), insert(&b, 1), insert("c", 1)]),
    ])]);
    let hub = hub(&source);
    let mut first = Client::open(&hub, &watch(request())).await;
    assert_eq!(events(first.see_all().await), named(&[&a, &b, "c"]));
    for (name, rest) in [(&a, &[&*b, "c"][..]), (&b, &["c"])] {
        let token = token_of(&after(name, 1));
        let mut back = Client::open(&hub, &resumed(request(), token)).await;
        assert_eq!(events(back.see_all().await), named(rest));
    }
    assert_eq!(source.requested_positions(), [None]);
}

/// The watch has only its token, of which MongoDB's own is not a part.
#[tokio::test(start_paused = true)]
async fn a_watch_that_fell_behind_at_a_huge_key_continues_right_after_it() {
    let a = long("a");
    let rest = || (12..=19).map(|n| batch(&[big(&format!("e{n}"), n)]));
    // Time for both watches to open.
    let mut live = vec![quiet("t0", 0); 3];
    live.push(batch(&[insert("z", 11), insert(&a, 11)]));
    let source = ScriptedSource::new([
        cursor(live.into_iter().chain(rest()).collect()),
        cursor(vec![batch(&[insert("z", 11), insert(&a, 11)])]),
        cursor(rest().collect()),
    ]);
    let hub = hub(&source);
    let (mut fast, mut slow) = two_clients(&hub).await;
    assert_eq!(slow.see(3).await[1..], named(&["z", &a]));
    fast.see(11).await;
    let names: Vec<String> = (12..=19).map(|n| format!("e{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(events(slow.see(9).await), named(&names));
    assert_eq!(metric(&hub, "weir_watches_fell_behind_total"), 1.0);
    let requested = source.requested_positions();
    assert_eq!(
        requested[1..],
        [Some(Position::Time(at(11))), Some(after(&a, 11))]
    );
}

/// MongoDB may be away while the event is looked for, also for a watch that has started already.
#[tokio::test(start_paused = true)]
async fn the_lookup_of_an_event_survives_an_outage() {
    let a = long("a");
    let catch_up = || cursor(vec![batch(&[insert(&a, 1)])]);
    let rest = || cursor(vec![batch(&[insert("b", 2)])]);
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 2)]),
        catch_up(),
        rest(),
        Opening::Fail(Failure::Transient),
        Opening::Fail(Failure::Transient),
        catch_up(),
        rest(),
    ]);
    let settings = HubSettings {
        max_catch_ups: 1,
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let wanted = resumed(request(), token_of(&after(&a, 1)));
    let first = Client::open(&hub, &wanted).await;
    let mut waits = Client::open(&hub, &wanted).await;
    assert_eq!(waits.see_all().await, [Seen::Stage(Stage::CatchingUp)]);
    drop(first);
    let expected = [Seen::Stage(Stage::Reconnecting), event_named("b")];
    assert_eq!(waits.see(2).await, expected);
    assert_eq!(
        source.requested_positions().last(),
        Some(&Some(after(&a, 1)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_digest_older_than_the_oplog_is_refused_as_expired() {
    let source = Arc::new(ScriptedSource {
        oldest: Some(at(5)),
        ..ScriptedSource::of([cursor(vec![quiet("t0", 9)])])
    });
    let event = Anchor::new(b"gone", at(1));
    let wanted = resumed(request(), token_of(&Position::EventDigest(event)));
    let error = hub(&source).subscribe(&wanted).await.unwrap_err();
    assert_eq!(error.reason(), "RESUME_TOKEN_EXPIRED");
    assert_eq!(source.requested_positions(), [None]);
}

/// An invalidate event is resumed with `startAfter`, however long its token is.
#[tokio::test(start_paused = true)]
async fn an_invalidate_is_found_by_its_digest() {
    let gone = long("gone");
    let invalidate = event(&gone, "invalidate", 1, doc! {});
    let after_it = Position::Invalidate {
        token: token(&gone),
        time: at(1),
    };
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 3)]),
        cursor(vec![batch(&[
            event("drop", "drop", 1, doc! {}),
            invalidate,
        ])]),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    let hub = hub(&source);
    let wanted = resumed(request(), token_of(&after_it));
    let mut back = Client::open(&hub, &wanted).await;
    assert_eq!(events(back.see_all().await), named(&["b"]));
    assert_eq!(source.requested_positions()[2..], [Some(after_it)]);
}
