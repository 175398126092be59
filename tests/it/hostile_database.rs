//! Bytes that no MongoDB should send: what a client gets of them, and that nothing else is
//! affected.
//!
//! A client gets the event with MongoDB's own bytes, or its watch ends with INTERNAL at the
//! position right before it; valid events before it come in any case.

mod events;

use std::time::Duration;

use crate::support::orders::id;
use crate::support::stand_in::{self, Answer, Event, Reply, StandIn, insert, time};
use crate::support::{
    Figure, WatchStream, Weir, error_info, error_reason, eventually, tally, within,
};
use events::{Case, broken, bytes, odd, update_of};
use mongodb::bson::{Document, doc};
use tonic::{Code, Status};
use weir::pb;
use weir::pb::change_event::Change;
use weir::pb::document::Value;

/// The largest reply that the wire protocol allows.
const LARGEST_MESSAGE: usize = 48_000_000;

/// A server that closes feeds at once, and gives MongoDB up after this long.
async fn weir(stand_in: &StandIn, grace: Duration) -> Weir {
    // Raw events have later times: no watch from now begins after them.
    stand_in.set_clock(time(stand_in::FIRST_SECOND - 1, 1));
    Weir::at(stand_in.uri(), |config| {
        config.feed_linger = Duration::ZERO;
        config.upstream_grace = grace;
    })
    .await
}

fn resume(stand_in: &StandIn, collection: &str, token: bytes::Bytes) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token)),
        ..stand_in.watch_request(&[collection])
    }
}

fn bson(document: Option<&pb::Document>) -> &[u8] {
    match document.and_then(|it| it.value.as_ref()) {
        Some(Value::Bson(bytes)) => bytes,
        other => panic!("not BSON: {other:?}"),
    }
}

/// The raw value of an event's field.
fn field<'a>(event: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut fields = weir::raw::Elements::new(event)
        .expect("an odd event is well-formed at its top")
        .map(|it| it.expect("an odd event is well-formed at its top"));
    let found = fields.find(|it| it.key == name.as_bytes());
    found.map(|it| it.value)
}

/// Checks that this is the end that a broken event must cause.
fn assert_internal(status: &Status, watch: &pb::Opened, what: &str) {
    assert_eq!(status.code(), Code::Internal, "{what}: {status:?}");
    let info = error_info(status);
    assert_eq!(info.reason, "INTERNAL", "{what}");
    let id = info.metadata.get("watch_id").map(String::as_str);
    assert_eq!(id, Some(watch.watch_id.as_str()), "{what}");
}

/// Reads to the end. Returns the ids of the changes, and the status.
async fn to_the_end(watch: &mut WatchStream) -> (Vec<i32>, Status) {
    let whole = async {
        let mut ids = Vec::new();
        loop {
            match watch.try_next().await {
                Ok(Some(message)) => {
                    if let Some(pb::watch_response::Kind::Changes(batch)) = message.kind {
                        ids.extend(batch.changes.iter().map(id));
                    }
                }
                Ok(None) => return (ids, Status::ok("")),
                Err(status) => return (ids, status),
            }
        }
    };
    within("the end of the watch", whole).await
}

