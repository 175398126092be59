//! Documents of every type, from the database to the client, in all four formats.
//!
//! The expected values are written by hand, after the specification of MongoDB Extended JSON v2.
//! Values that the tests' database does not store unchanged (duplicate names, broken UTF-8, the
//! types undefined, symbol and DBPointer, years after 9999) are tested in `wire::format`.

use crate::support::{Database, WatchStream, Weir};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc,
};
use prost_types::value::Kind as ValueKind;
use serde_json::{Value, json};
use weir::pb;
use weir::pb::document::Value as Held;

/// A value, in relaxed Extended JSON, and in canonical form where that differs.
struct Row(&'static str, Bson, Value, Option<Value>);

fn same(name: &'static str, value: impl Into<Bson>, json: Value) -> Row {
    Row(name, value.into(), json, None)
}

fn differs(name: &'static str, value: impl Into<Bson>, relaxed: Value, canonical: Value) -> Row {
    Row(name, value.into(), relaxed, Some(canonical))
}

fn rows() -> Vec<Row> {
    let binary = |subtype: u8| Binary {
        subtype: BinarySubtype::from(subtype),
        bytes: vec![0, 1, 0xfe, 0xff],
    };
    let base64 = |subtype: &str| json!({"$binary": {"base64": "AAH+/w==", "subType": subtype}});
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    let date = DateTime::from_millis;
    let millis = |millis: i64| json!({"$date": {"$numberLong": millis.to_string()}});
    let id = ObjectId::parse_str("5f0123456789abcdef012345").expect("an id");
    let regex = Regex {
        pattern: "^a\"\\d$".try_into().expect("no zero byte"),
        options: "im".try_into().expect("no zero byte"),
    };
    let code = JavaScriptCodeWithScope {
        code: "f()".into(),
        scope: doc! {"x": 1},
    };
    vec![
        differs("i32", 5, json!(5), json!({"$numberInt": "5"})),
        differs("i64", 5_i64, json!(5), json!({"$numberLong": "5"})),
        differs(
            "i64_min",
            i64::MIN,
            json!(i64::MIN),
            json!({"$numberLong": i64::MIN.to_string()}),
        ),
        differs(
            "beyond_2_53",
            (1_i64 << 53) + 1,
            json!(9_007_199_254_740_993_i64),
            json!({"$numberLong": "9007199254740993"}),
        ),
        differs("double", 1.5, json!(1.5), json!({"$numberDouble": "1.5"})),
        differs(
            "whole_double",
            -2.0,
            json!(-2.0),
            json!({"$numberDouble": "-2.0"}),
        ),
        same("nan", f64::NAN, json!({"$numberDouble": "NaN"})),
        same(
            "infinity",
            f64::INFINITY,
            json!({"$numberDouble": "Infinity"}),
        ),
        same(
            "minus_infinity",
            f64::NEG_INFINITY,
            json!({"$numberDouble": "-Infinity"}),
        ),
        same(
            "decimal",
            decimal("123456789012345678901234567890.1234"),
            json!({
                "$numberDecimal": "123456789012345678901234567890.1234",
            }),
        ),
        same(
            "decimal_tiny",
            decimal("1E-6176"),
            json!({"$numberDecimal": "1E-6176"}),
        ),
        same(
            "decimal_nan",
            decimal("NaN"),
            json!({"$numberDecimal": "NaN"}),
        ),
        differs(
            "date",
            date(1_577_934_245_006),
            json!({"$date": "2020-01-02T03:04:05.006Z"}),
            millis(1_577_934_245_006),
        ),
        same("date_before_1970", date(-1), millis(-1)),
        same(
            "date_far_past",
            date(-62_135_596_800_000),
            millis(-62_135_596_800_000),
        ),
        same(
            "timestamp",
            Timestamp {
                time: 1,
                increment: u32::MAX,
            },
            json!({
                "$timestamp": {"t": 1, "i": u32::MAX},
            }),
        ),
        same("id", id, json!({"$oid": "5f0123456789abcdef012345"})),
        same("generic", binary(0), base64("00")),
        same("function", binary(1), base64("01")),
        same("old_binary", binary(2), base64("02")),
        same("md5", binary(5), base64("05")),
        same("encrypted", binary(6), base64("06")),
        same("user_defined", binary(0x80), base64("80")),
        same("last_subtype", binary(0xff), base64("ff")),
        same(
            "regex",
            regex,
            json!({
                "$regularExpression": {"pattern": "^a\"\\d$", "options": "im"},
            }),
        ),
        same("min_key", Bson::MinKey, json!({"$minKey": 1})),
        same("max_key", Bson::MaxKey, json!({"$maxKey": 1})),
        same("null", Bson::Null, json!(null)),
        same("bool", true, json!(true)),
        same(
            "code",
            Bson::JavaScriptCode("f()".into()),
            json!({"$code": "f()"}),
        ),
        differs(
            "scoped",
            code,
            json!({"$code": "f()", "$scope": {"x": 1}}),
            json!({"$code": "f()", "$scope": {"x": {"$numberInt": "1"}}}),
        ),
        same(
            "dbref",
            doc! {"$ref": "c", "$id": id, "$db": "d"},
            json!({
                "$ref": "c", "$id": {"$oid": "5f0123456789abcdef012345"}, "$db": "d",
            }),
        ),
        same(
            "text",
            "ß漢🦀\u{2028}\"\\\n\0\u{1}",
            json!("ß漢🦀\u{2028}\"\\\n\0\u{1}"),
        ),
        same("empty", doc! {}, json!({})),
        same(
            "list",
            vec![Bson::Null, "a".into(), Bson::Array(vec![])],
            json!([null, "a", []]),
        ),
        same(
            "names",
            doc! {"": "a", "dotted.name": "b", "漢": "c"},
            json!({
                "": "a", "dotted.name": "b", "漢": "c",
            }),
        ),
    ]
}

const FORMATS: [pb::DocumentFormat; 4] = [
    pb::DocumentFormat::Bson,
    pb::DocumentFormat::Json,
    pb::DocumentFormat::CanonicalJson,
    pb::DocumentFormat::Struct,
];

/// Opens one watch for each format.
async fn watch_all(database: &Database, weir: &Weir) -> Vec<WatchStream> {
    let mut watches = Vec::new();
    for format in FORMATS {
        let request = pb::WatchRequest {
            document_format: format.into(),
            ..database.watch_request(&["orders"])
        };
        watches.push(weir.watch(request).await);
    }
    watches
}

/// The document of the next insert, in each format.
async fn next(watches: &mut [WatchStream]) -> [Held; 4] {
    let mut held = Vec::new();
    for watch in watches {
        let change = watch.next_change().await;
        let Some(pb::change_event::Change::Insert(insert)) = change.change else {
            panic!("expected an insert, got {change:?}");
        };
        let document = insert.full_document.expect("an insert holds its document");
        held.push(document.value.expect("a document holds a value"));
    }
    held.try_into().expect("there are four formats")
}

/// The JSON that a reader in any language makes of a Struct.
fn json_of(value: prost_types::Value) -> Value {
    match value.kind.expect("a value is set") {
        ValueKind::NullValue(_) => Value::Null,
        ValueKind::NumberValue(number) => json!(number),
        ValueKind::StringValue(text) => json!(text),
        ValueKind::BoolValue(value) => json!(value),
        ValueKind::ListValue(list) => list.values.into_iter().map(json_of).collect(),
        ValueKind::StructValue(fields) => json_of_struct(fields),
    }
}

fn json_of_struct(fields: prost_types::Struct) -> Value {
    let fields = fields.fields.into_iter();
    Value::Object(fields.map(|(name, value)| (name, json_of(value))).collect())
}

/// Relaxed JSON as a Struct holds it: every number is a double, except for integers beyond 2^53,
/// which a double cannot always hold.
fn as_struct(json: Value) -> Value {
    match json {
        Value::Number(number) => match number.as_i64() {
            Some(whole) if whole.unsigned_abs() > 1 << 53 => {
                json!({"$numberLong": whole.to_string()})
            }
            _ => json!(number.as_f64()),
        },
        Value::Array(items) => items.into_iter().map(as_struct).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            Value::Object(
                fields
                    .map(|(name, value)| (name, as_struct(value)))
                    .collect(),
            )
        }
        other => other,
    }
}

