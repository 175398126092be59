//! Fuzz target: MongoDB's replies. Their events are decoded in order, and fragments are merged.

use bytes::Bytes;
use weir::{
    raw::{ElementType, Elements},
    source::{ClusterTime, Event, Position, ReplyDecoder},
};

use super::{
    fixtures,
    input::{Input, document, put_element, put_part},
};

/// Reads the input as replies of a stream, as events of replies, or as an event in fragments.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (mode, options) = (input.byte(), input.byte());
    match mode % 3 {
        0 => raw_replies(input, options),
        1 => events(input, options),
        _ => fragments(input, options),
    }
}

/// Decodes replies up to the first malformed one, and checks the order of the events. Returns the bytes of
/// each event, and whether a reply was malformed.
fn read(replies: impl IntoIterator<Item = Vec<u8>>, from_now: bool) -> (Vec<Bytes>, bool) {
    let start = Position::Time(ClusterTime::default());
    let at = (!from_now).then_some(&start);
    let decoder = ReplyDecoder::new(at, at.map(Position::time));
    let mut decoder = decoder.with_contiguous_transactions(true);
    let mut read = Vec::new();
    let mut reached = ClusterTime::default();
    for (index, reply) in replies.into_iter().enumerate() {
        let size = reply.len();
        let contents = decoder.decode(reply.into(), index % 2 == 1);
        for batch in &contents.batches {
            for event in &batch.events {
                let bytes = batch.buffer.slice(event.bytes.clone());
                assert!(event.cluster_time >= reached, "time went back");
                reached = event.cluster_time;
                let again = Event::parse(&bytes, 0..bytes.len()).expect("it was read before");
                assert_eq!(again.operation, event.operation);
                assert_eq!(bytes[again.token], batch.buffer[event.token.clone()]);
                read.push(bytes);
            }
            if let Some(last) = batch.events.last() {
                let position = batch.position.as_ref();
                assert!(position.is_some(), "events without a position after them");
                if let Some(Position::Event { token, .. }) = position {
                    assert_eq!(token, &batch.buffer[last.token.clone()]);
                }
                assert!(!batch.waited);
            }
            if let Some(position) = &batch.position {
                assert!(position.time() >= ClusterTime::default());
                assert!(
                    position
                        .token()
                        .is_none_or(|it| it.len() <= batch.buffer.len())
                );
            }
            assert!(batch.events.len() <= size / 8 + 1);
        }
        if let Some(error) = contents.error {
            let dump = error.to_string();
            assert!(dump.len() < 200, "an error reveals too much: {dump}");
            return (read, true);
        }
        assert!(
            !contents.batches.is_empty(),
            "a well-formed reply has a batch"
        );
    }
    (read, false)
}

fn raw_replies(mut input: Input<'_>, options: u8) {
    let mut replies = Vec::new();
    while !input.is_empty() && replies.len() < 8 {
        replies.push(input.part().to_vec());
    }
    read(replies, options & 1 != 0);
}

/// Uses the parts of an input as the events of one or more replies. All valid events before the first
/// malformed one must be decoded.
fn events(mut input: Input<'_>, options: u8) {
    let mut parts = Vec::new();
    while !input.is_empty() && parts.len() < 16 {
        parts.push(input.part());
    }
    let is_good = |part: &[u8]| {
        Elements::new(part).is_ok()
            && Event::parse(part, 0..part.len()).is_ok()
            && !has_fragment(part)
    };
    let good = parts.iter().take_while(|part| is_good(part)).count();
    let events_per_reply = 1 + usize::from(options >> 4);
    let replies = parts
        .chunks(events_per_reply)
        .map(|part| reply(part, options));
    let (decoded, broken) = read(replies, options & 1 != 0);
    assert!(
        decoded.len() >= good,
        "{} of {good} events were decoded",
        decoded.len()
    );
    for (decoded, part) in decoded.iter().zip(&parts[..good]) {
        // An update loses a looked-up document whose `_id` is not that of its key.
        assert!(
            decoded == part || lacks_its_document(decoded),
            "{decoded:?} {part:?}"
        );
    }
    if good == parts.len() {
        assert_eq!(decoded.len(), good);
        assert!(!broken, "no event was malformed");
    }
}

fn lacks_its_document(event: &[u8]) -> bool {
    let mut elements = Elements::new(event).into_iter().flatten();
    elements.any(|it| it.is_ok_and(|it| it.key == b"fullDocument" && it.kind == ElementType::Null))
}

fn has_fragment(event: &[u8]) -> bool {
    let mut elements = Elements::new(event).into_iter().flatten();
    elements.any(|it| it.is_ok_and(|it| it.key == b"splitEvent"))
}

