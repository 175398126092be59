//! Reads a stage in MongoDB Extended JSON v2, as text or as a `google.protobuf.Struct`.
//!
//! A document with a key of a type wrapper, such as `$date`, is that type's value. All other keys stay as they
//! are, with or without a `$`: they are the names of operators and fields.

use std::fmt;

use bson::{Bson, Document};
use prost_types::value::Kind;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use crate::filter::extended_json::{MAX_NESTING, WRAPPERS, null, number_literal};
use crate::model::quoted;

/// Reads a stage from text. Keys keep their order, and none may stand twice in one document. A number without
/// a fraction and an exponent is an Int32 or, where that is too small, an Int64; every other number is a Double.
///
/// # Errors
/// A description of the problem, with its line and column.
pub(super) fn from_text(text: &str) -> Result<Document, String> {
    stage_document(value_from_text(text)?)
}

/// Reads any value from text, in the same way.
///
/// # Errors
/// A description of the problem, with its line and column.
pub(crate) fn value_from_text(text: &str) -> Result<Bson, String> {
    // Neither this module's messages nor the parser's quote a long text.
    let malformed = |error: serde_json::Error| format!("is not valid Extended JSON: {error}");
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = ValueReader { depth: 0 }
        .deserialize(&mut reader)
        .map_err(malformed)?;
    reader.end().map_err(malformed)?;
    Ok(value)
}

/// Reads a stage from a map, which keeps no order: keys are sorted. Whole numbers that a double holds exactly
/// are Int32 or Int64, other numbers Double.
///
/// # Errors
/// A description of the problem.
pub(super) fn from_struct(fields: prost_types::Struct) -> Result<Document, String> {
    stage_document(struct_fields(fields, 1)?)
}

fn stage_document(stage: Bson) -> Result<Document, String> {
    match stage {
        Bson::Document(stage) => Ok(stage),
        other => Err(format!(
            "is {}; a stage is a document with one field, the name of the stage",
            quoted(&other.to_string())
        )),
    }
}

fn struct_fields(fields: prost_types::Struct, depth: usize) -> Result<Bson, String> {
    let mut document = Document::new();
    check_depth(depth)?;
    for (key, value) in fields.fields {
        let value = struct_value(value, depth)?;
        insert(&mut document, key, value)?;
    }
    unwrapped(document)
}

/// Reads a value inside a document or list of the nesting `depth`.
fn struct_value(value: prost_types::Value, depth: usize) -> Result<Bson, String> {
    match value.kind {
        None => Err("has a value that is not set; write null as null_value".into()),
        Some(Kind::NullValue(number)) => null(number).map(|()| Bson::Null),
        Some(Kind::BoolValue(value)) => Ok(Bson::Boolean(value)),
        Some(Kind::NumberValue(number)) => number_literal(number),
        Some(Kind::StringValue(text)) => Ok(Bson::String(text)),
        Some(Kind::StructValue(fields)) => struct_fields(fields, depth + 1),
        Some(Kind::ListValue(list)) => {
            check_depth(depth + 1)?;
            let values = list.values.into_iter();
            let items: Result<_, _> = values.map(|value| struct_value(value, depth + 1)).collect();
            items.map(Bson::Array)
        }
    }
}

/// Reads one value of a text. `depth` is the number of documents and lists around it.
struct ValueReader {
    depth: usize,
}

impl ValueReader {
    fn inner<E: Error>(&self) -> Result<usize, E> {
        check_depth(self.depth + 1).map_err(E::custom)?;
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for ValueReader {
    type Value = Bson;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Bson, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Bson, E> {
        Ok(Bson::Boolean(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Bson, E> {
        Ok(i32::try_from(value).map_or(Bson::Int64(value), Bson::Int32))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Bson, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            // Extended JSON reads what no integer type holds as a double.
            Err(_) => Ok(Bson::Double(value as f64)),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Bson, E> {
        Ok(Bson::Double(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Bson, E> {
        Ok(Bson::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Bson, E> {
        Ok(Bson::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bson, A::Error> {
        let depth = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(ValueReader { depth })? {
            items.push(item);
        }
        Ok(Bson::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bson, A::Error> {
        let depth = self.inner()?;
        let mut document = Document::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(ValueReader { depth })?;
            insert(&mut document, key, value).map_err(A::Error::custom)?;
        }
        unwrapped(document).map_err(A::Error::custom)
    }
}

fn check_depth(depth: usize) -> Result<(), String> {
    if depth <= MAX_NESTING {
        return Ok(());
    }
    Err(format!(
        "it is nested deeper than the {MAX_NESTING} levels that MongoDB allows"
    ))
}

fn insert(document: &mut Document, key: String, value: Bson) -> Result<(), String> {
    if key.contains('\0') {
        return Err(format!(
            "the key {} has a NUL, which BSON does not allow",
            quoted(&key)
        ));
    }
    if document.contains_key(&key) {
        return Err(format!(
            "the key {} stands twice in one document; write it once",
            quoted(&key)
        ));
    }
    document.insert(key, value);
    Ok(())
}

/// Returns the value that a document stands for if it is a type wrapper of Extended JSON.
fn unwrapped(document: Document) -> Result<Bson, String> {
    let Some(wrapper) = WRAPPERS.into_iter().find(|key| document.contains_key(key)) else {
        return Ok(Bson::Document(document));
    };
    let json = plain_json(Bson::Document(document));
    // The library's own text shows its inner types.
    json.and_then(|json| Bson::try_from(json).ok())
        .ok_or_else(|| {
            format!(
                "it has a {wrapper} that can't be read; write {}",
                example(wrapper)
            )
        })
}

/// Returns a well-formed value of each type wrapper.
fn example(wrapper: &str) -> String {
    let value = match wrapper {
        "$oid" => r#""507f1f77bcf86cd799439011""#,
        "$date" => r#""2024-01-31T12:00:00Z""#,
        "$uuid" => r#""3b241101-e2bb-4255-8caf-4136c566a962""#,
        "$numberInt" | "$numberLong" => r#""5""#,
        "$numberDouble" | "$numberDecimal" => r#""0.5""#,
        "$binary" => r#"{"base64": "AQID", "subType": "00"}"#,
        "$timestamp" => r#"{"t": 1706702400, "i": 1}"#,
        "$regularExpression" => r#"{"pattern": "^a", "options": ""}"#,
        "$minKey" | "$maxKey" => "1",
        "$undefined" => "true",
        "$dbPointer" => r#"{"$ref": "shop.orders", "$id": {"$oid": "507f1f77bcf86cd799439011"}}"#,
        _ => r#""text""#,
    };
    format!("{{\"{wrapper}\": {value}}}")
}

/// Returns the content of a type wrapper as it was written, for bson's own reader; `None` if it has another
/// type wrapper inside that can't stand there.
fn plain_json(value: Bson) -> Option<Json> {
    Some(match value {
        Bson::Null => Json::Null,
        Bson::Boolean(value) => value.into(),
        Bson::Int32(value) => value.into(),
        Bson::Int64(value) => value.into(),
        Bson::Double(value) => serde_json::Number::from_f64(value)?.into(),
        Bson::String(text) => text.into(),
        Bson::ObjectId(id) => serde_json::json!({ "$oid": id.to_hex() }),
        Bson::Document(fields) => fields
            .into_iter()
            .map(|(key, value)| Some((key, plain_json(value)?)))
            .collect::<Option<serde_json::Map<_, _>>>()?
            .into(),
        _ => return None,
    })
}
