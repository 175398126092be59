use bson::{Bson, Document, doc};
use serde_json::json;

use super::*;
use crate::model::RequestError;
use crate::pipeline::fixtures::{request, value, violations, watch};

fn text(json: &str) -> pb::PipelineStage {
    pb::PipelineStage {
        kind: Some(Kind::Json(json.to_owned())),
    }
}

fn bytes(stage: &Document) -> pb::PipelineStage {
    pb::PipelineStage {
        kind: Some(Kind::Bson(stage.to_vec().unwrap().into())),
    }
}

fn map(json: serde_json::Value) -> pb::PipelineStage {
    let Some(prost_types::value::Kind::StructValue(fields)) = value(json).kind else {
        panic!("not an object");
    };
    pb::PipelineStage {
        kind: Some(Kind::Struct(fields)),
    }
}

fn with(pipeline: Vec<pb::PipelineStage>) -> pb::WatchRequest {
    pb::WatchRequest {
        pipeline,
        ..request()
    }
}

fn stages(pipeline: Vec<pb::PipelineStage>) -> Vec<Document> {
    watch(with(pipeline)).client_stages.documents()
}

/// Returns the description of the only violation, which must be about the second stage.
fn problem(stage: pb::PipelineStage) -> String {
    let fine = text(r#"{"$match": {}}"#);
    let mut found = violations(with(vec![fine, stage]));
    assert_eq!(found.len(), 1, "{found:?}");
    let (field, description) = found.remove(0);
    assert_eq!(field, "pipeline[1]", "{description}");
    description
}

/// Returns a document of this nesting, which bson itself could not write.
fn deep_bytes(levels: usize) -> pb::PipelineStage {
    let mut bytes = vec![5, 0, 0, 0, 0];
    for _ in 1..levels {
        let len = i32::try_from(bytes.len() + 8).unwrap();
        bytes = [&len.to_le_bytes(), &b"\x03a\0"[..], &bytes, &[0]].concat();
    }
    pb::PipelineStage {
        kind: Some(Kind::Bson(bytes.into())),
    }
}

/// One stage of each kind that a change stream may have.
fn each_stage() -> Vec<Document> {
    vec![
        doc! { "$match": { "operationType": { "$in": ["insert", "update"] } } },
        doc! { "$project": { "fullDocument.card": 0 } },
        doc! { "$addFields": { "fullDocument.total": { "$multiply": ["$fullDocument.price", 2] } } },
        doc! { "$set": { "note": { "$literal": "$x" } } },
        doc! { "$unset": "fullDocument.card" },
        doc! { "$unset": ["a", "b.c"] },
        doc! { "$replaceRoot": { "newRoot": { "_id": "$_id", "doc": "$fullDocument" } } },
        doc! { "$replaceRoot": { "newRoot": "$fullDocument" } },
        doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", "$fullDocument"] } },
        doc! { "$replaceWith": "$$ROOT" },
        doc! { "$redact": { "$cond": [{ "$eq": ["$level", 5] }, "$$PRUNE", "$$DESCEND"] } },
        doc! { "$redact": "$$KEEP" },
    ]
}

#[test]
fn every_stage_is_read_from_every_form_and_keeps_its_place() {
    let expected = each_stage();
    let relaxed = |stage: &Document| Bson::Document(stage.clone()).into_relaxed_extjson();
    let forms: [&dyn Fn(&Document) -> pb::PipelineStage; 3] = [
        &bytes,
        &|stage| text(&relaxed(stage).to_string()),
        &|stage| map(relaxed(stage)),
    ];
    for form in forms {
        assert_eq!(stages(expected.iter().map(form).collect()), expected);
    }
}

#[test]
fn text_keeps_the_order_of_keys_and_the_types_of_numbers() {
    let read = stages(vec![text(
        r#"{"$match": {"z": 1, "a": 1.0, "m": 2147483648, "b": -1, "e": 1e2, "u": 18446744073709551615,
            "d": {"$date": {"$numberLong": "5"}}, "o": {"$oid": "0102030405060708090a0b0c"},
            "l": {"$numberLong": "1"}, "n": null, "y": [true, {"c": 1, "b": 2}], "r": {"$regex": "^a", "$options": "i"},
            "p": {"$regularExpression": {"pattern": "a", "options": "i"}}, "t": {"$timestamp": {"t": 4294967295, "i": 1}}}}"#,
    )]);
    let id = bson::oid::ObjectId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let expected = doc! { "$match": {
        "z": 1, "a": 1.0, "m": 2_147_483_648_i64, "b": -1, "e": 100.0, "u": 18_446_744_073_709_551_615.0,
        "d": bson::DateTime::from_millis(5), "o": id, "l": 1_i64, "n": null,
        "y": [true, { "c": 1, "b": 2 }], "r": { "$regex": "^a", "$options": "i" },
        "p": bson::Regex { pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap() },
        "t": bson::Timestamp { time: u32::MAX, increment: 1 },
    } };
    // Bytes, as documents are compared without regard to the order of keys.
    assert_eq!(read[0].to_vec().unwrap(), expected.to_vec().unwrap());
}

