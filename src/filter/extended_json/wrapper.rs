//! The type wrappers of Extended JSON v2, such as `{"$oid": "..."}`, read as strictly as the specification
//! has them: what bson's own reader takes for another value, such as an empty text for the decimal 0, is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bson::raw::CString;
use bson::{
    Binary, Bson, DateTime, Document, JavaScriptCodeWithScope, Regex, Timestamp, Uuid,
    oid::ObjectId,
};

use crate::model::quoted;

/// The keys that identify the type wrappers.
const WRAPPERS: [&str; 16] = [
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

/// Returns the key that makes a document a type wrapper.
pub(super) fn key(has: impl Fn(&str) -> bool) -> Option<&'static str> {
    WRAPPERS.into_iter().find(|key| has(key))
}

/// Reads the document of a type wrapper. What is inside is read already: `{"$numberLong": "5"}` is an Int64.
///
/// # Errors
/// What is wrong with it, and a well-formed one.
pub(super) fn read(wrapper: &str, fields: Document) -> Result<Bson, String> {
    value(wrapper, fields).map_err(|reason| {
        format!(
            "the {wrapper} is not well-formed: {reason}; write {}",
            example(wrapper)
        )
    })
}

fn value(wrapper: &str, mut fields: Document) -> Result<Bson, String> {
    let value = fields.remove(wrapper).unwrap_or(Bson::Null);
    let scope = match wrapper {
        "$code" => fields.remove("$scope"),
        _ => None,
    };
    if let Some(other) = fields.keys().next() {
        return Err(format!("it has the key {} beside it", quoted(other)));
    }
    match wrapper {
        "$oid" => object_id(&text(value)?),
        "$numberInt" => whole(&text(value)?, 32).map(Bson::Int32),
        "$numberLong" => whole(&text(value)?, 64).map(Bson::Int64),
        "$numberDouble" => double(&text(value)?),
        "$numberDecimal" => decimal(&text(value)?),
        "$date" => date(value),
        "$binary" => binary(value),
        "$uuid" => uuid(&text(value)?),
        "$timestamp" => timestamp(value),
        "$symbol" => text(value).map(Bson::Symbol),
        "$code" => code(text(value)?, scope),
        "$regularExpression" => regular_expression(value),
        "$dbPointer" => db_pointer(value),
        "$minKey" => is(&value, &Bson::Int32(1)).map(|()| Bson::MinKey),
        "$maxKey" => is(&value, &Bson::Int32(1)).map(|()| Bson::MaxKey),
        _ => is(&value, &Bson::Boolean(true)).map(|()| Bson::Undefined),
    }
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

fn text(value: Bson) -> Result<String, String> {
    match value {
        Bson::String(text) => Ok(text),
        _ => Err("its value is not a text".to_owned()),
    }
}

fn is(value: &Bson, expected: &Bson) -> Result<(), String> {
    if value == expected {
        return Ok(());
    }
    Err(format!("its value is not {expected}"))
}

/// Takes the two fields of a document that has no others.
fn two_fields(value: Bson, names: [&str; 2]) -> Result<[Bson; 2], String> {
    let missing = || {
        format!(
            "its value is not a document of {} and {}",
            names[0], names[1]
        )
    };
    let Bson::Document(mut fields) = value else {
        return Err(missing());
    };
    match names.map(|name| fields.remove(name)) {
        [Some(first), Some(second)] if fields.is_empty() => Ok([first, second]),
        _ => Err(missing()),
    }
}

fn object_id(text: &str) -> Result<Bson, String> {
    ObjectId::parse_str(text)
        .map(Bson::ObjectId)
        .map_err(|_| format!("{} is not 24 hexadecimal digits", quoted(text)))
}

fn whole<T: std::str::FromStr>(text: &str, bits: u32) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{} is not a whole number of {bits} bits", quoted(text)))
}

fn double(text: &str) -> Result<Bson, String> {
    let number = match text {
        "Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        // Rust reads 1e999 and other names of these as such a number too.
        text => text
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .ok_or_else(|| {
                format!(
                    "{} is not a number of 64 bits, nor \"NaN\", \"Infinity\" or \"-Infinity\"",
                    quoted(text)
                )
            })?,
    };
    Ok(Bson::Double(number))
}

/// The most digits of an exponent that are read: far more than any Decimal128 has.
const MAX_EXPONENT_DIGITS: usize = 9;

fn decimal(text: &str) -> Result<Bson, String> {
    let Some(exponent) = decimal_exponent(text) else {
        return Err(format!("{} is not a decimal number", quoted(text)));
    };
    // bson computes with the exponent, which must not overflow.
    Some(text)
        .filter(|_| exponent.trim_start_matches('0').len() <= MAX_EXPONENT_DIGITS)
        .and_then(|text| text.parse().ok())
        .map(Bson::Decimal128)
        .ok_or_else(|| {
            format!(
                "{} has more than 34 digits, or an exponent beyond those of a Decimal128",
                quoted(text)
            )
        })
}

