use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Timestamp, doc, oid::ObjectId};
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
        let start = format!("is not a well-formed {wrapper} of Extended JSON v2");
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
    assert_eq!(
        read(json!({"$ref": "users", "$id": 5, "$db": "shop"})),
        Ok(Bson::Document(
            doc! { "$db": "shop", "$id": 5, "$ref": "users" }
        ))
    );
}

#[test]
fn the_fields_of_a_document_are_sorted_by_name() {
    let Ok(Bson::Document(document)) = read(json!({"b": 1, "a": {"d": 1, "c": 2}})) else {
        panic!("a document");
    };
    assert_eq!(document.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        document
            .get_document("a")
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["c", "d"]
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
