//! Compressed messages: gRPC's length-prefixed form, ready to be sent.
//!
//! A message is one gzip member or one zstd frame. Compressed pieces could be joined without compressing
//! them again, as both formats allow, but tonic's decoder stops after the first gzip member.

use std::cell::RefCell;

use bytes::{BufMut as _, Bytes};
use tonic::codec::CompressionEncoding;

/// The size of gRPC's prefix in bytes: a flag and a length.
pub const PREFIX_BYTES: usize = 5;

/// The smallest and the largest message that is compressed, in bytes. Less saves nothing, and more would
/// block a thread, and all watches on it, for tens of milliseconds. Only a message of one event is as large.
const MIN_BYTES: usize = 256;
const MAX_BYTES: usize = 256 << 10;

/// The share of a message that compression must save, as a divisor.
const MIN_SAVING_DIVISOR: usize = 10;

/// The levels at which the formats are a good trade by their authors' own choice.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// The head of a gzip member without a name and a time (RFC 1952), made on any system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// The size of what follows the deflated bytes: checksum and length.
const GZIP_TAIL_BYTES: usize = 8;

/// A way to compress messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Compression {
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

thread_local! {
    /// The state of the compressors of this thread: some hundreds of KiB that are not worth an allocation
    /// for each message.
    static COMPRESSORS: RefCell<Compressors> = RefCell::default();
}

#[derive(Default)]
struct Compressors {
    deflate: Option<flate2::Compress>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compression {
    /// Every way, in the order of the enum.
    pub const ALL: [Self; 2] = [Self::Gzip, Self::Zstd];

    /// Returns the name in `grpc-encoding`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Returns tonic's name.
    #[must_use]
    pub fn encoding(self) -> CompressionEncoding {
        match self {
            Self::Gzip => CompressionEncoding::Gzip,
            Self::Zstd => CompressionEncoding::Zstd,
        }
    }

    /// Returns a message with gRPC's prefix, compressed; `None` if it is too small or too large for that, or
    /// saves too little.
    #[must_use]
    pub fn compress(self, message: &[u8]) -> Option<Bytes> {
        if !(MIN_BYTES..=MAX_BYTES).contains(&message.len()) {
            return None;
        }
        let most = message.len() - message.len() / MIN_SAVING_DIVISOR;
        let mut out = vec![0; PREFIX_BYTES + most];
        let length = COMPRESSORS.with_borrow_mut(|compressors| {
            let room = &mut out[PREFIX_BYTES..];
            match self {
                Self::Gzip => compressors.gzip(message, room),
                Self::Zstd => compressors.zstd(message, room),
            }
        })?;
        let mut prefix = &mut out[..PREFIX_BYTES];
        prefix.put_u8(1);
        prefix.put_u32(u32::try_from(length).ok()?);
        out.truncate(PREFIX_BYTES + length);
        // Kept for as long as the events that it holds.
        out.shrink_to_fit();
        Some(out.into())
    }
}

impl Compressors {
    /// Writes a gzip member into `room`. Returns its length, or `None` if it does not fit.
    fn gzip(&mut self, message: &[u8], room: &mut [u8]) -> Option<usize> {
        let deflate = self.deflate.get_or_insert_with(|| {
            flate2::Compress::new(flate2::Compression::new(GZIP_LEVEL), false)
        });
        deflate.reset();
        let (head, rest) = room.split_at_mut_checked(GZIP_HEAD.len())?;
        head.copy_from_slice(&GZIP_HEAD);
        let (body, _tail) = rest.split_at_mut_checked(rest.len().checked_sub(GZIP_TAIL_BYTES)?)?;
        let finish = flate2::FlushCompress::Finish;
        let status = deflate.compress(message, body, finish).ok()?;
        if status != flate2::Status::StreamEnd {
            return None;
        }
        let deflated = usize::try_from(deflate.total_out()).ok()?;
        let mut checked = [0; GZIP_TAIL_BYTES];
        let mut put = &mut checked[..];
        put.put_u32_le(crc32fast::hash(message));
        put.put_u32_le(u32::try_from(message.len()).ok()?);
        let end = GZIP_HEAD.len() + deflated;
        room[end..end + GZIP_TAIL_BYTES].copy_from_slice(&checked);
        Some(end + GZIP_TAIL_BYTES)
    }

    /// Writes a zstd frame into `room`. Returns its length, or `None` if it does not fit.
    fn zstd(&mut self, message: &[u8], room: &mut [u8]) -> Option<usize> {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        self.zstd.as_mut()?.compress_to_buffer(message, room).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn decompressed(compression: Compression, message: &[u8]) -> Vec<u8> {
        assert_eq!(message[0], 1);
        let length = u32::from_be_bytes(message[1..5].try_into().unwrap());
        let body = &message[PREFIX_BYTES..];
        assert_eq!(length as usize, body.len());
        let mut plain = Vec::new();
        match compression {
            Compression::Gzip => {
                // Fails at a wrong checksum or length.
                let mut decoder = flate2::bufread::GzDecoder::new(body);
                decoder.read_to_end(&mut plain).unwrap();
                assert!(decoder.into_inner().is_empty(), "something follows");
            }
            Compression::Zstd => plain = zstd::bulk::decompress(body, 2 * MAX_BYTES).unwrap(),
        }
        plain
    }

    proptest! {
        /// Whatever the order in which one thread's compressors are used.
        #[test]
        fn every_message_comes_back_and_is_smaller(
            words in prop::collection::vec("[a-c]{1,9}", 0..2_000),
            noise in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let message = [words.concat().into_bytes(), noise].concat();
            for compression in Compression::ALL {
                if let Some(compressed) = compression.compress(&message) {
                    prop_assert!(compressed.len() <= message.len() * 9 / 10 + 1 + PREFIX_BYTES);
                    prop_assert_eq!(decompressed(compression, &compressed), &message[..]);
                }
            }
        }
    }

    #[test]
    fn a_message_that_saves_nothing_is_left_as_it_is() {
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(4_000)
            .collect();
        let long = vec![b'x'; MAX_BYTES + 1];
        for compression in Compression::ALL {
            assert_eq!(compression.compress(&noise), None);
            assert_eq!(compression.compress(&long), None);
            assert_eq!(compression.compress(&long[..MIN_BYTES - 1]), None);
            assert!(compression.compress(&long[..MIN_BYTES]).is_some());
            let most = compression.compress(&long[..MAX_BYTES]).unwrap();
            assert!(most.len() < MAX_BYTES / 100);
            // A failure before leaves nothing behind.
            assert_eq!(decompressed(compression, &most), &long[..MAX_BYTES]);
        }
    }
}