#[test]
fn a_map_has_sorted_keys_and_whole_numbers_as_integers() {
    let read = stages(vec![map(
        json!({"$match": {"b": 1, "a": {"$date": {"$numberLong": "5"}}, "c": 0.5}}),
    )]);
    let expected = doc! { "$match": { "a": bson::DateTime::from_millis(5), "b": 1, "c": 0.5 } };
    assert_eq!(read[0].to_vec().unwrap(), expected.to_vec().unwrap());
}

/// Every name that is refused wherever it stands.
fn refused_names() -> Vec<&'static str> {
    let mut names = vec![
        "$where",
        "$function",
        "$accumulator",
        "$_internalJsEmit",
        "$_internalInhibitOptimization",
        "$lookup",
        "$graphLookup",
        "$unionWith",
        "$out",
        "$merge",
        "$documents",
        "$changeStream",
        "$changeStreamSplitLargeEvent",
        "$collStats",
        "$currentOp",
        "$listSessions",
        "$listLocalSessions",
        "$facet",
        "$geoNear",
        "$text",
        "$near",
        "$nearSphere",
        "$indexStats",
        "$planCacheStats",
        "$search",
        "$searchMeta",
        "$vectorSearch",
        "$backupCursor",
    ];
    names.extend(rules::FOREIGN_STAGES);
    names
}

#[test]
fn what_reads_elsewhere_or_runs_code_is_refused_wherever_it_stands() {
    for name in refused_names() {
        let inner = Bson::from(doc! { name: { "a": 1 } });
        for (path, stage) in [
            (format!("$match.{name}"), doc! { "$match": { name: 1 } }),
            (
                format!("$match.a.{name}"),
                doc! { "$match": { "a": inner.clone() } },
            ),
            (
                format!("$match.$and.1.{name}"),
                doc! { "$match": { "$and": [{}, inner.clone()] } },
            ),
            (
                format!("$match.$expr.$and.0.0.{name}"),
                doc! { "$match": { "$expr": { "$and": [[inner.clone()]] } } },
            ),
            (
                format!("$set.a.$switch.branches.0.then.{name}"),
                doc! { "$set": { "a": { "$switch": { "branches": [{ "case": true, "then": inner.clone() }] } } } },
            ),
            (
                format!("$project.a.$literal.{name}"),
                doc! { "$project": { "a": { "$literal": inner.clone() } } },
            ),
            (
                format!("$replaceRoot.newRoot.{name}"),
                doc! { "$replaceRoot": { "newRoot": inner.clone() } },
            ),
            (
                format!("$replaceWith.{name}"),
                doc! { "$replaceWith": inner.clone() },
            ),
            (
                format!("$redact.$cond.0.{name}"),
                doc! { "$redact": { "$cond": [inner.clone(), "$$KEEP", "$$PRUNE"] } },
            ),
            (
                format!("$addFields.a.b.{name}"),
                doc! { "$addFields": { "a": { "b": inner } } },
            ),
        ] {
            let json = Bson::Document(stage.clone()).into_relaxed_extjson();
            for form in [bytes(&stage), text(&json.to_string()), map(json)] {
                let problem = problem(form);
                let named = format!("at {path:?}, {name:?} ");
                assert!(problem.starts_with(&named), "{problem}");
            }
        }
        let problem = problem(bytes(&doc! { name: {} }));
        assert!(problem.contains("use $match, $project"), "{problem}");
    }
}

