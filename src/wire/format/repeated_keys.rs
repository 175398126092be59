//! Detection of repeated field names.

use crate::raw::{Elements, Error};

/// The maximum number of names that are compared without sorting.
const FEW_KEYS: usize = 32;

/// Returns whether two fields of the top level have the same name. A map would keep only one of them.
///
/// Most documents have few fields, so a small bit filter shows that most names are new; the others are
/// compared with the names before them. The names of larger documents are sorted, which bounds the cost
/// for any document.
pub(super) fn has_repeated_key(document: &[u8]) -> Result<bool, Error> {
    let mut few: [&[u8]; FEW_KEYS] = [&[]; FEW_KEYS];
    let mut filter = [0u64; 4];
    let mut elements = Elements::new(document)?;
    for count in 0..FEW_KEYS {
        let Some(element) = elements.next() else {
            return Ok(false);
        };
        let key = element?.key;
        let (word, bit) = filter_bit(key);
        if filter[word] & bit != 0 && few[..count].contains(&key) {
            return Ok(true);
        }
        filter[word] |= bit;
        few[count] = key;
    }
    let mut keys = few.to_vec();
    for element in elements {
        keys.push(element?.key);
    }
    keys.sort_unstable();
    Ok(keys.windows(2).any(|pair| pair[0] == pair[1]))
}

/// Returns one of 256 filter bits for a name, as a word index and a mask. It hashes the length and the
/// last bytes, where the names of one document differ most.
#[inline]
fn filter_bit(key: &[u8]) -> (usize, u64) {
    let mix = key
        .iter()
        .rev()
        .take(4)
        .fold(key.len() as u32, |mix, &byte| {
            mix.wrapping_mul(31).wrapping_add(byte.into())
        });
    let position = mix.wrapping_mul(0x9E37_79B1) >> 24;
    ((position >> 6) as usize, 1 << (position & 63))
}
