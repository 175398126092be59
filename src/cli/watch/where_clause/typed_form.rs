//! Plain text that looks like a value of another type.
//!
//! `_id=507f1f77bcf86cd799439011` is a valid condition on a text, and matches no ObjectId. As silence would
//! look like a collection without changes, the user is shown the typed form.

use bson::DateTime;
use serde_json::{Value, json};

use crate::filter::extended_json::from_text;

/// What plain text looks like.
#[derive(Debug, PartialEq)]
pub(super) struct TypedForm {
    /// The type with its article: "an ObjectId".
    pub what: &'static str,
    /// The same value in Extended JSON.
    pub value: Value,
}

/// Returns the value that `text`, which has no quotes, probably means; `None` if it is only text.
pub(super) fn typed_form(text: &str) -> Option<TypedForm> {
    let bare = object_id(text)
        .or_else(|| uuid(text))
        .or_else(|| date(text));
    bare.or_else(|| number(text))
        .or_else(|| keyword(text))
        .or_else(|| shell_call(text))
}

fn form(what: &'static str, value: Value) -> TypedForm {
    TypedForm { what, value }
}

/// 24 hexadecimal digits. If all of them are decimal, the text is even a valid number.
fn object_id(text: &str) -> Option<TypedForm> {
    let is_id = text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| form("an ObjectId", json!({"$oid": text.to_ascii_lowercase()})))
}

fn uuid(text: &str) -> Option<TypedForm> {
    let groups: Vec<&str> = text.split('-').collect();
    let is_uuid = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups
            .iter()
            .all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_uuid.then(|| form("a UUID", json!({"$uuid": text.to_ascii_lowercase()})))
}

/// `2024-01-31`, also `2024-1-31` and `2024/01/31`, or with a time and an offset as in RFC 3339; either may be
/// shortened as ISO 8601 allows. Without an offset it is in UTC, as for `--since`.
fn date(text: &str) -> Option<TypedForm> {
    let (day, time) = match text.split_once(['T', 't', ' ']) {
        Some((day, time)) => (day, time.trim_start()),
        None => (text, "00:00:00Z"),
    };
    let day = calendar_day(day)?;
    if !time.is_ascii() {
        return None;
    }
    let (clock, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => (time, "Z"),
    };
    let offset = match offset.to_ascii_uppercase() {
        // +0100 and +01.
        short if short.len() == 5 && !short.contains(':') => {
            format!("{}:{}", &short[..3], &short[3..])
        }
        short if short.len() == 3 => format!("{short}:00"),
        offset => offset,
    };
    let seconds = if clock.matches(':').count() == 1 {
        ":00"
    } else {
        ""
    };
    let time = DateTime::parse_rfc3339_str(format!("{day}T{clock}{seconds}{offset}")).ok()?;
    let text = time.try_to_rfc3339_string().ok()?;
    Some(form("a date", json!({"$date": text})))
}

/// Returns year, month and day with all their digits.
fn calendar_day(text: &str) -> Option<String> {
    let separator = if text.contains('/') { '/' } else { '-' };
    let parts: Vec<&str> = text.split(separator).collect();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match parts[..] {
        [year, month, day]
            if year.len() == 4
                && (1..=2).contains(&month.len())
                && (1..=2).contains(&day.len())
                && [year, month, day].into_iter().all(digits) =>
        {
            Some(format!("{year}-{month:0>2}-{day:0>2}"))
        }
        _ => None,
    }
}

