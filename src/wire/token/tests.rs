//! T6, on the level of the envelope.

use bson::doc;
use proptest::prelude::*;

use super::*;
use crate::{
    pb,
    plan::{RequestLimits, Watch},
};

const AT: ClusterTime = ClusterTime {
    seconds: 1_700_000_000,
    increment: 7,
};

fn plan(request: pb::WatchRequest) -> Plan {
    let limits = RequestLimits {
        allow_deployment: true,
        ..RequestLimits::default()
    };
    Plan::dedicated(&Watch::from_request(request, &limits).unwrap())
}

fn orders() -> pb::WatchRequest {
    pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        ..Default::default()
    }
}

fn stamp() -> Stamp {
    Stamp::new("rs0", &plan(orders()))
}

fn mongodb_token(name: &str) -> Bytes {
    doc! { "_data": name }.to_vec().unwrap().into()
}

fn event(name: &str) -> Position {
    Position::Event {
        token: mongodb_token(name),
        time: AT,
    }
}

fn every_kind() -> [Position; 4] {
    [
        event("8265"),
        Position::HighWater {
            token: mongodb_token("8266"),
            time: AT,
        },
        Position::Invalidate {
            token: mongodb_token("8267"),
            time: AT,
        },
        Position::Time(AT),
    ]
}

fn problem(bytes: impl Into<Bytes>) -> String {
    ResumeToken::read(&bytes.into(), None)
        .unwrap_err()
        .to_string()
}

/// The envelope with its body changed and its checksum made right again, as only a forger or
/// another version would.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let sealed = stamp().seal(&event("8265"), None, None);
    let mut body = sealed[..sealed.len() - CHECKSUM].to_vec();
    change(&mut body);
    let checksum = crc32fast::hash(&body);
    body.extend(checksum.to_be_bytes());
    body
}

#[test]
fn every_kind_of_place_comes_back_as_it_was() {
    for position in every_kind() {
        let read = ResumeToken::read(&stamp().seal(&position, None, None), None).unwrap();
        assert_eq!(read.position, position);
        assert_eq!(read.origin, stamp().origin);
    }
}

#[test]
fn an_events_token_is_that_of_the_place_after_it() {
    let token = mongodb_token("8265");
    for (operation, kind) in [
        (Operation::Insert, event("8265")),
        (
            Operation::Invalidate,
            Position::Invalidate {
                token: token.clone(),
                time: AT,
            },
        ),
    ] {
        let parsed = Event::for_tests(0..token.len(), operation, AT);
        let mut put = BytesMut::new();
        stamp().put_event(&mut put, &token, &parsed, None);
        assert_eq!(put, stamp().seal(&kind, None, None));
        assert_eq!(put.len(), stamp().sealed_len(&token, None));
    }
}

/// Tokens are stored by clients for as long as they like: the form of version 1 is for ever.
#[test]
fn the_bytes_of_a_token_never_change() {
    let sealed = stamp().seal(&Position::Time(AT), None, None);
    let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "01036e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f100000000076a9959e5"
    );
}

#[test]
fn bytes_that_were_never_a_token_are_malformed() {
    for bytes in [
        Bytes::new(),
        Bytes::from_static(b"x"),
        Bytes::from_static(b"82650000000000000129"),
        Bytes::from_static(&[0; 33]),
        Bytes::from_static(&[0xff; 64]),
        // MongoDB's own.
        mongodb_token("8265AB000000012B022C0100296E5A1004"),
    ] {
        problem(bytes);
    }
}

#[test]
fn another_version_or_kind_is_said_to_be_one() {
    assert!(problem(forged(|body| body[0] = 4)).contains("version"));
    assert!(problem(forged(|body| body[0] = 0)).contains("version"));
    assert!(problem(forged(|body| body[1] = 4)).contains("kind"));
    // A time has no token beside it.
    assert!(problem(forged(|body| body[1] = KIND_TIME)).contains("kind"));
    ResumeToken::read(&forged(|_| {}), None).expect("the forger's hand is good");
}

