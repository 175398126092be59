use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, doc};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::filter::problem::Problem;
use crate::pipeline::fixtures;

/// Reads a value in both forms, which must agree.
fn read(json: &Value) -> Result<Bson, String> {
    let value = from_value(fixtures::value(json.clone())).map_err(Problem::into_text);
    let text = from_text(&json.to_string());
    match (value, text) {
        (Ok(value), Ok(text)) => {
            assert_eq!(value, text, "{json}");
            Ok(value)
        }
        (Err(value), Err(text)) => {
            let text = text.strip_prefix("is not valid Extended JSON: ").unwrap();
            let (text, _) = text.split_once(" at line ").unwrap();
            assert_eq!(value, text);
            assert!(
                !value.contains("BSON error") && value.len() < 250,
                "{value}"
            );
            Err(value)
        }
        other => panic!("{json}: {other:?}"),
    }
}

/// The strings that the specification of Decimal128 and its corpus do not allow.
#[test]
fn a_text_that_is_no_decimal_number_is_refused() {
    let not_numbers = "1e|E01|.|..3|.13.3|1..3|1.3.4|1.34.|.e|+-32.4|-+32.4|--32.4|-32.-4|32.0-|32.4E--21|32.4E-2-1\
        |32.4E+-21|| 1| -1|1 |E|invalid|i|in|-in|Na|-Na|1.23abc|1.23abcE+02|1.23E+0aabs2\
        |Infi|Infin|Infini|Infinit|-Infinit|.Infinity|NaNq|NaNs|sNaN|-sNaN|NaN12|+|-|+.|-.|e|E5|-E5|.E5|+e\
        |e100|e+1|e1|.e1|+.e1|1e+|1e-|1e.|1e1.3|1e+1.|1e1e1|1e123-|1e+12+|1e1-3|1e*123|12e++|12e+-1|1E++1\
        |++1|--1|-+1|+-1| + 1| - 1|-1-|-9Inf|0Inf|-0Inf|0sNaN|xNaN|qNaN|Inf.|infinit y|1,000|1_000|0x1F|0x\
        |0000..|.0000.|00..00|12..4|1 2|1\t|\n1|x|1f|٣|１|−1|1e５|NULL|true|{}"
        .split('|');
    for text in not_numbers {
        let problem = read(&json!({"$numberDecimal": text})).unwrap_err();
        assert!(
            problem.contains("is not a decimal number; write {\"$numberDecimal\": \"0.5\"}"),
            "{text:?}: {problem}"
        );
    }
    let not_held = [
        "-7e10000",
        "7e10000",
        "1.11111111111111111111111111111234551",
        "-1.11111111111111111111111111111234650",
        "100000000000000000000000000000000000000000000000000000000001",
        "12345678901234567890123456789012345",
        "1E-6177",
        "1E+6145",
        "1E99999999999999999999999999999999999999999",
        "1E-170141183460469231731687303715884105728",
        "1E170141183460469231731687303715884105727",
    ];
    for text in not_held {
        let problem = read(&json!({"$numberDecimal": text})).unwrap_err();
        assert!(
            problem.contains("has more than 34 digits, or an exponent beyond"),
            "{text}: {problem}"
        );
    }
    for (text, expected) in [
        ("0", "0"),
        ("-0", "-0"),
        ("5.", "5"),
        (".5", "0.5"),
        ("+.5e+02", "5E+1"),
        ("1.10", "1.10"),
        ("1E+6111", "1E+6111"),
        ("1E0000000000000003", "1E+3"),
        ("1E-6176", "1E-6176"),
        ("0E-9999", "0E-6176"),
        (
            "1.1111111111111111111111111111123450",
            "1.111111111111111111111111111112345",
        ),
        ("nAn", "NaN"),
        ("+inf", "Infinity"),
        ("-INFINITY", "-Infinity"),
    ] {
        let Ok(Bson::Decimal128(decimal)) = read(&json!({"$numberDecimal": text})) else {
            panic!("{text}");
        };
        assert_eq!(decimal.to_string(), expected, "{text}");
    }
}

