//! Requests with every field at its bounds and beyond.

use bytes::Bytes;
use mongodb::bson::{Document, doc};
use prost_types::{Duration, ListValue, Timestamp, Value, value::Kind as ValueKind};
use serde_json::{Value as Json, json};
use weir::pb::{self, field_filter::Operator, filter::Kind, watch_request::Start};

use crate::conversions::{eq, field, value};

/// A valid request.
pub struct Good {
    pub what: String,
    pub request: pb::WatchRequest,
}

/// A request that is refused because of one field.
pub struct Bad {
    pub request: pb::WatchRequest,
    /// The path of the field.
    pub field: String,
    /// Words that the description contains.
    pub words: String,
}

#[derive(Default)]
pub struct Table {
    pub good: Vec<Good>,
    pub bad: Vec<Bad>,
}

impl Table {
    fn good(&mut self, what: impl Into<String>, request: pb::WatchRequest) {
        let what = what.into();
        self.good.push(Good { what, request });
    }

    fn bad(&mut self, field: impl Into<String>, words: &str, request: pb::WatchRequest) {
        self.bad.push(Bad {
            request,
            field: field.into(),
            words: words.into(),
        });
    }

    /// The whole table, for a database with this name.
    pub fn of(database: &str) -> Self {
        let valid = pb::WatchRequest {
            database: database.into(),
            collections: vec!["orders".into()],
            ..pb::WatchRequest::default()
        };
        let mut table = Self::default();
        table.names(&valid);
        table.enums(&valid);
        table.times(&valid);
        table.sizes(&valid);
        table.fields(&valid);
        table.shards(&valid);
        table.filters(&valid);
        table.values(&valid);
        table.patterns(&valid);
        table.stages(&valid);
        table
    }

    fn names(&mut self, valid: &pb::WatchRequest) {
        let named = |name: &str| pb::WatchRequest {
            database: name.into(),
            collections: vec![],
            ..valid.clone()
        };
        self.good("63 bytes", named(&"d".repeat(63)));
        self.good("63 bytes in 32 characters", named(&("ü".repeat(31) + "d")));
        self.good("a capital", named("Admin"));
        self.bad("database", "at most 63", named(&"d".repeat(64)));
        self.bad("database", "at most 63", named(&"ü".repeat(32)));
        self.bad("database", "at most 63", named(&"d".repeat(1 << 19)));
        for bad in "/\\. \"$*<>:|?\0".chars() {
            self.bad("database", "must not contain", named(&format!("a{bad}b")));
        }
        for name in ["admin", "config", "local"] {
            self.bad("database", "no change streams", named(name));
        }
        let nameless = pb::WatchRequest {
            database: String::new(),
            ..valid.clone()
        };
        self.bad("database", "name their database", nameless);

        let watch = |names: &[&str]| pb::WatchRequest {
            database: "shop".into(),
            collections: names.iter().map(|&name| name.into()).collect(),
            ..valid.clone()
        };
        let numbered: Vec<String> = (0..10_000).map(|number| format!("c{number}")).collect();
        let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
        for name in ["a.b", "system", "systems.x", "a b", "-", "ünï", "日本"] {
            self.good(name, watch(&[name]));
        }
        self.good("255 bytes of namespace", watch(&[&"c".repeat(250)]));
        self.good("100 collections", watch(&numbered[..100]));
        self.good("one collection, 10,000 times", watch(&["c"; 10_000]));
        self.good("the whole database", watch(&[]));
        let second = "collections[1]";
        self.bad(second, "is empty", watch(&["a", ""]));
        self.bad(second, "neither", watch(&["a", "a$b"]));
        self.bad(second, "neither", watch(&["a", "a\0b"]));
        self.bad(second, "MongoDB's own", watch(&["a", "system.views"]));
        let long = "c".repeat(251);
        self.bad(second, "at most 255", watch(&["a", &long]));
        self.bad("collections", "at most 100", watch(&numbered[..101]));
        self.bad("collections", "at most 100", watch(&numbered));
    }

