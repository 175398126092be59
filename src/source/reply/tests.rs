use bson::{Document, doc};

use super::*;
use crate::source::scripted::{after, at, event, token};

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
    let mut decoder = ReplyDecoder::new(Some(from), Some(from.time()));
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
