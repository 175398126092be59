//! The bounds of a request: the last value that is accepted and the first that is refused.

use super::*;
use crate::model::FieldMask;

fn named(database: &str, collections: &[&str]) -> pb::WatchRequest {
    pb::WatchRequest {
        database: database.into(),
        collections: collections.iter().map(|name| name.to_string()).collect(),
        ..pb::WatchRequest::default()
    }
}

#[test]
fn database_names_follow_mongodbs_rules() {
    assert_eq!(
        watch(named(&"d".repeat(63), &[])).scope,
        Scope::Database {
            database: "d".repeat(63)
        }
    );
    assert_refused(named(&"d".repeat(64), &[]), "database", "64 bytes");
    // The limit counts bytes, not characters.
    assert_refused(named(&"ü".repeat(32), &[]), "database", "64 bytes");
    for bad in "/\\. \"$*<>:|?\0".chars() {
        let quoted = format!("{bad:?}");
        assert_refused(named(&format!("a{bad}b"), &[]), "database", &quoted);
    }
    for system in ["admin", "config", "local"] {
        assert_refused(named(system, &["c"]), "database", "no change streams");
    }
    for good in ["Admin", "locale", "a-b_c", "ünï"] {
        watch(named(good, &["c"]));
    }
}

#[test]
fn collection_names_follow_mongodbs_rules() {
    for good in ["orders", "a.b", "system", "systems.x", "a b", "-", "ünï"] {
        watch(named("shop", &[good]));
    }
    for (bad, part) in [
        ("", "is empty"),
        ("a$b", "'$'"),
        ("a\0b", "NUL"),
        ("system.views", "MongoDB's own"),
    ] {
        assert_refused(named("shop", &["ok", bad]), "collections[1]", part);
    }
    watch(named("shop", &[&"c".repeat(250)]));
    assert_refused(
        named("shop", &[&"c".repeat(251)]),
        "collections[0]",
        "256 bytes",
    );
}

#[test]
fn at_most_100_collections_are_watched() {
    let names: Vec<String> = (0..101).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Scope::Collections { collections, .. } = watch(named("shop", &names[..100])).scope else {
        panic!("several collections");
    };
    assert_eq!(collections.len(), 100);
    assert_refused(named("shop", &names), "collections", "101 names");
}

#[test]
fn operations_must_be_specified_and_expanded_ones_need_expanded_events() {
    let with = |operations: Vec<i32>, expanded| pb::WatchRequest {
        operations,
        show_expanded_events: expanded,
        ..request()
    };
    assert_refused(with(vec![1, 0], true), "operations[1]", "UNSPECIFIED");
    let all: Vec<i32> = (1..=15).collect();
    assert_eq!(watch(with(all.clone(), true)).operations.unwrap().len(), 15);
    let refused: Vec<String> = violations(with(all, false))
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    let expanded: Vec<String> = (7..=13)
        .map(|index| format!("operations[{index}]"))
        .collect();
    assert_eq!(refused, expanded);
    assert_refused(
        with(vec![8], false),
        "operations[0]",
        "OPERATION_TYPE_CREATE, which is delivered only with show_expanded_events",
    );
}

#[test]
fn times_are_seconds_that_mongodb_can_store() {
    for good in [0, 1, i64::from(u32::MAX)] {
        assert_eq!(
            watch(starting_at(good, 999_999_999)).start,
            Start::Time(good as u32)
        );
    }
    for bad in [-1, i64::from(u32::MAX) + 1, i64::MIN, i64::MAX] {
        assert_refused(starting_at(bad, 0), "start_time", &bad.to_string());
        let ending = pb::WatchRequest {
            end_time: Some(timestamp(bad, 0)),
            ..request()
        };
        assert_refused(ending, "end_time", &bad.to_string());
    }
    for bad in [-1, 1_000_000_000, i32::MIN] {
        assert_refused(starting_at(5, bad), "start_time", "nanos");
    }
}