    fn enums(&mut self, valid: &pb::WatchRequest) {
        type Set = fn(&mut pb::WatchRequest, i32);
        let fields: [(&str, i32, Set); 7] = [
            ("full_document", 4, |it, number| it.full_document = number),
            ("full_document_before_change", 3, |it, number| {
                it.full_document_before_change = number;
            }),
            ("document_format", 4, |it, number| {
                it.document_format = number;
            }),
            ("oversize_policy", 3, |it, number| {
                it.oversize_policy = number;
            }),
            ("missing_image_policy", 2, |it, number| {
                it.missing_image_policy = number;
            }),
            ("invalidate_policy", 2, |it, number| {
                it.invalidate_policy = number;
            }),
            ("feed_mode", 3, |it, number| it.feed_mode = number),
        ];
        for (name, last, set) in fields {
            let with = |number| {
                let mut request = valid.clone();
                set(&mut request, number);
                request
            };
            for number in 0..=last {
                self.good(format!("{name} {number}"), with(number));
            }
            let words = format!("use 0 to {last}");
            for number in [last + 1, -1, i32::MAX, i32::MIN] {
                self.bad(name, &words, with(number));
            }
        }

        let asking = |operations: Vec<i32>, expanded| pb::WatchRequest {
            operations,
            show_expanded_events: expanded,
            ..valid.clone()
        };
        self.good("every operation", asking((1..=16).collect(), true));
        self.good(
            "every operation that is not expanded",
            asking(vec![1, 2, 3, 4, 5, 6, 7, 15], false),
        );
        self.good(
            "one operation, 10,000 times",
            asking(vec![1; 10_000], false),
        );
        let second = "operations[1]";
        self.bad(second, "name an operation", asking(vec![1, 0], true));
        for number in [17, -1, i32::MAX, i32::MIN] {
            self.bad(second, "use 0 to 16", asking(vec![1, number], true));
        }
        for expanded in (8..=14).chain([16]) {
            self.bad(
                second,
                "show_expanded_events",
                asking(vec![1, expanded], false),
            );
        }
    }

    fn times(&mut self, valid: &pb::WatchRequest) {
        let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        let starting = |seconds, nanos| pb::WatchRequest {
            start: at(seconds, nanos).map(Start::StartTime),
            ..valid.clone()
        };
        let ending = |seconds, nanos| pb::WatchRequest {
            end_time: at(seconds, nanos),
            ..valid.clone()
        };
        let last = i64::from(u32::MAX);
        self.good("the first second", starting(0, 0));
        self.good("the last nanosecond", ending(last, 999_999_999));
        // The years 0, 1969, 2106 and 10000, and values that no timestamp can hold.
        let beyond = [
            -62_167_219_200,
            -1,
            last + 1,
            253_402_300_800,
            i64::MIN,
            i64::MAX,
        ];
        for seconds in beyond {
            self.bad("start_time", "the year 2106", starting(seconds, 0));
            self.bad("end_time", "the year 2106", ending(seconds, 0));
        }
        for nanos in [-1, 1_000_000_000, i32::MIN, i32::MAX] {
            self.bad("start_time", "0 to 999999999", starting(5, nanos));
            self.bad("end_time", "0 to 999999999", ending(5, nanos));
        }
        let between = |start, end| pb::WatchRequest {
            end_time: at(end, 0),
            ..starting(start, 0)
        };
        self.good("an end equal to the start", between(1000, 1000));
        self.bad("end_time", "before start_time", between(1000, 999));

        let quiet_for = |seconds, nanos| pb::WatchRequest {
            progress_interval: Some(Duration { seconds, nanos }),
            ..valid.clone()
        };
        for (seconds, nanos) in [
            (0, 0),
            (0, 1),
            (1, 0),
            (60, 1),
            (315_576_000_000, 999_999_999),
        ] {
            self.good(
                format!("{seconds} s, {nanos} ns"),
                quiet_for(seconds, nanos),
            );
        }
        for (seconds, nanos) in [
            (-1, 0),
            (0, -1),
            (1, -1),
            (-1, -1),
            (1, 1_000_000_000),
            (315_576_000_001, 0),
            (i64::MAX, i32::MAX),
            (i64::MIN, i32::MIN),
        ] {
            self.bad(
                "progress_interval",
                "neither may be negative",
                quiet_for(seconds, nanos),
            );
        }
    }

