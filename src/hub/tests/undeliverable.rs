//! Tests of events that MongoDB cannot send: earlier events are delivered, and the error describes the event.

mod passed;

use super::*;
use crate::{error::UndeliverableEvent, wire::ResumeToken};

const ALL: [(Failure, &str); 3] = [
    (Failure::ImageMissing, "IMAGE_UNAVAILABLE"),
    (Failure::EventTooLarge, "UPSTREAM_EVENT_TOO_LARGE"),
    (Failure::LookupAmbiguous, "LOOKUP_AMBIGUOUS"),
];

pub(super) fn update(name: &str, increment: u32) -> bson::Document {
    event(
        name,
        "update",
        increment,
        doc! { "documentKey": { "_id": name } },
    )
}

pub(super) fn undeliverable(error: Error) -> UndeliverableEvent {
    match error {
        Error::ImageUnavailable(undeliverable)
        | Error::UpstreamEventTooLarge(undeliverable)
        | Error::LookupAmbiguous(undeliverable) => undeliverable,
        other => panic!("awaited an event that can't be sent, got {other:?}"),
    }
}

/// Reads to the end. Returns what was read, without the stages.
pub(super) async fn read_to_end(client: &mut Client) -> Vec<Seen> {
    let seen = client.see(usize::MAX).await;
    without_stages(seen)
}

pub(super) fn without_stages(mut seen: Vec<Seen>) -> Vec<Seen> {
    seen.retain(|seen| !matches!(seen, Seen::Stage(_)));
    seen
}

fn is_outline(plan: &crate::pipeline::Plan) -> bool {
    let stages = plan.stages();
    let last = stages.last();
    last.is_some_and(|stage| stage.contains_key("$project"))
}

/// The plans of the openings, as tokens of which events they select; `None` for a plan that is not narrowed.
pub(super) fn selected(source: &ScriptedSource) -> Vec<Option<Vec<String>>> {
    let plans = source.plans.lock().unwrap();
    let selected = |(plan, _): &(crate::pipeline::Plan, BatchSize)| {
        let stages = plan.stages();
        let condition = stages.first()?.get_document("$match").ok()?;
        let tokens = condition.get_document("_id").ok()?.get_array("$in").ok()?;
        let name =
            |token: &bson::Bson| Some(token.as_document()?.get_str("_data").ok()?.to_owned());
        tokens.iter().map(name).collect()
    };
    plans.iter().map(selected).collect()
}

pub(super) fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|&name| name.to_owned()).collect())
}

/// If the third event of a reply fails, mongod discards the whole reply. To resume after that event would
/// lose the first two, and does not work, since mongod looks up its documents again.
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
            Opening::Fail(failure),
            cursor(vec![batch(&[insert("d", 5)])]),
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
        // The events after the last position are listed, the first of them fails by itself, the stream does
        // not fail without it, and can be read from the time after it.
        assert_eq!(
            source.requested_positions(),
            [
                None,
                Some(after("a", 1)),
                Some(after("c", 3)),
                Some(Position::Time(at(4))),
                Some(Position::Time(at(4))),
                Some(Position::Time(at(5))),
            ]
        );
        let [one, default] = [BatchSize::One, BatchSize::Default];
        assert_eq!(source.batch_sizes()[1..], [one, default, one, one, one]);
        let outlines: Vec<bool> = {
            let plans = source.plans.lock().unwrap();
            plans.iter().map(|(plan, _)| is_outline(plan)).collect()
        };
        assert_eq!(outlines, [false, false, true, false, false, false]);
        assert_eq!(selected(&source)[3], names(&["poison"]));

        let undeliverable = undeliverable(end_of(&mut client).await);
        assert_eq!(
            (undeliverable.after, undeliverable.time),
            (Some(at(3)), Some(at(4)))
        );
        assert_eq!(next_position(undeliverable), Position::Time(at(5)));
    }
}

pub(super) fn next_position(undeliverable: UndeliverableEvent) -> Position {
    let token = undeliverable.next_token.expect("a token");
    let token = ResumeToken::decode(&token, None).expect("the token is valid");
    token.position
}

