//! A zero-copy reader of raw BSON: it never allocates, and no input makes it panic.
//!
//! [`Elements`] walks one level of a document and checks every length against the available bytes,
//! so an [`Element`] always holds a value of the size that its type requires. Nested documents are
//! checked when they are walked, and UTF-8 is checked when text is requested.

pub use bson::spec::ElementType;

use bytes::{BufMut as _, Bytes, BytesMut};

/// The size of an empty document: its length prefix and its terminator.
const EMPTY_DOCUMENT_LEN: usize = 5;

/// The reason why bytes are not valid BSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A document's length prefix differs from the number of its bytes.
    #[error("the length of a document is wrong")]
    Length,
    /// A document does not end with a zero byte, or has a zero byte in place of an element's type.
    #[error("a document ends too early or has no terminator")]
    Terminator,
    /// A field's name has no terminator within the document.
    #[error("the name of a field has no terminator")]
    Key,
    /// BSON has no element type with this number.
    #[error("unknown element type {0:#04x}")]
    Kind(u8),
    /// A field's value reaches beyond the document, or its inner lengths contradict each other.
    #[error("the value of a field is malformed")]
    Value,
}

/// An iterator over the fields of one document or array, in order. It ends after the first error.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    /// The elements that are not read yet, without the document's terminator.
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    /// Starts to read `document`, a complete document or array: length, elements and terminator, with
    /// nothing after them.
    pub fn new(document: &'a [u8]) -> Result<Self, Error> {
        if document.len() < EMPTY_DOCUMENT_LEN || length_at(document, 0) != Some(document.len()) {
            return Err(Error::Length);
        }
        match document.split_last() {
            Some((0, body)) => Ok(Self { rest: &body[4..] }),
            _ => Err(Error::Terminator),
        }
    }

    /// Starts to read `document` at the element that begins at `start`, as a walk over it has found it.
    pub fn starting_at(document: &'a [u8], start: usize) -> Option<Self> {
        let rest = document.split_last()?.1.get(start..)?;
        Some(Self { rest })
    }

    /// Returns where the next element begins in `document`, which this was created for.
    pub fn offset_in(&self, document: &[u8]) -> usize {
        document.len().saturating_sub(self.rest.len() + 1)
    }

    // Not inlined: where the compiler does so in a loop, it copies what is read twice over the stack, which more than
    // doubles the time of a walk along a path (`cargo bench --bench filters`).
    #[inline(never)]
    fn read(&self) -> Result<(Element<'a>, &'a [u8]), Error> {
        let (&kind, rest) = self.rest.split_first().ok_or(Error::Terminator)?;
        if kind == 0 {
            return Err(Error::Terminator);
        }
        let kind = ElementType::from(kind).ok_or(Error::Kind(kind))?;
        let (key, rest) = split_cstring(rest).ok_or(Error::Key)?;
        let size = value_size(kind, rest).ok_or(Error::Value)?;
        let (value, rest) = rest.split_at_checked(size).ok_or(Error::Value)?;
        Ok((Element { kind, key, value }, rest))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match self.read() {
            Ok((element, rest)) => {
                self.rest = rest;
                Ok(element)
            }
            Err(error) => {
                self.rest = &[];
                Err(error)
            }
        })
    }
}

impl std::iter::FusedIterator for Elements<'_> {}

/// Builds a document of `elements`, in their order.
///
/// # Panics
/// Panics if they add up to 4 GiB or more, which is far more than MongoDB sends.
pub fn document<'a>(elements: impl IntoIterator<Item = Element<'a>>) -> Bytes {
    let mut document = BytesMut::new();
    document.put_u32_le(0);
    for element in elements {
        document.put_u8(element.kind as u8);
        document.put_slice(element.key);
        document.put_u8(0);
        document.put_slice(element.value);
    }
    document.put_u8(0);
    let length = u32::try_from(document.len())
        .expect("a document made of parts of MongoDB's replies is under 4 GiB");
    document[..4].copy_from_slice(&length.to_le_bytes());
    document.freeze()
}

/// One field of a document.
///
/// The `as_` methods return `None` for a value of another type and for a malformed value.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    /// The type of the value.
    pub kind: ElementType,
    /// The name without its terminator, not checked to be UTF-8. In an array it should be the index,
    /// but nothing guarantees that.
    pub key: &'a [u8],
    /// The value's bytes in the document, with length prefixes and terminators.
    pub value: &'a [u8],
}

impl<'a> Element<'a> {
    /// Reads a value without a name at the start of `bytes`: the number of its type, then its BSON bytes.
    #[inline]
    pub fn typed(bytes: &'a [u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let kind = ElementType::from(kind)?;
        let value = rest.get(..value_size(kind, rest)?)?;
        Some(Self {
            kind,
            key: b"",
            value,
        })
    }

