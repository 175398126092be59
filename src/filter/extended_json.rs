//! Reads `google.protobuf.Value` as MongoDB Extended JSON.

use bson::{Bson, Document};
use prost_types::value::Kind;

use crate::model::quoted;

/// MongoDB's own nesting limit: a deeper literal equals no stored value. prost has a lower recursion
/// limit, but this module does not rely on it.
pub(crate) const MAX_NESTING: usize = 100;

/// The largest integer up to which a double is exact. The client may have rounded a larger number
/// already, so it stays a double.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// The keys that identify the type wrappers of Extended JSON v2.
pub(crate) const WRAPPERS: [&str; 16] = [
    "$oid",
    "$symbol",
    "$regularExpression",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$binary",
    "$uuid",
    "$code",
    "$timestamp",
    "$date",
    "$minKey",
    "$maxKey",
    "$dbPointer",
    "$undefined",
];

/// The keys of a database reference (DBRef), which is a plain document in Extended JSON.
const REFERENCE_KEYS: [&str; 3] = ["$ref", "$id", "$db"];

/// Reads a literal of a filter.
///
/// Whole numbers that a double holds exactly become Int32 or Int64, other numbers Double; MongoDB
/// compares numbers across these types. The fields of a document are sorted by name, because a protobuf
/// map keeps no order.
///
/// # Errors
/// A description of the problem and, inside nested values, its path.
pub(super) fn literal(value: prost_types::Value) -> Result<Bson, String> {
    let mut reader = LiteralReader { path: Vec::new() };
    reader.value(value).map_err(|problem| {
        if reader.path.is_empty() {
            problem
        } else {
            format!("{problem} (at {})", quoted(&reader.path.join(".")))
        }
    })
}

struct LiteralReader {
    /// The keys and indexes of the value being read. After an error they point to the problem.
    path: Vec<String>,
}

impl LiteralReader {
    fn value(&mut self, value: prost_types::Value) -> Result<Bson, String> {
        if self.path.len() > MAX_NESTING {
            return Err(format!(
                "is nested deeper than the {MAX_NESTING} levels that MongoDB allows"
            ));
        }
        match value.kind {
            None => Err("has no value; write null as null_value".into()),
            Some(Kind::NullValue(number)) => null(number).map(|()| Bson::Null),
            Some(Kind::BoolValue(value)) => Ok(Bson::Boolean(value)),
            Some(Kind::NumberValue(number)) => number_literal(number),
            Some(Kind::StringValue(text)) => Ok(Bson::String(text)),
            Some(Kind::ListValue(list)) => self.list(list.values).map(Bson::Array),
            Some(Kind::StructValue(fields)) => self.fields(fields),
        }
    }

    fn list(&mut self, values: Vec<prost_types::Value>) -> Result<Vec<Bson>, String> {
        let mut items = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            self.path.push(index.to_string());
            items.push(self.value(value)?);
            self.path.pop();
        }
        Ok(items)
    }

    fn fields(&mut self, fields: prost_types::Struct) -> Result<Bson, String> {
        if let Some(wrapper) = WRAPPERS
            .into_iter()
            .find(|key| fields.fields.contains_key(*key))
        {
            return wrapped(wrapper, fields);
        }
        let mut document = Document::new();
        for (key, value) in fields.fields {
            if key.starts_with('$') && !REFERENCE_KEYS.contains(&key.as_str()) {
                return Err(unknown_wrapper(&key));
            }
            if key.contains('\0') {
                return Err(format!(
                    "has the field name {}; BSON field names cannot contain NUL",
                    quoted(&key)
                ));
            }
            self.path.push(key);
            let value = self.value(value)?;
            if let Some(key) = self.path.pop() {
                document.insert(key, value);
            }
        }
        Ok(Bson::Document(document))
    }
}

