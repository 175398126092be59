//! Tests of the envelope.

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

fn token_context() -> TokenContext {
    TokenContext::new("rs0", &plan(orders()))
}

const KEY: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
const OTHER_KEY: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

fn keys(lines: &[&str]) -> Arc<TokenKeys> {
    Arc::new(TokenKeys::parse(&lines.join("\n")).unwrap())
}

/// Returns all combinations of with and without a token audience, encrypted and not.
fn every_context() -> [(TokenContext, Option<TokenAudience>); 4] {
    let encrypting = || token_context().with_keys(Some(keys(&[KEY])));
    let some = Some(TokenAudience([7; 8]));
    [
        (token_context(), None),
        (token_context(), some),
        (encrypting(), None),
        (encrypting(), some),
    ]
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

fn every_position() -> [Position; 4] {
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
    ResumeToken::decode(&bytes.into(), None)
        .unwrap_err()
        .to_string()
}

/// Returns an envelope with a changed body and a correct checksum, as only a forger or another version
/// would make it.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let encoded = token_context().encode(&event("8265"), None, None);
    let mut body = encoded[..encoded.len() - CHECKSUM_LEN].to_vec();
    change(&mut body);
    let checksum = crc32fast::hash(&body);
    body.extend(checksum.to_be_bytes());
    body
}

#[test]
fn every_kind_of_position_survives_encoding_and_decoding() {
    let anchor = Anchor::new(b"before", AT);
    for (token_context, token_audience) in every_context() {
        for position in every_position() {
            let anchored = matches!(position, Position::HighWater { .. });
            for anchor in [None, Some(&anchor).filter(|_| anchored)] {
                let encoded = token_context.encode(&position, anchor, token_audience);
                let read = ResumeToken::decode(&encoded, token_context.keys()).unwrap();
                assert_eq!(read.position, position);
                assert_eq!(read.anchor.as_ref(), anchor);
                assert_eq!(read.origin, token_context.origin);
                assert_eq!(read.token_audience(), token_audience);
                assert_eq!(read.was_encrypted(), token_context.keys().is_some());
            }
        }
    }
}

/// MongoDB's token contains the document key. An encrypted token must not contain it, and two encrypted
/// tokens must have nothing in common except their length.
#[test]
fn an_encrypted_token_reveals_nothing() {
    let key = "82".repeat(100);
    let open = token_context().encode(&event(&key), None, None);
    assert!(open.windows(key.len()).any(|it| it == key.as_bytes()));
    let encrypting = token_context().with_keys(Some(keys(&[KEY])));
    let context = |name: &str| encrypting.encode(&event(name), None, None);
    let (one, other) = (context(&key), context(&format!("{}83", "82".repeat(99))));
    assert_eq!(one, context(&key), "equal positions have equal tokens");
    assert_eq!(one.len(), other.len());
    let same = one
        .iter()
        .zip(&other)
        .skip(5)
        .filter(|(a, b)| a == b)
        .count();
    assert!(
        same < one.len() / 8,
        "{same} of {} bytes are the same",
        one.len()
    );
    for part in open.windows(8) {
        assert!(!one.windows(8).any(|it| it == part));
    }
}

/// Only a server with a key can make a token, and only one with the same key can read it.
#[test]
fn a_token_with_an_unknown_key_is_refused_with_that_reason() {
    let encoded = |lines: &[&str]| {
        let token_context = token_context().with_keys(Some(keys(lines)));
        token_context.encode(&event("8265"), None, None)
    };
    let error = |encoded: &Bytes, keys: Option<&TokenKeys>| {
        ResumeToken::decode(encoded, keys).unwrap_err().to_string()
    };
    let both = keys(&[OTHER_KEY, KEY]);
    let one = encoded(&[KEY]);
    assert!(ResumeToken::decode(&one, Some(&both)).is_ok());
    assert_eq!(one, encoded(&[KEY, OTHER_KEY]), "the first key encrypts");
    assert_ne!(one, encoded(&[OTHER_KEY, KEY]));
    assert!(error(&one, None).contains("no token keys"));
    assert!(error(&one, Some(&keys(&[OTHER_KEY]))).contains("does not have"));
    // With the identifier of another key.
    let mut renamed = one.to_vec();
    renamed[..5].copy_from_slice(&encoded(&[OTHER_KEY])[..5]);
    assert!(error(&renamed.into(), Some(&both)).contains("changed"));
    // An unencrypted token can be read with any keys.
    let open = token_context().encode(&event("8265"), None, None);
    assert!(
        !ResumeToken::decode(&open, Some(&both))
            .unwrap()
            .was_encrypted()
    );
}

