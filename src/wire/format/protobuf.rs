//! Encoding of the protobuf wire format.
//!
//! All functions append to a [`BytesMut`]. A field number is at most 2^29 - 1 and belongs to the message
//! that the caller is writing.

use bytes::{BufMut, BytesMut};

/// The layout of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireType {
    /// A number in groups of 7 bits.
    Varint = 0,
    /// Eight bytes, used for doubles.
    Fixed64 = 1,
    /// A length and that many bytes: strings, bytes, messages.
    Len = 2,
}

/// The maximum size of a varint in bytes.
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

/// Writes a varint to the start of `buffer` and returns its length.
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

/// Returns the size of `value` as a varint, in bytes.
#[inline]
pub const fn varint_len(value: u64) -> usize {
    // 7 bits for each byte; zero takes one byte too.
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Returns the size of a length-delimited field whose value has `len` bytes: tag, length and value.
#[inline]
pub const fn len_field_len(field: u32, len: usize) -> usize {
    varint_len((field as u64) << 3) + varint_len(len as u64) + len
}

/// Appends a field's tag.
#[inline]
pub fn put_tag(out: &mut BytesMut, field: u32, wire_type: WireType) {
    put_varint(out, u64::from(field) << 3 | wire_type as u64);
}

/// Appends a field of type `uint32`, `uint64`, `bool` or enum, or of type `int64` cast to `u64`. Zero is
/// written too: proto3's default is up to the caller.
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

/// Appends a message of known length: `write` must append exactly `len` bytes.
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
        "the written length differs from the announced one"
    );
    result
}

/// Appends a message of unknown, probably small length, which `write` appends.
#[inline]
pub fn put_message<R>(out: &mut BytesMut, field: u32, write: impl FnOnce(&mut BytesMut) -> R) -> R {
    put_message_with_estimate(out, field, 0, write)
}

/// Appends a message with an estimated length, which `write` appends. The estimate changes the cost,
/// never the bytes.
///
/// The length is a varint before the message, so its size is unknown until the message is written.
/// Measuring first would walk everything twice at each level of nesting. Instead the bytes for the
/// estimated length are reserved, and if their number was wrong the message is moved by the difference:
/// usually a copy within the cache, and none with a good estimate.
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

/// Writes the length of the message that starts at `length_at + reserved`, and moves the message if the
/// length does not take `reserved` bytes.
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