#[test]
fn a_double_is_finite_unless_it_is_named() {
    for text in [
        "1e999",
        "-1e999",
        "inf",
        "nan",
        "+Infinity",
        "infinity",
        "",
        "1_0",
        " 1",
        "0x1p3",
    ] {
        let problem = read(&json!({"$numberDouble": text})).unwrap_err();
        assert!(
            problem.contains("is not a number of 64 bits"),
            "{text}: {problem}"
        );
    }
}

#[test]
fn a_date_is_the_millisecond_in_which_the_time_lies() {
    for (text, millis) in [
        ("1970-01-01T00:00:00.0009Z", 0),
        ("1970-01-01T00:00:00.001999999Z", 1),
        ("1969-12-31T23:59:59.9995Z", -1),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1969-12-31T23:59:59.9980Z", -2),
        ("1969-12-31T23:59:59Z", -1000),
        ("1970-01-01T01:00:00.5+01:00", 500),
        ("2024-02-29T12:00:00.123456+00:00", 1_709_208_000_123),
    ] {
        let expected = Bson::DateTime(DateTime::from_millis(millis));
        assert_eq!(read(&json!({"$date": text})), Ok(expected), "{text}");
    }
    for text in [
        "2016-12-31T23:59:60Z",
        "2016-12-31T23:59:60.5Z",
        "2017-01-01T00:59:60+01:00",
    ] {
        let problem = read(&json!({"$date": text})).unwrap_err();
        assert!(
            problem.contains("has a leap second, which MongoDB's dates don't have"),
            "{problem}"
        );
    }
    for text in [
        "",
        "2024-01-31",
        "2024-01-31T12:00:00",
        "2024-02-30T12:00:00Z",
        "2024-01-31T12:00:00.Z",
        "2024-01-31T12:00:00.12345x",
        "2024-01-31T12:00:61Z",
        "żółć",
    ] {
        let problem = read(&json!({"$date": text})).unwrap_err();
        assert!(
            problem.contains("is not a date and time as in RFC 3339"),
            "{text}: {problem}"
        );
    }
}

#[test]
fn a_subtype_has_one_hexadecimal_digit_or_two() {
    for (subtype, expected) in [
        ("0", BinarySubtype::Generic),
        ("4", BinarySubtype::Uuid),
        ("04", BinarySubtype::Uuid),
        ("fF", BinarySubtype::UserDefined(0xff)),
    ] {
        let json = json!({"$binary": {"base64": "AQI=", "subType": subtype}});
        let bytes = vec![1, 2];
        assert_eq!(
            read(&json),
            Ok(Bson::Binary(Binary {
                subtype: expected,
                bytes
            }))
        );
    }
    for subtype in ["", "000", "0x", "+4", "g", "é"] {
        let json = json!({"$binary": {"base64": "AQI=", "subType": subtype}});
        let problem = read(&json).unwrap_err();
        assert!(
            problem.contains("is not one or two hexadecimal digits"),
            "{problem}"
        );
    }
}

