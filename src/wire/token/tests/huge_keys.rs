//! Tests of the tokens of events whose keys are too large for an envelope.

use super::*;

/// A document key may have any size, and MongoDB's token contains it.
#[test]
fn the_token_of_an_event_with_a_huge_key_contains_its_digest() {
    for (token_context, token_audience) in every_context() {
        contains_its_digest_if_huge(&token_context, token_audience);
    }
}

fn contains_its_digest_if_huge(
    token_context: &TokenContext,
    token_audience: Option<TokenAudience>,
) {
    for (length, fits) in [
        (MAX_MONGODB_TOKEN_LEN, true),
        (MAX_MONGODB_TOKEN_LEN + 1, false),
        (1 << 20, false),
    ] {
        let token = Bytes::from(vec![b'x'; length]);
        let time = AT;
        let positions = [
            Position::Event {
                token: token.clone(),
                time,
            },
            Position::HighWater {
                token: token.clone(),
                time,
            },
            Position::Invalidate {
                token: token.clone(),
                time,
            },
        ];
        for position in positions {
            let encoded = token_context.encode(&position, None, token_audience);
            assert_eq!(
                encoded.len(),
                token_context.encoded_len(&token, token_audience)
            );
            // In an error's details it is in base64 twice.
            assert!(encoded.len() * 16 / 9 < 6 << 10);
            let digest = Position::EventDigest(Anchor::new(&token, AT));
            let expected = if fits { position } else { digest };
            let read = ResumeToken::decode(&encoded, token_context.keys()).unwrap();
            assert_eq!(read.position, expected);
            assert_eq!(
                encoded,
                token_context.encode(&expected, None, token_audience)
            );
        }
    }
}

/// MongoDB may repeat the token of the last event as that of a later high-water position. Its digest is
/// looked up at the event's time, so the envelope is the event's.
#[test]
fn a_later_high_water_position_with_the_huge_token_of_an_event_has_the_token_of_the_event() {
    let token = Bytes::from(vec![b'x'; MAX_MONGODB_TOKEN_LEN + 1]);
    let event = Anchor::new(&token, AT);
    let later = Position::HighWater {
        token: token.clone(),
        time: ClusterTime {
            increment: AT.increment + 5,
            ..AT
        },
    };
    let of_event = Position::Event { token, time: AT };
    for (token_context, token_audience) in every_context() {
        let encoded = token_context.encode(&later, Some(&event), token_audience);
        let read = ResumeToken::decode(&encoded, token_context.keys()).unwrap();
        assert_eq!(read.position, Position::EventDigest(event));
        assert_eq!(
            encoded,
            token_context.encode(&of_event, None, token_audience)
        );
        // The anchor of another event says nothing of this one.
        let other = Anchor::new(b"other", AT);
        let encoded = token_context.encode(&later, Some(&other), token_audience);
        let read = ResumeToken::decode(&encoded, token_context.keys()).unwrap();
        assert_eq!(read.position.time(), later.time());
    }
}

/// Events of one transaction have one time.
#[test]
fn events_of_one_time_with_huge_keys_have_tokens_of_their_own() {
    let token = |last: u8| {
        let mut token = vec![b'x'; 20 << 10];
        token.push(last);
        let token = Bytes::from(token);
        token_context().encode(&Position::Event { token, time: AT }, None, None)
    };
    assert_ne!(token(1), token(2));
    assert_eq!(token(1), token(1));
}
