//! The values of filters mean the same on a shared feed as on a dedicated one, in every form; what could only match
//! nothing, or something else than it says, is refused on both.

use crate::conversions::{compare, field, id, value};
use crate::support::{Database, WatchStream, Weir, error_reason};
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;
use weir::pb::comparison::{Literal, Operator as Comparison};
use weir::pb::{self, FeedMode, OperationType, field_filter::Operator};

const OID: &str = "5f0123456789abcdef012345";

const MODES: [FeedMode; 2] = [FeedMode::Shared, FeedMode::Dedicated];

fn bson(path: &str, operator: Comparison, value: impl Into<Bson>) -> pb::Filter {
    let held = doc! { "": value.into() };
    let literal = Literal::Bson(held.to_vec().expect("BSON").into());
    field(
        path,
        Operator::Compare(pb::Comparison {
            operator: operator.into(),
            literal: Some(literal),
        }),
    )
}

fn documents() -> Vec<Document> {
    let oid = ObjectId::parse_str(OID).expect("an id");
    vec![
        doc! {"_id": "ref", "owner": {"$ref": "users", "$id": oid}},
        doc! {"_id": "ref-db", "owner": {"$ref": "users", "$id": oid, "$db": "shop"}},
        doc! {"_id": "ref-more", "owner": {"$ref": "users", "$id": oid, "since": 2024}},
        doc! {"_id": "ref-in-list", "owner": [{"$ref": "users", "$id": oid}, 5]},
        doc! {"_id": "other-ref", "owner": {"$ref": "users", "$id": 5}},
        doc! {"_id": "point", "place": {"type": "Point", "coordinates": [4.9, 52.4]}},
        doc! {"_id": "reversed-point", "place": {"coordinates": [4.9, 52.4], "type": "Point"}},
        doc! {"_id": "other-point", "place": {"type": "Point", "coordinates": [4.9, 52]}},
        doc! {"_id": {"region": "eu", "number": 7}},
        doc! {"_id": {"number": 7, "region": "eu"}},
        doc! {"_id": {"region": "eu", "number": 8}},
    ]
}