#[test]
fn other_malformed_wrappers_are_refused_with_the_reason_and_an_example() {
    let id = "507f1f77bcf86cd799439011";
    for (json, reason) in [
        (
            json!({"$uuid": "73ffd26444b34c6990e8e7d1dfc035d4"}),
            "with its hyphens",
        ),
        (
            json!({"$uuid": "73ffd264-44b3-90e8-e7d1dfc035d4"}),
            "with its hyphens",
        ),
        (
            json!({"$uuid": "{73ffd264-44b3-4c69-90e8-e7d1dfc035d4}"}),
            "with its hyphens",
        ),
        (json!({"$uuid": {"data": 1}}), "its value is not a text"),
        (
            json!({"$oid": "507f1f77bcf86cd79943901"}),
            "is not 24 hexadecimal digits",
        ),
        (
            json!({"$oid": id, "$date": 1}),
            "it has the key \"$date\" beside it",
        ),
        (
            json!({"$numberInt": "2147483648"}),
            "is not a whole number of 32 bits",
        ),
        (
            json!({"$numberLong": "9223372036854775808"}),
            "is not a whole number of 64 bits",
        ),
        (
            json!({"$binary": {"base64": "AQI", "subType": "00"}}),
            "is not base64 with padding",
        ),
        (
            json!({"$binary": {"base64": "", "subType": "00", "x": 1}}),
            "is not a document of base64 and subType",
        ),
        (
            json!({"$timestamp": {"t": 1}}),
            "is not a document of t and i",
        ),
        (
            json!({"$timestamp": {"t": -1, "i": 1}}),
            "t and i must be whole numbers from 0 to 4294967295",
        ),
        (
            json!({"$timestamp": {"t": 1, "i": 4_294_967_296_u64}}),
            "t and i must be",
        ),
        (json!({"$minKey": 2}), "its value is not 1"),
        (json!({"$undefined": false}), "its value is not true"),
        (json!({"$code": 1}), "its value is not a text"),
        (
            json!({"$code": "", "$scope": 1}),
            "its $scope is not a document",
        ),
        (
            json!({"$regularExpression": {"pattern": "a\0", "options": ""}}),
            "a NUL can't stand in it",
        ),
        (
            json!({"$dbPointer": {"$ref": "a", "$id": 1}}),
            "its $id is not a $oid",
        ),
        (
            json!({"$date": 1.5}),
            "neither a text nor a whole number of milliseconds",
        ),
    ] {
        let problem = read(&json).unwrap_err();
        assert!(problem.contains(reason), "{json}: {problem}");
        // The example is good itself.
        let example = problem.split_once("; write ").unwrap().1;
        assert!(
            read(&serde_json::from_str(example).unwrap()).is_ok(),
            "{example}"
        );
    }
}

#[test]
fn text_is_refused_as_soon_as_it_is_too_large_as_bson() {
    for text in [
        r#"[1, "ab", null, true, 2.5, [], {"a": 9223372036854775807}]"#,
        r#"{"a": {"b": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}}"#,
        r#"[{"$oid": "507f1f77bcf86cd799439011"}, {"$numberLong": "5"}, {"$binary": {"base64": "AQI=", "subType": "0"}}]"#,
    ] {
        let value = from_text(text).unwrap();
        let held = doc! { "": value.clone() }.to_vec().unwrap().len()
            - doc! { "": 1 }.to_vec().unwrap().len()
            + 4;
        let (_, bytes) = bounded_from_text(text, usize::MAX).unwrap();
        // A type wrapper and a large integer are counted roughly.
        assert!(bytes.abs_diff(held) <= 24, "{text}: {bytes}, {held}");
        if !text.contains('$') {
            assert_eq!(bounded_from_text(text, bytes), Ok((value, bytes)));
        }
        let problem = bounded_from_text(text, bytes - 1).unwrap_err();
        assert!(problem.contains("too large as BSON"), "{problem}");
    }
    // Not read to its end.
    let problem = bounded_from_text(&"[".repeat(50), 100).unwrap_err();
    assert!(problem.contains("too large"), "{problem}");
    assert!(
        bounded_from_text(&format!("[{}", "1,".repeat(1000)), 100)
            .unwrap_err()
            .contains("too large")
    );
}

proptest! {
    /// The bits count: a condition on the neighbour of a number selects other documents.
    #[test]
    fn a_number_in_text_is_the_double_that_it_names(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        for text in [format!("{number:?}"), format!("{number:e}"), format!("{number:.20e}")] {
            let read = match from_text(&text).unwrap() {
                Bson::Double(read) => read,
                Bson::Int32(read) => read.into(),
                Bson::Int64(read) => read as f64,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(read.to_bits() & !(1 << 63), number.to_bits() & !(1 << 63), "{}", text);
        }
    }

    #[test]
    fn a_document_in_text_keeps_its_keys_in_order(keys in prop::collection::hash_set("[a-z$.é]{1,4}", 0..6)) {
        prop_assume!(keys.iter().all(|key| !key.starts_with('$')));
        let expected: Document = keys.iter().map(|key| (key.clone(), Bson::Int32(1))).collect();
        let fields: Vec<String> = keys.iter().map(|key| format!("{}: 1", json!(key))).collect();
        let Ok(Bson::Document(read)) = from_text(&format!("{{{}}}", fields.join(","))) else {
            panic!("not a document");
        };
        prop_assert!(read.keys().eq(expected.keys()));
    }
}