#[test]
fn a_token_longer_than_a_request_may_carry_is_refused_whatever_it_holds() {
    let long = forged(|body| body.resize(MAX_ENVELOPE, 0));
    assert!(problem(long).contains("too long"));
}

/// A document key may be of any size, and MongoDB's token holds it.
#[test]
fn the_token_of_a_huge_key_goes_by_its_time_and_can_still_be_sent_back() {
    let largest_that_fits = MAX_ENVELOPE - PREFIX - ANCHOR - CHECKSUM;
    for (length, fits) in [
        (largest_that_fits, true),
        (largest_that_fits + 1, false),
        (1 << 20, false),
    ] {
        let token = Bytes::from(vec![b'x'; length]);
        let position = Position::Event {
            token: token.clone(),
            time: AT,
        };
        let sealed = stamp().seal(&position, None, None);
        assert_eq!(sealed.len(), stamp().sealed_len(&token, None));
        let expected = if fits { position } else { Position::Time(AT) };
        assert_eq!(ResumeToken::read(&sealed, None).unwrap().position, expected);
    }
}

#[test]
fn a_stamp_tells_deployments_scopes_and_pipelines_apart() {
    let token = ResumeToken::read(&stamp().seal(&event("8265"), None, None), None).unwrap();
    let says = |stamp: &Stamp| {
        (
            token.is_of_deployment(stamp),
            token.is_of_scope(stamp),
            token.is_of_plan(stamp),
        )
    };
    assert_eq!(says(&stamp()), (true, true, true));
    let elsewhere = Stamp::new("rs1", &plan(orders()));
    assert_eq!(says(&elsewhere), (false, true, true));

    let inserts = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert.into()],
        ..orders()
    };
    assert_eq!(
        says(&Stamp::new("rs0", &plan(inserts))),
        (true, true, false)
    );

    let scope = |database: &str, collections: &[&str]| pb::WatchRequest {
        database: database.to_owned(),
        collections: collections.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    };
    for other in [
        scope("shop", &["items"]),
        scope("shop", &["items", "orders"]),
        scope("shop", &[]),
        scope("store", &["orders"]),
        scope("", &[]),
    ] {
        let stamp = Stamp::new("rs0", &plan(other));
        assert_eq!(says(&stamp), (true, false, false));
    }
}

proptest! {
    #[test]
    fn any_place_comes_back_as_it_was(
        token in proptest::collection::vec(any::<u8>(), 0..300),
        kind in 0..4u8,
        seconds: u32,
        increment: u32,
    ) {
        let token = Bytes::from(token);
        let time = ClusterTime { seconds, increment };
        let position = match kind {
            0 => Position::Event { token, time },
            1 => Position::HighWater { token, time },
            2 => Position::Invalidate { token, time },
            _ => Position::Time(time),
        };
        let read = ResumeToken::read(&stamp().seal(&position, None, None), None).unwrap();
        prop_assert_eq!(read.position, position);
    }

    #[test]
    fn a_byte_changed_anywhere_is_noticed(
        kind in 0..4usize,
        at: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let mut bytes = stamp().seal(&every_kind()[kind], None, None).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(ResumeToken::read(&bytes, None).is_err());
    }

    #[test]
    fn a_token_cut_short_anywhere_is_noticed(kind in 0..4usize, at: prop::sample::Index) {
        let sealed = stamp().seal(&every_kind()[kind], None, None);
        let cut = sealed.slice(..at.index(sealed.len()));
        prop_assert!(ResumeToken::read(&cut, None).is_err());
    }

    #[test]
    fn bytes_added_in_front_or_behind_are_noticed(
        kind in 0..4usize,
        added in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let sealed = stamp().seal(&every_kind()[kind], None, None);
        let behind = [&sealed[..], &added].concat();
        prop_assert!(ResumeToken::read(&behind, None).is_err());
        let in_front = [&added, &sealed[..]].concat();
        prop_assert!(ResumeToken::read(&in_front, None).is_err());
    }

    #[test]
    fn no_bytes_make_the_reader_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ResumeToken::read(&bytes, None);
    }
}
