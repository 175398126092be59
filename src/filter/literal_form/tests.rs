use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Timestamp, doc, oid::ObjectId};
use prost_types::value::Kind;
use serde_json::json;

use super::*;
use crate::pipeline::fixtures::value;

fn read(json: serde_json::Value) -> Result<Bson, String> {
    literal(value(json))
}

fn number(number: f64) -> prost_types::Value {
    prost_types::Value {
        kind: Some(Kind::NumberValue(number)),
    }
}

#[test]
fn plain_json_is_read_as_plain_values() {
    for (json, expected) in [
        (json!(null), Bson::Null),
        (json!(true), Bson::Boolean(true)),
        (json!("text"), Bson::String("text".into())),
        (
            json!([1, "a", []]),
            Bson::Array(vec![1.into(), "a".into(), Bson::Array(vec![])]),
        ),
        (json!({}), Bson::Document(doc! {})),
    ] {
        assert_eq!(read(json), Ok(expected));
    }
}

#[test]
fn whole_numbers_that_a_double_holds_exactly_are_integers() {
    for (given, expected) in [
        (0.0, Bson::Int32(0)),
        (-0.0, Bson::Int32(0)),
        (2_147_483_647.0, Bson::Int32(i32::MAX)),
        (-2_147_483_648.0, Bson::Int32(i32::MIN)),
        (2_147_483_648.0, Bson::Int64(2_147_483_648)),
        (9_007_199_254_740_992.0, Bson::Int64(1 << 53)),
        (-9_007_199_254_740_992.0, Bson::Int64(-(1 << 53))),
        (
            9_007_199_254_740_994.0,
            Bson::Double(9_007_199_254_740_994.0),
        ),
        (1.5, Bson::Double(1.5)),
        (1e300, Bson::Double(1e300)),
    ] {
        assert_eq!(literal(number(given)), Ok(expected), "{given}");
    }
}

#[test]
fn numbers_that_protobuf_forbids_are_refused_with_the_right_form() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(literal(number(bad)).unwrap_err().contains("$numberDouble"));
    }
    assert_eq!(
        read(json!({"$numberDouble": "-Infinity"})),
        Ok(Bson::Double(f64::NEG_INFINITY))
    );
    assert!(matches!(read(json!({"$numberDouble": "NaN"})), Ok(Bson::Double(nan)) if nan.is_nan()));
}

#[test]
fn every_type_wrapper_is_read() {
    let id = "65f000000000000000000001";
    for (json, expected) in [
        (
            json!({"$oid": id}),
            Bson::ObjectId(ObjectId::parse_str(id).unwrap()),
        ),
        (json!({"$numberInt": "-5"}), Bson::Int32(-5)),
        (
            json!({"$numberLong": "9223372036854775807"}),
            Bson::Int64(i64::MAX),
        ),
        (json!({"$numberDouble": "0.5"}), Bson::Double(0.5)),
        (
            json!({"$numberDecimal": "1.10"}),
            Bson::Decimal128("1.10".parse().unwrap()),
        ),
        (
            json!({"$date": "1970-01-01T00:00:01.5Z"}),
            Bson::DateTime(DateTime::from_millis(1500)),
        ),
        (
            json!({"$date": {"$numberLong": "-1500"}}),
            Bson::DateTime(DateTime::from_millis(-1500)),
        ),
        (
            json!({"$date": 1500}),
            Bson::DateTime(DateTime::from_millis(1500)),
        ),
        (
            json!({"$binary": {"base64": "AQI=", "subType": "80"}}),
            Bson::Binary(Binary {
                subtype: BinarySubtype::UserDefined(0x80),
                bytes: vec![1, 2],
            }),
        ),
        (
            json!({"$uuid": "00112233-4455-6677-8899-aabbccddeeff"}),
            Bson::Binary(Binary {
                subtype: BinarySubtype::Uuid,
                bytes: vec![
                    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
                    0xdd, 0xee, 0xff,
                ],
            }),
        ),
        (
            json!({"$timestamp": {"t": 4_294_967_295_u32, "i": 1}}),
            Bson::Timestamp(Timestamp {
                time: u32::MAX,
                increment: 1,
            }),
        ),
        (json!({"$minKey": 1}), Bson::MinKey),
        (json!({"$maxKey": 1}), Bson::MaxKey),
        (json!({"$code": "f()"}), Bson::JavaScriptCode("f()".into())),
    ] {
        assert_eq!(read(json.clone()), Ok(expected), "{json}");
    }
}

