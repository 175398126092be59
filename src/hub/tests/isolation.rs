//! Tests of the proofs that the isolation of an undeliverable event needs, and of errors during it.

use super::{
    undeliverable::{
        any_token_context_of, filtered, names, next_position, read_to_end, selected, undeliverable,
        update, without_stages,
    },
    *,
};
use crate::{hub::stream::undeliverable::is_readable_from, pipeline::Plan};

/// A shard may not have replied when a mongos sends an empty reply, so only a token proves that nothing
/// follows: one of a later time than the event's.
#[tokio::test(start_paused = true)]
async fn behind_a_mongos_only_a_later_token_proves_that_nothing_follows() {
    for is_proven in [false, true] {
        let mut list = vec![batch(&[update("poison", 2)])];
        list.extend((0..20).map(|_| quiet("poison", 9)));
        if is_proven {
            list[3] = quiet("later", 9);
        }
        let mut source = ScriptedSource::of([
            cursor_that_fails(vec![quiet("t", 0)], Failure::EventTooLarge),
            Opening::Fail(Failure::EventTooLarge),
            cursor(list),
            Opening::Fail(Failure::EventTooLarge),
            cursor(vec![quiet("later", 9)]),
        ]);
        source.is_sharded = true;
        let source = Arc::new(source);
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(request())).await;
        read_to_end(&mut client).await;
        let undeliverable = undeliverable(end_of(&mut client).await);
        if is_proven {
            assert_eq!(undeliverable.time, Some(at(2)));
            let next = next_position(undeliverable);
            assert!(matches!(&next, Position::HighWater { .. }), "{next:?}");
        } else {
            assert!(undeliverable.next_token.is_none());
        }
    }
}

/// The first token after a start by time is that of the start: then no shard need have replied.
#[tokio::test(start_paused = true)]
async fn behind_a_mongos_the_first_token_after_a_start_by_time_proves_nothing() {
    let fails = || Opening::Fail(Failure::EventTooLarge);
    let mut source = ScriptedSource::of([
        cursor(vec![quiet("t", 50)]),
        fails(),
        fails(),
        cursor(vec![
            quiet("start", 1),
            quiet("start", 1),
            batch(&[update("poison", 2)]),
            quiet("later", 9),
        ]),
        fails(),
        cursor(vec![quiet("later", 9)]),
    ]);
    source.is_sharded = true;
    let source = Arc::new(source);
    let hub = hub(&source);
    let token = any_token_context_of(&request()).encode(&Position::Time(at(1)), None, None);
    let error = hub.subscribe(&resumed(request(), token)).await;
    let undeliverable = undeliverable(error.expect_err("the first event fails"));
    assert_eq!(undeliverable.time, Some(at(2)));
    let next = next_position(undeliverable);
    assert!(matches!(&next, Position::HighWater { .. }), "{next:?}");
}