/// Odd but valid events pass byte for byte, and so do the events around them.
#[tokio::test]
async fn an_odd_event_arrives_unchanged_between_valid_events() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    let cases = odd();
    tally(Figure::BadInputs, cases.len() as u64);
    for (number, Case { what, event }) in cases.into_iter().enumerate() {
        let name = format!("c{number}");
        let log = stand_in.log(&name);
        let mut watch = weir.watch(stand_in.watch_request(&[&name])).await;
        let odd = event(1);
        log.push_all([insert(1).into(), Event::Raw(odd.clone()), insert(2).into()]);
        assert_eq!(id(&watch.next_change().await), 1, "{what}");
        let change = watch.next_change().await;
        assert_eq!(id(&watch.next_change().await), 2, "{what}");
        match &change.change {
            Some(Change::Insert(insert)) => {
                let document = field(&odd, "fullDocument");
                let null = Some(Value::Null(0));
                match insert.full_document.as_ref() {
                    None => assert!(
                        document.is_none() || change.unknown_fields.is_some(),
                        "{what}: the document is lost"
                    ),
                    it if it.and_then(|it| it.value.clone()) == null => {
                        assert_eq!(document, Some(&[][..]), "{what}");
                    }
                    it => assert_eq!(Some(bson(it)), document, "{what}"),
                }
            }
            Some(Change::Other(other)) => {
                assert_eq!(bson(other.event.as_ref()), odd, "{what}");
            }
            other => panic!("{what} came as {other:?}"),
        }
        // Every field is found: in its place, or among the unknown fields.
        for name in ["clusterTime", "wallTime", "ns", "documentKey", "txnNumber"] {
            let reported = match name {
                "clusterTime" => change.cluster_time.is_some(),
                "wallTime" => change.wall_time.is_some(),
                "ns" => change.namespace.is_some(),
                "documentKey" => change.document_key.is_some(),
                _ => change.transaction.is_some(),
            };
            let Some(value) = field(&odd, name) else {
                assert!(!reported, "{what}: {name} is made up");
                continue;
            };
            if !reported && !matches!(change.change, Some(Change::Other(_))) {
                let rest = bson(change.unknown_fields.as_ref());
                assert_eq!(field(rest, name), Some(value), "{what}: {name} is lost");
            }
        }
        // Its token works like any other.
        let mut resumed = weir
            .watch(resume(&stand_in, &name, change.resume_token.clone()))
            .await;
        assert_eq!(id(&resumed.next_change().await), 2, "{what}");
    }
}

/// An event that JSON can't represent comes in another format; none is lost, and none stops a
/// watch.
#[tokio::test]
async fn an_odd_event_arrives_in_every_format() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    for format in [
        pb::DocumentFormat::Json,
        pb::DocumentFormat::CanonicalJson,
        pb::DocumentFormat::Struct,
    ] {
        let name = format!("c{}", format as i32);
        let mut watch = weir
            .watch(pb::WatchRequest {
                document_format: format.into(),
                ..stand_in.watch_request(&[&name])
            })
            .await;
        let cases = odd();
        tally(Figure::BadInputs, cases.len() as u64);
        let log = stand_in.log(&name);
        let events = cases.iter().enumerate();
        log.push_all(events.map(|(position, case)| Event::Raw((case.event)(position))));
        let mut tokens = Vec::new();
        for case in &cases {
            let change = watch.next_change().await;
            assert!(change.change.is_some(), "{}: {change:?}", case.what);
            tokens.push(change.resume_token);
        }
        tokens.dedup();
        assert_eq!(tokens.len(), cases.len(), "{format:?}");
    }
}

/// A document of an event that JSON can't represent comes as BSON, whichever field of the event holds it, and the
/// others do not.
#[tokio::test]
async fn a_document_that_json_would_change_is_bson_in_every_part_of_an_event() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    let repeated = |value: i32| {
        let int = value.to_le_bytes();
        [b"\x13\0\0\0\x10a\0", &int[..], b"\x10a\0", &int[..], b"\0"].concat()
    };
    let wrapper = |text: &str| bytes(&doc! {"$numberLong": text});
    let plain = bytes(&doc! {"_id": 1});
    for format in [
        pb::DocumentFormat::Json,
        pb::DocumentFormat::CanonicalJson,
        pb::DocumentFormat::Struct,
    ] {
        let name = format!("c{}", format as i32);
        let mut watch = weir
            .watch(pb::WatchRequest {
                document_format: format.into(),
                ..stand_in.watch_request(&[&name])
            })
            .await;
        let log = stand_in.log(&name);
        for (position, odd) in [repeated(1), wrapper("5")].into_iter().enumerate() {
            for at in 0..4 {
                let parts: [&[u8]; 4] = std::array::from_fn(|part| match part == at {
                    true => &odd[..],
                    false => &plain[..],
                });
                log.push(Event::Raw(update_of(position * 4 + at, parts)));
                let change = watch.next_change().await;
                let Some(Change::Update(update)) = &change.change else {
                    panic!("expected an update, got {change:?}");
                };
                let description = update.update_description.as_ref().expect("it is set");
                let held = [
                    change.document_key.as_ref(),
                    description.updated_fields.as_ref(),
                    update.full_document.as_ref(),
                    update.full_document_before_change.as_ref(),
                ];
                for (part, document) in held.into_iter().enumerate() {
                    if part == at {
                        assert_eq!(bson(document), odd, "{format:?} {part}");
                    } else {
                        let value = document.and_then(|it| it.value.as_ref());
                        let is_text = matches!(value, Some(Value::Json(_) | Value::Struct(_)));
                        assert!(is_text, "{format:?} {part}: {value:?}");
                    }
                }
            }
        }
    }
}

