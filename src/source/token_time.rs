//! The time in a resume token of MongoDB's own form.
//!
//! The hexadecimal text `_data` is a key (`KeyString`) whose byte order is the order of the stream. It begins with
//! the cluster time, and holds the version and the kind of the token next: a high-water mark, which stands before all
//! events of its time, or an event (`resume_token.cpp` in MongoDB's repository). Nothing else of a token is read, and
//! tokens of any other form are opaque.

use crate::{raw::Elements, source::ClusterTime};

/// The type byte of a timestamp, with which the key begins.
const TIMESTAMP: u8 = 0x82;
/// Versions 1 and 2, as the key encodes a small integer.
const VERSIONS: [[u8; 2]; 2] = [[0x2b, 0x02], [0x2b, 0x04]];
/// The kinds 0, a high-water mark, and 128, an event.
const KINDS: [&[u8]; 2] = [&[0x29], &[0x2c, 0x01, 0x00]];
/// The byte that ends a key. A token that is hexadecimal BSON, as another server's are, ends with a zero.
const END: u8 = 0x04;

/// Returns the cluster time of a resume token, a raw BSON document. All events before this time lie before the
/// token. `None` if the token does not have MongoDB's own form.
pub(super) fn token_time(token: &[u8]) -> Option<ClusterTime> {
    let mut fields = Elements::new(token).ok()?.map_while(Result::ok);
    let data = fields.find(|field| field.key == b"_data")?.as_str_bytes()?;
    let last = (data.len() / 2).checked_sub(1)?;
    if data.len() % 2 != 0 || byte_at(data, last)? != END {
        return None;
    }
    let mut start = [0; 14];
    for (index, byte) in start.iter_mut().enumerate() {
        *byte = byte_at(data, index)?;
    }
    let [kind, seconds @ .., v1, v2, k1, k2, k3] = start;
    let is_known = kind == TIMESTAMP
        && VERSIONS.contains(&[v1, v2])
        && KINDS.iter().any(|kind| [k1, k2, k3].starts_with(kind));
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    };
    is_known.then(|| ClusterTime {
        seconds: number(&seconds[..4]),
        increment: number(&seconds[4..]),
    })
}

/// Returns the byte at an index of hexadecimal text.
fn byte_at(text: &[u8], index: usize) -> Option<u8> {
    let digits = text.get(index * 2..index * 2 + 2)?;
    let [high, low] = [digits[0], digits[1]].map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn time_of(data: &str) -> Option<(u32, u32)> {
        let token = doc! { "_data": data, "_typeBits": 1 }.to_vec().unwrap();
        token_time(&token).map(|it| (it.seconds, it.increment))
    }

    /// The first two are from MongoDB's own documentation and tests, the third has version 2.
    #[test]
    fn the_time_of_a_token_of_mongodb_is_read() {
        let event = "8263A8F4F6000000012B022C0100296E5A1004B0ABE2B3E0B145F0A6F0F1F9F29C3C5446645F696400\
                     6463A8F4F6AB6C2A7CF6B9F8C20004";
        assert_eq!(time_of(event), Some((0x63a8_f4f6, 1)));
        assert_eq!(
            time_of("8263E5B7F3000000FF2B0229296E04"),
            Some((0x63e5_b7f3, 255))
        );
        assert_eq!(
            time_of("82FFFFFFFF800000002B0429296E1404"),
            Some((u32::MAX, 1 << 31))
        );
    }

    #[test]
    fn any_other_token_is_opaque() {
        let bson = |seq: i32| {
            let inner = doc! { "s": seq, "t": bson::Timestamp { time: 9, increment: 2 } };
            let bytes = inner.to_vec().unwrap();
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        for data in [
            "",
            "8",
            "82",
            "given",
            "0163EB2B0A0000000101000000010000",
            // Old versions have no field for a version, and later ones may mean something else.
            "8263E5B7F3000000FF29296E04",
            "8263E5B7F3000000FF2B0629296E04",
            "8263E5B7F3000000FF2B022B02296E04",
            "8263E5B7F3000000FF2B0229296E",
            "8263E5B7F3000000FF2B0229296E0",
            "8263E5B7F3000000FG2B0229296E04",
            "8363E5B7F3000000FF2B0229296E04",
            &bson(7),
            &bson(0x29_042b),
        ] {
            assert_eq!(time_of(data), None, "{data}");
        }
        for token in [doc! {}, doc! { "_data": 7 }, doc! { "data": "82" }] {
            assert_eq!(token_time(&token.to_vec().unwrap()), None);
        }
        assert_eq!(token_time(b"no BSON"), None);
    }
}