#[test]
fn malformed_wrappers_are_refused_by_name() {
    for (json, wrapper) in [
        (json!({"$oid": "xyz"}), "$oid"),
        (json!({"$oid": 5}), "$oid"),
        (
            json!({"$oid": "65f000000000000000000001", "more": 1}),
            "$oid",
        ),
        (json!({"$numberInt": "2147483648"}), "$numberInt"),
        (json!({"$numberLong": "1.5"}), "$numberLong"),
        (json!({"$numberLong": 1}), "$numberLong"),
        (json!({"$numberDouble": "one"}), "$numberDouble"),
        (json!({"$numberDecimal": "one"}), "$numberDecimal"),
        (json!({"$date": "yesterday"}), "$date"),
        (json!({"$date": 1.5}), "$date"),
        (json!({"$binary": "AQI="}), "$binary"),
        (
            json!({"$binary": {"base64": "!", "subType": "00"}}),
            "$binary",
        ),
        (json!({"$uuid": "0011"}), "$uuid"),
        (json!({"$timestamp": {"t": -1, "i": 0}}), "$timestamp"),
        (json!({"$timestamp": {"t": 1}}), "$timestamp"),
        (json!({"$minKey": 2}), "$minKey"),
    ] {
        let problem = read(json.clone()).unwrap_err();
        let start = format!("the {wrapper} is not well-formed: ");
        assert!(problem.starts_with(&start), "{json}: {problem}");
        assert!(problem.len() < 300, "{problem}");
    }
}

#[test]
fn deprecated_types_and_regular_expressions_are_refused_with_the_alternative() {
    for (json, part) in [
        (
            json!({"$regularExpression": {"pattern": "a", "options": ""}}),
            "operator regex",
        ),
        (json!({"$regex": "a", "$options": ""}), "operator regex"),
        (json!({"$undefined": true}), "undefined"),
        (json!({"$symbol": "a"}), "symbol"),
        (json!({"$code": "f()", "$scope": {}}), "code with scope"),
        (
            json!({"$dbPointer": {"$ref": "a.b", "$id": {"$oid": "65f000000000000000000001"}}}),
            "DBPointer",
        ),
    ] {
        let problem = read(json.clone()).unwrap_err();
        assert!(problem.contains(part), "{json}: {problem}");
    }
}

#[test]
fn a_mistyped_wrapper_is_refused_but_a_database_reference_is_a_document() {
    assert!(
        read(json!({"$numberlong": "1"}))
            .unwrap_err()
            .contains("$numberlong")
    );
    assert!(read(json!({"$gt": 1})).unwrap_err().contains("$gt"));
    assert!(read(json!({"$ref": "users", "$id": 5, "$db": "shop"})).is_ok());
}

/// Returns the bytes, as documents are compared without regard to the order of keys.
fn bytes(value: Bson) -> Vec<u8> {
    doc! { "": value }.to_vec().unwrap()
}

fn from_text(text: &str) -> Result<Bson, String> {
    literal_from_text(text, usize::MAX).map(|(value, _)| value)
}

#[test]
fn protobuf_takes_a_document_of_several_keys_only_where_their_order_is_known() {
    for json in [
        json!({"a": 1, "b": 2}),
        json!([{"a": 1, "b": 2}]),
        json!({"a": {"b": 1, "c": 1}}),
        json!({"type": "Point", "coordinates": [1, 2]}),
        json!({"$ref": "users", "$id": {"a": 1, "b": 2}}),
        json!({"$ref": "users", "$id": 1, "more": 1}),
    ] {
        let problem = read(json.clone()).unwrap_err();
        assert!(
            problem.contains("keys: MongoDB compares their order")
                && problem.contains("use compare with json or bson"),
            "{json}: {problem}"
        );
    }
    for (json, expected) in [
        (
            json!({"a": {"b": [{"c": 1}]}}),
            doc! { "a": { "b": [{ "c": 1 }] } },
        ),
        (
            json!({"$id": 5, "$ref": "users"}),
            doc! { "$ref": "users", "$id": 5 },
        ),
        (
            json!({"$db": "shop", "$id": {"a": 1}, "$ref": "users"}),
            doc! { "$ref": "users", "$id": { "a": 1 }, "$db": "shop" },
        ),
        (
            json!({"owner": {"$db": "shop", "$id": {"$oid": "65f000000000000000000001"}, "$ref": "users"}}),
            doc! { "owner": {
                "$ref": "users", "$id": ObjectId::parse_str("65f000000000000000000001").unwrap(), "$db": "shop"
            } },
        ),
    ] {
        assert_eq!(bytes(read(json).unwrap()), bytes(expected.into()));
    }
}

#[test]
fn text_and_bson_keep_the_order_of_keys() {
    for document in [
        doc! { "b": 1, "a": { "d": 1, "c": 2 } },
        doc! { "type": "Point", "coordinates": [4.9, 52.4] },
        doc! { "$ref": "users", "$id": { "b": 1, "a": 2 }, "$db": "shop", "since": 2024 },
        doc! { "a": [{ "z": 1.0, "y": 2_i64 }, Bson::Null, { "z": DateTime::from_millis(5), "y": Bson::MinKey }] },
        // As its writer had it, although no driver writes it.
        doc! { "$id": 1, "$ref": "users" },
    ] {
        let expected = bytes(document.clone().into());
        let held = doc! { "any": document }.to_vec().unwrap();
        assert_eq!(bytes(literal_from_bson(&held).unwrap()), expected);
    }
    let text =
        r#"{"b": 1, "a": {"d": {"$numberLong": "1"}, "c": {"$date": "1970-01-01T00:00:00.005Z"}}}"#;
    let expected = doc! { "b": 1, "a": { "d": 1_i64, "c": DateTime::from_millis(5) } };
    assert_eq!(bytes(from_text(text).unwrap()), bytes(expected.into()));
}