/// A broken event ends only the watches that would have to pass it, at the position right before
/// it.
#[tokio::test]
async fn a_broken_event_ends_its_watch_after_the_valid_events_before_it() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    let mut elsewhere = weir.watch(stand_in.watch_request(&["elsewhere"])).await;
    let cases = broken();
    tally(Figure::BadInputs, cases.len() as u64);
    for (number, Case { what, event }) in (0..).zip(cases) {
        let name = format!("c{number}");
        let log = stand_in.log(&name);
        let mut watch = weir.watch(stand_in.watch_request(&[&name])).await;
        let start = watch.token();
        let mut other = weir.watch(stand_in.watch_request(&[&name])).await;
        log.push_all([
            insert(1).into(),
            insert(2).into(),
            Event::Raw(event(2)),
            insert(3).into(),
        ]);
        for watch in [&mut watch, &mut other] {
            let (ids, status) = to_the_end(watch).await;
            assert_eq!(ids, [1, 2], "{what}");
            assert_internal(&status, &watch.opened, what);
        }
        // One opening, and one reading of the broken event.
        assert_eq!(
            log.command_count("aggregate"),
            1,
            "{what}: it was tried again"
        );

        // The same for later watches that would have to pass it, from before it and from right
        // there.
        let right_before = watch.token();
        for (token, good) in [(start, &[1, 2][..]), (right_before, &[])] {
            let mut again = weir.watch(resume(&stand_in, &name, token)).await;
            let (ids, status) = to_the_end(&mut again).await;
            assert_eq!(ids, good, "{what}");
            assert_internal(&status, &again.opened, what);
        }
        let command_count = log.command_count("aggregate");
        // Each of the two had its own feed and stream, and one or two queries on joining.
        assert!(
            command_count <= 12,
            "{what}: {command_count} openings for four watches"
        );

        // Watches that need not pass it continue.
        let mut later = weir.watch(stand_in.watch_request(&[&name])).await;
        log.push(insert(4));
        let change = later.next_change().await;
        assert_eq!(id(&change), 4, "{what}");
        let time = change.cluster_time.expect("every event has a time");
        let mut behind = weir
            .watch(pb::WatchRequest {
                start: Some(pb::watch_request::Start::StartTime(
                    prost_types::Timestamp {
                        seconds: time.seconds.into(),
                        nanos: 0,
                    },
                )),
                ..stand_in.watch_request(&[&name])
            })
            .await;
        assert_eq!(id(&behind.next_change().await), 4, "{what}");
        stand_in.log("elsewhere").push(insert(number));
        assert_eq!(id(&elsewhere.next_change().await), number, "{what}");
    }
}