    fn sizes(&mut self, valid: &pb::WatchRequest) {
        let limited = |bytes| pb::WatchRequest {
            max_message_bytes: bytes,
            ..valid.clone()
        };
        for bytes in [0, 64 << 10, 64 << 20] {
            self.good(format!("{bytes} bytes"), limited(bytes));
        }
        for bytes in [1, (64 << 10) - 1, (64 << 20) + 1, u32::MAX] {
            self.bad("max_message_bytes", "65536 to 67108864", limited(bytes));
        }
    }

    fn fields(&mut self, valid: &pb::WatchRequest) {
        let of = |fields: &[&str]| pb::WatchRequest {
            fields: fields.iter().map(|&path| path.into()).collect(),
            ..valid.clone()
        };
        let numbered: Vec<String> = (0..2_000).map(|number| format!("{number:0512}")).collect();
        let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
        self.good("200 fields of 512 bytes", of(&numbered[..200]));
        self.bad("fields", "at most 200", of(&numbered[..201]));
        self.bad("fields", "at most 200", of(&numbered));
        self.good("100 levels", of(&[&vec!["a"; 100].join(".")]));
        for path in ["_id", "_id.a", "a.0", "0", "a.$id", "a b", "日本"] {
            self.good(path, of(&["x", path]));
        }
        let (long, deep) = ("p".repeat(513), vec!["a"; 101].join("."));
        for (path, words) in [
            ("", "1 to 512"),
            (&*long, "1 to 512"),
            (&*deep, "at most 100"),
            ("a..b", "single dots"),
            (".a", "single dots"),
            ("a\0", "NUL"),
            ("a.$b", "only $id, $ref and $db"),
            ("x", "name it once"),
            ("x.y", "name one of them"),
        ] {
            self.bad("fields[1]", words, of(&["x", path]));
        }
    }

    fn shards(&mut self, valid: &pb::WatchRequest) {
        let shard = |index, count| pb::WatchRequest {
            shard: Some(pb::ConsumerShard { index, count }),
            ..valid.clone()
        };
        for (index, count) in [(0, 1), (1, 2), (0, 1_024), (1_023, 1_024)] {
            self.good(format!("shard {index} of {count}"), shard(index, count));
        }
        for count in [0, 1_025, 1 << 16, u32::MAX] {
            self.bad("shard.count", "1 to 1024", shard(0, count));
            self.bad("shard.count", "1 to 1024", shard(count, count));
        }
        for (index, count) in [(1, 1), (2, 2), (1_024, 1_024), (1 << 16, 5), (u32::MAX, 5)] {
            let words = match count {
                1 => "with 1 consumer, use 0".to_owned(),
                _ => format!("use 0 to {}", count - 1),
            };
            self.bad("shard.index", &words, shard(index, count));
        }
    }

