//! Tests of every BSON type and its extreme values in every format.

use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc,
    oid::ObjectId, spec::BinarySubtype,
};

use super::{compare, db_pointer, json_of, json_text, raw_field, to_raw, write};
use crate::{pb::document::Value, wire::format::Format};

fn id() -> ObjectId {
    ObjectId::from_bytes([0, 1, 2, 3, 0x7f, 0x80, 0x99, 0xaa, 0xbc, 0xde, 0xef, 0xff])
}

fn decimal(text: &str) -> Decimal128 {
    text.parse().expect("a decimal")
}

/// Returns a document with all types and their extreme values.
fn all_types() -> Document {
    let binary = |subtype: u8, length: u8| Binary {
        subtype: BinarySubtype::from(subtype),
        bytes: (0..length).map(|n| n.wrapping_mul(37)).collect(),
    };
    doc! {
        "": "a name may be empty",
        "names": { "dotted.name": 1, "quote\"\\\n": 2, "漢字": 3, "nested": { "": {} } },
        "texts": [
            "", "plain", "sixteen bytes ok", "sixteen bytes \"quoted\" and more", "zero \0 inside",
            "\u{1}\u{8}\t\n\u{b}\u{c}\r\u{1f}\u{7f}", "ß漢🦀\u{2028}\u{2029}\u{feff}",
        ],
        "i32": [0, 1, -1, i32::MAX, i32::MIN],
        "i64": [
            0_i64, 1_i64 << 53, (1_i64 << 53) + 1, -(1_i64 << 53), -(1_i64 << 53) - 1, i64::MAX,
            i64::MIN,
        ],
        "doubles": [
            0.0, -0.0, 1.0, -1.5, 0.1, 1e15, 1e16, 1e17, 123_456_789.0, 1e300, 1e-300, f64::MAX,
            f64::MIN, f64::MIN_POSITIVE, 5e-324, 9_007_199_254_740_993.0,
            f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY,
        ],
        "others": [true, false, null, Bson::Undefined, Bson::MinKey, Bson::MaxKey],
        "ids": [id()],
        "dates": dates(),
        "binaries": [
            binary(0, 0), binary(0, 1), binary(0, 2), binary(0, 3), binary(1, 4), binary(2, 7),
            binary(3, 16), binary(4, 16), binary(5, 16), binary(6, 5), binary(7, 5), binary(8, 5),
            binary(9, 6), binary(0x80, 5), binary(0xff, 255),
        ],
        "timestamps": [
            Timestamp { time: 0, increment: 0 },
            Timestamp { time: u32::MAX, increment: u32::MAX },
            Timestamp { time: 1, increment: 2 },
        ],
        "decimals": decimals(),
        "regexes": [regex("", ""), regex("^a\"/\\d$", "imsx"), regex("sorted", "xsi")],
        "code": Bson::JavaScriptCode("function() { return \"x\" }".into()),
        "scoped": JavaScriptCodeWithScope { code: "f()".into(), scope: doc! { "x": 1, "id": id() } },
        "symbol": Bson::Symbol("sym\"bol".into()),
        "pointer": db_pointer("db.c", id()),
        "dbref": { "$ref": "c", "$id": id(), "$db": "db" },
        "arrays": [[], [[1, [2]], {}], [{ "a": [] }]],
    }
}

fn dates() -> Vec<DateTime> {
    let millis = [
        0,
        1,
        10,
        100,
        999,
        1_000,
        951_782_400_000,
        951_868_799_999,
        4_107_542_400_000,
        253_402_300_799_999,
        253_402_300_800_000,
        -1,
        i64::MAX,
        i64::MIN,
    ];
    millis.map(DateTime::from_millis).to_vec()
}

fn decimals() -> Vec<Decimal128> {
    let texts = [
        "0",
        "-0",
        "0E-6176",
        "1.5",
        "-1E+6111",
        "NaN",
        "Infinity",
        "-Infinity",
        "9.999999999999999999999999999999999E+6144",
    ];
    texts.map(decimal).to_vec()
}

fn regex(pattern: &str, options: &str) -> Regex {
    let c_string = |text: &str| text.try_into().expect("no zero bytes");
    Regex {
        pattern: c_string(pattern),
        options: c_string(options),
    }
}

#[test]
fn every_type_in_relaxed_json_equals_the_output_of_the_bson_crate() {
    let text = json_text(&to_raw(&all_types()), Format::Json);
    let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON parses");
    assert_eq!(parsed, compare::relaxed(&all_types()));
}

#[test]
fn every_type_in_canonical_json_equals_the_output_of_the_bson_crate() {
    let text = json_text(&to_raw(&all_types()), Format::CanonicalJson);
    let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON parses");
    let expected = Bson::Document(all_types()).into_canonical_extjson();
    assert_eq!(compare::canonical(parsed), compare::canonical(expected));
}

#[test]
fn every_type_in_a_struct_equals_relaxed_json() {
    let Value::Struct(message) = write(&to_raw(&all_types()), Format::Struct) else {
        panic!("the document fits a Struct");
    };
    let expected = compare::with_struct_numbers(compare::relaxed(&all_types()));
    assert_eq!(compare::struct_to_json(message), expected);
}