#[test]
fn a_malformed_reference_is_refused_in_every_form() {
    for json in [
        r#"{"$id": 1}"#,
        r#"{"$ref": 5}"#,
        r#"{"$ref": "users"}"#,
        r#"{"$db": "shop"}"#,
        r#"{"$ref": 5, "$id": 1}"#,
        r#"{"$ref": "users", "$id": 1, "$db": 5}"#,
        r#"[{"owner": {"$id": 1}}]"#,
    ] {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let held = doc! { "": Bson::try_from(value.clone()).unwrap() };
        for problem in [
            read(value).unwrap_err(),
            from_text(json).unwrap_err(),
            literal_from_bson(&held.to_vec().unwrap()).unwrap_err(),
        ] {
            assert!(
                problem.starts_with("is not a well-formed DBRef"),
                "{json}: {problem}"
            );
        }
    }
}

#[test]
fn text_and_bson_may_hold_what_protobuf_may_and_nothing_else() {
    let id = "65f000000000000000000001";
    for (json, part) in [
        (
            json!({"a": {"$regularExpression": {"pattern": "a", "options": ""}}}),
            "operator regex",
        ),
        (json!({"$regex": "a", "$options": ""}), "operator regex"),
        (json!({"$undefined": true}), "undefined"),
        (json!({"$symbol": "a"}), "symbol"),
        (json!({"$code": "f()", "$scope": {}}), "code with scope"),
        (
            json!({"$dbPointer": {"$ref": "a.b", "$id": {"$oid": id}}}),
            "DBPointer",
        ),
        (json!({"$gt": 1}), "$gt"),
        (json!({"a": {"$numberlong": "1"}}), "$numberlong"),
    ] {
        let problem = from_text(&json.to_string()).unwrap_err();
        assert!(problem.contains(part), "{json}: {problem}");
        let held = doc! { "": Bson::try_from(json).unwrap() }.to_vec().unwrap();
        let problem = literal_from_bson(&held).unwrap_err();
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(
        from_text(r#"[1, {"$code": "f()"}]"#),
        Ok(Bson::Array(vec![
            1.into(),
            Bson::JavaScriptCode("f()".into())
        ]))
    );
    let problem = from_text(r#"{"a": [1, {"$gt": 1}]}"#).unwrap_err();
    assert!(problem.ends_with("(at \"a.1\")"), "{problem}");
}

#[test]
fn bson_is_one_document_with_one_field() {
    for (bytes, part) in [
        (Vec::new(), "is not one well-formed BSON document"),
        (
            doc! {}.to_vec().unwrap(),
            "has 0 fields; write a document with one",
        ),
        (doc! { "a": 1, "b": 2 }.to_vec().unwrap(), "has 2 fields"),
        (
            [doc! { "a": 1 }.to_vec().unwrap(), vec![0]].concat(),
            "is not one well-formed",
        ),
    ] {
        let problem = literal_from_bson(&bytes).unwrap_err();
        assert!(problem.starts_with(part), "{problem}");
        assert!(!problem.contains("BSON error. Kind"), "{problem}");
    }
}

#[test]
fn every_form_is_nested_100_levels_deep_at_most() {
    let nested = |levels: usize| (0..levels).fold(Bson::Int32(1), |inner, _| vec![inner].into());
    let text = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let held = |levels: usize| doc! { "": nested(levels) }.to_vec().unwrap();
    assert!(from_text(&text(100)).is_ok());
    assert!(from_text(&text(101)).unwrap_err().contains("100 levels"));
    assert!(
        from_text(&text(100_000))
            .unwrap_err()
            .contains("100 levels")
    );
    assert!(literal_from_bson(&held(100)).is_ok());
    assert!(
        literal_from_bson(&held(101))
            .unwrap_err()
            .contains("100 levels")
    );
}

#[test]
fn a_problem_in_a_nested_value_names_its_path() {
    let problem = read(json!({"a": [1, {"b": {"$oid": "x"}}]})).unwrap_err();
    assert!(problem.ends_with("(at \"a.1.b\")"), "{problem}");
}

#[test]
fn unset_values_nul_in_field_names_and_deep_nesting_are_refused() {
    assert!(
        literal(prost_types::Value { kind: None })
            .unwrap_err()
            .contains("no value")
    );
    assert!(read(json!({"a\0b": 1})).unwrap_err().contains("NUL"));
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    assert!(read(nested(100)).is_ok());
    assert!(read(nested(101)).unwrap_err().contains("deeper"));
    let wrapped = json!({"$date": nested(200)});
    assert!(read(wrapped).unwrap_err().contains("$date"));
}