/// The same where the first batch contains the event: nothing has been sent before the headers, so
/// the call itself fails.
#[tokio::test]
async fn a_broken_event_in_the_first_batch_ends_its_watch_after_the_valid_events_before_it() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    let cases = broken();
    tally(Figure::BadInputs, cases.len() as u64);
    for (number, Case { what, event }) in cases.into_iter().enumerate() {
        let name = format!("c{number}");
        let log = stand_in.log(&name);
        let watch = weir.watch(stand_in.watch_request(&[&name])).await;
        let start = watch.token();
        drop(watch);
        log.answer_openings_with_events();
        log.push_all([insert(1).into(), Event::Raw(event(1)), insert(2).into()]);
        weir.wait_for_no_feeds().await;
        let mut again = weir.watch(resume(&stand_in, &name, start)).await;
        let (ids, status) = to_the_end(&mut again).await;
        assert_eq!(ids, [1], "{what}");
        assert_internal(&status, &again.opened, what);
        let right_before = resume(&stand_in, &name, again.token());
        match weir.try_watch(right_before).await {
            Ok(mut again) => {
                let (ids, status) = to_the_end(&mut again).await;
                assert_eq!(ids, [0; 0], "{what}");
                assert_internal(&status, &again.opened, what);
            }
            Err(status) => assert_eq!(error_reason(&status), "INTERNAL", "{what}"),
        }
        let command_count = log.command_count("aggregate");
        assert!(
            command_count <= 10,
            "{what}: {command_count} openings for three watches"
        );
    }
}

/// Fragments that do not fit together are treated as a broken event.
#[tokio::test]
async fn broken_fragments_end_a_watch_after_the_valid_events_before_them() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    let fragment = |id: i32, fragment: i32, of: i32| {
        let mut event = insert(id);
        event.insert("splitEvent", doc! { "fragment": fragment, "of": of });
        event
    };
    let runs: [&[Document]; 4] = [
        &[fragment(3, 2, 2)],
        &[fragment(3, 1, 3), fragment(3, 3, 3)],
        &[fragment(3, 1, 2), insert(4)],
        &[fragment(3, 1, 2), fragment(3, 1, 2)],
    ];
    tally(Figure::BadInputs, runs.len() as u64);
    for (number, run) in runs.iter().enumerate() {
        let name = format!("c{number}");
        let log = stand_in.log(&name);
        let mut watch = weir.watch(stand_in.watch_request(&[&name])).await;
        let good = [insert(1), insert(2)];
        let all = good.iter().chain(*run).cloned();
        log.push_all(all.map(Event::from));
        let (ids, status) = to_the_end(&mut watch).await;
        assert_eq!(ids, [1, 2], "{run:?}");
        assert_internal(&status, &watch.opened, &format!("{run:?}"));
    }
}

/// Alterations of every reply that must not stop delivery.
#[tokio::test]
async fn odd_replies_lose_nothing() {
    type Alter = fn(&mut Reply);
    let cases: [(&str, Alter); 6] = [
        ("no position after the batch", |it| {
            it.post_batch_token = None;
        }),
        ("an empty position", |it| {
            it.post_batch_token = Some(Document::new().to_vec().expect("it is BSON"));
        }),
        ("a position larger than a token may be", |it| {
            let position = doc! { "_data": "P".repeat(40_000) };
            it.post_batch_token = Some(position.to_vec().expect("it is BSON"));
        }),
        ("a position that is broken inside", |it| {
            it.post_batch_token = Some(b"\x08\0\0\0\x14a\0\0".to_vec());
        }),
        ("no time", |it| it.operation_time = None),
        ("a cursor that says it is used up", |it| {
            if !it.events.is_empty() {
                it.cursor = 0;
            }
        }),
    ];
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    tally(Figure::BadInputs, cases.len() as u64);
    for (number, (what, alter)) in cases.into_iter().enumerate() {
        let name = format!("c{number}");
        let log = stand_in.log(&name);
        log.set_batch(1);
        log.alter(alter);
        let mut watch = weir.watch(stand_in.watch_request(&[&name])).await;
        log.push_all((1..=3).map(|id| insert(id).into()));
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(id(&watch.next_change().await));
        }
        assert_eq!(ids, [1, 2, 3], "{what}");
    }
}