/// A mongos does not pass the batch size on: its shards fail before they send what stands in front.
#[tokio::test(start_paused = true)]
async fn events_before_an_undeliverable_event_are_read_in_windows() {
    let failure = Failure::EventTooLarge;
    let source = ScriptedSource::new([
        cursor_that_fails(vec![batch(&[insert("a", 1)])], failure),
        Opening::Fail(failure),
        cursor(vec![
            batch(&[insert("b", 2)]),
            batch(&[insert("c", 3), update("poison", 4)]),
            batch(&[insert("d", 5)]),
        ]),
        cursor(vec![batch(&[]), batch(&[insert("b", 2)])]),
        cursor_that_fails(vec![batch(&[])], failure),
        cursor(vec![batch(&[insert("c", 3)])]),
        Opening::Fail(failure),
        cursor_that_fails(vec![batch(&[])], failure),
        cursor(vec![batch(&[]), batch(&[insert("d", 5)])]),
        cursor(vec![quiet("t", 5)]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    assert_eq!(
        read_to_end(&mut client).await,
        [
            event_named("a"),
            event_named("b"),
            event_named("c"),
            Seen::Ended("UPSTREAM_EVENT_TOO_LARGE"),
        ]
    );
    assert_eq!(
        selected(&source)[3..],
        [
            names(&["b"]),
            names(&["c", "poison"]),
            names(&["c"]),
            names(&["poison", "d"]),
            names(&["poison"]),
            None,
            None,
        ]
    );
    let undeliverable = undeliverable(end_of(&mut client).await);
    assert_eq!(undeliverable.after, Some(at(3)));
    assert_eq!(next_position(undeliverable), Position::Time(at(5)));
}

/// The event after it may fail too: it ends the next watch.
#[tokio::test(start_paused = true)]
async fn the_first_of_several_undeliverable_events_is_described() {
    let failure = Failure::ImageMissing;
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t", 0)], failure),
        Opening::Fail(failure),
        cursor(vec![batch(&[update("a", 1), update("b", 2)])]),
        Opening::Fail(failure),
        Opening::Fail(failure),
        cursor(vec![quiet("t", 9)]),
        Opening::Fail(failure),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    read_to_end(&mut client).await;
    let undeliverable = undeliverable(end_of(&mut client).await);
    assert_eq!(undeliverable.time, Some(at(1)));
    assert_eq!(next_position(undeliverable), Position::Time(at(2)));
}

/// The client skips the event that the error names. A server that looks documents up ahead of what it
/// selects and sends fails at an event before it has sent earlier ones: those must not be named.
#[tokio::test(start_paused = true)]
async fn an_undeliverable_event_is_not_described_unless_it_is_certain() {
    let fails = || Opening::Fail(Failure::ImageMissing);
    let a_and_b = || cursor(vec![batch(&[update("a", 1), update("b", 2)])]);
    let may_be_another = [
        // An event that needs no image comes before it.
        vec![
            cursor(vec![batch(&[insert("a", 1), update("b", 2)])]),
            fails(),
            fails(),
            fails(),
            cursor(vec![batch(&[insert("a", 1), update("b", 2)])]),
        ],
        // Another such event follows it: either of them may have failed, or both.
        vec![
            a_and_b(),
            fails(),
            fails(),
            fails(),
            a_and_b(),
            cursor(vec![batch(&[update("b", 2)])]),
            fails(),
        ],
        // Another one has its time, and is not told apart.
        vec![
            cursor(vec![batch(&[update("a", 1), update("b", 1)])]),
            fails(),
            cursor(vec![quiet("t", 9)]),
            fails(),
            a_and_b(),
            cursor(vec![batch(&[update("b", 2)])]),
            fails(),
        ],
        // The position after it is not known to be readable.
        vec![
            cursor(vec![batch(&[update("a", 1)]), quiet("t", 9)]),
            fails(),
            cursor(vec![quiet("t", 9)]),
            Opening::Fail(Failure::Refused),
        ],
        // The server does not select.
        vec![a_and_b(), cursor(vec![batch(&[update("b", 2)])])],
        vec![a_and_b(), cursor(vec![quiet("t", 9)])],
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

/// Servers that look documents up before they select, but do not read ahead of what they send.
#[tokio::test(start_paused = true)]
async fn an_undeliverable_event_is_found_without_selection() {
    let fails = || Opening::Fail(Failure::ImageMissing);
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t", 0)], Failure::ImageMissing),
        fails(),
        cursor(vec![batch(&[update("a", 1), insert("b", 2)])]),
        fails(),
        fails(),
        fails(),
        cursor(vec![batch(&[update("a", 1), insert("b", 2)])]),
        cursor(vec![batch(&[insert("b", 2)])]),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(request())).await;
    read_to_end(&mut client).await;
    let undeliverable = undeliverable(end_of(&mut client).await);
    assert_eq!(undeliverable.time, Some(at(1)));
    assert_eq!(next_position(undeliverable), Position::Time(at(2)));
}

#[tokio::test(start_paused = true)]
async fn an_undeliverable_event_that_cannot_be_read_is_reported_without_details() {
    let closed = Batch {
        closed: true,
        ..batch(&[])
    };
    for (description_attempts, openings, limit) in [
        (Opening::Fail(Failure::Unexpected), 3, 10),
        // MongoDB does not answer.
        (cursor(Vec::new()), 3, 70),
        // MongoDB answers, but is never done with the oplog.
        (cursor(vec![batch(&[]); 100_000]), 3, 70),
        // The list ends, and the stream fails once more.
        (cursor(vec![closed]), 4, 10),
    ] {
        let source = ScriptedSource::new([
            cursor_that_fails(vec![batch(&[insert("a", 1)])], Failure::EventTooLarge),
            Opening::Fail(Failure::EventTooLarge),
            description_attempts,
            Opening::Fail(Failure::EventTooLarge),
        ]);
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(request())).await;
        let began = Instant::now();
        read_to_end(&mut client).await;
        assert!(began.elapsed() < Duration::from_secs(limit));
        let undeliverable = undeliverable(end_of(&mut client).await);
        assert_eq!(undeliverable.after, Some(at(1)));
        assert!(undeliverable.time.is_none() && undeliverable.next_token.is_none());
        assert_eq!(source.requested_positions().len(), openings);
    }
}

/// No stream can start between events of one time but by token, and a token in an error must fit into the
/// trailers. It is the token that the event has everywhere.
#[tokio::test(start_paused = true)]
async fn the_token_in_an_error_is_small_whatever_the_key() {
    for length in [1, 4 << 10] {
        let name = "k".repeat(length);
        let source = ScriptedSource::new([
            cursor_that_fails(vec![quiet("t", 0)], Failure::EventTooLarge),
            Opening::Fail(Failure::EventTooLarge),
            cursor(vec![batch(&[insert(&name, 2), insert("b", 2)])]),
            Opening::Fail(Failure::EventTooLarge),
            cursor(vec![quiet("t", 3)]),
            cursor(vec![quiet("t", 3)]),
        ]);
        let hub = hub(&source);
        let mut client = Client::open(&hub, &watch(request())).await;
        read_to_end(&mut client).await;
        let undeliverable = undeliverable(end_of(&mut client).await);
        assert_eq!(undeliverable.time, Some(at(2)));
        let next_token = undeliverable.next_token.unwrap();
        assert!(next_token.len() < 150, "{length}");
        let token_context = any_token_context_of(&request());
        assert_eq!(
            next_token,
            token_context.encode(&after(&name, 2), None, None)
        );
    }
}

/// A request with a filter that uses documents.
pub(super) fn filtered() -> pb::WatchRequest {
    pb::WatchRequest {
        full_document: pb::FullDocument::Required.into(),
        filters: vec![pb::Filter {
            kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
                path: "status".to_owned(),
                operator: Some(pb::field_filter::Operator::Exists(true)),
            })),
        }],
        ..request()
    }
}