/// Returns a reply to a `getMore` that is well-formed except for its events.
fn reply(events: &[&[u8]], options: u8) -> Vec<u8> {
    let mut batch = Vec::new();
    for event in events {
        put_element(&mut batch, 3, "0", event);
    }
    let mut cursor = Vec::new();
    put_element(&mut cursor, 4, "nextBatch", &document(&batch));
    put_element(&mut cursor, 18, "id", &u64::from(options & 2).to_le_bytes());
    if options & 4 != 0 {
        let token = b"\x02_data\0\x02\0\0\0P\0";
        put_element(&mut cursor, 3, "postBatchResumeToken", &document(token));
    }
    let mut reply = Vec::new();
    put_element(&mut reply, 3, "cursor", &document(&cursor));
    if options & 8 != 0 {
        put_element(&mut reply, 17, "operationTime", &[7; 8]);
    }
    document(&reply)
}

/// Distributes the fields of an event over fragments. The merged event must have all of them, and the last
/// fragment's token.
fn fragments(mut input: Input<'_>, options: u8) {
    let seed = input.part();
    let event = input.0;
    let Ok(elements) = Elements::new(event) else {
        return;
    };
    let mut seen = std::collections::HashSet::new();
    let mut fields = Vec::new();
    for element in elements {
        let Ok(element) = element else { return };
        // The merged event has a repeated field only once.
        if !seen.insert(element.key.to_vec()) {
            return;
        }
        if element.key != b"_id" && element.key != b"splitEvent" {
            fields.push(element);
        }
    }
    let of = usize::from(options >> 4) + 2;
    let mut fragments: Vec<Vec<u8>> = (1..=of)
        .map(|index| {
            let mut elements = Vec::new();
            let data = format!("\x02_data\0\x03\0\0\0{:02}\0", index);
            put_element(&mut elements, 3, "_id", &document(data.as_bytes()));
            let mut split = Vec::new();
            for (name, number) in [("fragment", index), ("of", of)] {
                let number = u32::try_from(number).expect("it is small");
                put_element(&mut split, 16, name, &number.to_le_bytes());
            }
            put_element(&mut elements, 3, "splitEvent", &document(&split));
            elements
        })
        .collect();
    for (index, field) in fields.iter().enumerate() {
        let choice = seed.get(index % seed.len().max(1)).copied();
        let fragment = usize::from(choice.unwrap_or_default()) % of;
        let elements = &mut fragments[fragment];
        elements.push(field.kind as u8);
        elements.extend(field.key);
        elements.push(0);
        elements.extend(field.value);
    }
    let fragments: Vec<Vec<u8>> = fragments.iter().map(|it| document(it)).collect();
    let parts: Vec<&[u8]> = fragments.iter().map(Vec::as_slice).collect();
    let events_per_reply = 1 + usize::from(options & 3);
    let replies = parts.chunks(events_per_reply).map(|part| reply(part, 14));
    let (decoded, broken) = read(replies, false);
    assert!(!broken, "fragments in order are an event");
    let [whole] = &decoded[..] else {
        panic!("one event in fragments became {}", decoded.len());
    };
    let merged: Vec<_> = Elements::new(whole)
        .expect("it is well-formed")
        .map(|it| it.expect("it is well-formed"))
        .collect();
    assert_eq!(merged.len(), fields.len() + 1);
    for field in &fields {
        let kept = merged
            .iter()
            .any(|it| it.key == field.key && it.kind == field.kind && it.value == field.value);
        let is_left_out = field.key == b"fullDocument" && lacks_its_document(whole);
        assert!(kept || is_left_out, "{:?} is lost", field.key);
    }
    let token = merged.iter().find(|it| it.key == b"_id");
    let last = format!("{of:02}");
    let token = token
        .and_then(|it| it.as_document())
        .expect("it has a token");
    assert!(token.windows(2).any(|it| it == last.as_bytes()));
}

/// Returns replies with events, and an event in fragments.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let events = fixtures::events();
    let all: Vec<&[u8]> = events.iter().map(|(_, event)| event.as_slice()).collect();
    let mut replies = vec![0, 1];
    for chunk in all.chunks(4).take(2) {
        put_part(&mut replies, &reply(chunk, 14));
    }
    put_part(&mut replies, &reply(&[], 14));
    let mut parts = vec![1, 0x2e];
    for event in &all[..6] {
        put_part(&mut parts, event);
    }
    let mut in_fragments = vec![2, 0x10];
    put_part(&mut in_fragments, &[0, 1, 2, 1, 0]);
    in_fragments.extend(all[1]);
    vec![
        ("replies", replies),
        ("events", parts),
        ("fragments", in_fragments),
    ]
}