/// MongoDB may change a cursor's id: the next `getMore` uses the newest.
#[tokio::test]
async fn a_cursor_that_changes_its_id_continues_or_is_reopened() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    let log = stand_in.log("orders");
    let mut watch = weir.watch(stand_in.watch_request(&["orders"])).await;
    log.alter(|reply| {
        if !reply.first {
            reply.cursor = reply.cursor.wrapping_add(1).max(1);
        }
    });
    for number in 1..=3 {
        log.push(insert(number));
        assert_eq!(id(&watch.next_change().await), number);
    }
    tally(Figure::BadInputs, 3);
}

/// Bytes that are no reply count as a lost connection.
#[tokio::test]
async fn malformed_replies_lose_nothing() {
    let good = Reply {
        first: false,
        cursor: 7,
        events: Vec::new(),
        post_batch_token: None,
        operation_time: Some(time(stand_in::FIRST_SECOND, 1)),
    };
    let body = good.bytes();
    let message = |length: i32, operation: i32, flags: u32, kind: u8, body: &[u8]| {
        let mut bytes = Vec::new();
        for number in [length, 0, 0, operation] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(flags.to_le_bytes());
        bytes.push(kind);
        bytes.extend(body);
        bytes
    };
    let length = i32::try_from(body.len() + 21).expect("it is short");
    let too_long = i32::try_from(LARGEST_MESSAGE + 1).expect("it is an i32");
    let nothing_in_it = doc! { "ok": 1.0 };
    let without_batch = doc! { "ok": 1.0, "cursor": { "id": 7_i64, "ns": "stand_in.orders" } };
    let batch_of_another_type = doc! { "ok": 1.0, "cursor": {
        "id": 7_i64, "ns": "stand_in.orders", "nextBatch": "text",
    } };
    let cursor_of_another_type = doc! { "ok": 1.0, "cursor": 5 };
    let document = |it: Document| it.to_vec().expect("it is BSON");
    let cases: Vec<(&str, Answer)> = vec![
        ("a closed connection", Answer::Close),
        ("half a header", Answer::Message(vec![1, 2, 3, 4, 5])),
        (
            "half a message",
            Answer::Message(message(length, 2013, 0, 0, &body[..body.len() / 2])),
        ),
        (
            "a negative length",
            Answer::Message(message(-1, 2013, 0, 0, &body)),
        ),
        (
            "a length of nothing",
            Answer::Message(message(0, 2013, 0, 0, &body)),
        ),
        (
            "a length below that of the header",
            Answer::Message(message(15, 2013, 0, 0, &body)),
        ),
        (
            "a header alone",
            Answer::Message(message(16, 2013, 0, 0, &[])),
        ),
        (
            "a header and flags alone",
            Answer::Message(message(20, 2013, 0, 0, &[])),
        ),
        (
            "a message over 48 MB",
            Answer::Message(message(too_long, 2013, 0, 0, &body)),
        ),
        (
            "a message of 2 GiB",
            Answer::Message(message(i32::MAX, 2013, 0, 0, &body)),
        ),
        (
            "another operation",
            Answer::Message(message(length, 1, 0, 0, &body)),
        ),
        (
            "an unknown operation",
            Answer::Message(message(length, 4242, 0, 0, &body)),
        ),
        (
            "unknown flags",
            Answer::Message(message(length, 2013, 0xffff, 0, &body)),
        ),
        (
            "an unknown section",
            Answer::Message(message(length, 2013, 0, 9, &body)),
        ),
        (
            "a sequence of documents",
            Answer::Message(message(length, 2013, 0, 1, &body)),
        ),
        ("no document", Answer::Document(Vec::new())),
        ("an empty document", Answer::Document(document(doc! {}))),
        ("noise", Answer::Document(vec![0xff; 64])),
        (
            "a document cut short",
            Answer::Document(body[..body.len() - 9].to_vec()),
        ),
        (
            "a document without a cursor",
            Answer::Document(document(nothing_in_it)),
        ),
        (
            "a cursor of another type",
            Answer::Document(document(cursor_of_another_type)),
        ),
        (
            "a cursor without a batch",
            Answer::Document(document(without_batch)),
        ),
        (
            "a batch of another type",
            Answer::Document(document(batch_of_another_type)),
        ),
    ];
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    tally(Figure::BadInputs, cases.len() as u64);
    for (number, (what, answer)) in cases.into_iter().enumerate() {
        let name = format!("c{number}");
        let log = stand_in.log(&name);
        let mut watch = weir.watch(stand_in.watch_request(&[&name])).await;
        log.push(insert(1));
        assert_eq!(id(&watch.next_change().await), 1, "{what}");
        println!("{what}");
        log.answer(answer);
        log.push(insert(2));
        assert_eq!(id(&watch.next_change().await), 2, "{what}");
        let command_count = log.command_count("aggregate");
        assert!(
            (1..=3).contains(&command_count),
            "{what}: {command_count} openings"
        );
        drop(watch);
        weir.wait_for_no_feeds().await;
    }
}