fn text_of(held: Held, what: &str) -> Value {
    match held {
        Held::Json(text) => serde_json::from_str(&text).expect("the text is JSON"),
        other => panic!("{what}: expected JSON, got {other:?}"),
    }
}

#[tokio::test]
async fn every_type_arrives_in_every_format() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watches = watch_all(&database, &weir).await;
    let rows = rows();
    let document = |Row(name, value, ..): &Row| doc! {"_id": *name, "value": value.clone()};
    let orders = database.collection("orders");
    orders.insert_many(rows.iter().map(document)).await.unwrap();

    for row in rows {
        let document = document(&row);
        let Row(name, _, relaxed, canonical) = row;
        let [bson, json, canonical_json, structure] = next(&mut watches).await;
        // Compared byte for byte, including the bits of NaN and the order of fields.
        let bytes = document.to_vec().expect("the document can be encoded");
        assert_eq!(bson, Held::Bson(bytes.into()), "{name}");
        let relaxed = json!({"_id": name, "value": relaxed});
        assert_eq!(text_of(json, name), relaxed, "{name}");
        let expected = canonical.map(|value| json!({"_id": name, "value": value}));
        let expected = expected.unwrap_or_else(|| relaxed.clone());
        assert_eq!(text_of(canonical_json, name), expected, "{name}");
        let Held::Struct(fields) = structure else {
            panic!("{name}: expected a Struct, got {structure:?}");
        };
        assert_eq!(json_of_struct(fields), as_struct(relaxed), "{name}");
    }
}