    fn filters(&mut self, valid: &pb::WatchRequest) {
        let filtered = |filters| pb::WatchRequest {
            filters,
            ..valid.clone()
        };
        let one = |filter| filtered(vec![filter]);
        let group = |kind: fn(pb::FilterGroup) -> Kind, filters| pb::Filter {
            kind: Some(kind(pb::FilterGroup { filters })),
        };
        let nested = |levels| {
            one(
                (1..levels).fold(eq("a", json!(1)), |inner, level| match level % 3 {
                    0 => group(Kind::AllOf, vec![inner]),
                    1 => group(Kind::AnyOf, vec![inner]),
                    _ => group(Kind::NoneOf, vec![inner]),
                }),
            )
        };
        self.good("10 levels", nested(10));
        let deep: String = (1..=10)
            .rev()
            .fold(String::from("filters[0]"), |path, level| {
                path + [".all_of", ".any_of", ".none_of"][level % 3] + ".filters[0]"
            });
        self.bad(&deep, "the 10 levels", nested(11));
        // The depth limit of protobuf.
        let prefix = ".all_of.filters[0]".repeat(10);
        let very = (0..45).fold(eq("a", json!(1)), |inner, _| {
            group(Kind::AllOf, vec![inner])
        });
        self.bad(format!("filters[0]{prefix}"), "the 10 levels", one(very));

        let wide = |count| one(group(Kind::AnyOf, vec![eq("a", json!(1)); count]));
        self.good("200 conditions", wide(200));
        let too_many = "filters[0].any_of.filters[200].field";
        self.bad(too_many, "at most 200", wide(201));
        self.bad(too_many, "at most 200", wide(10_000));
        self.bad("filters[0]", "sets no kind", one(pb::Filter { kind: None }));
        self.bad(
            "filters[0].none_of",
            "at least one",
            one(group(Kind::NoneOf, vec![])),
        );
        let bare = Kind::Field(pb::FieldFilter {
            path: "a".into(),
            operator: None,
        });
        self.bad(
            "filters[0].field",
            "sets no operator",
            one(pb::Filter { kind: Some(bare) }),
        );

        for path in [
            "a", "_id", "a.b.0.c", "a b", "a$b", "r.$id", "r.$ref", "r.$db", "ünï", "0", "-1",
        ] {
            self.good(format!("the path {path}"), one(eq(path, json!(1))));
        }
        self.good("a path of 512 bytes", one(eq(&"a".repeat(512), json!(1))));
        self.good(
            "a path of 100 parts",
            one(eq(&["a"; 100].join("."), json!(1))),
        );
        for (path, words) in [
            ("", "1 to 512"),
            (&*"a".repeat(513), "1 to 512"),
            (&*"a".repeat(1 << 19), "1 to 512"),
            (&*"a.".repeat(1 << 18), "1 to 512"),
            (&*["a"; 101].join("."), "at most 100"),
            (".a", "empty component"),
            ("a.", "empty component"),
            ("a..b", "empty component"),
            ("a\0", "NUL"),
            ("$where", "only $id, $ref and $db"),
            ("$expr", "only $id, $ref and $db"),
            ("$jsonSchema", "only $id, $ref and $db"),
            ("a.$function", "only $id, $ref and $db"),
            ("a.$", "only $id, $ref and $db"),
            ("a.$[]", "only $id, $ref and $db"),
        ] {
            self.bad("filters[0].field.path", words, one(eq(path, json!(1))));
        }

        let list = |values: Vec<Value>| ListValue { values };
        for (name, operator) in [
            ("in", Operator::In as fn(_) -> _),
            ("not_in", Operator::NotIn),
        ] {
            let holding =
                |count: usize| one(field("a", operator(list(vec![value(json!(1)); count]))));
            self.good(format!("{name} 1 value"), holding(1));
            self.good(format!("{name} 1,000 values"), holding(1000));
            for count in [0, 1001, 10_000] {
                self.bad(
                    format!("filters[0].field.{name}"),
                    "1 to 1000",
                    holding(count),
                );
            }
        }
        let text = |bytes: usize| json!("x".repeat(bytes - 4));
        let half = 128 << 10;
        let full = vec![eq("a", text(half)), eq("b", text(half))];
        self.good("256 KiB of values", filtered(full.clone()));
        let over = [full, vec![eq("c", json!(1))]].concat();
        self.bad("filters[2].field.eq", "256 KiB", filtered(over));
        let begins = |bytes| one(field("a", Operator::Prefix("x".repeat(bytes))));
        self.good("no prefix", begins(0));
        self.good("a prefix of 1,024 bytes", begins(1024));
        self.bad("filters[0].field.prefix", "at most 1024", begins(1025));
        self.bad("filters[0].field.prefix", "at most 1024", begins(1 << 19));
        for touched in [true, false] {
            self.good("changed", one(field("a.b", Operator::Changed(touched))));
            self.good("exists", one(field("a.b", Operator::Exists(touched))));
        }
    }

