//! Extended JSON as text. Keys keep their order, and none may stand twice in one document. A number without a
//! fraction and an exponent is an Int32 or, where that is too small, an Int64; every other number is a Double.

use std::fmt;

use bson::{Bson, Document};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::document::{check_depth, insert, unwrapped};

/// Reads a value.
///
/// # Errors
/// A description of the problem, with its line and column.
pub(crate) fn from_text(text: &str) -> Result<Bson, String> {
    bounded_from_text(text, usize::MAX).map(|(value, _)| value)
}

/// Reads a value that takes at most `max_bytes` as BSON, and returns it with what it takes. A larger one is refused
/// as soon as it is.
///
/// # Errors
/// A description of the problem, with its line and column.
pub(crate) fn bounded_from_text(text: &str, max_bytes: usize) -> Result<(Bson, usize), String> {
    // Neither this module's messages nor the parser's quote a long text.
    let malformed = |error: serde_json::Error| format!("is not valid Extended JSON: {error}");
    let mut left = max_bytes;
    let mut from = serde_json::Deserializer::from_str(text);
    let value = ValueReader {
        depth: 0,
        left: &mut left,
    }
    .deserialize(&mut from)
    .map_err(malformed)?;
    from.end().map_err(malformed)?;
    Ok((value, max_bytes - left))
}

/// The bytes of an element beside its key and its value: the type and the NUL behind the key.
const ELEMENT: usize = 2;
/// The bytes of an empty document or list: its length and the NUL at its end.
const EMPTY: usize = 5;

/// Reads one value of a text.
struct ValueReader<'a> {
    /// The number of documents and lists around it.
    depth: usize,
    /// The bytes of BSON that may still be read.
    left: &'a mut usize,
}

impl ValueReader<'_> {
    fn inner<E: Error>(&self) -> Result<usize, E> {
        check_depth(self.depth + 1).map_err(E::custom)?;
        Ok(self.depth + 1)
    }

    fn take<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        match self.left.checked_sub(bytes) {
            Some(left) => *self.left = left,
            None => {
                return Err(E::custom(
                    "it is too large as BSON; use fewer or shorter values",
                ));
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = Bson;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Bson, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader<'_> {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<Bson, E> {
        self.take(1)?;
        Ok(Bson::Boolean(value))
    }

    fn visit_i64<E: Error>(mut self, value: i64) -> Result<Bson, E> {
        self.take(size_of::<i32>())?;
        Ok(i32::try_from(value).map_or(Bson::Int64(value), Bson::Int32))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Bson, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            // Extended JSON reads what no integer type holds as a double.
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E: Error>(mut self, value: f64) -> Result<Bson, E> {
        self.take(size_of::<f64>())?;
        Ok(Bson::Double(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Bson, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: Error>(mut self, value: String) -> Result<Bson, E> {
        self.take(EMPTY + value.len())?;
        Ok(Bson::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Bson, A::Error> {
        let depth = self.inner()?;
        self.take(EMPTY)?;
        let mut items = Vec::new();
        loop {
            let left = &mut *self.left;
            let Some(item) = list.next_element_seed(ValueReader { depth, left })? else {
                return Ok(Bson::Array(items));
            };
            // Its key is its index.
            let digits = items.len().checked_ilog10().unwrap_or(0) as usize + 1;
            self.take(ELEMENT + digits)?;
            items.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Bson, A::Error> {
        let depth = self.inner()?;
        let before = *self.left;
        self.take(EMPTY)?;
        let mut document = Document::new();
        while let Some(key) = map.next_key::<String>()? {
            self.take(ELEMENT + key.len())?;
            let left = &mut *self.left;
            let value = map.next_value_seed(ValueReader { depth, left })?;
            insert(&mut document, key, value).map_err(A::Error::custom)?;
        }
        let value = unwrapped(document).map_err(A::Error::custom)?;
        // A type wrapper takes less than the document that it is written as.
        let taken = (before - *self.left).min(max_size(&value));
        *self.left = before - taken;
        Ok(value)
    }
}

/// Returns a bound on the bytes that a value takes as BSON, for the values of the type wrappers.
fn max_size(value: &Bson) -> usize {
    match value {
        Bson::Binary(binary) => EMPTY + binary.bytes.len(),
        Bson::Symbol(text) | Bson::JavaScriptCode(text) => EMPTY + text.len(),
        Bson::ObjectId(_)
        | Bson::Int32(_)
        | Bson::Int64(_)
        | Bson::Double(_)
        | Bson::Decimal128(_)
        | Bson::DateTime(_)
        | Bson::Timestamp(_) => size_of::<u128>(),
        _ => usize::MAX,
    }
}
