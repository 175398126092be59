//! Tests of events that MongoDB cannot send: earlier events are delivered, and the error describes the event.

use super::*;
use crate::{error::UndeliverableEvent, wire::ResumeToken};

const ALL: [(Failure, &str); 3] = [
    (Failure::ImageMissing, "IMAGE_UNAVAILABLE"),
    (Failure::EventTooLarge, "UPSTREAM_EVENT_TOO_LARGE"),
    (Failure::LookupAmbiguous, "LOOKUP_AMBIGUOUS"),
];

fn update(name: &str, increment: u32) -> bson::Document {
    event(
        name,
        "update",
        increment,
        doc! { "documentKey": { "_id": name } },
    )
}

fn undeliverable(error: Error) -> UndeliverableEvent {
    match error {
        Error::ImageUnavailable(undeliverable)
        | Error::UpstreamEventTooLarge(undeliverable)
        | Error::LookupAmbiguous(undeliverable) => undeliverable,
        other => panic!("awaited an event that can't be sent, got {other:?}"),
    }
}

/// Reads to the end. Returns what was read, without the stages.
async fn read_to_end(client: &mut Client) -> Vec<Seen> {
    let seen = client.see(usize::MAX).await;
    without_stages(seen)
}

fn without_stages(mut seen: Vec<Seen>) -> Vec<Seen> {
    seen.retain(|seen| !matches!(seen, Seen::Stage(_)));
    seen
}

fn is_outline(plan: &crate::plan::Plan) -> bool {
    let last = plan.stages.last();
    last.is_some_and(|stage| stage.contains_key("$project"))
}

/// If the third event of a reply fails, mongod discards the whole reply. To resume after that event would
/// lose the first two.
#[tokio::test(start_paused = true)]
async fn events_before_an_undeliverable_event_are_delivered() {
    for (failure, reason) in ALL {
        let source = ScriptedSource::new([
            cursor_that_fails(vec![batch(&[insert("a", 1)])], failure),
            cursor_that_fails(
                vec![batch(&[insert("b", 2)]), batch(&[insert("c", 3)])],
                failure,
            ),
            cursor(vec![batch(&[update("poison", 4), insert("d", 5)])]),
            cursor(vec![batch(&[insert("d", 5)])]),
        ]);
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(request())).await;
        assert_eq!(
            read_to_end(&mut client).await,
            [
                event_named("a"),
                event_named("b"),
                event_named("c"),
                Seen::Ended(reason),
            ]
        );
        // The last position is right before the event, and was described once. The stream is readable after
        // the event.
        assert_eq!(
            source.requested_positions(),
            [
                None,
                Some(after("a", 1)),
                Some(after("c", 3)),
                Some(after("poison", 4)),
            ]
        );
        assert_eq!(
            source.batch_sizes(),
            [
                BatchSize::Default,
                BatchSize::One,
                BatchSize::Default,
                BatchSize::One
            ]
        );
        let outlines: Vec<bool> = {
            let plans = source.plans.lock().unwrap();
            plans.iter().map(|(plan, _)| is_outline(plan)).collect()
        };
        assert_eq!(outlines, [false, false, true, false]);

        let undeliverable = undeliverable(end_of(&mut client).await);
        assert_eq!(
            (undeliverable.after, undeliverable.time),
            (Some(at(3)), Some(at(4)))
        );
        let next = ResumeToken::decode(&undeliverable.next_token.expect("a token"), None)
            .expect("the token is valid");
        assert_eq!(next.position, after("poison", 4));
    }
}