#[test]
fn a_watch_does_not_end_before_it_starts() {
    let between = |start, end| pb::WatchRequest {
        end_time: Some(timestamp(end, 0)),
        ..starting_at(start, 5)
    };
    // Fractions of a second are dropped, so these are equal.
    let end = Some(EndTime::after_second(100));
    assert_eq!(watch(between(100, 100)).end_time, end);
    assert_refused(between(100, 99), "end_time", "before start_time");
}

#[test]
fn a_progress_interval_is_clamped_and_a_malformed_one_refused() {
    let with = |seconds, nanos| pb::WatchRequest {
        progress_interval: Some(prost_types::Duration { seconds, nanos }),
        ..request()
    };
    for (seconds, nanos, in_force) in [
        (0, 0, Duration::from_secs(1)),
        (0, 999_999_999, Duration::from_secs(1)),
        (1, 0, Duration::from_secs(1)),
        (1, 1, Duration::new(1, 1)),
        (60, 0, Duration::from_secs(60)),
        (60, 1, Duration::from_secs(60)),
        (315_576_000_000, 0, Duration::from_secs(60)),
    ] {
        assert_eq!(watch(with(seconds, nanos)).progress_interval, in_force);
    }
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (1, -1),
        (-1, -1),
        (1, 1_000_000_000),
        (315_576_000_001, 0),
        (i64::MIN, i32::MIN),
    ] {
        assert_refused(with(seconds, nanos), "progress_interval", "negative");
    }
}

#[test]
fn a_message_has_64_kib_to_64_mib() {
    let with = |max_message_bytes| pb::WatchRequest {
        max_message_bytes,
        ..request()
    };
    for good in [65_536, 67_108_864] {
        assert_eq!(watch(with(good)).max_message_bytes, good);
    }
    for bad in [1, 65_535, 67_108_865, u32::MAX] {
        assert_refused(with(bad), "max_message_bytes", "65536 to 67108864");
    }
}

#[test]
fn filters_are_at_most_10_levels_deep() {
    let nested = |levels: usize| {
        filtered(vec![
            (1..levels).fold(eq("a", 1), |inner, _| all_of(vec![inner])),
        ])
    };
    watch(nested(10));
    let at = format!("filters[0]{}", ".all_of.filters[0]".repeat(10));
    assert_refused(nested(11), &at, "10 levels");
    watch(filtered(vec![eq("a", 1)]));
}

#[test]
fn a_watch_has_at_most_200_conditions() {
    let conditions = |count: usize| filtered(vec![any_of(vec![eq("a", 1); count])]);
    watch(conditions(200));
    assert_refused(
        conditions(1000),
        "filters[0].any_of.filters[200].field",
        "200",
    );
}

#[test]
fn literal_values_have_at_most_256_kib_together() {
    // In protobuf a string takes its own bytes, a tag and a length.
    let text = |bytes: usize| eq("a", "x".repeat(bytes - 4));
    let half = 128 * 1024;
    watch(filtered(vec![text(half), text(half)]));
    assert_refused(
        filtered(vec![text(half), text(half), eq("b", 1), eq("c", 1)]),
        "filters[2].field.eq",
        "256 KiB",
    );
    let list = |values: usize| {
        let value = json!("x".repeat(1000));
        field("a", Operator::NotIn(list(json!(vec![value; values]))))
    };
    watch(filtered(vec![list(200)]));
    assert_refused(
        filtered(vec![list(300)]),
        "filters[0].field.not_in",
        "256 KiB",
    );
}

#[test]
fn lists_have_1_to_1000_values() {
    let values = |count: usize| list(json!(vec![1; count]));
    for operator in [Operator::In, Operator::NotIn] {
        for good in [1, 1000] {
            watch(filtered(vec![field("a", operator(values(good)))]));
        }
        for bad in [0, 1001] {
            let request = filtered(vec![field("a", operator(values(bad)))]);
            let (_, description) = violation(request);
            assert!(
                description.contains(&format!("{bad} values")),
                "{description}"
            );
        }
    }
}

