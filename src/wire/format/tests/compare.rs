//! Normalization of the output of the `bson` crate and of Weir, so that they can be compared.

use bson::{Bson, doc};
use prost_types::{Struct, value::Kind};
use serde_json::{Map, Number, Value, json};

/// Returns the relaxed Extended JSON of the `bson` crate, corrected where it deviates from the
/// specification: fractions of seconds have three digits, NaN has no sign, and dates after 9999 are
/// numbers instead of the last time of 9999.
pub(super) fn relaxed(document: &bson::Document) -> Value {
    let document = spell_out_late_dates(Bson::Document(document.clone()));
    rewrite(document.into_relaxed_extjson(), &|value| match value {
        Value::Object(map) => relaxed_object(map),
        other => other,
    })
}

fn spell_out_late_dates(value: Bson) -> Bson {
    let fields = |document: bson::Document| {
        document
            .into_iter()
            .map(|(key, value)| (key, spell_out_late_dates(value)))
            .collect()
    };
    match value {
        Bson::DateTime(date) if date.timestamp_millis() > 253_402_300_799_999 => {
            doc! { "$date": { "$numberLong": date.timestamp_millis().to_string() } }.into()
        }
        Bson::Array(values) => values.into_iter().map(spell_out_late_dates).collect(),
        Bson::Document(document) => Bson::Document(fields(document)),
        Bson::JavaScriptCodeWithScope(mut code) => {
            code.scope = fields(code.scope);
            Bson::JavaScriptCodeWithScope(code)
        }
        other => other,
    }
}

fn relaxed_object(mut map: Map<String, Value>) -> Value {
    if let Some(Value::String(date)) = map.get_mut("$date")
        && let Some((seconds, fraction)) = date.trim_end_matches('Z').split_once('.')
    {
        *date = format!("{seconds}.{fraction:0<3}Z");
    }
    if let Some(Value::String(number)) = map.get_mut("$numberDouble")
        && number == "-NaN"
    {
        *number = "NaN".into();
    }
    Value::Object(map)
}

/// Converts relaxed Extended JSON to its form in a `Struct`: every number is a double, and integers that
/// are not exact as a double are `$numberLong`.
pub(super) fn with_struct_numbers(relaxed: Value) -> Value {
    rewrite(relaxed, &|value| match value {
        Value::Number(number) => match number.as_i64() {
            Some(n) if n.unsigned_abs() > 1 << 53 => json!({ "$numberLong": n.to_string() }),
            _ => json!(number.as_f64()),
        },
        other => other,
    })
}

/// Normalizes the doubles of canonical Extended JSON, because the `bson` crate writes large ones without
/// exponent and very small ones as plain numbers.
pub(super) fn canonical(value: Value) -> Value {
    rewrite(value, &|value| match value {
        Value::Number(number) if number.is_f64() => {
            json!({ "$numberDouble": format!("{:?}", number.as_f64()) })
        }
        Value::Object(mut map) => {
            if let Some(Value::String(text)) = map.get_mut("$numberDouble")
                && let Ok(number) = text.parse::<f64>()
            {
                *text = format!(
                    "{:?}",
                    Some(if number.is_nan() { f64::NAN } else { number })
                );
            }
            Value::Object(map)
        }
        other => other,
    })
}

fn rewrite(value: Value, change: &dyn Fn(Value) -> Value) -> Value {
    let inner = match value {
        Value::Array(values) => values.into_iter().map(|v| rewrite(v, change)).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, v)| (key, rewrite(v, change)))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    };
    change(inner)
}

/// Converts a `Struct` to JSON.
pub(super) fn struct_to_json(message: Struct) -> Value {
    let fields = message.fields.into_iter();
    Value::Object(
        fields
            .map(|(key, value)| (key, value_to_json(value)))
            .collect(),
    )
}

fn value_to_json(value: prost_types::Value) -> Value {
    match value.kind.expect("a Value has a kind") {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(n) => Value::Number(Number::from_f64(n).expect("numbers are finite")),
        Kind::StringValue(text) => Value::String(text),
        Kind::BoolValue(b) => Value::Bool(b),
        Kind::StructValue(inner) => struct_to_json(inner),
        Kind::ListValue(list) => list.values.into_iter().map(value_to_json).collect(),
    }
}
