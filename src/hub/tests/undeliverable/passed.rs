//! Tests of streams that go on after a failure because of one event.

use super::*;

/// The positions after the first ones, which fail and are opened again with one event per reply.
fn positions_after_failing(source: &ScriptedSource) -> Vec<Option<Position>> {
    source.requested_positions().split_off(2)
}

/// If nothing follows, what fails is the event of the position itself, which was delivered.
#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_after_its_own_event_if_that_fails() {
    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[update("a", 1)])], Failure::ImageMissing),
        Opening::Fail(Failure::ImageMissing),
        cursor(vec![quiet("t", 9)]),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    let seen = without_stages(client.see(3).await);
    assert_eq!(seen, [event_named("a"), event_named("b")]);
    assert_eq!(
        positions_after_failing(&source),
        [Some(after("a", 1)), Some(Position::Time(at(2)))]
    );
    assert_eq!(source.batch_sizes()[3], BatchSize::Default);
}

/// A failure that does not repeat was not caused by an event.
#[tokio::test(start_paused = true)]
async fn a_stream_that_passed_a_failure_returns_to_default_batches() {
    for (failure, _) in ALL {
        let source = ScriptedSource::new([
            cursor_that_fails(vec![batch(&[insert("a", 1)])], failure),
            cursor(vec![batch(&[insert("b", 2)]), quiet("t", 3)]),
            cursor(vec![batch(&[insert("c", 4)])]),
        ]);
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(request())).await;
        let seen = without_stages(client.see(4).await);
        assert_eq!(seen, [event_named("a"), event_named("b"), event_named("c")]);
        assert_eq!(
            source.batch_sizes(),
            [BatchSize::Default, BatchSize::One, BatchSize::Default]
        );
    }
}

/// On a stream that is never idle, the number of events shows that the failed reply is passed.
#[tokio::test(start_paused = true)]
async fn a_busy_stream_that_passed_a_failure_returns_to_default_batches() {
    let singles = (2..1002)
        .map(|number| batch(&[insert("x", number)]))
        .collect();
    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::EventTooLarge),
        cursor(singles),
        cursor(vec![batch(&[insert("c", 1002)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    client.see(1003).await;
    assert_eq!(
        source.batch_sizes(),
        [BatchSize::Default, BatchSize::One, BatchSize::Default]
    );
}
