use bson::{Bson, Document, doc};

use super::*;
use crate::source::scripted::{after, at, event, insert, token};

mod early_replies;

fn reply(events: &[Document], post_batch_token: &str) -> Bytes {
    let reply = doc! {
        "cursor": {
            "nextBatch": events.to_vec(),
            "id": 7_i64,
            "postBatchResumeToken": { "_data": post_batch_token },
        },
        "operationTime": bson::Timestamp { time: 100, increment: 50 },
    };
    reply.to_vec().unwrap().into()
}

/// Returns the position after the last of these replies to a stream that was opened at `from`.
fn position_after(from: &Position, replies: &[Bytes]) -> Option<Position> {
    let decoder = ReplyDecoder::new(Some(from), Some(from.time()));
    let mut decoder = decoder.with_unfiltered(true);
    let mut position = None;
    for reply in replies {
        let contents = decoder.decode(reply.clone(), true);
        assert!(contents.error.is_none(), "{:?}", contents.error);
        position = contents
            .batches
            .into_iter()
            .filter_map(|it| it.position)
            .last();
    }
    position
}

/// Until something else happens, MongoDB repeats the token that the stream was opened with, and it
/// accepts the token of an invalidate event only in `startAfter`.
#[test]
fn the_position_stays_after_an_invalidate_while_mongodb_repeats_its_token() {
    let invalidate = Position::Invalidate {
        token: token("gone"),
        time: at(8),
    };
    let quiet = reply(&[], "gone");
    let position = position_after(&invalidate, &[quiet.clone(), quiet.clone()]);
    assert_eq!(position, Some(invalidate.clone()));
    let moved = position_after(&invalidate, &[quiet, reply(&[], "moved")]);
    let high_water = Position::HighWater {
        token: token("moved"),
        time: at(50),
    };
    assert_eq!(moved, Some(high_water));
}

/// Only the first fragment has to contain the event's time.
#[test]
fn the_position_after_a_split_event_is_not_earlier_than_the_event() {
    let first = event(
        "f1",
        "update",
        7,
        doc! { "splitEvent": { "fragment": 1, "of": 2 } },
    );
    let last = doc! { "_id": { "_data": "f2" }, "splitEvent": { "fragment": 2, "of": 2 } };
    let whole = [reply(&[first.clone(), last.clone()], "t")];
    let in_two = [reply(&[first], "f1"), reply(&[last], "t")];
    for replies in [&whole[..], &in_two[..]] {
        let position = position_after(&after("before", 1), replies);
        let expected = Position::HighWater {
            token: token("t"),
            time: at(7),
        };
        assert_eq!(position, Some(expected));
    }
}

/// Only one of the fragments has the transaction, and it may be the second.
#[test]
fn a_split_event_counts_with_the_transaction_that_its_fragments_have() {
    let in_transaction = |event: Document| {
        let mut event = event;
        let lsid = doc! { "id": bson::Uuid::from_bytes([7; 16]) };
        event.extend(doc! { "lsid": lsid, "txnNumber": 1_i64 });
        event
    };
    let whole = in_transaction(event("a", "insert", 5, doc! {}));
    let part = |index: i32| doc! { "splitEvent": { "fragment": index, "of": 2 } };
    let first = event("f1", "update", 5, part(1));
    let mut second = doc! { "_id": { "_data": "f2" } };
    second.extend(in_transaction(part(2)));
    let other = event("n", "insert", 6, doc! {});
    let events = [whole, first, second, other];
    for cut in 0..=events.len() {
        let mut decoder = ReplyDecoder::new(None, None).with_contiguous_transactions(true);
        let (before, after) = events.split_at(cut);
        let mut read = Vec::new();
        for part in [before, after] {
            let contents = decoder.decode(reply(part, "p"), false);
            assert!(contents.error.is_none(), "{:?}", contents.error);
            for batch in contents.batches {
                let of = |it: &Event| (it.operation, it.is_last_of_transaction);
                read.extend(batch.events.iter().map(of));
            }
        }
        let known = cut != 3;
        let expected = [
            (Operation::Insert, false),
            (Operation::Update, known),
            (Operation::Insert, false),
        ];
        assert_eq!(read, expected, "cut at {cut}");
    }
}
/// The reply to an opening or a `getMore`, and whether MongoDB held it back.
fn positions(from: &Position, replies: &[(Bytes, bool)]) -> Vec<Option<Position>> {
    let decoder = ReplyDecoder::new(Some(from), Some(from.time()));
    let mut decoder = decoder.with_unfiltered(true);
    let position = |(reply, waited): &(Bytes, bool)| {
        let contents = decoder.decode(reply.clone(), *waited);
        contents
            .batches
            .into_iter()
            .filter_map(|it| it.position)
            .last()
    };
    replies.iter().map(position).collect()
}

fn high_water(name: &str, increment: u32) -> Position {
    Position::HighWater {
        token: token(name),
        time: at(increment),
    }
}

