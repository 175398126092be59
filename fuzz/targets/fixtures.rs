//! Events and requests for the seeds.

use bson::{
    Binary, Bson, DateTime, DbPointer, Decimal128, Document, JavaScriptCodeWithScope, Regex,
    Timestamp, Uuid, doc, oid::ObjectId, spec::BinarySubtype,
};
use prost_types::{ListValue, Value, value::Kind};
use weir::{
    model::Operation,
    pb::{
        self, FieldFilter, Filter, FilterGroup, RegexFilter,
        comparison::{Literal, Operator as Comparison},
        field_filter::Operator,
        pipeline_stage::Kind as StageKind,
    },
    pipeline::{Plan, RequestLimits, Watch},
    wire::TokenContext,
};

fn bytes(document: &Document) -> Vec<u8> {
    document.to_vec().expect("a fixture is BSON")
}

/// Returns the token context of a whole deployment.
pub fn token_context() -> TokenContext {
    let limits = RequestLimits {
        allow_deployment: true,
        ..RequestLimits::default()
    };
    let watch = Watch::from_request(pb::WatchRequest::default(), &limits);
    TokenContext::new("rs0", &Plan::shared(&watch.expect("a valid request")))
}

/// Returns a document with a value of every type.
pub fn every_type() -> Document {
    let id = ObjectId::from_bytes([7; 12]);
    doc! {
        "double": 1.5,
        "whole": -2.0,
        "nan": f64::NAN,
        "text": "te\"x\u{1f}t \u{1f600}",
        "document": { "a": { "b": [1, { "c": Bson::Null }, [2_i64]] } },
        "binary": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] },
        "uuid": Uuid::from_bytes([9; 16]),
        "undefined": Bson::Undefined,
        "id": id,
        "true": true,
        "date": DateTime::from_millis(1_700_000_000_123),
        "far": DateTime::from_millis(i64::MIN),
        "null": Bson::Null,
        "regex": Bson::RegularExpression(Regex {
            pattern: "^a\"\\d$".try_into().expect("it has no zero byte"),
            options: "im".try_into().expect("it has no zero byte"),
        }),
        "pointer": db_pointer(),
        "code": Bson::JavaScriptCode("f()".to_owned()),
        "symbol": Bson::Symbol("s".to_owned()),
        "scoped": JavaScriptCodeWithScope { code: "g()".to_owned(), scope: doc! { "x": 1 } },
        "i32": i32::MIN,
        "timestamp": Timestamp { time: 1, increment: 2 },
        "i64": (1_i64 << 53) + 1,
        "decimal": Bson::Decimal128("1.50E+3".parse::<Decimal128>().expect("it is a decimal")),
        "min": Bson::MinKey,
        "max": Bson::MaxKey,
        "": [],
    }
}

/// Returns a DBPointer, which the `bson` crate can only create by parsing.
fn db_pointer() -> DbPointer {
    let json = serde_json::json!({ "$dbPointer": {
        "$ref": "db.c", "$id": { "$oid": "070707070707070707070707" },
    } });
    match Bson::try_from(json) {
        Ok(Bson::DbPointer(pointer)) => pointer,
        other => panic!("{other:?} is not a DBPointer"),
    }
}

/// Returns an event in MongoDB's form.
pub fn event(operation: &str, fields: Document) -> Document {
    let mut event = doc! {
        "_id": { "_data": "82AA" },
        "operationType": operation,
        "clusterTime": Timestamp { time: 1_700_000_000, increment: 7 },
        "wallTime": DateTime::from_millis(1_700_000_000_123),
        "ns": { "db": "shop", "coll": "orders" },
    };
    event.extend(fields);
    event
}

