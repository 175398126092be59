//! SHA-256, of the one crypto library that TLS and tokens use too.

use aws_lc_rs::digest::{Context, SHA256, digest};

/// The bytes of a SHA-256 digest.
pub type Sha256 = [u8; 32];

/// Returns the SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Sha256 {
    array(digest(&SHA256, bytes).as_ref())
}

/// Returns the SHA-256 of all parts together.
#[must_use]
pub fn sha256_of_parts(parts: &[&[u8]]) -> Sha256 {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    array(context.finish().as_ref())
}

fn array(digest: &[u8]) -> Sha256 {
    *digest.first_chunk().expect("a SHA-256 digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors are those of FIPS 180-4's examples (NIST, SHA256.pdf).
    #[test]
    fn digests_are_those_of_the_standard() {
        let hex = |digest: Sha256| digest.map(|byte| format!("{byte:02x}")).concat();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(sha256(b"abc")), abc);
        assert_eq!(hex(sha256_of_parts(&[b"a", b"", b"bc"])), abc);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(sha256(b"")), empty);
        assert_eq!(hex(sha256_of_parts(&[])), empty);
    }
}