/// A doubly encrypted envelope is invalid.
#[test]
fn an_encrypted_envelope_must_contain_a_plain_one() {
    let keys = keys(&[KEY]);
    let mut out = BytesMut::new();
    let inner =
        token_context()
            .with_keys(Some(Arc::clone(&keys)))
            .encode(&event("8265"), None, None);
    keys.encrypt(&mut out, |out| out.extend_from_slice(&inner));
    let problem = ResumeToken::decode(&out, Some(&keys)).unwrap_err();
    assert!(problem.to_string().contains("version") || problem.to_string().contains("checksum"));
    let mut empty = BytesMut::new();
    keys.encrypt(&mut empty, |_| {});
    ResumeToken::decode(&empty, Some(&keys)).unwrap_err();
}

#[test]
fn a_token_is_encoded_again_for_another_audience() {
    for (token_context, token_audience) in every_context() {
        let token = ResumeToken::decode(
            &token_context.encode(&event("8265"), None, None),
            token_context.keys(),
        )
        .unwrap();
        assert_eq!(
            token.encode_for(token_audience, token_context.keys.clone()),
            token_context.encode(&event("8265"), None, token_audience)
        );
    }
}

#[test]
fn keys_are_lines_of_base64_with_optional_comments() {
    let text = format!("# of May\n\n  {KEY}  # the first\r\n{OTHER_KEY}\n#\n");
    let keys = TokenKeys::parse(&text).unwrap();
    let token_context = token_context().with_keys(Some(Arc::new(keys)));
    let expected = self::token_context().with_keys(Some(self::keys(&[KEY, OTHER_KEY])));
    assert_eq!(
        token_context.encode(&event("8265"), None, None),
        expected.encode(&event("8265"), None, None)
    );
}

/// The message names the line and never its content.
#[test]
fn a_bad_key_is_reported_by_line_and_never_shown() {
    for (text, words) in [
        (String::new(), "no key"),
        ("# nothing\n\n".to_owned(), "no key"),
        (format!("{KEY}\nsecret!"), "line 2 is not base64"),
        (format!("\n{}", &KEY[..43]), "line 2 is not base64"),
        ("c2VjcmV0".to_owned(), "line 1 has 6 bytes"),
        (format!("{KEY}{KEY}"), "line 1 is not base64"),
        (
            format!("{KEY}\n\n{OTHER_KEY}\n{KEY}"),
            "line 4 has the same key as line 1",
        ),
    ] {
        let problem = TokenKeys::parse(&text).unwrap_err();
        assert!(problem.contains(words), "{problem}");
        assert!(
            !problem.contains("secret") && !problem.contains("QUFB"),
            "{problem}"
        );
    }
    let debug = format!("{:?}", keys(&[KEY]));
    assert!(
        !debug.contains("AAAA") && !debug.contains("65, 65"),
        "{debug}"
    );
}

#[test]
fn the_token_of_an_event_equals_that_of_the_position_after_it() {
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
        for (token_context, token_audience) in every_context() {
            let mut put = BytesMut::from(&b"before"[..]);
            token_context.put_event(&mut put, &token, &parsed, token_audience);
            let put = put.split_off(6);
            assert_eq!(put, token_context.encode(&kind, None, token_audience));
            assert_eq!(put.len(), token_context.encoded_len(&token, token_audience));
        }
    }
}

/// Clients store tokens for as long as they like, so the format of version 1 must never change.
#[test]
fn the_bytes_of_a_token_never_change() {
    let encoded = token_context().encode(&Position::Time(AT), None, None);
    let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "01036e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f100000000076a9959e5"
    );
}

/// The same holds for tokens with a token audience and for encrypted tokens, which are equal on every replica.
#[test]
fn the_bytes_of_a_token_with_an_audience_and_of_an_encrypted_token_never_change() {
    let hex = |encoded: Bytes| -> String { encoded.iter().map(|it| format!("{it:02x}")).collect() };
    let some = Some(TokenAudience(*b"audience"));
    assert_eq!(
        hex(token_context().encode(&Position::Time(AT), None, some)),
        "02036e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f1000000000761756469656e636524b33b79"
    );
    let encrypting = token_context().with_keys(Some(keys(&[KEY])));
    assert_eq!(
        hex(encrypting.encode(&Position::Time(AT), None, some)),
        "034ac7d539ff2de8261e72bba1eddd5280d188303808ef468e3961ebff0c16c99550aed3bb3e7e91e62d27a6a7d9a647a18fe25c964e3fa50d65508cb73e12"
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
        // MongoDB's token.
        mongodb_token("8265AB000000012B022C0100296E5A1004"),
    ] {
        problem(bytes);
    }
}