/// A mongos 9.0.0 or 9.0.1 sends a token that lies before the one given (SERVER-135099), and repeats it
/// until a shard has read something later.
#[test]
fn the_given_position_stays_while_the_token_of_an_empty_first_reply_may_lie_before_it() {
    let given = after("given", 8);
    let empty = |token, waited| (reply(&[], token), waited);
    let replies = [
        empty("before", false),
        empty("before", false),
        empty("midway", false),
        empty("before", true),
        empty("later", true),
        empty("latest", false),
    ];
    assert_eq!(
        positions(&given, &replies),
        [
            Some(given.clone()),
            Some(given.clone()),
            Some(given.clone()),
            Some(given.clone()),
            Some(high_water("later", 50)),
            Some(high_water("latest", 50)),
        ]
    );
    // Nor does the time of a given place between events move.
    let between = high_water("given", 8);
    assert_eq!(
        positions(&between, &replies[..4]),
        vec![Some(between.clone()); 4]
    );
    // With events the stream is past it, and at their time.
    let with_event = (reply(&[insert_event()], "after"), false);
    let replies = [empty("before", false), empty("before", true), with_event];
    assert_eq!(
        positions(&given, &replies),
        [
            Some(given.clone()),
            Some(given.clone()),
            Some(high_water("after", 9)),
        ]
    );
    let with_event = (reply(&[insert_event()], "after"), false);
    let replies = [empty("before", false), with_event, empty("quiet", false)];
    assert_eq!(
        positions(&given, &replies),
        [
            Some(given.clone()),
            Some(high_water("after", 9)),
            Some(high_water("quiet", 9)),
        ]
    );
    // The token of an invalidation stays one.
    let invalidate = Position::Invalidate {
        token: token("gone"),
        time: at(8),
    };
    let replies = [empty("before", false), empty("before", true)];
    let stays = Some(invalidate.clone());
    assert_eq!(positions(&invalidate, &replies), [stays.clone(), stays]);
}

/// Where tokens tell their times, the tokens decide, and not the time that is known of the event: that may be earlier.
#[test]
fn a_token_that_tells_a_later_time_than_the_given_one_ends_the_doubt_at_once() {
    let mark = |increment: u32| format!("8200000064{increment:08X}2B0429296E1404");
    let given = after(&format!("8200000064{:08X}2B042C0100296E04", 8), 3);
    for (told, stays) in [(7, true), (8, true), (9, false)] {
        let position = &positions(&given, &[(reply(&[], &mark(told)), false)])[0];
        let expected = if stays {
            given.clone()
        } else {
            high_water(&mark(told), told)
        };
        assert_eq!(position, &Some(expected), "{told}");
    }
}

fn insert_event() -> Document {
    event("e", "insert", 9, doc! {})
}

/// A first reply that repeats the token shows that the later ones count.
#[test]
fn a_first_reply_with_the_given_token_casts_no_doubt_on_the_next_ones() {
    let given = after("given", 8);
    let replies = [(reply(&[], "given"), false), (reply(&[], "midway"), false)];
    assert_eq!(
        positions(&given, &replies),
        [Some(high_water("given", 8)), Some(high_water("midway", 8))]
    );
    let replies = [(reply(&[], "later"), false)];
    let time = Position::Time(at(8));
    assert_eq!(positions(&time, &replies), [Some(high_water("later", 8))]);
}

/// Only a mongos goes back. A mongod that never holds a reply back, because others write all the time, still says
/// where it is.
#[test]
fn on_a_replica_set_a_second_token_ends_the_doubt() {
    let given = after("given", 8);
    let mut decoder =
        ReplyDecoder::new(Some(&given), Some(at(8))).with_contiguous_transactions(true);
    let names = ["first", "first", "midway", "later"];
    let positions = names.map(|name| {
        let contents = decoder.decode(reply(&[], name), false);
        contents.batches[0].position.clone()
    });
    assert_eq!(
        positions,
        [
            Some(given.clone()),
            Some(given),
            Some(high_water("midway", 8)),
            Some(high_water("later", 8)),
        ]
    );
}

/// What a client's stages have made of an event is not believed, and a closed cursor has no position of its own.
#[test]
fn behind_a_clients_stages_times_are_those_that_the_stream_had_reached() {
    let genuine = Genuine {
        everything: false,
        time: false,
        every_time: false,
        wall_time: false,
        transaction: false,
        document_ids: false,
    };
    let mut decoder =
        ReplyDecoder::new(Some(&after("given", 8)), Some(at(8))).with_genuine(genuine);
    let made_up = event(
        "a",
        "invalidate",
        99,
        doc! { "ns": { "db": "admin", "coll": "x" } },
    );
    let contents = decoder.decode(reply(&[made_up], "a"), false);
    let read = &contents.batches[0].events[0];
    assert_eq!(
        (read.operation, read.cluster_time),
        (Operation::Other, at(8))
    );
    assert!(!read.is_internal);
    assert_eq!(contents.batches[0].position, Some(after("a", 8)));
    for token in [Bson::Null, "x".into(), doc! { "a": 1 }.into()] {
        let mut changed = insert("b", 9);
        changed.insert("_id", token);
        let error = decoder.decode(reply(&[changed], "b"), false).error;
        assert_eq!(
            error.map(|it| it.failure),
            Some(Failure::PipelineChangedToken)
        );
    }
}