/// The client skips the event that the error names. A server that reads ahead fails at an event before it has
/// sent earlier ones: those must not be named.
#[tokio::test(start_paused = true)]
async fn an_undeliverable_event_is_not_described_unless_it_is_certain() {
    let may_be_another = [
        // An event that needs no image comes before it.
        vec![cursor(vec![batch(&[insert("a", 1), update("b", 2)])])],
        // Another such event follows it: either of them may have failed, or both.
        vec![
            cursor(vec![batch(&[update("a", 1), update("b", 2)])]),
            Opening::Fail(Failure::ImageMissing),
        ],
        // The position after it is not known to be readable.
        vec![
            cursor(vec![batch(&[update("a", 1)])]),
            Opening::Fail(Failure::Transient),
        ],
    ];
    for description_attempts in may_be_another {
        let failing = [
            cursor_that_fails(vec![quiet("t", 0)], Failure::ImageMissing),
            Opening::Fail(Failure::ImageMissing),
        ];
        let expected = failing.len() + description_attempts.len();
        let source = ScriptedSource::new(failing.into_iter().chain(description_attempts));
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(request())).await;
        read_to_end(&mut client).await;
        let undeliverable = undeliverable(end_of(&mut client).await);
        assert!(undeliverable.time.is_none() && undeliverable.next_token.is_none());
        assert_eq!(source.requested_positions().len(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_undeliverable_event_that_cannot_be_read_is_reported_without_details() {
    for description_attempts in [
        Opening::Fail(Failure::Unexpected),
        // MongoDB does not answer.
        cursor(Vec::new()),
        cursor(vec![quiet("t", 9)]),
    ] {
        let source = ScriptedSource::new([
            cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::EventTooLarge),
            Opening::Fail(Failure::EventTooLarge),
            description_attempts,
        ]);
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(request())).await;
        let began = Instant::now();
        read_to_end(&mut client).await;
        assert!(began.elapsed() < Duration::from_secs(10));
        let undeliverable = undeliverable(end_of(&mut client).await);
        assert_eq!(undeliverable.after, Some(at(1)));
        assert!(undeliverable.time.is_none() && undeliverable.next_token.is_none());
        assert_eq!(source.requested_positions().len(), 3);
    }
}

/// A token in an error must fit into the trailers.
#[tokio::test(start_paused = true)]
async fn the_token_in_an_error_is_small_whatever_the_key() {
    let name = "k".repeat(4 << 10);
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t", 0)], Failure::EventTooLarge),
        Opening::Fail(Failure::EventTooLarge),
        cursor(vec![batch(&[insert(&name, 2)])]),
        cursor(vec![quiet("t", 3)]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    read_to_end(&mut client).await;
    let undeliverable = undeliverable(end_of(&mut client).await);
    assert_eq!(undeliverable.time, Some(at(2)));
    let next_token = undeliverable.next_token.unwrap();
    assert!(next_token.len() < 100);
    // The token that the event has everywhere.
    let token_context = any_token_context_of(&request());
    assert_eq!(
        next_token,
        token_context.encode(&after(&name, 2), None, None)
    );
}

#[tokio::test(start_paused = true)]
async fn the_undeliverable_event_is_found_after_events_that_a_filter_rejects() {
    let filtered = pb::WatchRequest {
        full_document: pb::FullDocument::Required.into(),
        filters: vec![pb::Filter {
            kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
                path: "status".to_owned(),
                operator: Some(pb::field_filter::Operator::Exists(true)),
            })),
        }],
        ..request()
    };
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t", 0)], Failure::ImageMissing),
        Opening::Fail(Failure::ImageMissing),
        cursor_that_fails(
            vec![batch(&[update("a", 1)]), batch(&[update("b", 2)])],
            Failure::ImageMissing,
        ),
        cursor(vec![batch(&[update("poison", 3)])]),
        cursor(vec![quiet("t", 4)]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(filtered)).await;
    read_to_end(&mut client).await;
    assert_eq!(undeliverable(end_of(&mut client).await).time, Some(at(3)));
    let plans = source.plans.lock().unwrap();
    let stages: Vec<usize> = plans.iter().map(|(plan, _)| plan.stages.len()).collect();
    assert_eq!(stages, [1, 1, 0, 1, 1], "{plans:?}");
    assert_eq!(plans[4].0, plans[0].0);
    assert_eq!(plans[2].0.change_stream, plans[0].0.change_stream);
    assert!(plans[3].0.change_stream.is_empty());
    assert_eq!(source.requested_positions()[3], Some(after("b", 2)));
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

/// The first reply of a catch-up may be the one that fails.
#[tokio::test(start_paused = true)]
async fn events_before_an_undeliverable_event_in_the_first_reply_are_delivered() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t", 50)]),
        Opening::Fail(Failure::EventTooLarge),
        cursor_that_fails(vec![batch(&[insert("b", 2)])], Failure::EventTooLarge),
        cursor(vec![batch(&[insert("poison", 3)])]),
        cursor(vec![quiet("t", 4)]),
    ]);
    let hub = hub(&source);
    let start_position = any_token_context_of(&request()).encode(&after("a", 1), None, None);
    let mut client = Client::open(&hub, &resumed(request(), start_position)).await;
    assert_eq!(
        read_to_end(&mut client).await,
        [event_named("b"), Seen::Ended("UPSTREAM_EVENT_TOO_LARGE")]
    );
    assert_eq!(undeliverable(end_of(&mut client).await).time, Some(at(3)));
    let requested = source.requested_positions();
    assert_eq!(
        requested[1..],
        [
            Some(after("a", 1)),
            Some(after("a", 1)),
            Some(after("b", 2)),
            Some(after("poison", 3)),
        ]
    );
}

fn any_token_context_of(request: &pb::WatchRequest) -> crate::wire::TokenContext {
    let plan = crate::plan::Plan::dedicated(&watch(request.clone()));
    crate::wire::TokenContext::new("rs", &plan)
}
