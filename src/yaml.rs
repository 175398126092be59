//! Files of YAML, read strictly: what a file seems to say is what it says.
//!
//! The schema is the core schema of YAML 1.2, in which `no` and `on` are texts. A number with a leading zero or an
//! underscore is a text as well, so that `007` stays what it is. Refused are anchors, aliases, merge keys, unknown
//! tags, repeated keys, several documents, and keys with nothing behind them.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_saphyr::{Spanned, options::MergeKeyPolicy};

/// The maximum nesting depth of a file.
const MAX_DEPTH: usize = 32;

/// Reads a file. Errors name the line, the problem and what is expected, and quote nothing around it.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))?;
    let budget = serde_saphyr::budget! {
        max_anchors: 0,
        max_aliases: 0,
        max_depth: MAX_DEPTH,
        max_documents: 1,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// Deserializes an optional key, for `deserialize_with`. A key without a value is an error, not an absent key: a
/// rule whose principals are all commented out must not apply to everybody.
pub(crate) fn non_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Deserializes a key with a value of any type, for `deserialize_with`. Nothing below it may be empty.
pub(crate) fn value<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Written::deserialize(from).map(|it| Some(it.0))
}

/// Deserializes a mapping, for `deserialize_with`. Nothing in it may be empty.
pub(crate) fn mapping<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Map<String, Value>>, D::Error> {
    match from.deserialize_map(WrittenVisitor)?.0 {
        Value::Object(fields) => Ok(Some(fields)),
        _ => Err(D::Error::custom("is not a mapping")),
    }
}

/// A value in which every null is written as such.
struct Written(Value);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(WrittenVisitor)
    }
}

impl Written {
    /// Returns a value that was written.
    fn checked<E: serde::de::Error>(it: Spanned<Self>, place: &str) -> Result<Value, E> {
        // An empty node has no text.
        if it.value.0.is_null() && it.referenced.span().is_empty() {
            return Err(E::custom(format!(
                "{place} has nothing behind it: give it a value, write null, or remove it"
            )));
        }
        Ok(it.value.0)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
        Ok(Written(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
        Ok(Written(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Written, E> {
        Ok(Written(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Written, E> {
        Ok(Written(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Written, E> {
        Ok(Written(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Written, A::Error> {
        let mut values = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Written>>()? {
            values.push(Written::checked(item, "an item of a list")?);
        }
        Ok(Written(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Written, A::Error> {
        let mut values = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value::<Spanned<Written>>()?;
            let value = Written::checked(value, &format!("{name:?}"))?;
            values.insert(name, value);
        }
        Ok(Written(values.into()))
    }
}

#[cfg(test)]
mod tests;