    /// Extended JSON that is just valid, and invalid in every way.
    fn values(&mut self, valid: &pb::WatchRequest) {
        let with = |operator: fn(Value) -> Operator, value| pb::WatchRequest {
            filters: vec![field("a", operator(value))],
            ..valid.clone()
        };
        let oid = "0123456789abcdef01234567";
        for json in [
            json!(null),
            json!([]),
            json!({}),
            json!([[[[[[[[[[1]]]]]]]]]]),
            json!(1e308),
            json!(-0.0),
            json!({"$oid": oid}),
            json!({"$numberInt": "-2147483648"}),
            json!({"$numberLong": "9223372036854775807"}),
            json!({"$numberDouble": "NaN"}),
            json!({"$numberDouble": "-Infinity"}),
            json!({"$numberDecimal": "9.999999999999999999999999999999999E+6144"}),
            json!({"$numberDecimal": "NaN"}),
            json!({"$date": "9999-12-31T23:59:59.999Z"}),
            json!({"$date": {"$numberLong": "9223372036854775807"}}),
            json!({"$date": {"$numberLong": "-9223372036854775808"}}),
            json!({"$timestamp": {"t": u32::MAX, "i": u32::MAX}}),
            json!({"$binary": {"base64": "", "subType": "ff"}}),
            json!({"$uuid": "00112233-4455-6677-8899-aabbccddeeff"}),
            json!({"$minKey": 1}),
            json!({"$maxKey": 1}),
            json!({"$ref": "orders", "$id": {"$oid": oid}, "$db": "shop"}),
        ] {
            // Evaluated in Weir, as the tests' database can't read every date that MongoDB can.
            let request = pb::WatchRequest {
                feed_mode: pb::FeedMode::Shared.into(),
                ..with(Operator::Eq, value(json.clone()))
            };
            self.good(json.to_string(), request);
        }
        let bad = |json: Json| value(json);
        let nested =
            |levels: usize| (0..levels).fold(json!({"$oid": "x"}), |inner, _| json!([inner]));
        for (value, words) in [
            (Value { kind: None }, "has no value"),
            (
                Value {
                    kind: Some(ValueKind::NullValue(7)),
                },
                "null",
            ),
            (
                Value {
                    kind: Some(ValueKind::NumberValue(f64::NAN)),
                },
                "$numberDouble",
            ),
            (
                Value {
                    kind: Some(ValueKind::NumberValue(f64::INFINITY)),
                },
                "$numberDouble",
            ),
            (bad(json!({"$oid": "too short"})), "$oid"),
            (bad(json!({"$oid": 5})), "$oid"),
            (bad(json!({"$oid": oid, "more": 1})), "$oid"),
            (bad(json!({"$numberInt": "2147483648"})), "$numberInt"),
            (bad(json!({"$numberLong": "x"})), "$numberLong"),
            (
                bad(json!({"$numberLong": "9223372036854775808"})),
                "$numberLong",
            ),
            (
                bad(json!({"$numberLong": {"$numberLong": "1"}})),
                "$numberLong",
            ),
            (bad(json!({"$numberDouble": "one"})), "$numberDouble"),
            (bad(json!({"$numberDecimal": "1.2.3"})), "$numberDecimal"),
            (bad(json!({"$date": "yesterday"})), "$date"),
            (bad(json!({"$date": "2020-13-01T00:00:00Z"})), "$date"),
            (bad(json!({"$date": []})), "$date"),
            (bad(json!({"$timestamp": {"t": -1, "i": 0}})), "$timestamp"),
            (
                bad(json!({"$timestamp": {"t": 4_294_967_296_u64, "i": 0}})),
                "$timestamp",
            ),
            (bad(json!({"$binary": "AA=="})), "$binary"),
            (
                bad(json!({"$binary": {"base64": "?", "subType": "00"}})),
                "$binary",
            ),
            (bad(json!({"$uuid": "1234"})), "$uuid"),
            (bad(json!({"$minKey": 2})), "$minKey"),
            (bad(json!({"$undefined": true})), "undefined"),
            (bad(json!({"$symbol": "a"})), "symbol"),
            (bad(json!({"$code": "1", "$scope": {}})), "code with scope"),
            (
                bad(json!({"$dbPointer": {"$ref": "a", "$id": {"$oid": oid}}})),
                "DBPointer",
            ),
            (
                bad(json!({"$regularExpression": {"pattern": "a", "options": ""}})),
                "operator regex",
            ),
            (bad(json!({"$regex": "a"})), "operator regex"),
            // Operators that would run code or have no bounded cost.
            (bad(json!({"$where": "sleep(1000)"})), "$where"),
            (
                bad(json!({"$function": {"body": "", "args": [], "lang": "js"}})),
                "$function",
            ),
            (bad(json!({"$expr": {"$gt": [1, 0]}})), "$expr"),
            (bad(json!({"$gt": 1})), "$gt"),
            (bad(json!({"$ne": null})), "$ne"),
            (bad(json!({"$in": []})), "$in"),
            (bad(json!({"$accumulator": {}})), "$accumulator"),
            (bad(json!({"ok": {"$where": "1"}})), "$where"),
            (bad(json!({"a\0b": 1})), "NUL"),
            (bad(nested(20)), "$oid"),
        ] {
            for (name, operator) in [
                ("eq", Operator::Eq as fn(_) -> _),
                ("ne", Operator::Ne),
                ("gt", Operator::Gt),
                ("gte", Operator::Gte),
                ("lt", Operator::Lt),
                ("lte", Operator::Lte),
            ] {
                let path = format!("filters[0].field.{name}");
                self.bad(path, words, with(operator, value.clone()));
            }
            for (name, operator) in [
                ("in", Operator::In as fn(_) -> _),
                ("not_in", Operator::NotIn),
            ] {
                let values = vec![crate::conversions::value(json!(1)), value.clone()];
                let request = pb::WatchRequest {
                    filters: vec![field("a", operator(ListValue { values }))],
                    ..valid.clone()
                };
                self.bad(format!("filters[0].field.{name}.values[1]"), words, request);
            }
        }
    }

