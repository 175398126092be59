//! A filter passes the documents that the same query finds in a collection.
//!
//! The expected result is a `find` on the same database, or a list written by hand where `find` has
//! no such operator. Each filter is applied to all documents at once, by a watch of its own.

use std::collections::BTreeSet;

use crate::conversions::{compare, field, id, value};
use crate::support::{Database, WatchStream, Weir};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};
use weir::pb;
use weir::pb::OperationType;
use weir::pb::comparison::Operator as Comparison;
use weir::pb::field_filter::Operator;
use weir::pb::filter::Kind;

const OID: &str = "5f0123456789abcdef012345";

/// A filter in a form for both Weir and MongoDB.
#[derive(Debug, Clone)]
enum Query {
    /// A path, an operator of the API, and its argument in Extended JSON.
    If(&'static str, &'static str, Value),
    All(Vec<Query>),
    Any(Vec<Query>),
    None(Vec<Query>),
}

use Query::{All, Any, If, None as Neither};

impl Query {
    fn to_pb(&self) -> pb::Filter {
        let group = |all: &[Query]| pb::FilterGroup {
            filters: all.iter().map(Query::to_pb).collect(),
        };
        let kind = match self {
            If(path, operator, argument) => return condition(path, operator, argument.clone()),
            All(all) => Kind::AllOf(group(all)),
            Any(any) => Kind::AnyOf(group(any)),
            Neither(none) => Kind::NoneOf(group(none)),
        };
        pb::Filter { kind: Some(kind) }
    }

    fn to_query(&self) -> Document {
        let queries = |all: &[Query]| all.iter().map(Query::to_query).collect::<Vec<_>>();
        match self {
            If(path, "regex", argument) => {
                let text = |index: usize| argument[index].as_str().expect("a text");
                doc! {*path: {"$regex": text(0), "$options": text(1)}}
            }
            If(path, operator, argument) => {
                let operator = match *operator {
                    "not_in" => "$nin".to_owned(),
                    operator => format!("${operator}"),
                };
                let argument = Bson::try_from(argument.clone()).expect("Extended JSON");
                doc! {*path: {operator: argument}}
            }
            All(all) => doc! {"$and": queries(all)},
            Any(any) => doc! {"$or": queries(any)},
            Neither(none) => doc! {"$nor": queries(none)},
        }
    }
}

fn condition(path: &str, operator: &str, argument: Value) -> pb::Filter {
    // Such a document has an order of keys.
    if argument.as_object().is_some_and(|fields| fields.len() > 1) {
        let operator = match operator {
            "eq" => Comparison::Eq,
            "gt" => Comparison::Gt,
            other => panic!("no query compares documents by {other}"),
        };
        return compare(path, operator, &argument.to_string());
    }
    let list = |argument| match value(argument).kind {
        Some(prost_types::value::Kind::ListValue(list)) => list,
        other => panic!("expected a list, got {other:?}"),
    };
    let operator = match operator {
        "eq" => Operator::Eq(value(argument)),
        "ne" => Operator::Ne(value(argument)),
        "gt" => Operator::Gt(value(argument)),
        "gte" => Operator::Gte(value(argument)),
        "lt" => Operator::Lt(value(argument)),
        "lte" => Operator::Lte(value(argument)),
        "in" => Operator::In(list(argument)),
        "not_in" => Operator::NotIn(list(argument)),
        "exists" => Operator::Exists(argument.as_bool().expect("a bool")),
        "prefix" => Operator::Prefix(argument.as_str().expect("a text").into()),
        "regex" => Operator::Regex(pb::RegexFilter {
            pattern: argument[0].as_str().expect("a pattern").into(),
            options: argument[1].as_str().expect("options").into(),
        }),
        other => panic!("there is no operator {other}"),
    };
    field(path, operator)
}

/// Documents at the edges of MongoDB's comparisons. Those without an `_id` get a number.
fn documents() -> Vec<Document> {
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    let oid = ObjectId::parse_str(OID).expect("an id");
    let documents = vec![
        doc! {},
        doc! {"n": 1, "status": "new", "flag": true, "tags": ["a", "b"]},
        doc! {"n": 2_i64, "status": "paid", "flag": false, "tags": []},
        doc! {"n": 2.0, "status": "New", "tags": "a"},
        doc! {"n": decimal("2"), "status": Bson::Null, "tags": [["a"]]},
        doc! {"n": "2", "status": "", "tags": ["b", 1]},
        doc! {"n": 2.5, "price": decimal("9.99")},
        doc! {"n": (1_i64 << 53) + 1, "price": 9.99},
        doc! {"n": f64::NAN, "price": decimal("10")},
        doc! {"n": [1, 5], "price": "10"},
        doc! {"n": Bson::Null},
        doc! {"address": {"city": "Oslo", "zip": "0150"}},
        doc! {"address": [{"city": "Oslo"}, {"city": "Rome"}]},
        doc! {"address": "Oslo"},
        doc! {"address": {"city": Bson::Null}},
        doc! {"address": {}},
        doc! {"items": [{"sku": "a1", "qty": 1}, {"sku": "b2", "qty": 5}]},
        doc! {"items": [{"sku": "b2"}, 7]},
        doc! {"items": {"0": {"sku": "b2"}}},
        doc! {"items": []},
        doc! {"pair": {"a": 1, "b": 2}},
        doc! {"pair": {"a": 1, "b": 2, "c": 3}},
        doc! {"pair": [{"a": 1, "b": 2}]},
        doc! {"at": DateTime::from_millis(1_577_934_245_006)},
        doc! {"at": DateTime::from_millis(-1)},
        doc! {"at": 1_577_934_245_006_i64},
        doc! {"ref": oid},
        doc! {"ref": OID},
        doc! {"_id": "text", "status": "line\nnew"},
        doc! {"_id": oid},
        doc! {"_id": {"a": 1, "b": 2}},
        doc! {"_id": 1_i64 << 40},
    ];
    let numbered = (100_i32..).zip(documents).map(|(number, document)| {
        let mut numbered = doc! {"_id": number};
        numbered.extend(document);
        numbered
    });
    numbered.collect()
}

