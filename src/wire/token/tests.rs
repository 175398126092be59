//! Tests of the envelope.

mod encryption;
mod huge_keys;

use bson::doc;
use proptest::prelude::*;

use super::*;
use crate::{
    pb,
    pipeline::{RequestLimits, Watch},
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

fn every_position() -> [Position; 5] {
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
        Position::EventDigest(Anchor::new(b"huge", AT)),
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
                assert!(read.is_same_deployment(&token_context));
                assert!(read.is_same_scope(&token_context));
                assert_eq!(read.is_same_plan(&token_context), anchor.is_some());
                assert_eq!(read.token_audience(), token_audience);
                assert_eq!(read.was_encrypted(), token_context.keys().is_some());
            }
        }
    }
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

/// The token of an event is its identity, so nothing in it depends on the plan that delivered the event.
#[test]
fn equal_positions_have_equal_tokens_whatever_the_plan() {
    let inserts = pb::WatchRequest {
        operations: vec![pb::OperationType::Insert.into()],
        full_document: pb::FullDocument::UpdateLookup.into(),
        ..orders()
    };
    let other = || TokenContext::new("rs0", &plan(inserts.clone()));
    let encrypting = |context: TokenContext| context.with_keys(Some(keys(&[KEY])));
    for position in every_position() {
        for audience in [None, Some(TokenAudience([7; 8]))] {
            assert_eq!(
                token_context().encode(&position, None, audience),
                other().encode(&position, None, audience)
            );
            assert_eq!(
                encrypting(token_context()).encode(&position, None, audience),
                encrypting(other()).encode(&position, None, audience)
            );
        }
    }
    // The anchor is the last event of one plan's stream.
    let anchor = Anchor::new(b"before", AT);
    let anchored =
        |context: TokenContext| context.encode(&every_position()[1], Some(&anchor), None);
    assert_ne!(anchored(token_context()), anchored(other()));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Bytes {
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(pair).collect()
}

/// Clients store tokens for as long as they like, and compare them to recognise events, so their bytes
/// never change.
#[test]
fn the_bytes_of_a_token_never_change() {
    let anchor = Anchor::new(b"before", AT);
    let encoded =
        |at: usize, anchor| hex(&token_context().encode(&every_position()[at], anchor, None));
    let all = [
        encoded(0, None),
        encoded(1, None),
        encoded(1, Some(&anchor)),
        encoded(2, None),
        encoded(3, None),
        encoded(4, None),
    ];
    assert_eq!(all, TOKENS);
}

const TOKENS: [&str; 6] = [
    "01006e620f8a0625d3c72f0c14f900000000000000006553f1000000000715000000025f646174610005000000383236350000043dfbc5",
    "01016e620f8a0625d3c72f0c14f900000000000000006553f1000000000715000000025f646174610005000000383236360000824a5c6d",
    "01046e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f100000000076553f100000000073e78224421ff1c1ef7f2c5becf36ba2e15000000025f646174610005000000383236360000daad3c35",
    "01026e620f8a0625d3c72f0c14f900000000000000006553f1000000000715000000025f646174610005000000383236370000d4aa1a08",
    "01036e620f8a0625d3c72f0c14f900000000000000006553f10000000007d09d531a",
    "01056e620f8a0625d3c72f0c14f900000000000000006553f1000000000708698789d1f3257525bdc273464c657d44471a1f",
];

/// The same holds for tokens with a token audience and for encrypted tokens, which are equal on every replica.
#[test]
fn the_bytes_of_a_token_with_an_audience_and_of_an_encrypted_token_never_change() {
    let some = Some(TokenAudience(*b"audience"));
    assert_eq!(
        hex(&token_context().encode(&event("8265"), None, some)),
        "02006e620f8a0625d3c72f0c14f900000000000000006553f1000000000761756469656e636515000000025f6461746100050000003832363500003709eca8"
    );
    let encrypting = token_context().with_keys(Some(keys(&[KEY])));
    assert_eq!(
        hex(&encrypting.encode(&event("8265"), None, some)),
        "034ac7d5393d32d9bb3ab82871f70bc3e7b310d69e6dc0087259d266503c12957fad4b2cccabcc2a443c1e7ab1b7e28a6c24fcb621b4405852d7ed38ad25e02afa5c53d00522e99fcb03684def81c4dab9dfd202"
    );
}

/// Tokens that Weir 0.2 made, for [`every_position`] but the last, with and without an audience, and
/// encrypted: see [`every_context`]. The third of each is anchored.
const OLD_TOKENS: [[&str; 5]; 4] = [
    [
        "01006e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f1000000000715000000025f6461746100050000003832363500002320f977",
        "01016e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f1000000000715000000025f646174610005000000383236360000a5575edf",
        "01046e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f100000000076553f100000000073e78224421ff1c1ef7f2c5becf36ba2e15000000025f646174610005000000383236360000daad3c35",
        "01026e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f1000000000715000000025f646174610005000000383236370000f3b718ba",
        "01036e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f100000000076a9959e5",
    ],
    [
        "02006e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f10000000007070707070707070715000000025f6461746100050000003832363500007dbb6677",
        "02016e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f10000000007070707070707070715000000025f646174610005000000383236360000353ad7bd",
        "02046e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f1000000000707070707070707076553f100000000073e78224421ff1c1ef7f2c5becf36ba2e15000000025f6461746100050000003832363600001418808a",
        "02026e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f10000000007070707070707070715000000025f646174610005000000383236370000ebb1ad3f",
        "02036e620f8a0625d3c72f0c14f9f7445fc00d6ef5206553f10000000007070707070707070795a6866f",
    ],
    [
        "034ac7d539a78be2a2c1d7d12ab36c5d21b227b54ebce270e25bd539e834aa3b63c6e7fc6438def15c71e3958082103859e64488830849ab128c503fa8d6dd83026f92eb8d029a0724ebd8a5",
        "034ac7d539fe4b51c79dbd9329957abd4f9673e200310b4af79f67e3857ff5c519862c304f6ffe799dbd83bb42346fc61bb182911ef97b213ecd00e7054f4936ed1aa0f2a181e3df906156e6",
        "034ac7d5398c4bea3d8b6c911dfe9a1e772616d45b813e4741f996e20611f2f770ed226345bf9539036f817295356939822634a334050656cede8c54dd5e940432391b46366b5c7669b79ca8b13ca201c8e02f77bed94d41c0c651559aff27855b183a6e",
        "034ac7d539bbded34e1fbf54cadf866f9266a3357d4bc1c025a8a487cba73c486ea60c9f70a719dc3a0e80bee06a7bed8e42a54cdd21d653fa54ccaf34d339ef021be8295923b4090c4fc72f",
        "034ac7d53978eb9bb8bbc7fd8105d387b491877557a28e9b86d3b80a7894778d4b64d7226c77ed73a54afa67f30f0008b069f6f6889f1c",
    ],
    [
        "034ac7d5390aeecaedc9f594b63a4f18b8e3e3aa41ff4089e7e7f9bc61a57ed4b9fb2661e4d3d4962934ce74ec2343271ab76d88ef03f8d84cd839d5ca14c5512a105f5f41b19b9ff007df6b52f5f65178482d09",
        "034ac7d539a40cdecaeaf0c46f23f2e31e9cd15202eefb14a9962b84e41daca9bca1f052a30205358b34ef9e5067a1388003fe11062d7a62b7886a6808decbbd088e0a26456fa29190b2b12e2ae2be6a57ce52ad",
        "034ac7d539fc360a70128934e9c235fc7df9dd6d24b792cd0ecd15ff8d79782de84a5f863584e9ab9ec6d0f31d90f7aa487fa31e411be71ed41b050719518a21aaf8a54693dbd3f7b238643c80cb8a893722799c4053df6ba541619b42b0404e41368ffe46218f449f35b04f",
        "034ac7d539b3c9dc4bb13711a2c6c581c092892a688c479d14e2b3ea51c30a6268243fa2f7b1910644c83cf277af75b539b8be560210ecc417d6d245765c3f4ca3c1ba3660a0b2c401c07d88f82f5100bbfa250f",
        "034ac7d539d3b30c533aa4448abfacfd500f29c3f220c9aa308de9f7a64ae6441342d90bf3bd4363a150f2aa7468ab6846db0fb827cc738d2376878495dc9d",
    ],
];

/// A token of an earlier version still means what it meant. Resumed from it, an event's new token follows.
#[test]
fn tokens_of_earlier_versions_are_read() {
    let anchor = Anchor::new(b"before", AT);
    for ((token_context, token_audience), tokens) in every_context().iter().zip(OLD_TOKENS) {
        let [at, high_water, invalidate, time, _] = every_position();
        let expected = [
            (at, None),
            (high_water.clone(), None),
            (high_water, Some(anchor)),
            (invalidate, None),
            (time, None),
        ];
        for (token, (position, anchor)) in tokens.into_iter().zip(expected) {
            let read = ResumeToken::decode(&from_hex(token), token_context.keys()).unwrap();
            assert_eq!((&read.position, read.anchor), (&position, anchor));
            assert_eq!(read.token_audience(), *token_audience);
            assert!(read.is_same_deployment(token_context) && read.is_same_scope(token_context));
            assert!(read.is_same_plan(token_context));
            assert_eq!(
                read.encode_for(*token_audience, token_context.keys.clone()),
                token_context.encode(&position, anchor.as_ref(), *token_audience)
            );
        }
    }
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

#[test]
fn a_token_context_distinguishes_deployments_scopes_and_pipelines() {
    // Only a token with an anchor says which pipeline made it.
    let anchor = Anchor::new(b"before", AT);
    let token = token_context().encode(&every_position()[1], Some(&anchor), None);
    let token = ResumeToken::decode(&token, None).unwrap();
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
        kind in 0..5u8,
        seconds: u32,
        increment: u32,
    ) {
        let token = Bytes::from(token);
        let time = ClusterTime { seconds, increment };
        let position = match kind {
            0 => Position::Event { token, time },
            1 => Position::HighWater { token, time },
            2 => Position::Invalidate { token, time },
            3 => Position::EventDigest(Anchor::new(&token, time)),
            _ => Position::Time(time),
        };
        let read = ResumeToken::decode(&token_context().encode(&position, None, None), None).unwrap();
        prop_assert_eq!(read.position, position);
    }

    #[test]
    fn a_changed_byte_is_always_detected(
        kind in 0..5usize,
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
        kind in 0..5usize,
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
        kind in 0..5usize,
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