/// Each filter, and the documents that it passes, by their place.
fn cases() -> Vec<(pb::Filter, Vec<usize>)> {
    let oid = ObjectId::parse_str(OID).expect("an id");
    let reference = json!({"$ref": "users", "$id": {"$oid": OID}});
    let with_database = json!({"$ref": "users", "$id": {"$oid": OID}, "$db": "shop"});
    let texts = |json: &Value| match value(json!([json])).kind {
        Some(prost_types::value::Kind::ListValue(list)) => list,
        other => panic!("{other:?}"),
    };
    let text = |path: &str, operator, json: &str| compare(path, operator, json);
    let point = r#"{"type": "Point", "coordinates": [4.9, 52.4]}"#;
    let reversed = r#"{"coordinates": [4.9, 52.4], "type": "Point"}"#;
    let key = r#"{"region": "eu", "number": 7}"#;
    let ref_text = format!(r#"{{"$ref": "users", "$id": {{"$oid": "{OID}"}}}}"#);
    let ref_more = format!(r#"{{"$ref": "users", "$id": {{"$oid": "{OID}"}}, "since": 2024}}"#);
    vec![
        // A DBRef, in every form.
        (
            field("owner", Operator::Eq(value(reference.clone()))),
            vec![0, 3],
        ),
        (
            field("owner", Operator::Eq(value(with_database.clone()))),
            vec![1],
        ),
        (field("owner", Operator::In(texts(&reference))), vec![0, 3]),
        (field("owner", Operator::In(texts(&with_database))), vec![1]),
        (
            field("owner", Operator::Ne(value(reference))),
            vec![1, 2, 4, 5, 6, 7, 8, 9, 10],
        ),
        (text("owner", Comparison::Eq, &ref_text), vec![0, 3]),
        (
            text(
                "owner",
                Comparison::In,
                &format!("[{ref_text}, {ref_more}]"),
            ),
            vec![0, 2, 3],
        ),
        (text("owner", Comparison::Eq, &ref_more), vec![2]),
        (
            bson(
                "owner",
                Comparison::Eq,
                doc! {"$ref": "users", "$id": oid, "$db": "shop"},
            ),
            vec![1],
        ),
        // GeoJSON.
        (text("place", Comparison::Eq, point), vec![5]),
        (text("place", Comparison::Eq, reversed), vec![6]),
        (
            text(
                "place",
                Comparison::In,
                &format!("[{point}, {reversed}, 1]"),
            ),
            vec![5, 6],
        ),
        (
            text("place", Comparison::NotIn, &format!("[{point}, null]")),
            vec![6, 7],
        ),
        (
            bson(
                "place",
                Comparison::Eq,
                doc! {"type": "Point", "coordinates": [4.9, 52.4]},
            ),
            vec![5],
        ),
        // 52 and 52.0 are equal, also inside.
        (
            bson(
                "place",
                Comparison::In,
                vec![doc! {"type": "Point", "coordinates": [4.9, 52.0]}],
            ),
            vec![7],
        ),
        // An _id of two fields.
        (text("_id", Comparison::Eq, key), vec![8]),
        (
            text("_id", Comparison::Eq, r#"{"number": 7, "region": "eu"}"#),
            vec![9],
        ),
        (
            text("_id", Comparison::In, &format!(r#"[{key}, "ref"]"#)),
            vec![0, 8],
        ),
        (
            bson(
                "_id",
                Comparison::Eq,
                doc! {"region": "eu", "number": 8_i64},
            ),
            vec![10],
        ),
        (text("_id", Comparison::Gt, key), vec![10]),
        (text("_id", Comparison::Gte, key), vec![8, 10]),
    ]
}

/// The documents of the inserts up to the drop of the collection, which passes every filter.
async fn until_dropped(watch: &mut WatchStream) -> Vec<Bson> {
    let mut ids = Vec::new();
    loop {
        let change = watch.next_change().await;
        if change.operation() == OperationType::Drop {
            return ids;
        }
        ids.push(id(&change));
    }
}

fn bytes(id: &Bson) -> Vec<u8> {
    // Documents are compared without regard to the order of keys.
    doc! { "": id }.to_vec().expect("BSON")
}

#[tokio::test]
async fn a_document_is_compared_in_the_order_of_its_keys_in_both_feed_modes() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection("orders");
    let documents = documents();
    for cases in cases().chunks(8) {
        let mut watches = Vec::new();
        for (filter, expected) in cases {
            for mode in MODES {
                let request = pb::WatchRequest {
                    filters: vec![filter.clone()],
                    feed_mode: mode.into(),
                    ..database.watch_request(&["orders"])
                };
                watches.push((weir.watch(request).await, filter, mode, expected));
            }
        }
        orders.insert_many(&documents).await.unwrap();
        orders.drop().await.unwrap();
        for (mut watch, filter, mode, expected) in watches {
            let passed: Vec<_> = until_dropped(&mut watch).await.iter().map(bytes).collect();
            let expected = expected.iter().map(|at| bytes(&documents[*at]["_id"]));
            assert_eq!(passed, Vec::from_iter(expected), "{mode:?} {filter:?}");
        }
    }
}

/// Values that no form takes, each with a word of the reason.
fn refused_in_every_form() -> Vec<(Value, &'static str)> {
    let decimals = [
        "", ".", "-", "+", "E5", "-E5", ".e", "1e", "1..3", " 1", "Infi", "sNaN",
    ];
    let decimals =
        decimals.map(|text| (json!({"$numberDecimal": text}), "is not a decimal number"));
    let others = [
        (json!({"$numberDecimal": "1E+6145"}), "34 digits"),
        (
            json!({"$numberDouble": "1e999"}),
            "is not a number of 64 bits",
        ),
        (json!({"$date": "2016-12-31T23:59:60Z"}), "leap second"),
        (
            json!({"$uuid": "73ffd26444b34c6990e8e7d1dfc035d4"}),
            "hyphens",
        ),
        (
            json!({"$binary": {"base64": "AQI=", "subType": "123"}}),
            "subType",
        ),
        (json!({"$id": 1}), "DBRef"),
        (json!({"$ref": 5}), "DBRef"),
        (json!({"$ref": "users"}), "DBRef"),
        (json!({"a": {"$db": "shop"}}), "DBRef"),
        (json!({"$symbol": "a"}), "symbol"),
        (json!({"$undefined": true}), "undefined"),
        (
            json!({"$dbPointer": {"$ref": "a.b", "$id": {"$oid": OID}}}),
            "DBPointer",
        ),
        (json!({"$code": "1", "$scope": {}}), "code with scope"),
        (
            json!({"$regularExpression": {"pattern": "a", "options": ""}}),
            "operator regex",
        ),
        (json!({"$gt": 1}), "$gt"),
    ];
    decimals.into_iter().chain(others).collect()
}

/// Asserts that a filter is refused, whoever would evaluate it.
async fn assert_refused(
    weir: &Weir,
    database: &Database,
    filter: pb::Filter,
    at: &str,
    part: &str,
) {
    for mode in MODES {
        let request = pb::WatchRequest {
            filters: vec![filter.clone()],
            feed_mode: mode.into(),
            ..database.watch_request(&["orders"])
        };
        let Err(status) = weir.try_watch(request).await else {
            panic!("{mode:?} takes {filter:?}");
        };
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(error_reason(&status), "INVALID_REQUEST");
        let bad = status.get_details_bad_request().expect("BadRequest");
        let [violation] = &bad.field_violations[..] else {
            panic!("{bad:?}");
        };
        assert_eq!(violation.field, format!("filters[0].field.{at}"));
        let description = &violation.description;
        assert!(description.contains(part), "{description}");
        assert!(!description.contains("BSON error"), "{description}");
    }
}

#[tokio::test]
async fn a_value_that_means_nothing_is_refused_in_both_feed_modes() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let list = |json: &Value| match value(json!([1, json])).kind {
        Some(prost_types::value::Kind::ListValue(list)) => list,
        other => panic!("{other:?}"),
    };
    for (json, part) in refused_in_every_form() {
        let text = json.to_string();
        for (filter, at) in [
            (field("a", Operator::Eq(value(json.clone()))), "eq"),
            (field("a", Operator::In(list(&json))), "in.values[1]"),
            (compare("a", Comparison::Gt, &text), "compare.json"),
            (
                compare("a", Comparison::NotIn, &format!("[1, {text}]")),
                "compare.json",
            ),
        ] {
            assert_refused(&weir, &database, filter, at, part).await;
        }
    }
    for (filter, at, part) in [
        (
            field("a", Operator::Eq(value(json!({"a": 1, "b": 2})))),
            "eq",
            "use compare",
        ),
        (
            field(
                "a",
                Operator::In(list(&json!({"type": "Point", "coordinates": []}))),
            ),
            "in.values[1]",
            "use compare",
        ),
        (
            compare("a", Comparison::In, "[]"),
            "compare.json",
            "1 to 1000",
        ),
        (
            field("a", Operator::In(prost_types::ListValue::default())),
            "in",
            "1 to 1000",
        ),
        (
            compare("a", Comparison::Eq, r#"{"b": 1, "b": 2}"#),
            "compare.json",
            "twice",
        ),
        (
            compare("a", Comparison::Unspecified, "1"),
            "compare.operator",
            "OPERATOR_UNSPECIFIED",
        ),
        (
            bson("a", Comparison::Eq, doc! {"$id": 1}),
            "compare.bson",
            "DBRef",
        ),
        (
            bson("a", Comparison::In, vec![Bson::Symbol("a".into())]),
            "compare.bson",
            "symbol",
        ),
        (
            bson("a", Comparison::Eq, Bson::Undefined),
            "compare.bson",
            "undefined",
        ),
    ] {
        assert_refused(&weir, &database, filter, at, part).await;
    }
}

#[tokio::test]
async fn a_pattern_that_engines_refuse_or_read_differently_is_refused_in_both_feed_modes() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for (pattern, options) in [
        // Only one of the engines knows it, or it has no bounded cost.
        (r"a #", "x"),
        ("(?#a)", ""),
        ("(?>a)", ""),
        ("a++", ""),
        ("a*+", ""),
        (r"\Qa\E", ""),
        (r"\h", ""),
        (r"\R", ""),
        (r"\Z", ""),
        ("a{", ""),
        ("{", ""),
        ("(?=a)", ""),
        (r"(a)\1", ""),
        // Both know it, and read it differently.
        ("[--a]", ""),
        ("[]-a]", ""),
        (r"\x 41", "x"),
        (r"[\W[:alpha:]]", ""),
        (r"[^\W\p{Lu}]", ""),
        // Versions of MongoDB's engine read it differently.
        ("a{ 2 }", ""),
        (r"\d{1, 3}", ""),
        ("^[0-9]{3 }-", ""),
        // MongoDB's engine does not compile it.
        ("^*", ""),
        ("$*", ""),
        (r"\b+", ""),
        (r"\p{Letter}", ""),
        (r"\p{Punct}", ""),
        (r"\p{gc=Lu}", ""),
        (r"\p{Age=3.0}", ""),
        (r"\p{isGreek}", ""),
        ("[:alpha:]", ""),
        ("[.a.]", ""),
        ("[=a=]", ""),
        ("[[:alpha:]-z]", ""),
        ("(?<a.b>c)", ""),
        ("(?<a23456789b123456789c123456789d123>e)", ""),
        ("( ?:a)", "x"),
        (r"\x{ 41 }", "x"),
        (r"\p { L }", "x"),
    ] {
        let regex = pb::RegexFilter {
            pattern: pattern.into(),
            options: options.into(),
        };
        let filter = field("a", Operator::Regex(regex));
        assert_refused(&weir, &database, filter, "regex.pattern", "at byte").await;
    }
}

/// The database has Python's engine, which knows no properties, so only a shared feed can show this.
#[tokio::test]
async fn a_script_has_the_characters_that_are_used_with_it() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let texts = ["コーヒー", "中文。", "لا، نعم", "नमस्ते।", "a\u{1e4d0}"];
    let ids = texts.into_iter().chain(["end"]);
    let documents: Vec<Document> = ids.map(|text| doc! {"_id": text}).collect();
    let others = [texts[0], texts[2], texts[3], texts[4]];
    let mut watches = Vec::new();
    for (pattern, passed) in [
        (r"^\p{Katakana}+$", &texts[..1]),
        (r"^\p{Han}+$", &texts[1..2]),
        (r"^[\p{Arabic} ]+$", &texts[2..3]),
        (r"^\p{Devanagari}+$", &texts[3..4]),
        // The full stop is used with Katakana as well.
        (r"^\P{Katakana}+$", &texts[2..]),
        (r"^[^\p{Han}]+$", &others),
        // U+1E4D0 is a letter since Unicode 15: unknown, and so delivered.
        (r"^\p{Latin}+$", &texts[4..]),
    ] {
        let pattern = format!("{pattern}|^end$");
        let regex = pb::RegexFilter {
            pattern: pattern.clone(),
            options: String::new(),
        };
        let request = pb::WatchRequest {
            filters: vec![field("_id", Operator::Regex(regex))],
            feed_mode: FeedMode::Shared.into(),
            ..database.watch_request(&["orders"])
        };
        watches.push((pattern, passed, weir.watch(request).await));
    }
    let collection = database.collection("orders");
    collection.insert_many(documents).await.expect("inserted");
    for (pattern, passed, mut watch) in watches {
        for text in passed.iter().copied().chain(["end"]) {
            let event = watch.next_change().await;
            assert_eq!(id(&event), Bson::from(text), "{pattern}");
        }
    }
}