#[test]
fn an_unknown_version_or_kind_is_named_in_the_error() {
    assert!(problem(forged(|body| body[0] = 4)).contains("version"));
    assert!(problem(forged(|body| body[0] = 0)).contains("version"));
    assert!(problem(forged(|body| body[1] = 4)).contains("kind"));
    // A time has no token.
    assert!(problem(forged(|body| body[1] = KIND_TIME)).contains("kind"));
    ResumeToken::decode(&forged(|_| {}), None)
        .expect("an unchanged body with a new checksum is valid");
}

#[test]
fn a_token_longer_than_a_request_allows_is_refused() {
    let long = forged(|body| body.resize(MAX_ENVELOPE_LEN, 0));
    assert!(problem(long).contains("too long"));
}

/// A document key may have any size, and MongoDB's token contains it.
#[test]
fn the_token_of_an_event_with_a_huge_key_contains_its_time_instead() {
    for (token_context, token_audience) in every_context() {
        contains_its_time_if_huge(&token_context, token_audience);
    }
}

fn contains_its_time_if_huge(token_context: &TokenContext, token_audience: Option<TokenAudience>) {
    let largest_that_fits = MAX_ENVELOPE_LEN - token_context.overhead(token_audience) - ANCHOR_LEN;
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
        let encoded = token_context.encode(&position, None, token_audience);
        assert_eq!(
            encoded.len(),
            token_context.encoded_len(&token, token_audience)
        );
        assert!(encoded.len() <= MAX_ENVELOPE_LEN);
        let expected = if fits { position } else { Position::Time(AT) };
        assert_eq!(
            ResumeToken::decode(&encoded, token_context.keys())
                .unwrap()
                .position,
            expected
        );
    }
}

#[test]
fn a_token_context_distinguishes_deployments_scopes_and_pipelines() {
    let token =
        ResumeToken::decode(&token_context().encode(&event("8265"), None, None), None).unwrap();
    let comparison = |token_context: &TokenContext| {
        (
            token.is_same_deployment(token_context),
            token.is_same_scope(token_context),
            token.is_same_plan(token_context),
        )
    };
    assert_eq!(comparison(&token_context()), (true, true, true));
    let elsewhere = TokenContext::new("rs1", &plan(orders()));
    assert_eq!(comparison(&elsewhere), (false, true, true));

    let inserts = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert.into()],
        ..orders()
    };
    assert_eq!(
        comparison(&TokenContext::new("rs0", &plan(inserts))),
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
        let token_context = TokenContext::new("rs0", &plan(other));
        assert_eq!(comparison(&token_context), (true, false, false));
    }
}

proptest! {
    #[test]
    fn any_position_survives_encoding_and_decoding(
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
        let read = ResumeToken::decode(&token_context().encode(&position, None, None), None).unwrap();
        prop_assert_eq!(read.position, position);
    }

    #[test]
    fn a_changed_byte_is_always_detected(
        kind in 0..4usize,
        context in 0..4usize,
        at: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let (token_context, token_audience) = &every_context()[context];
        let mut bytes = token_context.encode(&every_position()[kind], None, *token_audience).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(ResumeToken::decode(&bytes, token_context.keys()).is_err());
    }

    #[test]
    fn a_truncated_token_is_always_detected(
        kind in 0..4usize,
        context in 0..4usize,
        at: prop::sample::Index,
    ) {
        let (token_context, token_audience) = &every_context()[context];
        let encoded = token_context.encode(&every_position()[kind], None, *token_audience);
        let cut = encoded.slice(..at.index(encoded.len()));
        prop_assert!(ResumeToken::decode(&cut, token_context.keys()).is_err());
    }

    #[test]
    fn bytes_added_before_or_after_a_token_are_detected(
        kind in 0..4usize,
        context in 0..4usize,
        added in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let (token_context, token_audience) = &every_context()[context];
        let encoded = token_context.encode(&every_position()[kind], None, *token_audience);
        let behind = [&encoded[..], &added].concat();
        prop_assert!(ResumeToken::decode(&behind, token_context.keys()).is_err());
        let in_front = [&added, &encoded[..]].concat();
        prop_assert!(ResumeToken::decode(&in_front, token_context.keys()).is_err());
    }

    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let keys = keys(&[KEY]);
        let _ = ResumeToken::decode(&bytes, Some(&keys));
        let _ = ResumeToken::decode(&[&[keys::VERSION], &bytes[..]].concat(), Some(&keys));
    }
}
