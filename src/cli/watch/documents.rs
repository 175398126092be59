//! Documents as text. The server sends Extended JSON, which is printed unchanged, as parsing it could lose
//! information.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_types::value::Kind;
use serde_json::Value;

use crate::pb;
use crate::pb::document;

/// Returns the document as one line of JSON; `null` for a document that MongoDB did not find.
///
/// The server sends BSON for a document that JSON can't represent (`message Document` in the API says which).
/// It is printed as binary in Extended JSON, which is lossless.
pub(in crate::cli) fn to_json(document: &pb::Document) -> Cow<'_, str> {
    match &document.value {
        Some(document::Value::Json(text)) => on_one_line(text),
        Some(document::Value::Bson(bytes)) => Cow::Owned(format!(
            r#"{{"$binary":{{"base64":"{}","subType":"00"}}}}"#,
            STANDARD.encode(bytes)
        )),
        Some(document::Value::Struct(fields)) => Cow::Owned(struct_to_json(fields).to_string()),
        Some(document::Value::Null(_)) | None => Cow::Borrowed("null"),
    }
}

/// Replaces line breaks by spaces: in JSON they occur only between tokens.
fn on_one_line(text: &str) -> Cow<'_, str> {
    if text.contains(['\n', '\r']) {
        Cow::Owned(text.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(text)
    }
}

fn struct_to_json(fields: &prost_types::Struct) -> Value {
    Value::Object(
        fields
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), value_to_json(value)))
            .collect(),
    )
}

/// Recursion is bounded, because prost refuses messages nested deeper than 100.
fn value_to_json(value: &prost_types::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(number)) => Value::from(*number),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => list.values.iter().map(value_to_json).collect(),
        Some(Kind::StructValue(fields)) => struct_to_json(fields),
    }
}

/// Returns a time as RFC 3339 in UTC, with milliseconds. Times outside the years 1970 to 9999 are clamped.
pub(super) fn rfc3339(time: &prost_types::Timestamp) -> String {
    const LAST_SECOND_OF_9999: i64 = 253_402_300_799;
    let seconds = u64::try_from(time.seconds.clamp(0, LAST_SECOND_OF_9999)).unwrap_or(0);
    let nanos = u32::try_from(time.nanos.clamp(0, 999_999_999)).unwrap_or(0);
    let since_1970 = std::time::Duration::new(seconds, nanos);
    humantime::format_rfc3339_millis(std::time::SystemTime::UNIX_EPOCH + since_1970).to_string()
}

/// Returns 16 bytes in the form of a UUID, other lengths as hexadecimal.
pub(super) fn uuid(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if bytes.len() == 16 && matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}