/// A reply over MongoDB's own limit is not read into memory, and not requested again and again.
#[tokio::test]
async fn replies_over_48_mb_end_the_watch_as_upstream_unavailable() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(2)).await;
    let log = stand_in.log("orders");
    let mut watch = weir.watch(stand_in.watch_request(&["orders"])).await;
    log.push(insert(1));
    assert_eq!(id(&watch.next_change().await), 1);
    let token = watch.token();
    log.alter(|reply| {
        if !reply.events.is_empty() {
            reply.events = vec![vec![0; LARGEST_MESSAGE]];
        }
    });
    log.push(insert(2));
    let (ids, status) = to_the_end(&mut watch).await;
    assert_eq!(ids, [0; 0]);
    assert_eq!(error_reason(&status), "UPSTREAM_UNAVAILABLE", "{status:?}");
    let command_count = log.command_count("aggregate");
    assert!(
        (2..20).contains(&command_count),
        "{command_count} openings in two seconds"
    );
    let held = weir.metrics().await.sum("weir_memory_used_bytes");
    assert!(held < 48e6, "{held} bytes are held");

    log.restore_replies();
    let mut resumed = weir.watch(resume(&stand_in, "orders", token)).await;
    assert_eq!(id(&resumed.next_change().await), 2);
    tally(Figure::BadInputs, 1);
}

/// A server that answers at once with nothing is not asked without a pause.
#[tokio::test]
async fn a_server_that_never_waits_is_not_polled_without_a_pause() {
    let stand_in = StandIn::start();
    let weir = weir(&stand_in, Duration::from_secs(60)).await;
    let log = stand_in.log("orders");
    log.never_wait();
    let mut watch = weir.watch(stand_in.watch_request(&["orders"])).await;
    let before = log.command_count("getMore");
    // The time of two progress messages, a second each.
    let request = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..stand_in.watch_request(&["orders"])
    };
    let mut slow = weir.watch(request).await;
    slow.next_progress().await;
    slow.next_progress().await;
    let command_count = log.command_count("getMore") - before;
    assert!(
        command_count < 1_000,
        "{command_count} questions in two seconds"
    );
    for number in 1..=3 {
        log.push(insert(number));
        assert_eq!(id(&watch.next_change().await), number);
    }
    tally(Figure::BadInputs, 1);
}

#[tokio::test]
async fn the_stand_in_resumes_after_a_cut_and_keeps_no_cursor() {
    let stand_in = StandIn::start();
    let orders = stand_in.log("orders");
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let mut watch = weir.watch(stand_in.watch_request(&["orders"])).await;
    orders.push(insert(1));
    assert_eq!(id(&watch.next_change().await), 1);
    let token = watch.token();
    orders.push(insert(2));
    assert_eq!(id(&watch.next_change().await), 2);
    stand_in.cut();
    orders.push(insert(3));
    assert_eq!(id(&watch.next_change().await), 3);
    let mut again = weir.watch(resume(&stand_in, "orders", token)).await;
    assert_eq!(id(&again.next_change().await), 2);
    assert_eq!(id(&again.next_change().await), 3);
    drop((watch, again));
    weir.shutdown().await;
    eventually("no cursor is left", async || stand_in.open_cursors() == 0).await;
}