/// Every comparison, in each of its forms.
#[test]
fn a_comparison_means_the_operator_of_its_name_in_every_form() {
    use pb::comparison::{Literal, Operator as Comparison};
    let one = || value(json!({"$oid": "0102030405060708090a0b0c"}));
    let two = || list(json!([1.5, {"$oid": "0102030405060708090a0b0c"}]));
    for (operator, expected) in [
        (Comparison::Eq, Operator::Eq(one())),
        (Comparison::Ne, Operator::Ne(one())),
        (Comparison::Gt, Operator::Gt(one())),
        (Comparison::Gte, Operator::Gte(one())),
        (Comparison::Lt, Operator::Lt(one())),
        (Comparison::Lte, Operator::Lte(one())),
        (Comparison::In, Operator::In(two())),
        (Comparison::NotIn, Operator::NotIn(two())),
    ] {
        let is_list = matches!(operator, Comparison::In | Comparison::NotIn);
        let json = if is_list {
            r#"[1.5, {"$oid": "0102030405060708090a0b0c"}]"#
        } else {
            r#"{"$oid": "0102030405060708090a0b0c"}"#
        };
        let id = bson::oid::ObjectId::parse_str("0102030405060708090a0b0c").unwrap();
        let held = if is_list {
            bson::doc! { "any name": [1.5, id] }
        } else {
            bson::doc! { "": id }
        };
        let expected = watch(filtered(vec![field("a", expected)])).filter;
        for literal in [
            Literal::Json(json.into()),
            Literal::Bson(held.to_vec().unwrap().into()),
        ] {
            let filter = field(
                "a",
                Operator::Compare(pb::Comparison {
                    operator: operator.into(),
                    literal: Some(literal),
                }),
            );
            assert_eq!(watch(filtered(vec![filter])).filter, expected);
        }
    }
}

