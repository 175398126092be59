//! The resume token: what a client sends back, and what is sealed for it, for all or for some, encrypted or
//! not.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use weir::{
    plan::Audience,
    source::{ClusterTime, Position},
    wire::{Anchor, ResumeToken, Stamp, TokenKeys},
};

use super::{
    input::{Input, put_part},
    samples,
};

/// What a resume token takes at most.
const MAX_TOKEN: usize = 16 << 10;

static KEYS: LazyLock<Arc<TokenKeys>> = LazyLock::new(|| {
    let key = format!("{}=", "Q".repeat(43));
    Arc::new(TokenKeys::parse(&key).expect("it is a key"))
});

/// For whom a token is, and whether it is encrypted.
#[derive(Clone, Copy)]
struct For {
    audience: Option<Audience>,
    encrypted: bool,
}

impl For {
    fn stamp(self) -> Stamp {
        samples::stamp().with_keys(self.encrypted.then(|| Arc::clone(&KEYS)))
    }
}

/// Reads the input as a token; then makes a place of it, seals that, reads it again, and again with a
/// few bits changed.
pub fn run(data: &[u8]) {
    if let Ok(token) = ResumeToken::read(data, Some(&KEYS)) {
        assert!(data.len() <= MAX_TOKEN);
        // Whatever was read can be sealed anew.
        let whose = For {
            audience: token.audience(),
            encrypted: token.was_encrypted(),
        };
        sealed_and_read(&token.position, token.anchor.as_ref(), whose);
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
    let whose = For {
        audience: (kind & 16 != 0).then_some(Audience(at.to_le_bytes())),
        encrypted: kind & 32 != 0,
    };
    let mut token = input.0.to_vec();
    if kind & 8 != 0 {
        // Around the length at which MongoDB's token no longer fits.
        token.resize(MAX_TOKEN - 96 + at % 128, 7);
    }
    let token = Bytes::from(token);
    let position = match kind & 3 {
        0 => Position::Event { token, time },
        1 => Position::HighWater { token, time },
        2 => Position::Invalidate { token, time },
        _ => Position::Time(time),
    };
    let sealed = sealed_and_read(&position, anchor.as_ref(), whose);

    // The checksum at the end knows every change before it of up to 32 bits in a row. It is no signature:
    // a fuzzer makes other changes that it does not know.
    let mut changed = sealed.to_vec();
    let at = at % (changed.len() - 7);
    for (byte, flip) in changed[at..].iter_mut().zip(flips.to_le_bytes()) {
        *byte ^= flip;
    }
    let read = ResumeToken::read(&changed, Some(&KEYS));
    if flips == 0 {
        assert_eq!(read, ResumeToken::read(&sealed, Some(&KEYS)));
    } else {
        assert!(read.is_err(), "a changed token was taken");
    }
}

/// Seals a place, and sees that reading gives the same.
fn sealed_and_read(position: &Position, anchor: Option<&Anchor>, whose: For) -> Bytes {
    let stamp = whose.stamp();
    let sealed = stamp.seal(position, anchor, whose.audience);
    assert!(sealed.len() <= MAX_TOKEN, "a token that no request takes");
    assert_eq!(sealed, stamp.seal(position, anchor, whose.audience));
    let read = ResumeToken::read(&sealed, stamp.keys()).expect("what was sealed can be read");
    assert!(read.is_of_deployment(&stamp) && read.is_of_scope(&stamp) && read.is_of_plan(&stamp));
    assert_eq!(read.audience(), whose.audience);
    assert_eq!(read.was_encrypted(), whose.encrypted);
    if whose.encrypted {
        assert!(ResumeToken::read(&sealed, None).is_err());
    }
    if read.position == *position {
        let anchored = matches!(position, Position::HighWater { .. });
        assert_eq!(read.anchor.as_ref(), anchor.filter(|_| anchored));
    } else {
        // One that does not fit goes by its time.
        assert_eq!(read.position, Position::Time(position.time()));
        assert!(
            position
                .token()
                .is_some_and(|it| it.len() > MAX_TOKEN - 130)
        );
    }
    sealed
}

/// Tokens of every kind, and places to be sealed.
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
    let mut place = vec![5];
    place.extend([7; 8 + 8 + 8 + 8]);
    put_part(&mut place, b"a place");
    let mut encrypted_place = place.clone();
    encrypted_place[0] = 5 | 16 | 32;
    let whose = |audience, encrypted| For {
        audience,
        encrypted,
    };
    let (all, some) = (whose(None, false), whose(Some(Audience([9; 8])), false));
    let (all_encrypted, some_encrypted) = (whose(None, true), whose(some.audience, true));
    let sealed = |position, anchor, whose| sealed_and_read(position, anchor, whose).to_vec();
    vec![
        ("event", sealed(&event, None, all)),
        ("high-water", sealed(&high_water, None, all)),
        ("anchored", sealed(&high_water, Some(&anchor), all)),
        ("invalidate", sealed(&invalidate, None, all)),
        ("time", sealed(&Position::Time(time), None, all)),
        ("for-some", sealed(&event, None, some)),
        (
            "for-some-anchored",
            sealed(&high_water, Some(&anchor), some),
        ),
        ("encrypted", sealed(&event, None, all_encrypted)),
        (
            "for-some-encrypted",
            sealed(&high_water, Some(&anchor), some_encrypted),
        ),
        ("place", place),
        ("place-encrypted", encrypted_place),
        ("too-large", vec![8; 40]),
        ("too-large-encrypted", vec![8 | 16 | 32; 40]),
    ]
}