    /// Reads the element that begins at `start` of `document` and has a name of `name_len` bytes, as a walk over
    /// the document has found it. The name is not searched for its end.
    #[inline]
    pub fn at(document: &'a [u8], start: usize, name_len: usize) -> Option<Self> {
        let body = document.split_last()?.1;
        let (&kind, rest) = body.get(start..)?.split_first()?;
        let kind = ElementType::from(kind)?;
        let (key, rest) = rest.split_at_checked(name_len)?;
        let rest = rest.get(1..)?;
        let value = rest.get(..value_size(kind, rest)?)?;
        Some(Self { kind, key, value })
    }

    /// Returns the text of a string.
    pub fn as_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.as_str_bytes()?).ok()
    }

    /// Returns the bytes of a string, which may be invalid UTF-8.
    pub fn as_str_bytes(&self) -> Option<&'a [u8]> {
        match self.kind {
            ElementType::String => string_body(self.value),
            _ => None,
        }
    }

    /// Returns the bytes of a string, JavaScript code or a symbol, which have the same layout.
    pub fn as_text_bytes(&self) -> Option<&'a [u8]> {
        match self.kind {
            ElementType::String | ElementType::JavaScriptCode | ElementType::Symbol => {
                string_body(self.value)
            }
            _ => None,
        }
    }

    /// Returns an embedded document, ready for [`Elements::new`].
    pub fn as_document(&self) -> Option<&'a [u8]> {
        (self.kind == ElementType::EmbeddedDocument).then_some(self.value)
    }

    /// Returns an array, ready for [`Elements::new`].
    pub fn as_array(&self) -> Option<&'a [u8]> {
        (self.kind == ElementType::Array).then_some(self.value)
    }

    /// Returns `true` for null.
    pub fn is_null(&self) -> bool {
        self.kind == ElementType::Null
    }

    /// Returns a boolean. A byte other than 0 and 1 is malformed.
    pub fn as_bool(&self) -> Option<bool> {
        match (self.kind, self.value) {
            (ElementType::Boolean, [0]) => Some(false),
            (ElementType::Boolean, [1]) => Some(true),
            _ => None,
        }
    }

    /// Returns a 32-bit integer.
    pub fn as_i32(&self) -> Option<i32> {
        self.fixed(ElementType::Int32).map(i32::from_le_bytes)
    }

    /// Returns a 64-bit integer.
    pub fn as_i64(&self) -> Option<i64> {
        self.fixed(ElementType::Int64).map(i64::from_le_bytes)
    }

    /// Returns a double.
    pub fn as_f64(&self) -> Option<f64> {
        self.fixed(ElementType::Double).map(f64::from_le_bytes)
    }

    /// Returns a whole number of any numeric type except decimal, because MongoDB does not always use
    /// the same type. A double counts when it is integral and fits in an `i64`.
    pub fn as_int(&self) -> Option<i64> {
        match self.kind {
            ElementType::Int32 => self.as_i32().map(i64::from),
            ElementType::Int64 => self.as_i64(),
            ElementType::Double => self.as_f64().and_then(integral),
            _ => None,
        }
    }

    /// Returns an oplog timestamp: seconds since 1970, and the counter within that second.
    pub fn as_timestamp(&self) -> Option<(u32, u32)> {
        let [i0, i1, i2, i3, t0, t1, t2, t3] = self.fixed(ElementType::Timestamp)?;
        Some((
            u32::from_le_bytes([t0, t1, t2, t3]),
            u32::from_le_bytes([i0, i1, i2, i3]),
        ))
    }

    /// Returns a date in milliseconds since 1970.
    pub fn as_datetime_millis(&self) -> Option<i64> {
        self.fixed(ElementType::DateTime).map(i64::from_le_bytes)
    }

    /// Returns an ObjectId.
    pub fn as_object_id(&self) -> Option<[u8; 12]> {
        self.fixed(ElementType::ObjectId)
    }

    /// Returns a decimal in BSON's byte order.
    pub fn as_decimal128(&self) -> Option<[u8; 16]> {
        self.fixed(ElementType::Decimal128)
    }

    /// Returns a binary's subtype and bytes, without the second length prefix that the old subtype 2
    /// has.
    pub fn as_binary(&self) -> Option<(u8, &'a [u8])> {
        if self.kind != ElementType::Binary {
            return None;
        }
        let (&subtype, bytes) = self.value.get(4..)?.split_first()?;
        if subtype != u8::from(bson::spec::BinarySubtype::BinaryOld) {
            return Some((subtype, bytes));
        }
        let inner = bytes.get(4..)?;
        (length_at(bytes, 0)? == inner.len()).then_some((subtype, inner))
    }

    /// Returns a regular expression: pattern and options.
    pub fn as_regex(&self) -> Option<(&'a [u8], &'a [u8])> {
        if self.kind != ElementType::RegularExpression {
            return None;
        }
        let (pattern, rest) = split_cstring(self.value)?;
        let (options, _) = split_cstring(rest)?;
        Some((pattern, options))
    }

    /// Returns JavaScript code with a scope: the code, and the scope as a document.
    pub fn as_code_with_scope(&self) -> Option<(&'a [u8], &'a [u8])> {
        if self.kind != ElementType::JavaScriptCodeWithScope {
            return None;
        }
        let rest = self.value.get(4..)?;
        let (code, scope) = rest.split_at_checked(string_size(rest)?)?;
        Some((string_body(code)?, scope))
    }

    /// Returns a DBPointer: the namespace that it points into, and the ObjectId.
    pub fn as_db_pointer(&self) -> Option<(&'a [u8], [u8; 12])> {
        if self.kind != ElementType::DbPointer {
            return None;
        }
        let (namespace, id) = self.value.split_last_chunk()?;
        Some((string_body(namespace)?, *id))
    }

    fn fixed<const N: usize>(&self, kind: ElementType) -> Option<[u8; N]> {
        if self.kind != kind {
            return None;
        }
        self.value.try_into().ok()
    }
}