#[test]
fn every_type_keeps_its_bytes_in_the_bson_format() {
    let raw = to_raw(&all_types());
    assert_eq!(write(&raw, Format::Bson), Value::Bson(raw.clone().into()));
}

#[test]
fn relaxed_json_follows_the_specification() {
    let cases: Vec<(Bson, &str)> = vec![
        (5.into(), "5"),
        (i64::MIN.into(), "-9223372036854775808"),
        (5.0.into(), "5.0"),
        ((-0.0).into(), "-0.0"),
        (f64::NAN.into(), r#"{"$numberDouble":"NaN"}"#),
        ((-f64::NAN).into(), r#"{"$numberDouble":"NaN"}"#),
        (f64::NEG_INFINITY.into(), r#"{"$numberDouble":"-Infinity"}"#),
        (
            DateTime::from_millis(0).into(),
            r#"{"$date":"1970-01-01T00:00:00Z"}"#,
        ),
        (
            DateTime::from_millis(500).into(),
            r#"{"$date":"1970-01-01T00:00:00.500Z"}"#,
        ),
        (
            DateTime::from_millis(951_782_400_000).into(),
            r#"{"$date":"2000-02-29T00:00:00Z"}"#,
        ),
        (
            DateTime::from_millis(253_402_300_799_999).into(),
            r#"{"$date":"9999-12-31T23:59:59.999Z"}"#,
        ),
        (
            DateTime::from_millis(253_402_300_800_000).into(),
            r#"{"$date":{"$numberLong":"253402300800000"}}"#,
        ),
        (
            DateTime::from_millis(-1).into(),
            r#"{"$date":{"$numberLong":"-1"}}"#,
        ),
        (id().into(), r#"{"$oid":"000102037f8099aabcdeefff"}"#),
        (
            Binary {
                subtype: BinarySubtype::Uuid,
                bytes: vec![255; 16],
            }
            .into(),
            r#"{"$binary":{"base64":"/////////////////////w==","subType":"04"}}"#,
        ),
        (
            Timestamp {
                time: 1,
                increment: u32::MAX,
            }
            .into(),
            r#"{"$timestamp":{"t":1,"i":4294967295}}"#,
        ),
        (
            regex("a/b", "xi").into(),
            r#"{"$regularExpression":{"pattern":"a/b","options":"ix"}}"#,
        ),
        (Bson::MinKey, r#"{"$minKey":1}"#),
        ("\u{1f}\"\u{7f}".into(), "\"\\u001f\\\"\u{7f}\""),
    ];
    for (value, expected) in cases {
        assert_eq!(
            json_of(value, Format::Json),
            format!("{{\"v\":{expected}}}")
        );
    }
}

#[test]
fn canonical_json_has_the_type_of_every_value() {
    let cases: Vec<(Bson, &str)> = vec![
        (5.into(), r#"{"$numberInt":"5"}"#),
        (5_i64.into(), r#"{"$numberLong":"5"}"#),
        (5.0.into(), r#"{"$numberDouble":"5.0"}"#),
        ((-0.0).into(), r#"{"$numberDouble":"-0.0"}"#),
        (5e-324.into(), r#"{"$numberDouble":"5e-324"}"#),
        (f64::NAN.into(), r#"{"$numberDouble":"NaN"}"#),
        (
            DateTime::from_millis(0).into(),
            r#"{"$date":{"$numberLong":"0"}}"#,
        ),
        (decimal("1.50").into(), r#"{"$numberDecimal":"1.50"}"#),
        (
            Bson::Array(vec![1.into(), true.into()]),
            r#"[{"$numberInt":"1"},true]"#,
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(
            json_of(value, Format::CanonicalJson),
            format!("{{\"v\":{expected}}}")
        );
    }
}

#[test]
fn a_double_stays_a_double_in_relaxed_json() {
    for value in [1.0, 1e15, 1e16, 1e22, 1e300, -4e18, 9_007_199_254_740_992.0] {
        let text = json_of(value, Format::Json);
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON parses");
        assert!(parsed["v"].is_f64(), "{text}");
    }
}

#[test]
fn dates_equal_those_of_the_bson_crate() {
    // Every 97th day covers all months and all kinds of leap years.
    for day in (0..2_932_897_i64).step_by(97) {
        let date = DateTime::from_millis(day * 86_400_000);
        let expected = date
            .try_to_rfc3339_string()
            .expect("within four-digit years");
        assert_eq!(
            json_of(date, Format::Json),
            format!(r#"{{"v":{{"$date":"{expected}"}}}}"#)
        );
    }
}

#[test]
fn fields_keep_their_order() {
    let raw = super::raw_document(b"\x10b\0\x01\0\0\0\x10a\0\x02\0\0\0\x10c\0\x03\0\0\0");
    assert_eq!(json_text(&raw, Format::Json), r#"{"b":1,"a":2,"c":3}"#);
}

#[test]
fn an_array_keeps_its_order_with_any_indexes() {
    let array = super::raw_document(b"\x109\0\x01\0\0\0\x10\xff\0\x02\0\0\0\x109\0\x03\0\0\0");
    let raw = raw_field(4, b"v", &array);
    assert_eq!(json_text(&raw, Format::Json), r#"{"v":[1,2,3]}"#);
    assert!(matches!(write(&raw, Format::Struct), Value::Struct(_)));
}
