//! The protobuf wire format, as far as writing needs it.
//!
//! Everything appends to a [`BytesMut`]. Field numbers are those of the message being written, at
//! most 2^29 - 1; it is the caller who knows the message.

use bytes::{BufMut, BytesMut};

/// How a field's value is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireType {
    /// A number in groups of seven bits.
    Varint = 0,
    /// Eight bytes, as doubles are written.
    Fixed64 = 1,
    /// A length and as many bytes: strings, bytes, messages.
    Len = 2,
}

/// The largest number of bytes a varint takes.
const MAX_VARINT: usize = 10;

/// Appends a varint.
#[inline]
pub fn put_varint(out: &mut BytesMut, value: u64) {
    if value < 0x80 {
        out.put_u8(value as u8);
        return;
    }
    let mut buffer = [0; MAX_VARINT];
    let length = fill_varint(&mut buffer, value);
    out.put_slice(&buffer[..length]);
}

/// Writes a varint to the front of `buffer` and tells its length.
#[inline]
fn fill_varint(buffer: &mut [u8; MAX_VARINT], mut value: u64) -> usize {
    let mut length = 0;
    while value >= 0x80 {
        buffer[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    buffer[length] = value as u8;
    length + 1
}

/// The number of bytes that `value` takes as a varint.
#[inline]
pub const fn varint_len(value: u64) -> usize {
    // Seven bits fit in each byte, and zero takes a byte too.
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// The number of bytes that a length-delimited field takes whose value has `len` bytes: tag,
/// length and value.
#[inline]
pub const fn len_field_len(field: u32, len: usize) -> usize {
    varint_len((field as u64) << 3) + varint_len(len as u64) + len
}

/// Appends a field's tag.
#[inline]
pub fn put_tag(out: &mut BytesMut, field: u32, wire_type: WireType) {
    put_varint(out, u64::from(field) << 3 | wire_type as u64);
}

/// Appends a field of type `uint32`, `uint64`, `bool` or of an enum; for `int64`, cast it to `u64`.
/// Zero is written too: leave it out where that is wanted.
#[inline]
pub fn put_varint_field(out: &mut BytesMut, field: u32, value: u64) {
    put_tag(out, field, WireType::Varint);
    put_varint(out, value);
}

/// Appends a field of type `double`.
#[inline]
pub fn put_double_field(out: &mut BytesMut, field: u32, value: f64) {
    put_tag(out, field, WireType::Fixed64);
    out.put_f64_le(value);
}

/// Appends a field of type `bytes`.
#[inline]
pub fn put_bytes_field(out: &mut BytesMut, field: u32, value: &[u8]) {
    put_tag(out, field, WireType::Len);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

/// Appends a field of type `string`.
#[inline]
pub fn put_string_field(out: &mut BytesMut, field: u32, value: &str) {
    put_bytes_field(out, field, value.as_bytes());
}

/// Appends a message whose length is known: `write` appends exactly `len` bytes.
#[inline]
pub fn put_message_with_len<R>(
    out: &mut BytesMut,
    field: u32,
    len: usize,
    write: impl FnOnce(&mut BytesMut) -> R,
) -> R {
    put_tag(out, field, WireType::Len);
    put_varint(out, len as u64);
    let start = out.len();
    let result = write(out);
    debug_assert_eq!(
        out.len() - start,
        len,
        "the length told is not the length written"
    );
    result
}

/// Appends a message of unknown, probably small length: whatever `write` appends.
#[inline]
pub fn put_message<R>(out: &mut BytesMut, field: u32, write: impl FnOnce(&mut BytesMut) -> R) -> R {
    put_message_with_estimate(out, field, 0, write)
}

/// Appends a message whose length is probably near `expected`: whatever `write` appends. The
/// guess changes the cost, never the bytes.
///
/// A message's length stands before it and takes as many bytes as it needs, so it cannot be
/// written before the message is. Measuring first would walk everything twice at each level of
/// nesting. Instead the expected length's room is left free (one byte below 128), and when that
/// was wrong the message is moved by the difference: a copy within the cache for most messages,
/// and none at all where the guess was good.
#[inline]
pub fn put_message_with_estimate<R>(
    out: &mut BytesMut,
    field: u32,
    expected: usize,
    write: impl FnOnce(&mut BytesMut) -> R,
) -> R {
    put_tag(out, field, WireType::Len);
    let reserved = varint_len(expected as u64);
    let length_at = out.len();
    out.put_bytes(0, reserved);
    let result = write(out);
    finish_message(out, length_at, reserved);
    result
}

/// Writes the length of the message that fills `out` from `length_at + room`, and makes its room
/// fit.
fn finish_message(out: &mut BytesMut, length_at: usize, reserved: usize) {
    let body = length_at + reserved..out.len();
    let mut prefix = [0; MAX_VARINT];
    let needed = fill_varint(&mut prefix, body.len() as u64);
    if needed > reserved {
        out.put_bytes(0, needed - reserved);
    }
    if needed != reserved {
        let end = length_at + needed + body.len();
        out.copy_within(body, length_at + needed);
        out.truncate(end);
    }
    out[length_at..length_at + needed].copy_from_slice(&prefix[..needed]);
}