/// Returns the digits of the exponent of a text that is a `numeric-string` of the BSON Decimal128 specification,
/// and `None` for any other text.
fn decimal_exponent(text: &str) -> Option<&str> {
    let unsigned = |text| str::strip_prefix(text, ['+', '-']).unwrap_or(text);
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = unsigned(text);
    let names = ["NaN", "Inf", "Infinity"];
    if names.iter().any(|name| name.eq_ignore_ascii_case(number)) {
        return Some("");
    }
    let (coefficient, exponent) = match number.split_once(['e', 'E']) {
        Some((coefficient, exponent)) => (coefficient, unsigned(exponent)),
        None => (number, "0"),
    };
    let (whole, fraction) = coefficient.split_once('.').unwrap_or((coefficient, ""));
    let good = is_digits(whole)
        && is_digits(fraction)
        && is_digits(exponent)
        && !exponent.is_empty()
        && whole.len() + fraction.len() > 0;
    good.then_some(exponent)
}

fn date(value: Bson) -> Result<Bson, String> {
    let millis = match value {
        Bson::Int32(millis) => millis.into(),
        Bson::Int64(millis) => millis,
        Bson::String(text) => return date_from_text(&text),
        _ => {
            return Err("its value is neither a text nor a whole number of milliseconds".into());
        }
    };
    Ok(Bson::DateTime(DateTime::from_millis(millis)))
}

/// Reads a date of RFC 3339. Digits of a second beyond the third, which MongoDB has none for, are cut off: the
/// date is the millisecond in which the time lies, before 1970 too.
fn date_from_text(text: &str) -> Result<Bson, String> {
    if text.get(17..19) == Some("60") {
        return Err(format!(
            "{} has a leap second, which MongoDB's dates don't have",
            quoted(text)
        ));
    }
    DateTime::parse_rfc3339_str(without_microseconds(text))
        .map(Bson::DateTime)
        .map_err(|_| format!("{} is not a date and time as in RFC 3339", quoted(text)))
}

/// Cuts the text itself, as bson rounds towards 1970.
fn without_microseconds(text: &str) -> String {
    const DIGITS: usize = 3;
    let Some((seconds, rest)) = text.split_once('.') else {
        return text.to_owned();
    };
    let end = rest.bytes().take_while(u8::is_ascii_digit).count();
    format!("{seconds}.{}{}", &rest[..end.min(DIGITS)], &rest[end..])
}

fn binary(value: Bson) -> Result<Bson, String> {
    let [base64, subtype] = two_fields(value, ["base64", "subType"])?;
    let (base64, subtype) = (text(base64)?, text(subtype)?);
    let bytes = STANDARD
        .decode(&base64)
        .map_err(|_| format!("{} is not base64 with padding", quoted(&base64)))?;
    // The specification has one digit or two.
    let number = Some(&*subtype)
        .filter(|it| matches!(it.len(), 1 | 2) && it.bytes().all(|it| it.is_ascii_hexdigit()))
        .and_then(|it| u8::from_str_radix(it, 16).ok())
        .ok_or_else(|| {
            format!(
                "the subType {} is not one or two hexadecimal digits",
                quoted(&subtype)
            )
        })?;
    Ok(Bson::Binary(Binary {
        subtype: number.into(),
        bytes,
    }))
}

fn uuid(text: &str) -> Result<Bson, String> {
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    // bson also reads other forms, such as one without hyphens.
    let has_form = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => HYPHENS.contains(&at),
            byte => byte.is_ascii_hexdigit() && !HYPHENS.contains(&at),
        });
    Some(text)
        .filter(|_| has_form)
        .and_then(|text| Uuid::parse_str(text).ok())
        .map(|uuid| Bson::Binary(uuid.into()))
        .ok_or_else(|| format!("{} is not a UUID with its hyphens", quoted(text)))
}

fn timestamp(value: Bson) -> Result<Bson, String> {
    let part = |value| match value {
        Bson::Int32(number) => u32::try_from(number).ok(),
        Bson::Int64(number) => u32::try_from(number).ok(),
        _ => None,
    };
    match two_fields(value, ["t", "i"])?.map(part) {
        [Some(time), Some(increment)] => Ok(Bson::Timestamp(Timestamp { time, increment })),
        _ => Err(format!(
            "t and i must be whole numbers from 0 to {}",
            u32::MAX
        )),
    }
}

fn code(code: String, scope: Option<Bson>) -> Result<Bson, String> {
    match scope {
        None => Ok(Bson::JavaScriptCode(code)),
        Some(Bson::Document(scope)) => Ok(Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code,
            scope,
        })),
        Some(_) => Err("its $scope is not a document".to_owned()),
    }
}

fn regular_expression(value: Bson) -> Result<Bson, String> {
    let nul = |_| "a NUL can't stand in it".to_owned();
    let [pattern, options] = two_fields(value, ["pattern", "options"])?;
    let mut letters: Vec<char> = text(options)?.chars().collect();
    letters.sort_unstable();
    Ok(Bson::RegularExpression(Regex {
        pattern: CString::try_from(text(pattern)?).map_err(nul)?,
        options: CString::try_from(letters.into_iter().collect::<String>()).map_err(nul)?,
    }))
}

fn db_pointer(value: Bson) -> Result<Bson, String> {
    let [namespace, id] = two_fields(value, ["$ref", "$id"])?;
    let (Bson::String(namespace), Bson::ObjectId(id)) = (namespace, id) else {
        return Err("its $ref is not a text, or its $id is not a $oid".to_owned());
    };
    // bson makes this deprecated type from JSON alone.
    let json = serde_json::json!({
        "$dbPointer": { "$ref": namespace, "$id": { "$oid": id.to_hex() } }
    });
    Bson::try_from(json).map_err(|_| "it can't be read".to_owned())
}
