//! Field names that text can't hold: those that Extended JSON reads as its own, and repeated ones.

use super::error::FormatError;
use crate::raw::{Elements, Error};

/// The slots of the table that a document begins with. Half of them are used.
const FEW_SLOTS: usize = 64;

/// The maximum number of slots. A document with more names than half of them has its names compared.
const MAX_SLOTS: usize = 1 << 16;

/// The maximum number of slots that are tried for one name.
const MAX_TRIES: usize = 64;

/// Where a document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the whole, or the scope of code. Readers that make an object of their own of a DBRef fail there.
    Top,
    /// It is the value of a field or an array.
    Value,
}

/// The names of one document, as far as it has been walked.
///
/// It keeps a hash of each name. Only if two hashes are equal, or there are too many, are the names themselves
/// compared, in a walk of its own.
pub(super) struct FieldNames {
    place: Place,
    count: usize,
    /// Hashes, each in the first free slot from its own; 0 is free.
    few: [u32; FEW_SLOTS],
    /// As `few`, and in place of it for more names. At most 256 KiB.
    many: Vec<u32>,
    /// Whether a name may be repeated.
    suspect: bool,
}

impl FieldNames {
    #[inline]
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            count: 0,
            few: [0; FEW_SLOTS],
            many: Vec::new(),
            suspect: false,
        }
    }

    /// Adds the next name of the document. Fails if Extended JSON gives it a meaning.
    #[inline]
    pub(super) fn add(&mut self, name: &[u8]) -> Result<(), FormatError> {
        if name.first() == Some(&b'$') && has_meaning(name, self.place) {
            return Err(FormatError::TypeName);
        }
        let hash = hash(name);
        self.count += 1;
        if self.count <= FEW_SLOTS / 2 {
            self.suspect |= !insert(&mut self.few, hash);
        } else if !self.suspect {
            self.add_to_many(hash);
        }
        Ok(())
    }

    #[inline(never)]
    fn add_to_many(&mut self, hash: u32) {
        if self.count > self.many.len() / 2 {
            let old = match self.many.is_empty() {
                true => self.few.to_vec(),
                false => std::mem::take(&mut self.many),
            };
            if old.len() == MAX_SLOTS {
                self.suspect = true;
                return;
            }
            // Several times as many, as each growth costs as much as adding all names again.
            self.many = vec![0; old.len() * 4];
            for known in old.into_iter().filter(|&known| known != 0) {
                self.suspect |= !insert(&mut self.many, known);
            }
        }
        self.suspect |= !insert(&mut self.many, hash);
    }

    /// Checks that no two names of the document, all of which were added, are equal.
    #[inline]
    pub(super) fn check_unique(&self, document: &[u8]) -> Result<(), FormatError> {
        if self.suspect && has_repeated_name(document)? {
            return Err(FormatError::RepeatedKey);
        }
        Ok(())
    }
}

/// Puts a hash into a table whose length is a power of two. Returns `false` if it is there already, or finds no
/// free slot soon.
#[inline]
fn insert(slots: &mut [u32], hash: u32) -> bool {
    let mask = slots.len() - 1;
    let first = hash as usize >> 8;
    for slot in first..first + MAX_TRIES {
        let slot = &mut slots[slot & mask];
        if *slot == 0 {
            *slot = hash;
            return true;
        }
        if *slot == hash {
            return false;
        }
    }
    false
}

/// Returns a hash of all bytes of a name, which is never 0.
#[inline]
fn hash(name: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut hash = name.len() as u64;
    let (parts, rest) = name.as_chunks::<8>();
    for part in parts {
        hash = (hash ^ u64::from_le_bytes(*part))
            .wrapping_mul(FACTOR)
            .rotate_left(29);
    }
    // The last bytes, which may be in the last part as well.
    let last = match (name.last_chunk::<8>(), name.first_chunk::<4>()) {
        (Some(last), _) => u64::from_le_bytes(*last),
        (None, Some(first)) => {
            let last = name.last_chunk::<4>().unwrap_or(first);
            u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
        }
        (None, None) => rest.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
    };
    // The upper half of a product depends on all bytes.
    ((hash ^ last).wrapping_mul(FACTOR) >> 32) as u32 | 1
}

/// Returns whether a reader of Extended JSON takes a document with this name for another value, or refuses it.
/// Some readers do so wherever the name stands in the document, others only if it is the first.
///
/// `$ref`, `$id` and `$db` are none of these where a DBRef may be: it is a document in BSON as well.
#[cold]
fn has_meaning(name: &[u8], place: Place) -> bool {
    if name == b"$ref" {
        return place == Place::Top;
    }
    matches!(
        name,
        b"$oid"
            | b"$date"
            | b"$numberInt"
            | b"$numberLong"
            | b"$numberDouble"
            | b"$numberDecimal"
            | b"$binary"
            | b"$type"
            | b"$uuid"
            | b"$regularExpression"
            | b"$regex"
            | b"$options"
            | b"$timestamp"
            | b"$minKey"
            | b"$maxKey"
            | b"$undefined"
            | b"$symbol"
            | b"$code"
            | b"$scope"
            | b"$dbPointer"
    )
}

/// Returns whether two fields of the top level have the same name. The names are sorted, which bounds the time
/// for any document.
#[cold]
fn has_repeated_name(document: &[u8]) -> Result<bool, Error> {
    let names: Result<Vec<&[u8]>, Error> = Elements::new(document)?
        .map(|element| element.map(|it| it.key))
        .collect();
    let mut names = names?;
    names.sort_unstable();
    Ok(names.windows(2).any(|pair| pair[0] == pair[1]))
}
