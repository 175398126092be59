//! The text of Extended JSON values, shared by the JSON and the `Struct` format.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::{BufMut, BytesMut};
use jiff::{Timestamp, tz::Offset};

use super::error::FormatError;
use crate::raw;

/// 9999-12-31T23:59:59.999Z, the last time with a four-digit year.
const LAST_ISO_MILLIS: i64 = 253_402_300_799_999;

/// The calendar repeats after 400 years. A [`Timestamp`] ends a day before the year 9999 does.
const MILLIS_OF_400_YEARS: i64 = 146_097 * 86_400_000;

/// The block size in which bytes are checked, so that the compiler can use vector instructions.
const BLOCK: usize = 16;

/// A short text without allocation.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShortText<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> ShortText<N> {
    pub(super) fn as_str(&self) -> &str {
        // The bytes are always ASCII.
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// Formats an ObjectId as 24 hexadecimal digits.
pub(super) fn object_id(id: [u8; 12]) -> ShortText<24> {
    let mut bytes = [0; 24];
    for (pair, byte) in bytes.chunks_exact_mut(2).zip(id) {
        pair.copy_from_slice(&hex(byte));
    }
    ShortText { bytes, len: 24 }
}

/// Formats the subtype of a binary as two hexadecimal digits.
pub(super) fn subtype(subtype: u8) -> ShortText<2> {
    ShortText {
        bytes: hex(subtype),
        len: 2,
    }
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 15)],
    ]
}

/// Formats a date as ISO 8601 in UTC, with three fractional digits unless they are zero. `None` before
/// 1970 and after 9999, where relaxed Extended JSON requires a number.
pub(super) fn iso_date(millis: i64) -> Option<ShortText<24>> {
    if !(0..=LAST_ISO_MILLIS).contains(&millis) {
        return None;
    }
    let earlier = Timestamp::from_millisecond(millis - MILLIS_OF_400_YEARS).ok()?;
    let time = Offset::UTC.to_datetime(earlier);

    let mut bytes = *b"0000-00-00T00:00:00.000Z";
    put_digits(&mut bytes[0..4], time.year() + 400);
    put_digits(&mut bytes[5..7], time.month().into());
    put_digits(&mut bytes[8..10], time.day().into());
    put_digits(&mut bytes[11..13], time.hour().into());
    put_digits(&mut bytes[14..16], time.minute().into());
    put_digits(&mut bytes[17..19], time.second().into());
    if time.millisecond() == 0 {
        bytes[19] = b'Z';
        return Some(ShortText { bytes, len: 20 });
    }
    put_digits(&mut bytes[20..23], time.millisecond());
    Some(ShortText { bytes, len: 24 })
}

fn put_digits(digits: &mut [u8], mut value: i16) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Returns the name of a double that is not finite.
pub(super) fn non_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Formats a decimal as MongoDB does.
pub(super) fn decimal(bytes: [u8; 16]) -> String {
    bson::Decimal128::from_bytes(bytes).to_string()
}

/// Returns the options of a regular expression in alphabetical order, as Extended JSON requires. MongoDB
/// nearly always stores them in that order.
pub(super) fn regex_options(options: &[u8]) -> Result<std::borrow::Cow<'_, str>, FormatError> {
    let options = utf8(options)?;
    if options.as_bytes().is_sorted() {
        return Ok(options.into());
    }
    let mut sorted: Vec<char> = options.chars().collect();
    sorted.sort_unstable();
    Ok(sorted.into_iter().collect::<String>().into())
}

/// Returns the length of `len` bytes in base64, with padding.
pub(super) const fn base64_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

/// Appends `bytes` in base64, with padding.
pub(super) fn put_base64(out: &mut BytesMut, bytes: &[u8]) -> Result<(), FormatError> {
    let start = out.len();
    out.put_bytes(0, base64_len(bytes.len()));
    match BASE64.encode_slice(bytes, &mut out[start..]) {
        Ok(_) => Ok(()),
        Err(_) => Err(FormatError::Malformed(raw::Error::Value)),
    }
}

/// Returns `bytes` as text if they are UTF-8.
#[inline]
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, FormatError> {
    std::str::from_utf8(bytes).map_err(|_| FormatError::NotUtf8)
}

/// Appends a JSON string with its quotes.
#[inline]
pub(super) fn put_json_string(out: &mut BytesMut, bytes: &[u8]) -> Result<(), FormatError> {
    out.reserve(bytes.len() + 2);
    out.put_u8(b'"');
    // Most text is plain ASCII, which needs neither escapes nor a UTF-8 check.
    if any_byte(bytes, |byte| must_escape(byte) | !byte.is_ascii()) {
        put_escaped(out, utf8(bytes)?.as_bytes());
    } else {
        out.put_slice(bytes);
    }
    out.put_u8(b'"');
    Ok(())
}

fn put_escaped(out: &mut BytesMut, mut bytes: &[u8]) {
    loop {
        let (plain, rest) = bytes.split_at(plain_prefix(bytes));
        out.put_slice(plain);
        let Some((&byte, rest)) = rest.split_first() else {
            return;
        };
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            0x08 => out.put_slice(b"\\b"),
            0x0c => out.put_slice(b"\\f"),
            _ => {
                let [high, low] = hex(byte);
                out.put_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        bytes = rest;
    }
}

/// Returns the number of bytes before the first one that needs an escape.
fn plain_prefix(bytes: &[u8]) -> usize {
    let plain_blocks = bytes
        .chunks_exact(BLOCK)
        .take_while(|block| !any_byte(block, must_escape))
        .count()
        * BLOCK;
    let rest = &bytes[plain_blocks..];
    plain_blocks
        + rest
            .iter()
            .position(|&byte| must_escape(byte))
            .unwrap_or(rest.len())
}

#[inline]
fn must_escape(byte: u8) -> bool {
    // No short-circuit operators, so that a block is checked with vector instructions.
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Returns whether any byte satisfies `wanted`. It always checks whole blocks, because leaving one early
/// would cost more than it saves.
#[inline]
fn any_byte(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> bool {
    let any = |block: &[u8]| {
        block
            .iter()
            .fold(false, |found, &byte| found | wanted(byte))
    };
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    blocks.iter().any(|block| any(block)) || any(rest)
}
