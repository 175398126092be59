//! Fuzz target: decoding and encoding of resume tokens, with and without an audience, encrypted and not.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use weir::{
    model::TokenAudience,
    source::{Anchor, ClusterTime, Position},
    wire::{ResumeToken, TokenContext, TokenKeys},
};

use super::{
    fixtures,
    input::{Input, put_part},
};

/// The maximum size of a resume token.
const MAX_TOKEN: usize = 16 << 10;

/// The maximum size of MongoDB's token in it.
const MAX_MONGODB_TOKEN: usize = 3 << 10;

static KEYS: LazyLock<Arc<TokenKeys>> = LazyLock::new(|| {
    let key = format!("{}=", "Q".repeat(43));
    Arc::new(TokenKeys::parse(&key).expect("it is a key"))
});

/// The audience of a token, and whether it is encrypted.
#[derive(Clone, Copy)]
struct TokenOptions {
    token_audience: Option<TokenAudience>,
    encrypted: bool,
}

impl TokenOptions {
    fn token_context(self) -> TokenContext {
        fixtures::token_context().with_keys(self.encrypted.then(|| Arc::clone(&KEYS)))
    }
}

/// Decodes the input as a token. Then makes a position of the input, encodes it, decodes it, and decodes
/// it again with a few changed bits.
pub fn run(data: &[u8]) {
    if let Ok(token) = ResumeToken::decode(data, Some(&KEYS)) {
        assert!(data.len() <= MAX_TOKEN);
        // A decoded token can be encoded again.
        let options = TokenOptions {
            token_audience: token.token_audience(),
            encrypted: token.was_encrypted(),
        };
        encode_and_decode(&token.position, token.anchor.as_ref(), options);
    }

    let mut input = Input(data);
    let kind = input.byte();
    let time = ClusterTime {
        seconds: input.number(),
        increment: input.number(),
    };
    let anchor = (kind & 4 != 0).then(|| {
        let time = ClusterTime {
            seconds: input.number(),
            increment: input.number(),
        };
        Anchor::new(input.bytes(8), time)
    });
    let (at, flips) = (input.number() as usize, input.number());
    let options = TokenOptions {
        token_audience: (kind & 16 != 0).then_some(TokenAudience(at.to_le_bytes())),
        encrypted: kind & 32 != 0,
    };
    let mut token = input.0.to_vec();
    if kind & 8 != 0 {
        // Around the length at which MongoDB's token is replaced by its digest.
        token.resize(MAX_MONGODB_TOKEN - 64 + at % 128, 7);
    }
    let token = Bytes::from(token);
    let position = match kind & 3 {
        0 => Position::Event { token, time },
        1 => Position::HighWater { token, time },
        2 => Position::Invalidate { token, time },
        _ if token.is_empty() => Position::Time(time),
        _ => Position::EventDigest(Anchor::new(&token, time)),
    };
    let encoded = encode_and_decode(&position, anchor.as_ref(), options);

    // The checksum detects every change of up to 32 consecutive bits. It is no signature: a fuzzer also
    // finds changes that it does not detect.
    let mut changed = encoded.to_vec();
    let at = at % (changed.len() - 7);
    for (byte, flip) in changed[at..].iter_mut().zip(flips.to_le_bytes()) {
        *byte ^= flip;
    }
    let read = ResumeToken::decode(&changed, Some(&KEYS));
    if flips == 0 {
        assert_eq!(read, ResumeToken::decode(&encoded, Some(&KEYS)));
    } else {
        assert!(read.is_err(), "a changed token was accepted");
    }
}

/// Encodes a position, and checks that decoding returns the same.
fn encode_and_decode(position: &Position, anchor: Option<&Anchor>, options: TokenOptions) -> Bytes {
    let token_context = options.token_context();
    let encoded = token_context.encode(position, anchor, options.token_audience);
    assert!(
        encoded.len() <= MAX_TOKEN,
        "a token that no request accepts"
    );
    assert_eq!(
        encoded,
        token_context.encode(position, anchor, options.token_audience)
    );
    let read = ResumeToken::decode(&encoded, token_context.keys())
        .expect("an encoded token can be decoded");
    assert!(read.is_same_deployment(&token_context) && read.is_same_scope(&token_context));
    // Only an anchor needs the plan.
    assert_eq!(read.is_same_plan(&token_context), read.anchor.is_some());
    assert_eq!(read.token_audience(), options.token_audience);
    assert_eq!(read.was_encrypted(), options.encrypted);
    if options.encrypted {
        assert!(ResumeToken::decode(&encoded, None).is_err());
    }
    if read.position == *position {
        let anchored = matches!(position, Position::HighWater { .. });
        assert_eq!(read.anchor.as_ref(), anchor.filter(|_| anchored));
    } else {
        let token = position.token().expect("a position without a token fits");
        assert!(token.len() > MAX_MONGODB_TOKEN);
        let digest = Position::EventDigest(Anchor::new(token, position.time()));
        assert_eq!(read.position, digest);
    }
    encoded
}

/// Returns tokens of every kind, and positions to be encoded.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let time = ClusterTime {
        seconds: 1_700_000_000,
        increment: 7,
    };
    let token = Bytes::from_static(b"\x15\0\0\0\x02_data\0\x05\0\0\082AA\0\0");
    let anchor = Anchor::new(&token, time);
    let event = Position::Event {
        token: token.clone(),
        time,
    };
    let high_water = Position::HighWater {
        token: token.clone(),
        time,
    };
    let invalidate = Position::Invalidate { token, time };
    let mut position_input = vec![5];
    position_input.extend([7; 8 + 8 + 8 + 8]);
    put_part(&mut position_input, b"a place");
    let mut encrypted_position_input = position_input.clone();
    encrypted_position_input[0] = 5 | 16 | 32;
    let options = |token_audience, encrypted| TokenOptions {
        token_audience,
        encrypted,
    };
    let (all, some) = (
        options(None, false),
        options(Some(TokenAudience([9; 8])), false),
    );
    let (all_encrypted, some_encrypted) = (options(None, true), options(some.token_audience, true));
    let encoded = |position, anchor, options| encode_and_decode(position, anchor, options).to_vec();
    vec![
        ("event", encoded(&event, None, all)),
        ("high-water", encoded(&high_water, None, all)),
        ("anchored", encoded(&high_water, Some(&anchor), all)),
        ("invalidate", encoded(&invalidate, None, all)),
        (
            "event-digest",
            encoded(&Position::EventDigest(anchor), None, all),
        ),
        ("time", encoded(&Position::Time(time), None, all)),
        ("for-some", encoded(&event, None, some)),
        (
            "for-some-anchored",
            encoded(&high_water, Some(&anchor), some),
        ),
        ("encrypted", encoded(&event, None, all_encrypted)),
        (
            "for-some-encrypted",
            encoded(&high_water, Some(&anchor), some_encrypted),
        ),
        ("position", position_input),
        ("position-encrypted", encrypted_position_input),
        ("too-large", vec![8; 40]),
        ("too-large-encrypted", vec![8 | 16 | 32; 40]),
    ]
}