/// The next event may be far away in the oplog.
#[tokio::test(start_paused = true)]
async fn a_listed_event_does_not_wait_for_those_that_are_not_listed_yet() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t", 0)], Failure::ImageMissing),
        Opening::Fail(Failure::ImageMissing),
        cursor(vec![batch(&[
            insert("a", 1),
            insert("b", 2),
            insert("c", 3),
            insert("d", 4),
        ])]),
        cursor(vec![batch(&[insert("a", 1)])]),
        cursor(vec![batch(&[insert("b", 2)]), batch(&[insert("c", 3)])]),
        cursor(vec![batch(&[insert("d", 4)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let began = Instant::now();
    let seen = without_stages(client.see(5).await);
    let expected = ["a", "b", "c", "d"].map(event_named);
    assert_eq!(seen, expected);
    assert!(began.elapsed() < Duration::from_secs(1));
    let ended = without_stages(client.see(1).await);
    assert_eq!(ended, [Seen::Ended("IMAGE_UNAVAILABLE")]);
}

/// An election while the event is isolated proves nothing about the event.
#[tokio::test(start_paused = true)]
async fn a_passing_error_does_not_end_the_isolation_of_an_event() {
    let fails = || Opening::Fail(Failure::EventTooLarge);
    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::EventTooLarge),
        fails(),
        Opening::Fail(Failure::Transient),
        // Opened again, it fails as before, and the events in front of the undeliverable one come.
        fails(),
        cursor(vec![batch(&[
            insert("b", 2),
            update("poison", 3),
            insert("c", 4),
        ])]),
        cursor(vec![batch(&[insert("b", 2)])]),
        fails(),
        fails(),
        cursor(vec![batch(&[insert("c", 4)])]),
        cursor(vec![batch(&[insert("c", 4)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = without_stages(read_to_end(&mut client).await);
    assert_eq!(seen[..2], [event_named("a"), event_named("b")]);
    assert_eq!(seen.len(), 3, "{seen:?}");
    let undeliverable = undeliverable(end_of(&mut client).await);
    assert_eq!(undeliverable.time, Some(at(3)));
    assert_eq!(next_position(undeliverable), Position::Time(at(4)));
}

/// An election while a position is checked says nothing about the position.
#[tokio::test(start_paused = true)]
async fn a_position_is_checked_again_after_a_passing_error() {
    let plan = Plan::shared(&watch(request()));
    let passing = || Opening::Fail(Failure::Transient);
    for (openings, readable) in [
        (vec![cursor(vec![quiet("t0", 1)])], true),
        (
            vec![passing(), passing(), cursor(vec![quiet("t0", 1)])],
            true,
        ),
        (vec![passing(), Opening::Fail(Failure::TokenInvalid)], false),
        (vec![passing(), Opening::Fail(Failure::EventTooLarge)], true),
        // MongoDB scans for an event.
        (vec![passing(), cursor(vec![])], true),
        // It stays unavailable.
        (vec![], false),
    ] {
        let source = ScriptedSource::new(openings);
        let result = is_readable_from(&*source, &plan, &after("a", 1)).await;
        let requests = source.requested_positions().len();
        assert_eq!(result, readable, "{requests} requests");
        assert!(requests < 30, "{requests} requests");
    }
}

/// Behind a mongos an empty reply does not prove that a filter rejects an event. A stream of what it rejects
/// does.
#[tokio::test(start_paused = true)]
async fn behind_a_mongos_the_events_that_a_filter_rejects_are_read_too() {
    for is_rejected in [true, false] {
        let fails = || Opening::Fail(Failure::ImageMissing);
        let nothing = || cursor(vec![quiet("t", 9); 20]);
        let rejects = |name, increment| cursor(vec![batch(&[update(name, increment)])]);
        let first = if is_rejected {
            rejects("a", 1)
        } else {
            nothing()
        };
        let mut source = ScriptedSource::of([
            cursor_that_fails(vec![quiet("t", 0)], Failure::ImageMissing),
            fails(),
            cursor(vec![
                batch(&[update("a", 1), update("b", 2), update("poison", 3)]),
                quiet("t", 9),
            ]),
            first,
            nothing(),
            nothing(),
            fails(),
            rejects("b", 2),
            nothing(),
            nothing(),
            fails(),
            nothing(),
        ]);
        source.is_sharded = true;
        let source = Arc::new(source);
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(filtered())).await;
        read_to_end(&mut client).await;
        let undeliverable = undeliverable(end_of(&mut client).await);
        assert_eq!(undeliverable.next_token.is_some(), is_rejected);
        let selected = selected(&source).split_off(3);
        if is_rejected {
            assert_eq!(undeliverable.time, Some(at(3)));
            let windows = [&["a"][..], &["b", "poison"], &["b"], &["poison"]];
            let twice = windows.iter().flat_map(|it| [names(it), names(it)]);
            assert!(selected[..8].iter().cloned().eq(twice), "{selected:?}");
        } else {
            assert_eq!(undeliverable.time, None);
            assert_eq!(selected.len(), 2, "no event is taken for rejected");
        }
    }
}

/// The connection of one of the two streams may have died. The replies of the other do not go on forever.
#[tokio::test(start_paused = true)]
async fn behind_a_mongos_neither_stream_of_a_window_is_waited_for_while_only_the_other_replies() {
    for is_own_dead in [true, false] {
        let dead = || cursor(vec![]);
        let quiet_for_ever = || cursor(vec![quiet("t", 9); 1000]);
        let (rejects, own) = if is_own_dead {
            (quiet_for_ever(), dead())
        } else {
            (dead(), quiet_for_ever())
        };
        let mut source = ScriptedSource::of([
            cursor_that_fails(vec![quiet("t", 0)], Failure::ImageMissing),
            Opening::Fail(Failure::ImageMissing),
            cursor(vec![
                batch(&[update("a", 1), update("poison", 3)]),
                quiet("t", 9),
            ]),
            rejects,
            own,
        ]);
        source.is_sharded = true;
        let hub = hub(&Arc::new(source));
        let mut client = Client::open(&hub, &watch(filtered())).await;
        read_to_end(&mut client).await;
        let undeliverable = undeliverable(end_of(&mut client).await);
        assert!(undeliverable.next_token.is_none());
    }
}

/// A document may change between the look-ups of the two streams. Then both have the event, and it comes, as do
/// the others of its time.
#[tokio::test(start_paused = true)]
async fn an_event_that_a_filter_passes_and_rejects_is_delivered() {
    // Whichever of the two replies comes first.
    for _ in 0..20 {
        let fails = || Opening::Fail(Failure::ImageMissing);
        let nothing = || cursor(vec![quiet("t", 9); 20]);
        let mut source = ScriptedSource::of([
            cursor_that_fails(vec![quiet("t", 0)], Failure::ImageMissing),
            fails(),
            cursor(vec![
                batch(&[update("x", 1), update("a", 2), update("b", 2)]),
                batch(&[update("poison", 3)]),
                quiet("t", 9),
            ]),
            nothing(),
            cursor(vec![batch(&[update("x", 1)])]),
            cursor(vec![batch(&[update("a", 2)])]),
            cursor(vec![batch(&[update("a", 2)]), batch(&[update("b", 2)])]),
            nothing(),
            fails(),
            nothing(),
        ]);
        source.is_sharded = true;
        let hub = hub(&Arc::new(source));
        let mut client = Client::open(&hub, &watch(filtered())).await;
        let seen = read_to_end(&mut client).await;
        let expected = ["x", "a", "b"].map(event_named);
        assert_eq!(seen[..3], expected, "{seen:?}");
        assert_eq!(undeliverable(end_of(&mut client).await).time, Some(at(3)));
    }
}
