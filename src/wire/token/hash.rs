//! Hashes that tell origins and keys apart.

use sha2::{Digest as _, Sha256};

/// Returns the first `N` bytes, at most 32, of the SHA-256 of a domain and a value.
pub(super) fn hash<const N: usize>(domain: &[u8], value: &[u8]) -> [u8; N] {
    let digest = Sha256::new()
        .chain_update(domain)
        .chain_update([0])
        .chain_update(value)
        .finalize();
    *digest
        .first_chunk()
        .expect("a SHA-256 digest is longer than any hash here")
}