/// Numbers that JSON does not know: `+5`, `.5`, `5.`, `1_000`, `1,000`, `0x1F`, `NaN` and `Infinity`. Leading
/// zeros are no number: postal codes and article numbers have them.
fn number(text: &str) -> Option<TypedForm> {
    let number = |value: Value| Some(form("a number", value));
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    match unsigned {
        "NaN" => return number(json!({"$numberDouble": "NaN"})),
        "Infinity" if negative => return number(json!({"$numberDouble": "-Infinity"})),
        "Infinity" => return number(json!({"$numberDouble": "Infinity"})),
        _ => {}
    }
    let sign = if negative { -1 } else { 1 };
    if let Some(digits) = unsigned
        .strip_prefix("0x")
        .or_else(|| unsigned.strip_prefix("0X"))
    {
        let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let whole = i64::from_str_radix(digits, 16).ok().filter(|_| valid)?;
        return number(json!(sign * whole));
    }
    let plain = without_separators(unsigned)?;
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    if !digits(whole) || !digits(fraction) || leading_zero || whole.len() + fraction.len() == 0 {
        return None;
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    let minus = if negative { "-" } else { "" };
    let json = match fraction {
        "" => format!("{minus}{whole}"),
        fraction => format!("{minus}{whole}.{fraction}"),
    };
    // What JSON already reads as a number needs no other form.
    let value = serde_json::from_str(&json).ok().filter(|_| json != text)?;
    number(value)
}

/// Removes the separators of thousands, `_` anywhere between digits and `,` before each three of them.
fn without_separators(text: &str) -> Option<String> {
    if text.contains(',') {
        let mut groups = text.split(',');
        let first = groups.next()?;
        let grouped = (1..=3).contains(&first.len()) && groups.all(|group| group.len() == 3);
        return grouped.then(|| text.replace(',', ""));
    }
    let between_digits = text.split('_').all(|group| !group.is_empty());
    between_digits.then(|| text.replace('_', ""))
}

fn keyword(text: &str) -> Option<TypedForm> {
    match text {
        "True" | "TRUE" => Some(form("a boolean", json!(true))),
        "False" | "FALSE" => Some(form("a boolean", json!(false))),
        "Null" | "NULL" | "None" | "nil" => Some(form("null", Value::Null)),
        _ => None,
    }
}

/// A constructor of MongoDB's shell with one argument, such as `ObjectId("...")` or `new Date('...')`.
fn shell_call(text: &str) -> Option<TypedForm> {
    let text = text.strip_prefix("new ").unwrap_or(text).trim_start();
    let (name, argument) = text.strip_suffix(')')?.split_once('(')?;
    let argument = argument.trim();
    let unquoted = ['"', '\'']
        .iter()
        .find_map(|&quote| argument.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(argument);
    let digits = || {
        let digits = unquoted.strip_prefix('-').unwrap_or(unquoted);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    match name.trim_end() {
        "ObjectId" | "ObjectID" => object_id(unquoted),
        "ISODate" | "Date" => date(unquoted),
        "UUID" => uuid(unquoted),
        "NumberLong" | "Long" if digits() => {
            Some(form("a number", json!({"$numberLong": unquoted})))
        }
        "NumberInt" | "Int32" if digits() => {
            Some(form("a number", json!({"$numberInt": unquoted})))
        }
        "NumberDecimal" | "Decimal128" => {
            let value = json!({"$numberDecimal": unquoted});
            let is_decimal = from_text(&value.to_string()).is_ok();
            is_decimal.then(|| form("a number", value))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_looks_like_another_type_has_a_typed_form() {
        let id = "507f1f77bcf86cd799439011";
        let date = |text: &str| json!({"$date": text});
        for (text, what, value) in [
            (id, "an ObjectId", json!({"$oid": id})),
            (
                "507F1F77BCF86CD799439011",
                "an ObjectId",
                json!({"$oid": id}),
            ),
            (
                "507177869900123943901112",
                "an ObjectId",
                json!({"$oid": "507177869900123943901112"}),
            ),
            (
                "3B241101-E2BB-4255-8CAF-4136C566A962",
                "a UUID",
                json!({"$uuid": "3b241101-e2bb-4255-8caf-4136c566a962"}),
            ),
            ("2024-01-01", "a date", date("2024-01-01T00:00:00Z")),
            ("2024-01-01T12:30", "a date", date("2024-01-01T12:30:00Z")),
            (
                "2024-01-01 12:30:15",
                "a date",
                date("2024-01-01T12:30:15Z"),
            ),
            (
                "2024-01-01T12:30:15Z",
                "a date",
                date("2024-01-01T12:30:15Z"),
            ),
            (
                "2024-01-01t12:30:15.5z",
                "a date",
                date("2024-01-01T12:30:15.5Z"),
            ),
            (
                "2024-01-01T00:30:00+01:00",
                "a date",
                date("2023-12-31T23:30:00Z"),
            ),
            (
                "2024-01-01T12:30-0800",
                "a date",
                date("2024-01-01T20:30:00Z"),
            ),
            (
                "2024-01-01T12:30+02",
                "a date",
                date("2024-01-01T10:30:00Z"),
            ),
            ("1969-07-20", "a date", date("1969-07-20T00:00:00Z")),
            ("2024-1-9", "a date", date("2024-01-09T00:00:00Z")),
            ("2024/01/01", "a date", date("2024-01-01T00:00:00Z")),
            ("2024/1/1 12:30", "a date", date("2024-01-01T12:30:00Z")),
            ("+5", "a number", json!(5)),
            (".5", "a number", json!(0.5)),
            ("-.5", "a number", json!(-0.5)),
            ("5.", "a number", json!(5)),
            ("1_000", "a number", json!(1000)),
            ("1,000,000", "a number", json!(1_000_000)),
            ("0x1F", "a number", json!(31)),
            ("NaN", "a number", json!({"$numberDouble": "NaN"})),
            (
                "-Infinity",
                "a number",
                json!({"$numberDouble": "-Infinity"}),
            ),
            ("True", "a boolean", json!(true)),
            ("FALSE", "a boolean", json!(false)),
            ("NULL", "null", json!(null)),
            (
                "ObjectId(\"507f1f77bcf86cd799439011\")",
                "an ObjectId",
                json!({"$oid": id}),
            ),
            (
                "new ObjectId('507f1f77bcf86cd799439011')",
                "an ObjectId",
                json!({"$oid": id}),
            ),
            (
                "ISODate(\"2024-01-01T00:00:00.000Z\")",
                "a date",
                date("2024-01-01T00:00:00Z"),
            ),
            (
                "new Date('2024-01-01')",
                "a date",
                date("2024-01-01T00:00:00Z"),
            ),
            (
                "UUID(\"3b241101-e2bb-4255-8caf-4136c566a962\")",
                "a UUID",
                json!({"$uuid": "3b241101-e2bb-4255-8caf-4136c566a962"}),
            ),
            ("NumberLong(5)", "a number", json!({"$numberLong": "5"})),
            (
                "NumberLong(\"-5\")",
                "a number",
                json!({"$numberLong": "-5"}),
            ),
            ("NumberInt(5)", "a number", json!({"$numberInt": "5"})),
            (
                "NumberDecimal(\"1.50\")",
                "a number",
                json!({"$numberDecimal": "1.50"}),
            ),
        ] {
            assert_eq!(typed_form(text), Some(form(what, value.clone())), "{text}");
            // Weir's server can read it.
            bson::Bson::try_from(value).unwrap();
        }
    }

    #[test]
    fn ordinary_text_has_none() {
        for text in [
            "",
            "paid",
            "paid in full",
            "5",
            "-5",
            "1.5",
            "1e5",
            "007",
            "00123",
            "507f1f77bcf86cd79943901",
            "507f1f77bcf86cd79943901g",
            "d41d8cd98f00b204e9800998ecf8427e",
            "3b241101-e2bb-4255-8caf",
            "2024",
            "2024-01",
            "2024-13-01",
            "2024-001-01",
            "2024/13/1",
            "2024/1-1",
            "2024--1",
            "24-1-1",
            "1/2/2024",
            "2024-01-99",
            "2024-01-01x",
            "2024-01-01T",
            "2024-01-01 order",
            "20240101",
            "12:30",
            "żółć-01-01",
            "2024-01-01Tż",
            "2024-01-01T12:30ż",
            "2024-01-01T12:30+0ż",
            "2024-01-01T12:30+0żx",
            "nan",
            "inf",
            "1,00",
            "1,2,3",
            "_",
            "1__0",
            "+",
            "-",
            ".",
            "+.",
            "0x",
            "0xzz",
            "0x+5",
            "v1.2.3",
            "1.2.3",
            "10k",
            "nobody",
            "none",
            "Nancy",
            "info",
            "f(x)",
            "Date()",
            "ObjectId()",
            "ObjectId(\"5\")",
            "NumberLong(x)",
            "NumberDecimal(x)",
            "NumberDecimal(\"\")",
            "(",
            ")",
        ] {
            assert_eq!(typed_form(text), None, "{text}");
        }
    }
}
