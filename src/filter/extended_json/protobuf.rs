//! Extended JSON in `google.protobuf.Value`, whose documents have no order of keys: they are sorted.

use bson::{Bson, Document};
use prost_types::value::Kind;

use super::document::{check_depth, insert, unwrapped};
use crate::filter::problem::Problem;

/// The largest integer up to which a double is exact. The client may have rounded a larger number
/// already, so it stays a double.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Reads a value. Whole numbers that a double holds exactly become Int32 or Int64, other numbers Double.
///
/// # Errors
/// The first problem.
pub(crate) fn from_value(value: prost_types::Value) -> Result<Bson, Problem> {
    read(value, 0)
}

/// Reads a document, in the same way.
///
/// # Errors
/// The first problem.
pub(crate) fn from_struct(fields: prost_types::Struct) -> Result<Bson, Problem> {
    document(fields, 0)
}

/// Reads a value with `around` documents and lists around it.
fn read(value: prost_types::Value, around: usize) -> Result<Bson, Problem> {
    match value.kind {
        None => Err("has no value; write null as null_value".into()),
        Some(Kind::NullValue(0)) => Ok(Bson::Null),
        Some(Kind::NullValue(number)) => {
            Err(format!("is the null_value {number}; use 0 (NULL_VALUE)").into())
        }
        Some(Kind::BoolValue(value)) => Ok(Bson::Boolean(value)),
        Some(Kind::NumberValue(number)) => Ok(number_literal(number)?),
        Some(Kind::StringValue(text)) => Ok(Bson::String(text)),
        Some(Kind::StructValue(fields)) => document(fields, around),
        Some(Kind::ListValue(list)) => {
            check_depth(around + 1)?;
            let items = list.values.into_iter().enumerate().map(|(index, value)| {
                read(value, around + 1).map_err(|problem| problem.below(index.to_string()))
            });
            items.collect::<Result<_, _>>().map(Bson::Array)
        }
    }
}

fn document(fields: prost_types::Struct, around: usize) -> Result<Bson, Problem> {
    check_depth(around + 1)?;
    let mut document = Document::new();
    for (key, value) in fields.fields {
        match read(value, around + 1) {
            Ok(value) => insert(&mut document, key, value)?,
            Err(problem) => return Err(problem.below(key)),
        }
    }
    Ok(unwrapped(document)?)
}

/// Returns a number in the smallest type that holds it exactly.
fn number_literal(number: f64) -> Result<Bson, String> {
    if !number.is_finite() {
        // google.protobuf.Value forbids these numbers, and its JSON form cannot represent them.
        return Err(format!(
            "is {number}, which google.protobuf.Value does not allow; write {{\"$numberDouble\": \"NaN\"}} (or \
             \"Infinity\", \"-Infinity\")"
        ));
    }
    if number.fract() != 0.0 || number.abs() > MAX_EXACT_INTEGER {
        return Ok(Bson::Double(number));
    }
    let whole = number as i64;
    Ok(i32::try_from(whole).map_or(Bson::Int64(whole), Bson::Int32))
}
