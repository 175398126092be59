//! Hashes that tell origins and keys apart.

use crate::digest::sha256_of_parts;

/// Returns the first `N` bytes, at most 32, of the SHA-256 of a domain and a value.
pub(super) fn hash<const N: usize>(domain: &[u8], value: &[u8]) -> [u8; N] {
    *sha256_of_parts(&[domain, &[0], value])
        .first_chunk()
        .expect("a SHA-256 digest is longer than any hash here")
}