/// At least one filter for every operator and every type of literal.
fn queries() -> Vec<Query> {
    let conditions: Vec<(&str, &str, Value)> = vec![
        ("n", "eq", json!(2)),
        ("n", "eq", json!(1)),
        ("n", "eq", json!(null)),
        ("n", "eq", json!([1, 5])),
        ("n", "eq", json!({"$numberLong": "9007199254740993"})),
        ("n", "eq", json!({"$numberDouble": "NaN"})),
        ("n", "ne", json!(2)),
        ("n", "ne", json!(null)),
        ("n", "gt", json!(1)),
        ("n", "gte", json!(2)),
        ("n", "gte", json!({"$numberDecimal": "2.5"})),
        ("n", "lt", json!(2)),
        ("n", "lte", json!(2)),
        ("n", "gt", json!("1")),
        ("n", "in", json!([1, "2", null])),
        ("n", "not_in", json!([2, null])),
        ("n", "exists", json!(true)),
        ("n", "exists", json!(false)),
        ("price", "eq", json!({"$numberDecimal": "9.99"})),
        ("price", "gt", json!(9)),
        ("status", "eq", json!("new")),
        ("status", "eq", json!("")),
        ("status", "gte", json!("new")),
        ("status", "in", json!(["new", "paid"])),
        ("status", "regex", json!(["^new$", ""])),
        ("status", "regex", json!(["^NEW", "i"])),
        ("status", "regex", json!(["^new", "m"])),
        ("status", "regex", json!(["line.new", "s"])),
        ("status", "regex", json!(["p a i d", "x"])),
        ("status", "regex", json!(["a|e", ""])),
        ("flag", "eq", json!(true)),
        ("flag", "lt", json!(true)),
        ("tags", "eq", json!("a")),
        ("tags", "eq", json!(["a"])),
        ("tags", "eq", json!(["a", "b"])),
        ("tags", "eq", json!([])),
        ("tags", "ne", json!("a")),
        ("tags", "in", json!(["b", ["a"]])),
        ("tags.0", "eq", json!("a")),
        ("tags", "regex", json!(["^a$", ""])),
        ("address", "eq", json!({"city": "Oslo", "zip": "0150"})),
        ("address.city", "eq", json!("Oslo")),
        ("address.city", "ne", json!("Oslo")),
        ("address.city", "eq", json!(null)),
        ("address.city", "exists", json!(true)),
        ("address.city", "exists", json!(false)),
        ("address.1.city", "eq", json!("Rome")),
        ("items.sku", "eq", json!("b2")),
        ("items.qty", "gt", json!(1)),
        ("items.0.sku", "eq", json!("b2")),
        ("items", "eq", json!(7)),
        ("pair", "eq", json!({"a": 1, "b": 2})),
        ("pair", "gt", json!({"a": 1, "b": 2})),
        ("at", "eq", json!({"$date": "2020-01-02T03:04:05.006Z"})),
        ("at", "lt", json!({"$date": {"$numberLong": "0"}})),
        ("ref", "eq", json!({"$oid": OID})),
        ("_id", "eq", json!(101)),
        ("_id", "eq", json!({"$oid": OID})),
        ("_id", "eq", json!({"a": 1, "b": 2})),
        ("_id.a", "eq", json!(1)),
        ("_id", "gt", json!(110)),
        ("_id", "in", json!(["text", 101, {"$oid": OID}])),
        ("_id", "not_in", json!(["text", 101])),
        ("_id", "regex", json!(["^te", ""])),
        ("_id", "exists", json!(true)),
    ];
    let asks = conditions.into_iter();
    let mut all: Vec<Query> = asks
        .map(|(path, operator, json)| If(path, operator, json))
        .collect();
    let new = If("status", "eq", json!("new"));
    let two = If("n", "eq", json!(2));
    let flag = If("flag", "exists", json!(true));
    let key = If("_id", "lt", json!(105));
    all.extend([
        All(vec![two.clone(), flag.clone()]),
        Any(vec![new.clone(), two.clone()]),
        Neither(vec![new.clone(), two.clone()]),
        All(vec![key.clone(), Neither(vec![flag.clone()])]),
        Any(vec![key.clone(), If("address.city", "eq", json!("Oslo"))]),
        Neither(vec![
            Any(vec![key.clone(), two.clone()]),
            All(vec![new.clone()]),
        ]),
        All(vec![
            Any(vec![new, two]),
            Neither(vec![Neither(vec![flag])]),
            key,
        ]),
    ]);
    all
}