/// Returns the number of bytes of the value at the start of `rest`. The result may reach beyond the
/// end of `rest`: the caller checks that.
#[inline]
fn value_size(kind: ElementType, rest: &[u8]) -> Option<usize> {
    match kind {
        ElementType::Null | ElementType::Undefined | ElementType::MinKey | ElementType::MaxKey => {
            Some(0)
        }
        ElementType::Boolean => Some(1),
        ElementType::Int32 => Some(4),
        ElementType::Double
        | ElementType::Int64
        | ElementType::DateTime
        | ElementType::Timestamp => Some(8),
        ElementType::ObjectId => Some(12),
        ElementType::Decimal128 => Some(16),
        ElementType::String | ElementType::JavaScriptCode | ElementType::Symbol => {
            string_size(rest)
        }
        ElementType::EmbeddedDocument | ElementType::Array => {
            length_at(rest, 0).filter(|&size| size >= EMPTY_DOCUMENT_LEN)
        }
        ElementType::Binary => length_at(rest, 0)?.checked_add(5),
        ElementType::RegularExpression => {
            let (_, after_pattern) = split_cstring(rest)?;
            let (_, after_options) = split_cstring(after_pattern)?;
            Some(rest.len() - after_options.len())
        }
        ElementType::DbPointer => string_size(rest)?.checked_add(12),
        ElementType::JavaScriptCodeWithScope => {
            let size = length_at(rest, 0)?;
            let code = string_size(rest.get(4..)?)?;
            let scope = length_at(rest, code.checked_add(4)?)?;
            let sum = code.checked_add(scope)?.checked_add(4)?;
            (size == sum && scope >= EMPTY_DOCUMENT_LEN).then_some(size)
        }
    }
}

/// Returns the size of the string at the start of `rest`, with length prefix and terminator, if its
/// terminator lies within `rest`.
#[inline]
fn string_size(rest: &[u8]) -> Option<usize> {
    let size = length_at(rest, 0)?.checked_add(4)?;
    (size > 4 && rest.get(size - 1) == Some(&0)).then_some(size)
}

/// Returns a string without its length prefix and its terminator.
#[inline]
fn string_body(string: &[u8]) -> Option<&[u8]> {
    string.get(4..string.len().checked_sub(1)?)
}

/// Reads the 32-bit length at `offset`; `None` when it is negative or beyond the end.
#[inline]
fn length_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let length = i32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?);
    usize::try_from(length).ok()
}

/// Splits `bytes` at the first zero byte, which is dropped.
///
/// It reads eight bytes at a time: every field has a name, and names are too short for a general
/// search routine to pay off.
#[inline]
fn split_cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    while let Some(&chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(chunk);
        // The lowest byte with its high bit set is the first zero byte of the word.
        let zeros = word.wrapping_sub(ONES) & !word & HIGH;
        if zeros != 0 {
            return split_at_zero(bytes, at + zeros.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    split_at_zero(bytes, at + end)
}

#[inline]
fn split_at_zero(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

/// Returns the `i64` that equals `value`, if there is one.
fn integral(value: f64) -> Option<i64> {
    // 2^63 is exact as a double, `i64::MAX` is not.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    (value.fract() == 0.0 && (-LIMIT..LIMIT).contains(&value)).then_some(value as i64)
}

#[cfg(test)]
mod tests;
