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
use serde_saphyr::{Location, Spanned, budget::BudgetBreach, options::MergeKeyPolicy};

/// The maximum nesting depth of a file.
const MAX_DEPTH: usize = 32;

/// The problem of a key or an item without a value.
const NOTHING_BEHIND: &str = "has nothing behind it";

/// What to do where a text is read as an anchor or an alias.
const ALIAS_ADVICE: &str =
    "write the values out, and a text that begins with * or & in quotes, as \"*\"";

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
    let read = serde_saphyr::from_str_with_options(text, options.clone());
    read.map_err(|error| {
        // A key's type says less of a missing value than the key's name.
        let empty = serde_saphyr::from_str_with_options::<Written>(text, options).err();
        let empty = empty.as_ref().and_then(nothing_behind);
        empty.unwrap_or_else(|| described(&error))
    })
}

/// Returns the message of a key or an item without a value, if it is one.
fn nothing_behind(error: &serde_saphyr::Error) -> Option<String> {
    match error {
        // It has its position, where the error has that of the mapping around it.
        serde_saphyr::Error::Message { msg, .. } if msg.contains(NOTHING_BEHIND) => {
            Some(msg.clone())
        }
        _ => None,
    }
}

/// Returns the position, the problem and what to do.
fn described(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let Some(at) = error.location() else {
        return text;
    };
    let suffix = format!(" at line {}, column {}", at.line(), at.column());
    let text = text.strip_suffix(&suffix).unwrap_or(&text);
    let problem = in_words(error).unwrap_or_else(|| {
        if text.contains("anchor or alias") {
            format!("an anchor or alias has no name: {ALIAS_ADVICE}")
        } else {
            text.to_owned()
        }
    });
    format!("{}{problem}", position(&at))
}

/// Returns the problem and what to do, for errors whose own words are those of a parser.
fn in_words(error: &serde_saphyr::Error) -> Option<String> {
    use serde_saphyr::Error;
    Some(match error {
        Error::MergeKeyNotAllowed { .. } => {
            "merge keys (<<) are not read: write the keys out".to_owned()
        }
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map(|key| format!(" {key:?}"));
            let key = key.unwrap_or_default();
            format!("duplicate key{key}: write each key once")
        }
        Error::NullIntoString { .. } => "is null where a text is expected".to_owned(),
        Error::Unexpected { expected, .. } => match *expected {
            "sequence start" => "a list is expected: write [a, b]".to_owned(),
            "mapping start" => "a mapping is expected: write each as key: value".to_owned(),
            "string scalar" => {
                "a text is expected: write it in quotes, if it contains a colon".to_owned()
            }
            _ => return None,
        },
        Error::InvalidBooleanStrict { .. } => "true or false is expected".to_owned(),
        Error::InvalidScalar { ty, .. } if ty.starts_with(['u', 'i']) => {
            "a whole number is expected".to_owned()
        }
        // Only sizes are read from such texts.
        Error::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } if expected == "parsable string" => {
            format!("{unexpected} is no size: write one such as 512KiB or 1MiB")
        }
        Error::UnknownAnchor { .. } => format!("there is no such anchor: {ALIAS_ADVICE}"),
        Error::Budget { breach, .. } => match breach {
            BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => {
                format!("anchors and aliases are not read: {ALIAS_ADVICE}")
            }
            BudgetBreach::Documents { .. } => {
                "a second document is not read: write one only".to_owned()
            }
            _ => return None,
        },
        _ => return None,
    })
}

fn position(at: &Location) -> String {
    format!("line {}, column {}: ", at.line(), at.column())
}

/// Deserializes an optional key, for `deserialize_with`. A key without a value is an error, not an absent key: a
/// rule whose principals are all commented out must not apply to everybody.
pub(crate) fn non_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    match Option::deserialize(from)? {
        Some(value) => Ok(Some(value)),
        None => Err(D::Error::custom(
            "is null: give the key a value or remove it",
        )),
    }
}

/// Deserializes a key with a value of any type, for `deserialize_with`. Nothing below it may be empty.
pub(crate) fn value<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    let it = Spanned::<Written>::deserialize(from)?;
    let at = it.referenced;
    Written::checked(it, "a key", &at).map(Some)
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
    fn checked<E: serde::de::Error>(
        it: Spanned<Self>,
        place: &str,
        at: &Location,
    ) -> Result<Value, E> {
        // An empty node has no text.
        if it.value.0.is_null() && it.referenced.span().is_empty() {
            return Err(E::custom(format!(
                "{}{place} {NOTHING_BEHIND}: give it a value or remove it",
                position(at)
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
            let at = item.referenced;
            values.push(Written::checked(item, "an item of a list", &at)?);
        }
        Ok(Written(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Written, A::Error> {
        let mut values = Map::new();
        while let Some(name) = fields.next_key::<Spanned<String>>()? {
            let value = fields.next_value::<Spanned<Written>>()?;
            let place = format!("{:?}", name.value);
            let value = Written::checked(value, &place, &name.referenced)?;
            values.insert(name.value, value);
        }
        Ok(Written(values.into()))
    }
}

#[cfg(test)]
mod tests;