type Ids = BTreeSet<String>;

fn ids(ids: impl IntoIterator<Item = Bson>) -> Ids {
    ids.into_iter().map(|id| id.to_string()).collect()
}

/// Opens a watch for each list of filters.
async fn watch_each(
    weir: &Weir,
    database: &Database,
    filters: impl IntoIterator<Item = pb::Filter>,
) -> Vec<WatchStream> {
    let mut watches = Vec::new();
    for filter in filters {
        let request = pb::WatchRequest {
            filters: vec![filter],
            ..database.watch_request(&["orders"])
        };
        watches.push(weir.watch(request).await);
    }
    watches
}

/// The changes up to the drop of the collection, which passes every filter.
async fn until_dropped(watch: &mut WatchStream) -> Vec<pb::ChangeEvent> {
    let mut changes = Vec::new();
    loop {
        let change = watch.next_change().await;
        if change.operation() == OperationType::Drop {
            return changes;
        }
        changes.push(change);
    }
}

/// The number of concurrent filters: each is a change stream on a small server.
const AT_ONCE: usize = 18;

/// Every operator, every type of literal, groups, and paths through arrays.
#[tokio::test]
async fn a_filter_passes_what_find_finds() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection("orders");
    let documents = documents();
    let everything = documents.len();
    for queries in queries().chunks(AT_ONCE) {
        let filters = queries.iter().map(Query::to_pb);
        let mut watches = watch_each(&weir, &database, filters).await;
        orders.insert_many(&documents).await.unwrap();
        let mut expected = Vec::new();
        for query in queries {
            let found = orders.find(query.to_query()).await.unwrap();
            let found: Vec<Document> = futures::TryStreamExt::try_collect(found).await.unwrap();
            expected.push(ids(found
                .into_iter()
                .map(|mut it| it.remove("_id").unwrap())));
        }
        orders.drop().await.unwrap();
        for ((query, watch), expected) in queries.iter().zip(&mut watches).zip(expected) {
            let passed = ids(until_dropped(watch).await.iter().map(id));
            assert_eq!(passed, expected, "{query:?}");
            // A filter that passes all or none shows little.
            let selective = !passed.is_empty() && passed.len() < everything;
            let exempt = matches!(query, If("_id", "exists", _));
            assert!(selective || exempt, "{query:?} shows nothing: {passed:?}");
        }
    }
}

/// A prefix is text, byte for byte, whatever it means in a regular expression.
#[tokio::test]
async fn a_prefix_is_literal() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let texts = [
        "abc",
        "ABC",
        "ab",
        "a.c",
        "a.cd",
        "^abc",
        "$abc",
        "a*",
        "a\\b",
        "a\\",
        "(a|b)",
        "[ab]",
        "{1}",
        "a+b",
        "a?",
        "line\nabc",
        "abc\nline",
        "# no comment",
        " abc",
        "ünï",
        "u\u{308}nï",
        "漢字",
        "a\0b",
        "a-b",
        "a/b",
        "\u{1f980}!",
        "\"q\"",
        "_x",
        "",
    ];
    let number = |index: usize| Bson::Int32(index.try_into().expect("few"));
    let prefixes = [
        "abc",
        "a",
        "a.",
        "^",
        "$",
        "a*",
        "a\\",
        "(",
        "[ab",
        "{1}",
        "a+",
        "a?",
        "line\n",
        "#",
        " ",
        "ü",
        "漢",
        "a\0",
        "a-",
        "a/",
        "\u{1f980}",
        "\"",
        "_",
        "\\Q",
        "",
    ];
    for prefixes in prefixes.chunks(AT_ONCE) {
        let filters = prefixes
            .iter()
            .map(|it| field("text", Operator::Prefix((*it).into())));
        let mut watches = watch_each(&weir, &database, filters).await;
        let documents = texts.iter().enumerate().map(|(index, text)| {
            // The elements of an array are matched too, and numbers never match.
            let text: Bson = if index % 2 == 0 {
                (*text).into()
            } else {
                vec![*text].into()
            };
            doc! {"_id": number(index), "text": text}
        });
        let orders = database.collection("orders");
        orders.insert_many(documents).await.unwrap();
        orders
            .insert_one(doc! {"_id": -1, "text": 5})
            .await
            .unwrap();
        orders.drop().await.unwrap();
        for (prefix, watch) in prefixes.iter().zip(&mut watches) {
            let matching = texts
                .iter()
                .enumerate()
                .filter(|(_, text)| text.starts_with(prefix));
            let expected = ids(matching.map(|(index, _)| number(index)));
            let passed = ids(until_dropped(watch).await.iter().map(id));
            assert_eq!(passed, expected, "prefix {prefix:?}");
        }
    }
}