#[test]
fn a_name_in_a_string_is_a_field_or_a_text() {
    let named =
        doc! { "$set": { "a": "$where", "lookup": 1, "b": { "$eq": ["$lookup", "$out"] } } };
    assert_eq!(stages(vec![bytes(&named)]), [named]);
}

#[test]
fn javascript_and_variables_of_the_user_are_refused() {
    let code = Bson::JavaScriptCode("1".into());
    let scoped = bson::JavaScriptCodeWithScope {
        code: "1".into(),
        scope: doc! {},
    };
    for value in [code, scoped.into()] {
        for form in [
            bytes(&doc! { "$match": { "a": [value.clone()] } }),
            text(
                &Bson::from(doc! { "$match": { "a": [value] } })
                    .into_relaxed_extjson()
                    .to_string(),
            ),
        ] {
            let problem = problem(form);
            assert!(
                problem.contains("JavaScript") || problem.contains("$code"),
                "{problem}"
            );
        }
    }
    for text in ["$$USER_ROLES", "$$USER_ROLES.role"] {
        let problem = problem(bytes(&doc! { "$set": { "a": [{ "$size": text }] } }));
        assert!(
            problem.starts_with("at \"$set.a.0.$size\", it reads $$USER_ROLES"),
            "{problem}"
        );
    }
}

