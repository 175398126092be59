//! The values of conditions: JSON, Extended JSON, or plain text.

use std::ops::Range;

use prost_types::value::Kind;
use serde_json::Value;

use super::typed_form::{TypedForm, typed_form};

/// A syntax error in a value. `at` is the byte offset in the whole condition.
pub(super) struct ValueError {
    pub at: usize,
    pub problem: String,
    pub advice: &'static str,
}

/// The largest integer up to which a double, and so `google.protobuf.Value`, represents every integer.
const LARGEST_WHOLE_DOUBLE: u64 = 1 << 53;

/// Parses the value in `range` of `text`.
pub(super) fn read(text: &str, range: Range<usize>) -> Result<Value, ValueError> {
    let slice = &text[range.clone()];
    let at = range.start + slice.len() - slice.trim_start().len();
    let slice = slice.trim();
    if slice.is_empty() {
        return Err(ValueError {
            at: range.end,
            problem: "the value is missing".to_owned(),
            advice: "write path=\"\" for the empty string, or path=null",
        });
    }
    if let Some(inner) = slice.strip_prefix('\'') {
        return match inner.strip_suffix('\'') {
            Some(inner) if !inner.contains('\'') => Ok(Value::String(inner.to_owned())),
            _ => Err(ValueError {
                at,
                problem: "the closing single quote is missing".to_owned(),
                advice: "end the text with a single quote, or use double quotes as in JSON if it contains one",
            }),
        };
    }
    match serde_json::from_str(slice) {
        Ok(value) => Ok(value),
        Err(error) if slice.starts_with(['{', '[', '"']) => Err(ValueError {
            at: at + json_offset(slice, &error),
            problem: format!("invalid JSON ({})", json_problem(&error)),
            advice: "correct the JSON, or put the text in single quotes if it is not JSON",
        }),
        Err(_) => match slice.find("&&").or_else(|| slice.find("||")) {
            Some(offset) => Err(ValueError {
                at: at + offset,
                problem: "`&&` and `||` are not supported".to_owned(),
                advice: "use one --where for each condition, path in [a,b] for one of several values, \
                         and quotes around a value that contains && or ||",
            }),
            None => Ok(Value::String(slice.to_owned())),
        },
    }
}

/// Parses `[a, "b", 3]` from `start` to the end of `text`: JSON, or values separated by commas.
pub(super) fn read_list(text: &str, start: usize) -> Result<Vec<Value>, ValueError> {
    let end = start + text[start..].trim_end().len();
    let list = &text[start..end];
    if !list.starts_with('[') {
        return Err(ValueError {
            at: start,
            problem: "the list is missing".to_owned(),
            advice: "write the list in brackets: path in [a,b]",
        });
    }
    if list.len() < 2 || !list.ends_with(']') {
        return Err(ValueError {
            at: end,
            problem: "the closing ] is missing".to_owned(),
            advice: "write the list in brackets: path in [a,b]",
        });
    }
    if let Ok(values) = serde_json::from_str::<Vec<Value>>(list) {
        return Ok(values);
    }
    split_at_commas(text, start + 1..end - 1)
        .into_iter()
        .map(|item| read(text, item))
        .collect()
}

/// Returns the list that starts at `start`, which [`read_list`] has read, as JSON. Its documents are as they were written.
pub(super) fn list_as_json(text: &str, start: usize) -> Result<String, ValueError> {
    let end = start + text[start..].trim_end().len();
    let list = &text[start..end];
    if serde_json::from_str::<Vec<Value>>(list).is_ok() {
        return Ok(list.to_owned());
    }
    let items = split_at_commas(text, start + 1..end - 1).into_iter();
    let items = items.map(|item| {
        let slice = text[item.clone()].trim();
        match serde_json::from_str::<Value>(slice) {
            Ok(_) => Ok(slice.to_owned()),
            Err(_) => read(text, item).map(|value| value.to_string()),
        }
    });
    let items = items.collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[{}]", items.join(",")))
}

/// Returns whether a document in the value has an order of keys that [`to_protobuf`] would lose. Type wrappers and
/// DBRefs have none.
pub(super) fn has_ordered_keys(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_ordered_keys),
        Value::Object(fields) => {
            let references = ["$ref", "$id", "$db"];
            let is_reference = |key: &String| references.contains(&key.as_str());
            let mut keys = fields.keys();
            if keys.clone().all(is_reference) {
                return fields.values().any(has_ordered_keys);
            }
            !keys.any(|key| key.starts_with('$') && !is_reference(key))
        }
        _ => false,
    }
}

/// Returns the value in `range`, if it has no quotes and looks like another type, with its place.
pub(super) fn untyped(text: &str, range: Range<usize>) -> Option<(Range<usize>, TypedForm)> {
    let slice = &text[range.clone()];
    let start = range.start + slice.len() - slice.trim_start().len();
    let slice = slice.trim();
    if slice.starts_with(['"', '\'', '{', '[']) {
        return None;
    }
    typed_form(slice).map(|form| (start..start + slice.len(), form))
}

/// Returns the same for each item of the list that starts at `start`.
pub(super) fn untyped_items(text: &str, start: usize) -> Vec<(Range<usize>, TypedForm)> {
    let end = start + text[start..].trim_end().len();
    if end < start + 2 {
        return Vec::new();
    }
    let items = split_at_commas(text, start + 1..end - 1).into_iter();
    items.filter_map(|item| untyped(text, item)).collect()
}

/// Returns the ranges of the items. Commas inside quotes, brackets and braces do not separate items.
fn split_at_commas(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    let mut item_start = range.start;
    let mut depth = 0_i32;
    let mut quote = None;
    let mut escaped = false;
    let mut blank = true;
    for (offset, character) in text[range.clone()].char_indices() {
        let at = range.start + offset;
        match (quote, character) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), _) if character == open && !escaped => quote = None,
            (Some(_), _) => {}
            // A single quote opens a string only at the start of a value: `it's` is plain text.
            (None, '"') => quote = Some('"'),
            (None, '\'') if blank => quote = Some('\''),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, ',') if depth <= 0 => {
                items.push(item_start..at);
                item_start = at + 1;
                blank = true;
                continue;
            }
            (None, _) => {}
        }
        escaped = false;
        blank &= character.is_whitespace();
    }
    items.push(item_start..range.end);
    items
}

/// Returns the byte offset of a serde_json error, which counts lines and columns from 1.
fn json_offset(slice: &str, error: &serde_json::Error) -> usize {
    let line_start: usize = slice
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let offset = (line_start + error.column().saturating_sub(1)).min(slice.len());
    // At the end of the text, the column is that of the last byte.
    let offset = if error.is_eof() { slice.len() } else { offset };
    (0..=offset)
        .rev()
        .find(|&at| slice.is_char_boundary(at))
        .unwrap_or(0)
}

/// Returns the text of a serde_json error without its position, which is relative to the value.
fn json_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((problem, _)) => problem.to_owned(),
        None => text,
    }
}

/// Returns the value as the API has it. Integers that a double can't represent become Extended JSON.
pub(super) fn to_protobuf(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) if whole.unsigned_abs() > LARGEST_WHOLE_DOUBLE => {
                return to_protobuf(serde_json::json!({ "$numberLong": whole.to_string() }));
            }
            _ => Kind::NumberValue(number.as_f64().unwrap_or(f64::INFINITY)),
        },
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(to_protobuf).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields
                .into_iter()
                .map(|(name, value)| (name, to_protobuf(value)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