/// Returns an event of every operation, with all its fields.
pub fn events() -> Vec<(&'static str, Vec<u8>)> {
    let key = doc! { "_id": 1 };
    let order =
        doc! { "_id": 1, "status": "open", "total": 12.5, "lines": [{ "sku": "a", "n": 2 }] };
    let description = doc! {
        "updatedFields": { "status": "paid", "lines.0.n": 3, "a.b": Bson::Null },
        "removedFields": ["note", "a.c"],
        "truncatedArrays": [{ "field": "tags", "newSize": 2 }],
        "disambiguatedPaths": { "lines.0.n": ["lines", 0, "n"] },
    };
    Operation::ALL
        .into_iter()
        .map(|operation| {
            let fields = match operation {
                Operation::Insert => doc! { "documentKey": &key, "fullDocument": every_type() },
                Operation::Update => doc! {
                    "documentKey": &key,
                    "updateDescription": &description,
                    "fullDocument": &order,
                    "fullDocumentBeforeChange": Bson::Null,
                    "lsid": {
                        "id": Uuid::from_bytes([7; 16]),
                        "uid": Binary { subtype: BinarySubtype::Generic, bytes: vec![1; 32] },
                    },
                    "txnNumber": 5_i64,
                },
                Operation::Replace => doc! {
                    "documentKey": &key, "fullDocument": &order, "fullDocumentBeforeChange": &order,
                },
                Operation::Delete => {
                    doc! { "documentKey": &key, "fullDocumentBeforeChange": &order }
                }
                Operation::Rename => doc! {
                    "to": { "db": "shop", "coll": "old" },
                    "operationDescription": { "to": { "db": "shop", "coll": "old" } },
                },
                Operation::Create => doc! {
                    "collectionUUID": Uuid::from_bytes([9; 16]),
                    "operationDescription": { "idIndex": { "v": 2, "key": { "_id": 1 } } },
                    "nsType": "collection",
                },
                Operation::CreateIndexes | Operation::DropIndexes => doc! {
                    "operationDescription": { "indexes": [{ "v": 2, "name": "a_1" }, { "v": 2 }] },
                },
                Operation::Modify => doc! {
                    "operationDescription": { "index": { "name": "a_1" } },
                    "stateBeforeChange": { "collectionOptions": {} },
                },
                Operation::EndOfTransaction => doc! {
                    "lsid": { "id": Uuid::from_bytes([7; 16]) },
                    "txnNumber": 5_i64,
                    "commitTimestamp": Timestamp { time: 1_700_000_000, increment: 6 },
                    "operationDescription": { "txnNumber": 5_i64 },
                },
                Operation::Other => doc! { "addedLater": { "a": 1 }, "splitEvent": { "of": 1 } },
                _ => doc! { "operationDescription": { "shardKey": { "a": "hashed" } } },
            };
            let name = operation.name();
            let name = if name.is_empty() { "other" } else { name };
            (name, bytes(&event(name, fields)))
        })
        .collect()
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn text(text: &str) -> Value {
    value(Kind::StringValue(text.to_owned()))
}

fn number(number: f64) -> Value {
    value(Kind::NumberValue(number))
}

fn list(values: Vec<Value>) -> ListValue {
    ListValue { values }
}

/// Returns Extended JSON with one field and one text.
fn extended(name: &str, held: &str) -> Value {
    let fields = [(name.to_owned(), text(held))].into();
    value(Kind::StructValue(prost_types::Struct { fields }))
}

fn filter(path: &str, operator: Operator) -> Filter {
    Filter {
        kind: Some(pb::filter::Kind::Field(FieldFilter {
            path: path.to_owned(),
            operator: Some(operator),
        })),
    }
}

fn compare(path: &str, operator: Comparison, literal: Literal) -> Filter {
    filter(
        path,
        Operator::Compare(pb::Comparison {
            operator: operator.into(),
            literal: Some(literal),
        }),
    )
}

/// Returns a value of every type that a literal may have.
fn every_literal() -> Document {
    let refused = ["undefined", "regex", "pointer", "symbol", "scoped"];
    let fields = every_type().into_iter();
    fields
        .filter(|(name, _)| !refused.contains(&name.as_str()))
        .collect()
}

fn group(filters: Vec<Filter>) -> FilterGroup {
    FilterGroup { filters }
}

fn stage(kind: StageKind) -> pb::PipelineStage {
    pb::PipelineStage { kind: Some(kind) }
}

/// Stages of a client in every form.
fn stages() -> Vec<pb::PipelineStage> {
    let path = |path: &str| value(Kind::StringValue(path.to_owned()));
    let unset = prost_types::Struct {
        fields: [(
            "$unset".to_owned(),
            value(Kind::ListValue(list(vec![path("a"), path("b.c")]))),
        )]
        .into(),
    };
    vec![
        stage(StageKind::Struct(unset)),
        stage(StageKind::Json(
            r#"{"$match": {"z": 1, "a": {"$date": {"$numberLong": "5"}}, "b": [1.5, null, {"$regex": "^a"}]}}"#
                .to_owned(),
        )),
        stage(StageKind::Bson(
            bytes(&doc! { "$replaceRoot": { "newRoot": { "_id": "$_id", "id": ObjectId::from_bytes([7; 12]), "d": DateTime::from_millis(5) } } }).into(),
        )),
        stage(StageKind::Bson(
            bytes(&doc! { "$redact": { "$cond": [{ "$eq": ["$a", 5] }, "$$PRUNE", "$$DESCEND"] } })
                .into(),
        )),
    ]
}

/// Returns requests that together set every field and use every operator.
pub fn requests() -> Vec<(&'static str, pb::WatchRequest)> {
    let base = || pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        ..pb::WatchRequest::default()
    };
    let with = |filters: Vec<Filter>| pb::WatchRequest { filters, ..base() };
    let with_stages = |pipeline| pb::WatchRequest { pipeline, ..base() };
    let regex = RegexFilter {
        pattern: "^o(p|.)+n$".to_owned(),
        options: "im".to_owned(),
    };
    let nested = Filter {
        kind: Some(pb::filter::Kind::AllOf(group(vec![
            Filter {
                kind: Some(pb::filter::Kind::AnyOf(group(vec![
                    filter("status", Operator::Eq(text("open"))),
                    filter("lines.sku", Operator::Eq(text("a"))),
                ]))),
            },
            Filter {
                kind: Some(pb::filter::Kind::NoneOf(group(vec![filter(
                    "total",
                    Operator::Lte(number(1.0)),
                )]))),
            },
        ]))),
    };
    vec![
        ("collection", base()),
        (
            "everything",
            pb::WatchRequest {
                collections: vec!["orders".to_owned(), "customers".to_owned()],
                operations: vec![1, 2, 3, 4],
                start: Some(pb::watch_request::Start::StartTime(
                    prost_types::Timestamp {
                        seconds: 1_700_000_000,
                        nanos: 5,
                    },
                )),
                end_time: Some(prost_types::Timestamp {
                    seconds: 1_800_000_000,
                    nanos: 0,
                }),
                full_document: 2,
                full_document_before_change: 2,
                document_format: 4,
                show_expanded_events: true,
                progress_interval: Some(prost_types::Duration {
                    seconds: 5,
                    nanos: 7,
                }),
                max_message_bytes: 1 << 20,
                oversize_policy: 2,
                missing_image_policy: 2,
                invalidate_policy: 2,
                feed_mode: 2,
                ..base()
            },
        ),
        (
            "token",
            pb::WatchRequest {
                start: Some(pb::watch_request::Start::ResumeToken(vec![1; 40].into())),
                ..base()
            },
        ),
        (
            "bad-times",
            pb::WatchRequest {
                start: Some(pb::watch_request::Start::StartTime(
                    prost_types::Timestamp {
                        seconds: 1_700_000_000,
                        nanos: 0,
                    },
                )),
                end_time: Some(prost_types::Timestamp {
                    seconds: 1_600_000_000,
                    nanos: 0,
                }),
                progress_interval: Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 7,
                }),
                ..base()
            },
        ),
        (
            "bad-enums",
            pb::WatchRequest {
                full_document_before_change: 9,
                document_format: -9,
                oversize_policy: 9,
                missing_image_policy: 9,
                invalidate_policy: 9,
                feed_mode: 9,
                ..base()
            },
        ),
        (
            "bad-everywhere",
            pb::WatchRequest {
                database: "a/b".to_owned(),
                collections: vec![String::new(), "system.x".to_owned(), "$x".to_owned()],
                operations: vec![0, 99, -1],
                end_time: Some(prost_types::Timestamp {
                    seconds: -1,
                    nanos: -1,
                }),
                full_document: 77,
                max_message_bytes: 1,
                filters: vec![
                    Filter { kind: None },
                    filter("", Operator::Eq(Value { kind: None })),
                    filter("a..b", Operator::In(list(Vec::new()))),
                    filter("$where", Operator::Prefix("x".repeat(50))),
                ],
                ..base()
            },
        ),
        ("stages", with_stages(stages())),
        (
            "bad-stages",
            with_stages(vec![
                pb::PipelineStage { kind: None },
                stage(StageKind::Json(r#"{"$match": {"$where": "1"}}"#.to_owned())),
                stage(StageKind::Json(
                    r#"{"$lookup": {}, "a": [[[{"$date": {}}]]]}"#.to_owned(),
                )),
                stage(StageKind::Bson(bytes(&doc! { "$out": "x" }).into())),
            ]),
        ),
        (
            "eq",
            with(vec![filter("status", Operator::Eq(text("open")))]),
        ),
        (
            "eq-null",
            with(vec![filter("a.b", Operator::Eq(value(Kind::NullValue(0))))]),
        ),
        (
            "ranges",
            with(vec![
                filter("total", Operator::Gt(number(1.5))),
                filter("total", Operator::Gte(extended("$numberLong", "7"))),
                filter("total", Operator::Lt(extended("$numberDecimal", "1E3"))),
                filter("total", Operator::Lte(number(100.0))),
            ]),
        ),
        (
            "ne",
            with(vec![filter(
                "_id",
                Operator::Ne(extended("$oid", "070707070707070707070707")),
            )]),
        ),
        (
            "in",
            with(vec![
                filter(
                    "status",
                    Operator::In(list(vec![text("open"), text("paid"), number(1.0)])),
                ),
                filter("_id", Operator::NotIn(list(vec![number(2.0)]))),
            ]),
        ),
        (
            "exists",
            with(vec![
                filter("note", Operator::Exists(false)),
                filter("lines.0.sku", Operator::Exists(true)),
            ]),
        ),
        (
            "texts",
            with(vec![
                filter("status", Operator::Prefix("op".to_owned())),
                filter("status", Operator::Regex(regex)),
            ]),
        ),
        (
            "changed",
            with(vec![filter("lines.0", Operator::Changed(true))]),
        ),
        (
            "compare",
            with(vec![
                compare(
                    "lines",
                    Comparison::In,
                    Literal::Json(
                        r#"[{"sku": "a", "n": {"$numberInt": "2"}}, {"$ref": "c", "$id": 5, "$db": "d"}]"#
                            .to_owned(),
                    ),
                ),
                compare(
                    "_id",
                    Comparison::Ne,
                    Literal::Bson(bytes(&doc! { "": { "b": 1, "a": [every_literal()] } }).into()),
                ),
            ]),
        ),
        (
            "bad-comparisons",
            with(vec![
                compare("a", Comparison::Unspecified, Literal::Json("{".to_owned())),
                compare("a", Comparison::In, Literal::Json("[]".to_owned())),
                compare("a", Comparison::Lt, Literal::Json(r#"{"$numberDecimal": ""}"#.to_owned())),
                compare("a", Comparison::Eq, Literal::Bson(bytes(&every_type()).into())),
                compare("a", Comparison::Eq, Literal::Bson(vec![5, 0, 0, 0].into())),
            ]),
        ),
        ("nested", with(vec![nested])),
    ]
}
