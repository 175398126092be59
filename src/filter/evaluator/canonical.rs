//! The canonical form of a value, in which exactly those values that MongoDB holds equal are equal, and the hash of
//! an `_id` in that form.
//!
//! This is version 1 of both. Clients compute them too (docs/shards.md), so neither may ever change.

use twox_hash::XxHash3_64;

use super::number::{CanonicalNumber, Number};
use super::value::{TypeClass, fields};
use crate::raw::{Element, ElementType};

/// The levels of documents within each other that are brought into canonical form. MongoDB stores no deeper ones
/// (200 at most); their bytes are taken as they are.
const MAX_DEPTH: u32 = 200;
/// The bytes of a canonical form that need no allocation.
const INLINE: usize = 128;

/// Returns the hash of the `_id` in a document or a document key: XXH3-64 with seed 0 of its canonical form. `None` if
/// there is none.
pub fn id_hash(document: &[u8]) -> Option<u64> {
    let id = fields(document).find(|field| field.key == b"_id")?;
    let mut buffer = Buffer::default();
    buffer.put_value(None, &id, MAX_DEPTH);
    Some(XxHash3_64::oneshot(buffer.as_slice()))
}

/// Returns the canonical form of a value: the number of its BSON type, then its BSON bytes, where
///
/// - a number is an int64 if it has the value of one, else a double if it has the value of one, and else a decimal
///   without zeros at the end of its coefficient, as far as its exponent allows. So there is no -0, and infinities are
///   doubles. The one NaN is the double 0x7ff8000000000000.
/// - a symbol is a string.
/// - the same holds for the values in documents, in arrays and in the scope of code. The elements of an array are named
///   by their indexes.
///
/// Malformed BSON counts as the end of its document.
pub fn canonical_bytes(value: &Element<'_>) -> Vec<u8> {
    let mut buffer = Buffer::default();
    buffer.put_value(None, value, MAX_DEPTH);
    buffer.as_slice().to_vec()
}

/// Bytes that are allocated only if they are many.
struct Buffer {
    inline: [u8; INLINE],
    inline_len: usize,
    /// All bytes, if they are more than fit into `inline`.
    heap: Vec<u8>,
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer {
            inline: [0; INLINE],
            inline_len: 0,
            heap: Vec::new(),
        }
    }
}

impl Buffer {
    fn as_slice(&self) -> &[u8] {
        if self.heap.is_empty() {
            &self.inline[..self.inline_len]
        } else {
            &self.heap
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.inline_len + bytes.len();
        if self.heap.is_empty()
            && let Some(free) = self.inline.get_mut(self.inline_len..end)
        {
            free.copy_from_slice(bytes);
            self.inline_len = end;
            return;
        }
        if self.heap.is_empty() {
            self.heap.extend_from_slice(&self.inline[..self.inline_len]);
        }
        self.heap.extend_from_slice(bytes);
    }

    /// Writes four bytes in place of those at `start`.
    fn patch(&mut self, start: usize, bytes: [u8; 4]) {
        let written = if self.heap.is_empty() {
            &mut self.inline[..self.inline_len]
        } else {
            &mut self.heap[..]
        };
        if let Some(place) = written.get_mut(start..start + bytes.len()) {
            place.copy_from_slice(&bytes);
        }
    }

    fn put_value(&mut self, name: Option<&[u8]>, value: &Element<'_>, depth: u32) {
        match TypeClass::of(value.kind) {
            TypeClass::Number => match Number::of(value).map(Number::canonical) {
                Some(CanonicalNumber::Integer(integer)) => {
                    self.put_head(name, ElementType::Int64);
                    self.put(&integer.to_le_bytes());
                }
                Some(CanonicalNumber::Double(double)) => {
                    self.put_head(name, ElementType::Double);
                    self.put(&double.to_le_bytes());
                }
                Some(CanonicalNumber::Decimal(decimal)) => {
                    self.put_head(name, ElementType::Decimal128);
                    self.put(&decimal);
                }
                // Not reached: an element's value has the size that its type requires.
                None => self.put_unchanged(name, value.kind, value),
            },
            TypeClass::Text => self.put_unchanged(name, ElementType::String, value),
            TypeClass::Document | TypeClass::Array if depth > 0 => {
                self.put_head(name, value.kind);
                self.put_fields(value.value, value.kind == ElementType::Array, depth - 1);
            }
            TypeClass::CodeWithScope if depth > 0 => {
                self.put_code_with_scope(name, value, depth - 1);
            }
            _ => self.put_unchanged(name, value.kind, value),
        }
    }

    /// Puts a type, and the name of a field.
    fn put_head(&mut self, name: Option<&[u8]>, kind: ElementType) {
        self.put(&[kind as u8]);
        if let Some(name) = name {
            self.put(name);
            self.put(&[0]);
        }
    }

    fn put_unchanged(&mut self, name: Option<&[u8]>, kind: ElementType, value: &Element<'_>) {
        self.put_head(name, kind);
        self.put(value.value);
    }

    fn put_fields(&mut self, document: &[u8], is_array: bool, depth: u32) {
        let start = self.put_length();
        let mut digits = itoa::Buffer::new();
        for (index, field) in fields(document).enumerate() {
            let name = if is_array {
                digits.format(index).as_bytes()
            } else {
                field.key
            };
            self.put_value(Some(name), &field, depth);
        }
        self.put(&[0]);
        self.finish_length(start);
    }

    fn put_code_with_scope(&mut self, name: Option<&[u8]>, value: &Element<'_>, depth: u32) {
        // The code is after the length of the whole, and has a length of its own.
        let parts = value.as_code_with_scope().and_then(|(_, scope)| {
            let code = value.value.get(4..value.value.len() - scope.len())?;
            Some((code, scope))
        });
        let Some((code, scope)) = parts else {
            return self.put_unchanged(name, value.kind, value);
        };
        self.put_head(name, value.kind);
        let start = self.put_length();
        self.put(code);
        self.put_fields(scope, false, depth);
        self.finish_length(start);
    }

    /// Puts a length that is not known yet, and returns where.
    fn put_length(&mut self) -> usize {
        let start = self.as_slice().len();
        self.put(&[0; 4]);
        start
    }

    /// Fills in the length of what was put from `start` on.
    fn finish_length(&mut self, start: usize) {
        let length = self.as_slice().len() - start;
        // An event has at most some 32 MiB, and canonical bytes are at most five times as many.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.patch(start, length.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