/// Parsers of protobuf and of JSON stop at about a hundred levels. Each level of a document takes several of
/// protobuf's, and a value up to three of JSON's.
#[tokio::test]
async fn a_deep_document_falls_back_to_a_format_that_can_hold_it() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watches = watch_all(&database, &weir).await;
    let deep = |levels: usize| {
        let inner = (2..levels).fold(doc! {"end": true}, |inner, _| doc! {"in": inner});
        doc! {"_id": levels.to_string(), "in": inner}
    };
    let orders = database.collection("orders");
    // MongoDB stores about 180 levels; the outermost document counts as one.
    for levels in [10, 95, 96, 150] {
        orders.insert_one(deep(levels)).await.unwrap();
    }
    for levels in [10, 95, 96, 150] {
        let expected = deep(levels);
        let [bson, json, canonical, structure] = next(&mut watches).await;
        let bytes = expected.to_vec().expect("the document can be encoded");
        let whole = Held::Bson(bytes.into());
        assert_eq!(bson, whole);
        if levels > 95 {
            assert_eq!(
                [json, canonical, structure],
                [(); 3].map(|()| whole.clone())
            );
            continue;
        }
        let depth =
            |text: &str| text.matches("{\"in\":").count() + text.matches(",\"in\":").count();
        for held in [json.clone(), canonical] {
            let Held::Json(text) = held else {
                panic!("{levels} levels: expected JSON, got {held:?}");
            };
            assert_eq!(depth(&text), levels - 1);
        }
        if levels == 10 {
            assert!(matches!(structure, Held::Struct(_)), "{structure:?}");
        } else {
            assert_eq!(structure, json, "{levels} levels fall back to JSON");
        }
    }
}

/// Extended JSON would say that these are other values. A DBRef is a document in every format.
#[tokio::test]
async fn a_document_that_reads_as_another_value_arrives_as_bson() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watches = watch_all(&database, &weir).await;
    let values = [
        doc! {"$numberLong": "5"},
        doc! {"$date": "tomorrow"},
        doc! {"$oid": "zz"},
        doc! {"$regex": "^a", "$options": "i"},
        doc! {"$minKey": 1},
        doc! {"x": 1, "$type": "00"},
        doc! {"list": [{"$code": "f()", "$scope": {}}]},
    ];
    let documents = values.map(|value| doc! {"_id": ObjectId::new(), "value": value});
    let plain =
        doc! {"_id": "plain", "set": {"$set": {"a.$oid": "b"}}, "ref": {"$ref": "c", "$id": 1}};
    let orders = database.collection("orders");
    orders.insert_many(&documents).await.unwrap();
    orders.insert_one(&plain).await.unwrap();
    for document in documents {
        let bytes = document.to_vec().expect("the document can be encoded");
        let whole = Held::Bson(bytes.into());
        let held = next(&mut watches).await;
        assert_eq!(held, [(); 4].map(|()| whole.clone()), "{document}");
    }
    let [_, json, canonical, structure] = next(&mut watches).await;
    let text = r#"{"_id":"plain","set":{"$set":{"a.$oid":"b"}},"ref":{"$ref":"c","$id":1}}"#;
    assert_eq!(json, Held::Json(text.to_owned()));
    assert!(matches!(canonical, Held::Json(_)), "{canonical:?}");
    assert!(matches!(structure, Held::Struct(_)), "{structure:?}");
}

/// The order of fields is part of a document, and a JSON reader that keeps it gets it.
#[tokio::test]
async fn fields_keep_their_order_in_bson_and_json() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watches = watch_all(&database, &weir).await;
    let document = doc! {"_id": "1", "z": "a", "a": {"y": null, "b": "c"}, "m": ["x"]};
    database
        .collection("orders")
        .insert_one(document)
        .await
        .unwrap();
    let [bson, json, ..] = next(&mut watches).await;
    let text = r#"{"_id":"1","z":"a","a":{"y":null,"b":"c"},"m":["x"]}"#;
    assert_eq!(json, Held::Json(text.to_owned()));
    let Held::Bson(bytes) = bson else {
        panic!("expected BSON, got {bson:?}");
    };
    let names = Document::from_reader(&bytes[..]).expect("a document");
    assert!(names.keys().eq(["_id", "z", "a", "m"]));
}