#[tokio::test(start_paused = true)]
async fn the_undeliverable_event_is_found_after_events_that_a_filter_rejects() {
    let fails = || Opening::Fail(Failure::ImageMissing);
    let source = ScriptedSource::new([
        cursor_that_fails(vec![quiet("t", 0)], Failure::ImageMissing),
        fails(),
        cursor(vec![
            batch(&[update("a", 1), update("b", 2), update("poison", 3)]),
            quiet("t", 9),
        ]),
        cursor(vec![quiet("t", 9)]),
        fails(),
        cursor(vec![quiet("t", 9)]),
        fails(),
        cursor(vec![quiet("t", 9)]),
        cursor(vec![quiet("t", 9)]),
    ]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch(filtered())).await;
    read_to_end(&mut client).await;
    let undeliverable = undeliverable(end_of(&mut client).await);
    assert_eq!(undeliverable.time, Some(at(3)));
    assert!(undeliverable.next_token.is_some());
    let plans = source.plans.lock().unwrap();
    let stages = plans.iter().map(|(plan, _)| plan.stages().len());
    assert!(stages.eq([1, 1, 1, 2, 2, 2, 2, 2, 1]), "{plans:?}");
    assert!(
        is_outline(&plans[2].0),
        "the list has no condition on documents"
    );
    assert_eq!(plans[3].0.options(), plans[0].0.options());
    drop(plans);
    assert_eq!(
        selected(&source)[3..7],
        [
            names(&["a"]),
            names(&["b", "poison"]),
            names(&["b"]),
            names(&["poison"])
        ]
    );
}

/// The first reply of a catch-up may be the one that fails.
#[tokio::test(start_paused = true)]
async fn events_before_an_undeliverable_event_in_the_first_reply_are_delivered() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t", 50)]),
        Opening::Fail(Failure::EventTooLarge),
        cursor_that_fails(vec![batch(&[insert("b", 2)])], Failure::EventTooLarge),
        cursor(vec![batch(&[insert("poison", 3)]), quiet("t", 4)]),
        Opening::Fail(Failure::EventTooLarge),
        cursor(vec![quiet("t", 4)]),
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
            Some(Position::Time(at(3))),
            Some(Position::Time(at(3))),
            Some(Position::Time(at(4))),
        ]
    );
}

pub(super) fn any_token_context_of(request: &pb::WatchRequest) -> crate::wire::TokenContext {
    let plan = crate::pipeline::Plan::dedicated(&watch(request.clone()));
    crate::wire::TokenContext::new("rs", &plan)
}
