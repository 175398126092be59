//! The resume token: what a client sends back, and what is sealed for it.

use bytes::Bytes;
use weir::{
    source::{ClusterTime, Position},
    wire::{Anchor, ResumeToken},
};

use super::{
    input::{Input, put_part},
    samples,
};

/// What a resume token takes at most.
const MAX_TOKEN: usize = 16 << 10;

/// Reads the input as a token; then makes a place of it, seals that, reads it again, and again with a
/// few bits changed.
pub fn run(data: &[u8]) {
    if let Ok(token) = ResumeToken::read(data) {
        assert!(data.len() <= MAX_TOKEN);
        // Whatever was read can be sealed anew.
        sealed_and_read(&token.position, token.anchor.as_ref());
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
    let mut token = input.0.to_vec();
    if kind & 8 != 0 {
        // Around the length at which MongoDB's token no longer fits.
        token.resize(MAX_TOKEN - 64 + at % 128, 7);
    }
    let token = Bytes::from(token);
    let position = match kind & 3 {
        0 => Position::Event { token, time },
        1 => Position::HighWater { token, time },
        2 => Position::Invalidate { token, time },
        _ => Position::Time(time),
    };
    let sealed = sealed_and_read(&position, anchor.as_ref());

    // The checksum at the end knows every change before it of up to 32 bits in a row. It is no signature:
    // a fuzzer makes other changes that it does not know.
    let mut changed = sealed.to_vec();
    let at = at % (changed.len() - 7);
    for (byte, flip) in changed[at..].iter_mut().zip(flips.to_le_bytes()) {
        *byte ^= flip;
    }
    let read = ResumeToken::read(&changed);
    if flips == 0 {
        assert_eq!(read, ResumeToken::read(&sealed));
    } else {
        assert!(read.is_err(), "a changed token was taken");
    }
}

/// Seals a place, and sees that reading gives the same.
fn sealed_and_read(position: &Position, anchor: Option<&Anchor>) -> Bytes {
    let stamp = samples::stamp();
    let sealed = stamp.seal(position, anchor);
    assert!(sealed.len() <= MAX_TOKEN, "a token that no request takes");
    let read = ResumeToken::read(&sealed).expect("what was sealed can be read");
    assert!(read.is_of_deployment(&stamp) && read.is_of_scope(&stamp) && read.is_of_plan(&stamp));
    if read.position == *position {
        let anchored = matches!(position, Position::HighWater { .. });
        assert_eq!(read.anchor.as_ref(), anchor.filter(|_| anchored));
    } else {
        // One that does not fit goes by its time.
        assert_eq!(read.position, Position::Time(position.time()));
        assert!(
            position
                .token()
                .is_some_and(|it| it.len() > MAX_TOKEN - 100)
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
    vec![
        ("event", sealed_and_read(&event, None).to_vec()),
        ("high-water", sealed_and_read(&high_water, None).to_vec()),
        (
            "anchored",
            sealed_and_read(&high_water, Some(&anchor)).to_vec(),
        ),
        ("invalidate", sealed_and_read(&invalidate, None).to_vec()),
        (
            "time",
            sealed_and_read(&Position::Time(time), None).to_vec(),
        ),
        ("place", place),
        ("too-large", vec![8; 40]),
    ]
}