/// Describes an unknown `$` key. As a plain document, a mistyped wrapper would silently match nothing.
fn unknown_wrapper(key: &str) -> String {
    // The older form of a regular expression. Its `$options` sorts first.
    if matches!(key, "$regex" | "$options") {
        return "is a regular expression; use the operator regex".into();
    }
    format!(
        "has the key {}, which is not a type of Extended JSON v2; use $oid, $date, \
         $numberLong, $numberDecimal or another of its types",
        quoted(key)
    )
}

/// Checks the number of a null; `NULL_VALUE` is the only member of its enum.
pub(crate) fn null(number: i32) -> Result<(), String> {
    if number == 0 {
        return Ok(());
    }
    Err(format!("is the null_value {number}; use 0 (NULL_VALUE)"))
}

/// Returns a number in the smallest type that holds it exactly.
pub(crate) fn number_literal(number: f64) -> Result<Bson, String> {
    if !number.is_finite() {
        // google.protobuf.Value forbids these numbers, and its JSON form cannot represent them.
        return Err(format!(
            "is {number}, which google.protobuf.Value does not allow; write {{\"$numberDouble\": \"NaN\"}} (or \
             \"Infinity\", \"-Infinity\")"
        ));
    }
    Ok(match whole_number(number) {
        Some(whole) => i32::try_from(whole).map_or(Bson::Int64(whole), Bson::Int32),
        None => Bson::Double(number),
    })
}

fn whole_number(number: f64) -> Option<i64> {
    let exact = number.fract() == 0.0 && number.abs() <= MAX_EXACT_INTEGER;
    exact.then_some(number as i64)
}

fn wrapped(wrapper: &str, fields: prost_types::Struct) -> Result<Bson, String> {
    let malformed =
        |reason: String| format!("is not a well-formed {wrapper} of Extended JSON v2: {reason}");

    let json = fields
        .fields
        .into_iter()
        .map(|(key, value)| Some((key, json_value(value, 0)?)))
        .collect::<Option<serde_json::Map<_, _>>>()
        .ok_or_else(|| {
            malformed("it contains a value that is unset, not finite or nested too deeply".into())
        })?;
    let value = Bson::try_from(json).map_err(|error| malformed(short(&error.to_string())))?;
    let refused = match value {
        Bson::RegularExpression(_) => "is a regular expression; use the operator regex",
        Bson::Undefined => "is undefined, a deprecated type; use exists: false or eq: null",
        Bson::DbPointer(_) => "is a DBPointer, a deprecated type that filters do not support",
        Bson::Symbol(_) => "is a symbol, a deprecated type; use a string",
        Bson::JavaScriptCodeWithScope(_) => {
            "is code with scope, a deprecated type that filters do not support"
        }
        value => return Ok(value),
    };
    Err(refused.into())
}

/// Truncates the parser's message, which may quote the client's text at length.
pub(crate) fn short(reason: &str) -> String {
    const MAX_CHARS: usize = 120;
    match reason.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &reason[..end]),
        None => reason.into(),
    }
}

/// Converts the content of a wrapper to JSON, with whole numbers as integers, which `$timestamp`,
/// `$minKey` and the old form of `$date` require; `None` for a value that is unset, not finite or nested
/// too deeply.
fn json_value(value: prost_types::Value, depth: usize) -> Option<serde_json::Value> {
    if depth > MAX_NESTING {
        return None;
    }
    Some(match value.kind? {
        Kind::NullValue(number) => null(number).ok().map(|()| serde_json::Value::Null)?,
        Kind::BoolValue(value) => value.into(),
        Kind::NumberValue(number) => match whole_number(number) {
            Some(whole) => whole.into(),
            None => serde_json::Number::from_f64(number)?.into(),
        },
        Kind::StringValue(text) => text.into(),
        Kind::ListValue(list) => list
            .values
            .into_iter()
            .map(|value| json_value(value, depth + 1))
            .collect::<Option<Vec<_>>>()?
            .into(),
        Kind::StructValue(fields) => fields
            .fields
            .into_iter()
            .map(|(key, value)| Some((key, json_value(value, depth + 1)?)))
            .collect::<Option<serde_json::Map<_, _>>>()?
            .into(),
    })
}

#[cfg(test)]
mod tests;