#[test]
fn a_comparison_has_an_operator_a_literal_and_the_bounds_of_other_conditions() {
    use pb::comparison::{Literal, Operator as Comparison};
    let with = |operator: i32, literal| {
        let comparison = pb::Comparison { operator, literal };
        filtered(vec![field("a", Operator::Compare(comparison))])
    };
    let text = |text: &str| Some(Literal::Json(text.into()));
    let eq = Comparison::Eq as i32;
    let at = "filters[0].field.compare";
    assert_refused(with(eq, None), at, "set json or bson");
    for (number, part) in [
        (0, "UNSPECIFIED"),
        (9, "use 1 to 8 (OPERATOR_NOT_IN)"),
        (-1, "use 1"),
    ] {
        assert_refused(with(number, text("1")), &format!("{at}.operator"), part);
    }
    let json = format!("{at}.json");
    for (operator, literal, part) in [
        (Comparison::Eq, "", "is not valid Extended JSON: EOF"),
        (
            Comparison::Eq,
            r#"{"a": 1, "b": 2, "a": 3}"#,
            "stands twice",
        ),
        (
            Comparison::Eq,
            r#"{"a": {"b": {"$gt": 1}}}"#,
            "(at \"a.b\")",
        ),
        (Comparison::In, "1", "is not a list"),
        (Comparison::NotIn, r#"{"a": 1}"#, "is not a list"),
        (Comparison::In, "[]", "has 0 values"),
        (
            Comparison::In,
            r#"[1, {"$id": 1}]"#,
            "is not a well-formed DBRef",
        ),
    ] {
        assert_refused(with(operator.into(), text(literal)), &json, part);
    }
    let values = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
    watch(with(Comparison::In.into(), text(&values(1000))));
    assert_refused(
        with(Comparison::In.into(), text(&values(1001))),
        &json,
        "1001 values",
    );
    let bytes = |bytes: &[u8]| Some(Literal::Bson(bytes.to_vec().into()));
    assert_refused(
        with(eq, bytes(b"")),
        &format!("{at}.bson"),
        "well-formed BSON",
    );
    assert_refused(
        with(eq, bytes(&bson::doc! { "a": 1, "b": 1 }.to_vec().unwrap())),
        &format!("{at}.bson"),
        "has 2 fields",
    );
    let repeated = [&b"\x13\0\0\0\x10a\0\0\0\0\0\x10a\0\0\0\0\0"[..], &[0]].concat();
    assert_refused(with(eq, bytes(&repeated)), &format!("{at}.bson"), "twice");
}

/// Short numbers take much more as BSON than as text.
#[test]
fn the_literal_values_of_comparisons_have_at_most_256_kib_as_sent_and_as_bson() {
    use pb::comparison::{Literal, Operator as Comparison};
    let with = |literal| {
        field(
            "a",
            Operator::Compare(pb::Comparison {
                operator: Comparison::Eq.into(),
                literal: Some(literal),
            }),
        )
    };
    let json = |text: String| with(Literal::Json(text));
    let text = |bytes: usize| json(format!("\"{}\"", "x".repeat(bytes - 2)));
    // 12 bytes each, with the index as the key.
    let numbers = |count: usize| json(format!("[{}1]", "1,".repeat(count - 1)));
    let held = |bytes: usize| {
        let document = bson::doc! { "": "x".repeat(bytes - 12) };
        with(Literal::Bson(document.to_vec().unwrap().into()))
    };
    let half = 128 * 1024;
    watch(filtered(vec![text(half), text(half - 100)]));
    watch(filtered(vec![held(half), held(half)]));
    watch(filtered(vec![numbers(20_000)]));
    for (filters, at) in [
        (
            vec![text(half), text(half)],
            "filters[1].field.compare.json",
        ),
        (vec![text(2 * half + 1)], "filters[0].field.compare.json"),
        (
            vec![held(half), held(half), held(50)],
            "filters[2].field.compare.bson",
        ),
        (vec![numbers(26_000)], "filters[0].field.compare.json"),
        (
            vec![numbers(13_000), numbers(13_000)],
            "filters[1].field.compare.json",
        ),
        (
            vec![
                numbers(12_000),
                numbers(10_000),
                eq("a", 1),
                eq("b", "x".repeat(1 << 16)),
            ],
            "filters[3].field.eq",
        ),
        (
            vec![json("[".repeat(half))],
            "filters[0].field.compare.json",
        ),
    ] {
        let found = violations(filtered(filters));
        assert_eq!((found.len(), &*found[0].0), (1, at), "{found:?}");
        let description = &found[0].1;
        assert!(
            ["256 KiB", "too large as BSON", "nested deeper"]
                .iter()
                .any(|it| description.contains(it)),
            "{description}"
        );
    }
}

#[test]
fn paths_are_dotted_field_names() {
    for good in [
        "a",
        "_id",
        "a.b.0.c",
        "a-b c",
        "a$b",
        "ref.$id",
        "ref.$ref",
        "ref.$db",
        "ünï",
        &"a".repeat(512),
        &["a"; 100].join("."),
    ] {
        watch(filtered(vec![eq(good, 1)]));
    }
    for (bad, part) in [
        ("", "is an empty path"),
        (&*"a".repeat(513), "513 bytes"),
        (".a", "empty component"),
        ("a.", "empty component"),
        ("a..b", "empty component"),
        ("a\0", "NUL"),
        ("$a", "$id, $ref and $db"),
        ("a.$b", "$id, $ref and $db"),
        ("a.$", "$id, $ref and $db"),
        (&*["a"; 101].join("."), "101 components"),
    ] {
        assert_refused(filtered(vec![eq(bad, 1)]), "filters[0].field.path", part);
    }
}

#[test]
fn prefixes_and_patterns_have_at_most_1024_bytes() {
    let prefix =
        |bytes: usize| filtered(vec![field("a", Operator::Prefix("ab".repeat(bytes / 2)))]);
    watch(prefix(0));
    watch(prefix(1024));
    assert_refused(prefix(1026), "filters[0].field.prefix", "1026 bytes");
    let pattern = |bytes: usize| filtered(vec![regex("a", &"a".repeat(bytes), "imsx")]);
    watch(pattern(1));
    watch(pattern(1024));
    for bad in [0, 1025] {
        assert_refused(
            pattern(bad),
            "filters[0].field.regex.pattern",
            &format!("{bad} bytes"),
        );
    }
}

/// A small pattern can take much memory and time once compiled.
#[test]
fn patterns_are_bounded_by_their_compiled_size() {
    let patterns = |pattern: &str, count: usize| filtered(vec![regex("a", pattern, ""); count]);
    let large = r"\p{L}{10}";
    watch(patterns(large, 3));
    watch(patterns("^order-[0-9]{4}$", 200));
    assert_refused(
        patterns(r"\p{L}{900}", 1),
        "filters[0].field.regex.pattern",
        "1024 KiB when compiled",
    );
    let (field, description) = violation(patterns(large, 200));
    assert!(field.ends_with("].field.regex.pattern"), "{field}");
    assert!(description.contains("above 8 MiB"), "{description}");
}

fn of_fields(fields: impl IntoIterator<Item = impl Into<String>>) -> pb::WatchRequest {
    pb::WatchRequest {
        fields: fields.into_iter().map(Into::into).collect(),
        ..request()
    }
}

#[test]
fn fields_are_paths_of_which_none_is_below_another() {
    for good in [
        &["status"][..],
        &["a", "ab", "a-b", "b.a"],
        &["items.0.sku", "items.1"],
        &["_id"],
        &["_id.x"],
        &["ref.$id", "ref.$ref", "ref.$db"],
        &["a b", "ünï"],
    ] {
        let watch = watch(of_fields(good.iter().copied()));
        let paths = good.iter().map(|&path| path.to_owned());
        assert_eq!(watch.rendering.mask, FieldMask::including(paths).unwrap());
    }
    for (bad, part) in [
        ("", "is an empty path"),
        ("a..b", "empty component"),
        ("a.", "empty component"),
        ("a\0b", "NUL"),
        ("a.$x", "\"$x\""),
        ("$set", "\"$set\""),
        ("a", "as fields[0] is"),
        ("a.b", "is below fields[0], \"a\""),
        ("a.b.0", "is below fields[0], \"a\""),
    ] {
        assert_refused(of_fields(["a", "x", bad]), "fields[2]", part);
    }
    // The path above comes later, and others of its paths follow it.
    let violations = violations(of_fields(["a.b", "a-b", "a.c.d", "a", "a"]));
    let fields: Vec<&str> = violations.iter().map(|it| &*it.0).collect();
    assert_eq!(fields, ["fields[0]", "fields[2]", "fields[4]"]);
    assert!(
        violations[0].1.contains("below fields[3], \"a\""),
        "{violations:?}"
    );
    assert!(
        violations[2].1.contains("as fields[3] is"),
        "{violations:?}"
    );
}

#[test]
fn at_most_200_fields_of_512_bytes_and_100_components_are_shown() {
    let path = |at: usize| format!("{at:0512}");
    watch(of_fields((0..200).map(path)));
    assert_refused(of_fields((0..201).map(path)), "fields", "201 paths");
    assert_refused(of_fields(["a".repeat(513)]), "fields[0]", "513 bytes");
    watch(of_fields([vec!["a"; 100].join(".")]));
    assert_refused(
        of_fields([vec!["a"; 101].join(".")]),
        "fields[0]",
        "101 components",
    );
}

/// A policy hides what it hides, whatever a client asks for, and another policy takes its place.
#[test]
fn a_policy_hides_fields_of_those_that_are_asked_for() {
    let mut watch = watch(of_fields(["ssn", "items.sku"]));
    let fields = watch.rendering.mask.clone();
    for hidden in ["ssn", "items", "other"] {
        let policy = FieldMask::hiding([hidden.to_owned()]).unwrap();
        watch.restrict_to(&View {
            field_mask: policy.clone(),
            ..View::unrestricted()
        });
        assert_eq!(watch.rendering.mask, fields.with_hidden_fields_of(&policy));
        assert!(watch.is_restricted());
    }
    watch.restrict_to(&View::unrestricted());
    assert_eq!(watch.rendering.mask, fields);
    assert!(!watch.is_restricted(), "fields are no restriction");
}