    /// Stages of the client at their bounds, in all three forms.
    fn stages(&mut self, valid: &pb::WatchRequest) {
        use pb::pipeline_stage::Kind as Form;
        let with = |pipeline: Vec<pb::PipelineStage>| pb::WatchRequest {
            pipeline,
            ..valid.clone()
        };
        let of = |kind| pb::PipelineStage { kind: Some(kind) };
        let text = |json: &str| of(Form::Json(json.into()));
        let map = |json: Json| match value(json).kind {
            Some(ValueKind::StructValue(fields)) => of(Form::Struct(fields)),
            _ => panic!("a stage is an object"),
        };
        let bytes = |document: &Document| of(Form::Bson(document.to_vec().expect("BSON").into()));
        let pass = || text(r#"{"$match": {}}"#);
        let long = |bytes: usize| {
            let frame = r#"{"$match": {"a": ""}}"#.len();
            text(&format!(
                r#"{{"$match": {{"a": "{}"}}}}"#,
                "x".repeat(bytes - frame)
            ))
        };
        self.good(
            "a stage as a map",
            with(vec![map(json!({"$match": {"a": 1}}))]),
        );
        self.good(
            "a stage as BSON",
            with(vec![bytes(&doc! {"$match": {"a": 1}})]),
        );
        self.good("20 stages", with(vec![pass(); 20]));
        // In BSON the text takes less than the 100 bytes more.
        self.good("64 KiB of stages", with(vec![long((64 << 10) - 100)]));
        self.bad("pipeline", "at most 20", with(vec![pass(); 21]));
        self.bad("pipeline", "at most 20", with(vec![pass(); 10_000]));
        for pipeline in [
            vec![long((64 << 10) + 1)],
            vec![long(40 << 10), long(40 << 10)],
            vec![text(&"[".repeat(1 << 19))],
            vec![map(json!({"$match": {"a": "x".repeat(64 << 10)}}))],
            vec![bytes(&doc! {"$match": {"a": "x".repeat(64 << 10)}})],
            vec![text(&format!(
                r#"{{"$match": {{"a": [{}1]}}}}"#,
                "1,".repeat(30_000)
            ))],
        ] {
            self.bad("pipeline", "at most 65536", with(pipeline));
        }
        let nested = |levels: usize, open: &str, close: &str| {
            let levels = levels - 2;
            text(&format!(
                r#"{{"$match": {{"a": {}1{}}}}}"#,
                open.repeat(levels),
                close.repeat(levels)
            ))
        };
        for bad in [
            nested(101, "[", "]"),
            nested(9_000, "[", "]"),
            nested(101, "{\"a\":", "}"),
            nested(9_000, "{\"a\":", "}"),
        ] {
            self.bad("pipeline[1]", "100 levels", with(vec![pass(), bad]));
        }
        for (stage, words) in [
            (pb::PipelineStage { kind: None }, "sets no kind"),
            (text(""), "Extended JSON"),
            (text("[]"), "one field"),
            (text("{}"), "has 0 fields"),
            (text(r#"{"$match": {}, "$set": {}}"#), "has 2 fields"),
            (text(r#"{"$match": {"a": 1, "a": 2}}"#), "stands twice"),
            (text(r#"{"$match": {}} "#.repeat(2).as_str()), "trailing"),
            (map(json!({})), "has 0 fields"),
            (map(json!({"$match": {"a\0": 1}})), "NUL"),
            (map(json!({"$match": {"a": {"$oid": 5}}})), "$oid"),
            (of(Form::Bson(Bytes::new())), "BSON"),
            (
                of(Form::Bson(Bytes::from_static(&[5, 0, 0, 0, 0, 0]))),
                "BSON",
            ),
            (of(Form::Bson(Bytes::from_static(&[0x7f; 100]))), "BSON"),
            (bytes(&doc! {}), "has 0 fields"),
        ] {
            self.bad("pipeline[1]", words, with(vec![pass(), stage]));
        }
        for name in [
            "$lookup",
            "$out",
            "$merge",
            "$group",
            "$limit",
            "$unwind",
            "$changeStream",
            "$changeStreamSplitLargeEvent",
            "match",
            "",
        ] {
            for stage in [
                text(&json!({name: {"a": 1}}).to_string()),
                map(json!({name: {"a": 1}})),
                bytes(&doc! {name: {"a": 1}}),
            ] {
                self.bad("pipeline[0]", "use $match, $project", with(vec![stage]));
            }
        }
        for (name, words) in [
            ("$where", "JavaScript"),
            ("$function", "JavaScript"),
            ("$accumulator", "JavaScript"),
            ("$_internalJsEmit", "internal"),
            ("$lookup", "not about the event alone"),
            ("$unionWith", "not about the event alone"),
            ("$near", "needs an index"),
        ] {
            for stage in [
                text(&json!({"$match": {"$or": [{"a": {name: 1}}]}}).to_string()),
                map(json!({"$match": {"$or": [{"a": {name: 1}}]}})),
                bytes(&doc! {"$match": {"$or": [{"a": {name: 1}}]}}),
            ] {
                self.bad("pipeline[0]", words, with(vec![stage]));
            }
        }
        for (stage, words) in [
            (r#"{"$match": 1}"#, "write a query"),
            (r#"{"$project": {}}"#, "at least one field"),
            (r#"{"$set": []}"#, "write a document"),
            (r#"{"$unset": [1]}"#, "write a path"),
            (r#"{"$replaceRoot": "$a"}"#, "newRoot"),
            (r#"{"$replaceWith": 1}"#, "write a document"),
            (r#"{"$redact": 1}"#, "$$PRUNE"),
        ] {
            self.bad("pipeline[0]", words, with(vec![text(stage)]));
        }
        let shared = pb::WatchRequest {
            feed_mode: pb::FeedMode::Shared.into(),
            ..with(vec![pass()])
        };
        self.bad("feed_mode", "of their own", shared);
        let changed = pb::WatchRequest {
            filters: vec![field("a", Operator::Changed(true))],
            ..with(vec![pass()])
        };
        self.bad("filters", "updateDescription", changed);
    }

    /// Regular expressions at their bounds, and those without a bounded cost.
    fn patterns(&mut self, valid: &pb::WatchRequest) {
        let with = |pattern: &str, options: &str| pb::WatchRequest {
            filters: vec![field(
                "a",
                Operator::Regex(pb::RegexFilter {
                    pattern: pattern.into(),
                    options: options.into(),
                }),
            )],
            ..valid.clone()
        };
        let pattern = "filters[0].field.regex.pattern";
        let nested = |groups| "(?:".repeat(groups) + "a" + &")".repeat(groups);
        for good in [
            "a",
            "(a+)+$",
            "(a|a)*$",
            "(a|aa)+$",
            "(.*)*$",
            "^(([a-z])+.)+[A-Z]([a-z])+$",
            "a{1000}",
            "[ab]*a[ab]{200}",
            r"\p{Greek}+",
            &"a".repeat(1024),
            &"a|".repeat(511),
            &nested(40),
        ] {
            self.good(format!("the pattern {good:.40}"), with(good, ""));
        }
        self.good("all options", with("a", "xsmi"));
        for (bad, words) in [
            ("", "1 to 1024"),
            (&*"a".repeat(1025), "1 to 1024"),
            (&*"(".repeat(1 << 19), "1 to 1024"),
            ("a\0", "NUL"),
            ("(?=a)", "look-around"),
            ("(?!a)", "look-around"),
            ("(?<=a)b", "look-around"),
            ("(?<!a)b", "look-around"),
            (r"(a)\1", "back-reference"),
            (r"(?P<n>a)(?P=n)", ""),
            ("(?>a)", ""),
            ("a++", "quantifier"),
            ("(?R)", ""),
            ("(?1)", ""),
            ("(?(1)a|b)", ""),
            (r"\K", ""),
            (r"\Q.\E", ""),
            (r"\u0041", r"\u"),
            ("[[:nothing:]]", ""),
            ("[a&&b]", ""),
            ("(?#comment)a", ""),
            ("(?i", ""),
            ("(a", ""),
            ("a)", ""),
            ("[a", ""),
            ("[z-a]", ""),
            ("a{2,1}", ""),
            ("*a", ""),
            (r"\p{Nobody}", ""),
            ("a{1000}{1000}", "quantifier"),
            ("(?:a{1000}){1000}", "KiB when compiled"),
            ("((a{100}){100}){100}", "KiB when compiled"),
            (r"\p{L}{900}", "KiB when compiled"),
            (r"(?:\p{L}|\p{N}){900}", "KiB when compiled"),
            (&nested(60), ""),
        ] {
            self.bad(pattern, words, with(bad, ""));
        }
        for options in ["g", "I", "ii", "imsxu", " ", "\0", "ü"] {
            self.bad("filters[0].field.regex.options", "", with("a", options));
        }
        self.bad(
            "filters[0].field.regex.options",
            "",
            with("a", &"x".repeat(1 << 19)),
        );
    }
}