#[test]
fn a_stage_is_a_document_with_one_known_name() {
    for (stage, says) in [
        (
            pb::PipelineStage { kind: None },
            "sets no kind; set struct, json or bson",
        ),
        (text("{}"), "has 0 fields"),
        (text(r#"{"$match": {}, "$set": {"a": 1}}"#), "has 2 fields"),
        (
            text(r#"{"match": {}}"#),
            "is \"match\", which is not a stage",
        ),
        (text(r#"{"$Match": {}}"#), "is \"$Match\""),
        (text(r#"{"": {}}"#), "is \"\""),
        (text(r#"{"$limit": 1}"#), "is \"$limit\""),
        (text(r#"{"$group": {"_id": 1}}"#), "is \"$group\""),
        (text(r#"{"$sort": {"_id": 1}}"#), "is \"$sort\""),
        (text("[]"), "a stage is a document with one field"),
        (text("1"), "a stage is a document"),
        (
            text(r#"{"$oid": "0102030405060708090a0b0c"}"#),
            "a stage is a document",
        ),
        (text(""), "is not valid Extended JSON: EOF"),
        (
            text("{'$match': {}}"),
            "is not valid Extended JSON: key must be a string at line 1",
        ),
        (
            text(r#"{"$match": {}} {"$match": {}}"#),
            "trailing characters",
        ),
        (
            text(r#"{"$match": {"a": 1, "b": 1, "a": 2}}"#),
            "the key \"a\" stands twice",
        ),
        (text(r#"{"$match": {"a\u0000": 1}}"#), "NUL"),
        (text(r#"{"$match": {"a": 1e999}}"#), "number out of range"),
        (
            text(r#"{"$match": {"a": {"$oid": "xyz"}}}"#),
            "the $oid is not well-formed: \"xyz\" is not 24 hexadecimal digits; write {\"$oid\": \"507f1f77bcf86cd799439011\"}",
        ),
        (
            text(r#"{"$match": {"a": {"$date": 1, "b": 2}}}"#),
            "the $date is not well-formed: it has the key \"b\" beside it; write {\"$date\": \"2024-01-31T12:00:00Z\"}",
        ),
        (
            text(r#"{"$match": {"a": {"$date": [1]}}}"#),
            "the $date is not well-formed: its value is neither a text nor a whole number",
        ),
        (map(json!({"$match": {"a\0": 1}})), "NUL"),
        (
            map(json!({"$match": {"a": {"$numberLong": "x"}}})),
            "the $numberLong is not well-formed: \"x\" is not a whole number of 64 bits; write {\"$numberLong\": \"5\"} (at \"$match.a\")",
        ),
    ] {
        let problem = problem(stage);
        assert!(problem.contains(says), "{problem}");
    }
    let unset = prost_types::Value { kind: None };
    let number = |number| prost_types::Value {
        kind: Some(prost_types::value::Kind::NumberValue(number)),
    };
    for (bad, says) in [(unset, "has no value"), (number(f64::NAN), "$numberDouble")] {
        let fields = [("$match".to_owned(), bad)].into();
        let problem = problem(pb::PipelineStage {
            kind: Some(Kind::Struct(prost_types::Struct { fields })),
        });
        assert!(problem.contains(says), "{problem}");
    }
}

#[test]
fn bytes_are_one_well_formed_document() {
    let good = doc! { "$match": { "a": { "b": "text" } } }
        .to_vec()
        .unwrap();
    let stage = |bytes: Vec<u8>| pb::PipelineStage {
        kind: Some(Kind::Bson(bytes.into())),
    };
    let mut longer = good.clone();
    longer.push(0);
    let mut not_utf8 = good.clone();
    let at = good.windows(4).position(|it| it == b"text").unwrap();
    not_utf8[at] = 0xff;
    let mut repeated = doc! { "$match": { "a": 1, "b": 1 } }.to_vec().unwrap();
    let at = repeated.windows(2).position(|it| it == b"b\0").unwrap();
    repeated[at] = b'a';
    for (bytes, says) in [
        (Vec::new(), "is not one well-formed BSON document"),
        (good[..good.len() - 1].to_vec(), "is not one well-formed"),
        (longer, "is not one well-formed"),
        ([&good[..], &good[..]].concat(), "is not one well-formed"),
        (not_utf8, "is not one well-formed"),
        (repeated, "has the key \"a\" twice in one document"),
    ] {
        let problem = problem(stage(bytes));
        assert!(problem.starts_with(says), "{problem}");
    }
    // No byte of it makes the reader panic.
    for at in 0..good.len() {
        for byte in [0, 1, 3, 4, 0x0f, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let _ = document_from_bytes(&bytes);
        }
    }
}

#[test]
fn a_form_that_no_server_takes_is_told_with_an_example() {
    for stage in [
        r#"{"$match": 1}"#,
        r#"{"$match": []}"#,
        r#"{"$project": {}}"#,
        r#"{"$project": "a"}"#,
        r#"{"$addFields": "a"}"#,
        r#"{"$set": [{"a": 1}]}"#,
        r#"{"$unset": {"a": 1}}"#,
        r#"{"$unset": ""}"#,
        r#"{"$unset": []}"#,
        r#"{"$unset": ["a", 1]}"#,
        r#"{"$unset": ["a", ""]}"#,
        r#"{"$replaceRoot": "$fullDocument"}"#,
        r#"{"$replaceRoot": {"newroot": "$fullDocument"}}"#,
        r#"{"$replaceRoot": {"newRoot": "$a", "b": 1}}"#,
        r#"{"$replaceRoot": {"newRoot": 1}}"#,
        r#"{"$replaceWith": "fullDocument"}"#,
        r#"{"$replaceWith": null}"#,
        r#"{"$redact": true}"#,
        r#"{"$redact": "KEEP"}"#,
    ] {
        let problem = problem(text(stage));
        let name = stage.split('"').nth(1).unwrap();
        let starts = format!("has a {name} of another form than MongoDB takes; write ");
        assert!(problem.starts_with(&starts), "{problem}");
        // The example is good itself.
        let example = &problem[problem.find('{').unwrap()..];
        assert_eq!(stages(vec![text(example)]).len(), 1, "{example}");
    }
}

#[test]
fn stages_are_bounded_in_number_size_and_depth() {
    let one = text(r#"{"$match": {}}"#);
    assert_eq!(stages(vec![one.clone(); MAX_STAGES]).len(), MAX_STAGES);
    let found = violations(with(vec![one; MAX_STAGES + 1]));
    assert_eq!(found[0].0, "pipeline");
    assert!(
        found[0].1.contains("has 21 stages; use at most 20"),
        "{found:?}"
    );

    // As sent.
    let long = |len: usize| {
        let frame = r#"{"$match": {"a": ""}}"#.len();
        text(&format!(
            r#"{{"$match": {{"a": "{}"}}}}"#,
            "x".repeat(len - frame)
        ))
    };
    assert_eq!(stages(vec![long(MAX_BYTES - 100)]).len(), 1);
    for pipeline in [
        vec![long(MAX_BYTES + 1)],
        vec![long(MAX_BYTES / 2), long(MAX_BYTES / 2 + 1)],
        vec![text(&"[".repeat(MAX_BYTES + 1))],
        vec![bytes(&doc! { "$match": { "a": "x".repeat(MAX_BYTES) } })],
        vec![map(json!({"$match": {"a": "x".repeat(MAX_BYTES)}}))],
        // As BSON, where each number takes more than it does in text.
        vec![text(&format!(
            r#"{{"$match": {{"a": [{}1]}}}}"#,
            "1,".repeat(20_000)
        ))],
    ] {
        let found = violations(with(pipeline));
        assert_eq!((found.len(), &*found[0].0), (1, "pipeline"), "{found:?}");
        assert!(found[0].1.contains("use at most 65536"), "{found:?}");
    }

    // The stage itself is the first level.
    let nested = |levels: usize| {
        let mut inner = doc! { "a": 1 };
        for level in 2..levels {
            inner = if level % 2 == 0 {
                doc! { "a": inner }
            } else {
                doc! { "b": inner }
            };
        }
        doc! { "$match": inner }
    };
    let lists = |levels: usize| {
        format!(
            r#"{{"$match": {{"a": {}{}}}}}"#,
            "[".repeat(levels - 2),
            "]".repeat(levels - 2)
        )
    };
    let json = |levels| Bson::Document(nested(levels)).into_relaxed_extjson();
    for good in [
        bytes(&nested(100)),
        text(&json(100).to_string()),
        map(json(100)),
        text(&lists(100)),
    ] {
        assert_eq!(stages(vec![good]).len(), 1);
    }
    for bad in [
        bytes(&nested(101)),
        text(&json(101).to_string()),
        map(json(101)),
        text(&lists(101)),
        text(&lists(10_000)),
        deep_bytes(8_000),
    ] {
        let problem = problem(bad);
        assert!(
            problem.contains("nested deeper than the 100 levels"),
            "{problem}"
        );
    }
}

#[test]
fn stages_can_not_be_had_with_changed_or_a_shared_feed() {
    use crate::pb::{FieldFilter, field_filter::Operator, filter::Kind as FilterKind};
    let filter = |operator| pb::Filter {
        kind: Some(FilterKind::Field(FieldFilter {
            path: "status".into(),
            operator: Some(operator),
        })),
    };
    let stage = || vec![text(r#"{"$match": {}}"#)];
    let found = violations(pb::WatchRequest {
        filters: vec![
            filter(Operator::Exists(true)),
            filter(Operator::Changed(true)),
        ],
        feed_mode: pb::FeedMode::Shared.into(),
        ..with(stage())
    });
    let fields: Vec<&str> = found.iter().map(|(field, _)| &**field).collect();
    assert_eq!(fields, ["filters", "feed_mode"], "{found:?}");
    assert_eq!(
        found[0].1,
        "`changed` of \"status\" can't be combined with pipeline, whose stages may remove what `changed` reads; \
         match updateDescription in a $match stage instead, or leave pipeline out"
    );
    let allowed = watch(pb::WatchRequest {
        filters: vec![filter(Operator::Exists(true))],
        feed_mode: pb::FeedMode::Dedicated.into(),
        ..with(stage())
    });
    assert_eq!(allowed.client_stages.documents().len(), 1);
}

#[test]
fn a_server_that_does_not_allow_stages_says_nothing_about_them() {
    let limits = crate::pipeline::RequestLimits::default();
    let bad = pb::WatchRequest {
        database: "$".into(),
        ..with(vec![text("nonsense"); 100])
    };
    let error = crate::pipeline::Watch::from_request(bad, &limits).unwrap_err();
    assert_eq!(error, RequestError::PipelineNotAllowed);
}
